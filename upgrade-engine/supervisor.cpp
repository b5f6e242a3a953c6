// SPDX-License-Identifier: GPL-2.0-or-later
#include "upgrade-engine/supervisor.hpp"

#include <fnmatch.h>

#include <algorithm>
#include <array>

namespace qhup::upgrade {
namespace {

/// Scopes that end with their last process, whatever process that is.
constexpr std::array<std::string_view, 6> kHarmlessScopes{
    "session-",
    "run-",
    "app-",
    "tmux-spawn-",
    "vte-spawn-",
    "init.scope",
};

constexpr std::string_view kTrust = ", or name it in trusted_supervisors of qhupd.toml if it does";

bool is_unit(std::string_view name) {
    return name.ends_with(".service") || name.ends_with(".scope");
}

/// The paths in the trees that systemd may manage.
struct Paths {
    std::string_view own;     ///< its own tree of version 1
    std::string_view unified; ///< version 2
};

Paths paths_of(std::string_view cgroup_text) {
    Paths paths;
    while (!cgroup_text.empty()) {
        const std::string_view line = cgroup_text.substr(0, cgroup_text.find('\n'));
        cgroup_text.remove_prefix(std::min(line.size() + 1, cgroup_text.size()));
        const std::size_t begin = line.find(":/");
        if (begin == std::string_view::npos) {
            continue;
        }
        if (line.starts_with("0::")) {
            paths.unified = line.substr(begin + 1);
        } else if (line.substr(0, begin).ends_with(":name=systemd")) {
            paths.own = line.substr(begin + 1);
        }
    }
    return paths;
}

Supervision parse_path(std::string_view path) {
    Supervision supervision;
    while (!path.empty()) {
        path.remove_prefix(1);
        std::string_view part = path.substr(0, path.find('/'));
        path.remove_prefix(part.size());
        // why: systemd puts '_' before a name that the kernel could take for a file of its own.
        if (part.starts_with('_')) {
            part.remove_prefix(1);
        }
        if (!is_unit(part)) {
            continue;
        }
        supervision.is_users =
            supervision.is_users || std::string_view(supervision.unit).starts_with("user@");
        supervision.unit = part;
    }
    return supervision;
}

bool is_trusted(const std::string& unit, const std::vector<std::string>& trusted) {
    return std::any_of(trusted.begin(), trusted.end(), [&](const std::string& pattern) {
        return ::fnmatch(pattern.c_str(), unit.c_str(), 0) == 0;
    });
}

/// systemd writes /run where units say /var/run.
std::string_view without_var(std::string_view path) {
    return path.starts_with("/var/run/") ? path.substr(4) : path;
}

bool follows_messages(const Supervision& supervision) {
    const std::string& access = supervision.facts->notify_access;
    return supervision.has_notify_socket &&
           (access == "all" || access == "main" || access == "exec");
}

std::optional<std::string>
judge_service(const Supervision& supervision, pid_t pid, const std::string& pidfile) {
    const std::string name = "The service " + supervision.unit;
    if (supervision.is_users) {
        return name +
               " belongs to a user's service manager, which qhupd cannot ask whether it "
               "follows the new process; run the VM in a service of the system" +
               std::string(kTrust) + ".";
    }
    if (!supervision.facts) {
        return name + " runs the VM, and systemd did not say whether it follows the new process; "
                      "look at systemd and try again.";
    }
    const UnitFacts& facts = *supervision.facts;
    if (facts.main_pid == 0 || facts.exit_type == "cgroup") {
        return std::nullopt;
    }
    if (facts.main_pid != pid) {
        return name + " ends with its main process " + std::to_string(facts.main_pid) +
               ", which is not QEMU and may wait for it; start QEMU directly in the service" +
               std::string(kTrust) + ".";
    }
    const bool has_pidfile =
        !facts.pid_file.empty() && without_var(facts.pid_file) == without_var(pidfile);
    if (has_pidfile || follows_messages(supervision)) {
        return std::nullopt;
    }
    return name + " (Type=" + facts.type + ", NotifyAccess=" + facts.notify_access +
           ") would end the VM together with its first process; give it NotifyAccess=all, as "
           "qhup-vm@.service has, or a PIDFile= that QEMU writes, and restart the VM.";
}

} // namespace

Supervision parse_supervision(std::string_view cgroup_text) {
    const Paths paths = paths_of(cgroup_text);
    const Supervision supervision = parse_path(paths.own);
    return supervision.unit.empty() ? parse_path(paths.unified) : supervision;
}

std::optional<std::string> judge_supervision(
    const Supervision& supervision,
    pid_t pid,
    const std::string& pidfile,
    const std::vector<std::string>& trusted
) {
    if (supervision.is_in_container && !is_trusted("container", trusted)) {
        return "The VM runs in a container, whose manager may end it together with the old "
               "process; run the VM outside of it, or name \"container\" in trusted_supervisors "
               "of qhupd.toml if its manager follows the new process.";
    }
    if (supervision.unit.empty() || is_trusted(supervision.unit, trusted)) {
        return std::nullopt;
    }
    if (supervision.unit.ends_with(".service")) {
        return judge_service(supervision, pid, pidfile);
    }
    const bool is_harmless =
        std::any_of(kHarmlessScopes.begin(), kHarmlessScopes.end(), [&](std::string_view begin) {
            return supervision.unit.starts_with(begin);
        });
    if (is_harmless) {
        return std::nullopt;
    }
    return "The manager that made " + supervision.unit +
           " is not known to follow the new process; run the VM without it" + std::string(kTrust) +
           ".";
}

} // namespace qhup::upgrade
