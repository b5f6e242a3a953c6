// SPDX-License-Identifier: GPL-2.0-or-later
//
// Who looks after a QEMU process, and would end or restart the VM when the old process ends.
// Pure: service_manager.hpp asks.
#pragma once

#include <sys/types.h>

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace qhup::upgrade {

/// What systemd says about a service.
struct UnitFacts {
    pid_t main_pid = 0;        ///< MainPID; 0: it watches no process
    std::string type;          ///< Type: "notify", "forking", "simple", ...
    std::string notify_access; ///< NotifyAccess: "none", "main", "exec", "all"
    std::string pid_file;      ///< PIDFile; "" if none
    std::string exit_type;     ///< ExitType: "main", "cgroup"; "" before systemd 250
};

/// What is known of a process's supervisor.
struct Supervision {
    std::string unit;               ///< systemd's unit, from the control group; "" if none
    bool is_users = false;          ///< a user's service manager runs the unit, not the system's
    std::optional<UnitFacts> facts; ///< of a service of the system; none: it could not be asked
    bool has_notify_socket = false; ///< NOTIFY_SOCKET is in the environment
    bool is_in_container = false;   ///< another PID namespace than the daemon's
};

/// The unit of the system's or a user's service manager; the rest is left empty.
[[nodiscard]] Supervision parse_supervision(std::string_view cgroup_text);

/// Why the VM would not survive the end of its process, as a sentence with the remedy; nothing if
/// its supervisor follows the new process, or does not care.
///
/// @param pid      of QEMU
/// @param pidfile  that QEMU keeps
/// @param trusted  names of units, with *, that follow although it cannot be seen; "container"
[[nodiscard]] std::optional<std::string> judge_supervision(
    const Supervision& supervision,
    pid_t pid,
    const std::string& pidfile,
    const std::vector<std::string>& trusted
);

} // namespace qhup::upgrade
