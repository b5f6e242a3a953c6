// SPDX-License-Identifier: GPL-2.0-or-later
//
// Puts the parts of the daemon together, in this order: listen, recover what a daemon before us
// began, serve, say READY; and stops them in the opposite one.
#pragma once

#include "daemon/config_files.hpp"

#include <string>

namespace qhup::daemon {

/// Runs until SIGTERM or SIGINT. SIGHUP: the configuration is read again; a bad one changes
/// nothing.
///
/// @return  exit status of the process: 0 after a stop, 78 if the configuration cannot be used on
///          this host, 1 if the system refused something
/// @param source  where the configuration came from
/// @param fault   fault point at which the process kills itself; "" for none
int run_daemon(const Config& config, ConfigSource source, std::string fault);

} // namespace qhup::daemon
