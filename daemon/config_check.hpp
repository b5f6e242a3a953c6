// SPDX-License-Identifier: GPL-2.0-or-later
//
// Finds what is wrong with a good configuration on this host: what it names and what is not there,
// or is not safe. For --check-config, and for the daemon before it takes a new configuration.
#pragma once

#include "daemon/config.hpp"

#include <string>
#include <vector>

namespace qhup::daemon {

/// What would keep qhupd from working with these values: an unknown group or user, a probe that is
/// not there, a folder that others may write, a socket path that is too long. Each is a sentence
/// that begins with where the value was set.
/// Blocking: some stats and lookups of users
[[nodiscard]] std::vector<std::string> find_config_mistakes(const Config& config);

/// The same of the releases: a drop-in that cannot be used, a binary that is missing, unsafe or no
/// QEMU, firmware that is not there. Each sentence begins with the drop-in's path.
/// Blocking: reads all binaries, and starts each for some 100 ms, or seconds if it hangs
[[nodiscard]] std::vector<std::string> find_release_mistakes(const Config& config);

} // namespace qhup::daemon
