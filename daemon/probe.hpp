// SPDX-License-Identifier: GPL-2.0-or-later
//
// One short look at whoever listens on a QMP socket. Changes nothing and holds the monitor for
// milliseconds, since a monitor serves one client at a time.
#pragma once

#include "common/async.hpp"
#include "daemon/vm_view.hpp"

#include <chrono>
#include <string>

namespace qhup::daemon {

/// Connects, asks who is there, disconnects.
///
/// @param patience  for everything together
/// @return  never fails: a VM that does not answer is a value, too
/// Cancellation: ends the wait
/// Thread:       the VM's strand, which is `strand`
/// Qemu:         query-hot-upgrade; without it query-name and query-status
[[nodiscard]] awaitable<VmProbe>
probe_vm(Strand strand, std::string socket, std::chrono::milliseconds patience);

} // namespace qhup::daemon
