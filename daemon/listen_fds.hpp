// SPDX-License-Identifier: GPL-2.0-or-later
//
// The sockets that systemd listens on for us (sd_listen_fds(3)), found by their paths, so that the
// units and the configuration cannot mix them up.
#pragma once

#include "common/unique_fd.hpp"

#include <map>
#include <string>

namespace qhup::daemon {

/// The listening Unix stream sockets that this process was given, by path. Those of another kind
/// are closed. The environment forgets them, so that no child of ours thinks that they are its own.
///
/// Call once, before there are other threads.
[[nodiscard]] std::map<std::string, UniqueFd> take_listen_fds();

} // namespace qhup::daemon
