// SPDX-License-Identifier: GPL-2.0-or-later
//
// Tells systemd how the service stands (sd_notify(3)). Does nothing without NOTIFY_SOCKET.
#pragma once

#include "common/result.hpp"

#include <chrono>
#include <optional>
#include <string>
#include <string_view>

namespace qhup::daemon {

/// Sends assignments such as "READY=1\nSTATUS=12 VMs".
///
/// Errors:   Errc::system_error; the service goes on, systemd just does not know
/// Thread:   any, but not while the environment changes
/// Blocking: no; a full socket is an error
Result<void> notify_systemd(std::string_view assignments);

/// How often to say WATCHDOG=1: three times in the time that WatchdogSec= of the unit allows.
/// @return  nothing if systemd does not watch this process
std::optional<std::chrono::milliseconds> watchdog_interval();

/// What says that the configuration is being read again.
std::string reloading_line();

} // namespace qhup::daemon
