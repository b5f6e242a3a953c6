// SPDX-License-Identifier: GPL-2.0-or-later
//
// Reads the files of the configuration: which there are, in which order they count, and that nobody
// but root could have written them. What they mean is config's business. Called by main and, when
// the configuration is loaded again, by the daemon.
#pragma once

#include "common/result.hpp"
#include "daemon/config.hpp"

#include <string>
#include <vector>

namespace qhup::daemon {

/// Where a daemon's configuration comes from.
struct ConfigSource {
    std::string file; ///< only this one; "": the folders of the system, of which none must be there
    std::string root; ///< put before the folders of the system; "" for the running system
};

/// The files that are there now, the one that counts least first:
/// /usr/lib/qhupd, /etc/qhupd, /run/qhupd, of each qhupd.toml, then qhupd.toml.d/*.toml by name.
/// Errors:   Errc::invalid_argument (not a file of root's or of our user, or others may write it;
///           too large), Errc::not_found (the one named file), Errc::system_error
/// Blocking: reads them
[[nodiscard]] Result<std::vector<ConfigText>> read_config_files(const ConfigSource& source);

/// The whole configuration as it is on disk now. Errors and blocking: as above and parse_config().
[[nodiscard]] Result<Config> load_config(const ConfigSource& source);

} // namespace qhup::daemon
