// SPDX-License-Identifier: GPL-2.0-or-later
//
// The daemon's configuration: its meaning, its defaults and its checks. Pure: text in, struct out.
// Reading the files is config_files' business. systemd/qhupd.toml explains each key to operators.
#pragma once

#include "common/result.hpp"
#include "daemon/vm_policy.hpp"

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace qhup::daemon {

/// Everything that an operator can set. The defaults are those of an empty file.
struct Config {
    // --- top level
    std::string control_dir = "/run/qhupd/vms"; ///< a folder per VM for its control sockets
    /// Of drop-ins *.toml, one per release; a later folder's file replaces one of the same name.
    std::vector<std::string> releases_dirs = {
        "/usr/lib/qhupd/releases.d", "/etc/qhupd/releases.d", "/run/qhupd/releases.d"};
    std::string state_dir = "/var/lib/qhupd"; ///< what outlives the daemon
    std::uint32_t parallel = 4;               ///< VMs in work at once, 1 to 1024
    std::uint32_t pause_slots = 0; ///< guests paused at once; 0: one per two cores, at least one
    std::uint32_t memory_reserve_mib = 256; ///< of the host, that VMs in work together leave free
    std::uint32_t kept_binaries = 8;        ///< old binaries kept for the way back, 0 to 64
    std::string rehearse = "first"; ///< before upgrades: none, first (of each kind of VM) or all
    std::string rehearse_back =
        "first"; ///< ways back after upgrades: none, first (of each kind), all
    std::chrono::milliseconds rehearse_back_after{60'000}; ///< behind an upgrade; 0 to 1 h
    std::string selftest = "warn"; ///< for a pair of binaries that none passed: off, warn, require
    std::string probe_user = "nobody"; ///< that probes of [[policy]] run as, if we may choose
    std::string log_level = "info";    ///< debug, info, warn or error
    /// Units, with *, whose manager follows the new process although qhupd cannot see it.
    std::vector<std::string> trusted_supervisors;

    /// [discovery]: where VMs are found.
    struct Discovery {
        std::vector<std::string> qmp = {"/run/qhup-vm/*/qmp"}; ///< globs of QMP sockets
        std::chrono::milliseconds interval{10'000};            ///< between two looks; 1 s to 1 h
    } discovery;

    /// [api]: the socket that qhupd-ctl talks to.
    struct Api {
        std::string socket = "/run/qhupd/qhupd.sock"; ///< where clients may act; its path
        /// Where they may only read; "": beside it, with "-ro" in its name.
        std::string read_socket;
        std::string read_group = "qhup";  ///< members may read; "": nobody else
        std::string group = "qhup-admin"; ///< members may act; "": only root and the daemon's user
        std::uint32_t mode = 0660;        ///< of the socket, octal text in the file
        std::uint32_t max_connections = 512; ///< more are refused; 4 to 4096
        std::uint32_t event_ring = 10'000;   ///< events that are remembered; 16 to 1,000,000
    } api;

    /// [leases]: how long a source waits for us before it rolls back by itself.
    struct Leases {
        std::chrono::milliseconds prepared{60'000}; ///< renewed while we live; 5 s to 10 min
        std::chrono::milliseconds frozen{1'000};    ///< inside the pause; 100 ms to 30 s
    } leases;

    /// [deadlines]: how long we wait for others.
    struct Deadlines {
        std::chrono::milliseconds probe{1'000};      ///< a VM that is only listed; 100 ms to 10 s
        std::chrono::milliseconds prepare{20'000};   ///< the standby must be up; 1 s to 20 s
        std::chrono::milliseconds drain{200};        ///< I/O in flight before the pause is given up
        std::chrono::milliseconds pause_budget{300}; ///< the longest pause that may happen
        std::chrono::milliseconds verify{
            2'000}; ///< the guest is watched on the target; at most 10 s
        std::chrono::milliseconds request{10'000}; ///< a client must have sent its request
    } deadlines;

    std::vector<LabelRule> labels;    ///< [[vm]], in the order of the file
    std::vector<PolicyRule> policies; ///< [[policy]], in the order of the files

    /// Where each key that a file sets was set last: "api.socket" -> "FILE:LINE". Others have their
    /// default.
    std::map<std::string, std::string> origins;
};

/// A file of the configuration that was read.
struct ConfigText {
    std::string file; ///< its name, for messages
    std::string text; ///< all of it
};

/// One key as it holds, for people.
struct ConfigValue {
    std::string key;    ///< "parallel", "api.socket"; of policies "policy.1.vms", counted from 1
    std::string value;  ///< as TOML writes it
    std::string origin; ///< "FILE:LINE" (of a policy: where it begins), or "default"
};

/// The configuration in these texts. A later one replaces the keys that it sets, and adds its
/// policies to those before.
///
/// Errors: syntax, unknown key, wrong type, value out of range. The message starts with
///         "FILE:LINE: ", and names the nearest known key.
Result<Config> parse_config(const std::vector<ConfigText>& texts);

/// The configuration in one text. @param file  name for messages
Result<Config> parse_config(std::string_view text, std::string_view file);

/// Every key with its value and where it comes from, in the order of the example.
std::vector<ConfigValue> describe_config(const Config& config);

/// The same as a file that says the same, each line with its origin in a comment.
std::string format_config(const Config& config);

/// What a running daemon can take of a new configuration.
struct Reloaded {
    Config config;                 ///< the new one, but with what cannot change as it was
    std::vector<std::string> kept; ///< the keys for which that holds: they need a restart
};
Reloaded merge_reloaded(const Config& running, Config wanted);

/// The path of the socket that may only read.
std::string read_socket_of(const Config::Api& api);

/// The number of guests that may be paused at once on a host with so many cores.
std::uint32_t pause_slots_for(const Config& config, std::size_t cores) noexcept;

/// "250ms", "60s", "10min", "1h" as a duration.
///
/// Errors: no number, no unit, too large
Result<std::chrono::milliseconds> parse_duration(std::string_view text);

} // namespace qhup::daemon
