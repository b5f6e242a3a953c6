// SPDX-License-Identifier: GPL-2.0-or-later
//
// Tells systemd how the service stands (sd_notify(3)). Does nothing without NOTIFY_SOCKET.
#pragma once

#include "common/result.hpp"

#include <string_view>

namespace qhup::daemon {

/// Sends assignments such as "READY=1\nSTATUS=12 VMs".
///
/// Errors:   Errc::system_error; the service goes on, systemd just does not know
/// Thread:   any, but not while the environment changes
/// Blocking: no; a full socket is an error
Result<void> notify_systemd(std::string_view assignments);

} // namespace qhup::daemon
