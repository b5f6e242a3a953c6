// SPDX-License-Identifier: GPL-2.0-or-later
//
// What one QEMU process says about itself (query-hot-upgrade), and what the kernel says about it,
// as values. Pure. QEMU's words are claims of a process that its guest may own: they are bounded
// and typed here, and its identity is taken from ProcessFacts only.
#pragma once

#include "common/result.hpp"
#include "upgrade-engine/errors.hpp"
#include "upgrade-engine/ids.hpp"
#include "upgrade-engine/qemu_version.hpp"
#include "upgrade-engine/supervisor.hpp"

#include <nlohmann/json_fwd.hpp>

#include <sys/types.h>

#include <array>
#include <chrono>
#include <compare>
#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

namespace qhup::upgrade {

/// The protocol number of docs/qmp.md that this engine speaks.
inline constexpr int kProtocol = 1;

/// Which side of a pair a process is.
enum class Role : std::uint8_t {
    source, ///< runs the VM, or gave it away
    target, ///< the new binary, until the source is gone
};

/// State of one side; docs/qmp.md has the diagram.
enum class PairState : std::uint8_t {
    none,         ///< source: no upgrade in progress
    preparing,    ///< source: the standby is being built, the guest runs
    prepared,     ///< source: the standby waits, the guest runs
    frozen,       ///< source: the guest is paused
    ceded,        ///< source: gave the VM away for good
    rolling_back, ///< source: takes the VM back
    starting,     ///< target: builds its machine
    standby,      ///< target: built and waiting
    loading,      ///< target: reads the device state
    loaded,       ///< target: may take over
    running,      ///< target: runs the VM; the source has not gone yet
};

inline constexpr std::array kAllPairStates{
    PairState::none,
    PairState::preparing,
    PairState::prepared,
    PairState::frozen,
    PairState::ceded,
    PairState::rolling_back,
    PairState::starting,
    PairState::standby,
    PairState::loading,
    PairState::loaded,
    PairState::running,
};

[[nodiscard]] std::string_view to_string(Role role) noexcept;
[[nodiscard]] std::string_view to_string(PairState state) noexcept; ///< QEMU's word: "rolling-back"
[[nodiscard]] std::optional<PairState> parse_pair_state(std::string_view word) noexcept;

/// A reason, known before anything is touched, why this VM must not be upgraded.
struct Blocker {
    std::string id;     ///< what blocks: "chardev/serial0"; the engine's own start with "engine/"
    std::string klass;  ///< "class" in JSON: the kind of the reason
    std::string reason; ///< a sentence that says what is true and what to do

    bool operator==(const Blocker&) const = default;
};

/// A tap, in the network namespace of QEMU.
struct Link {
    std::string id;                 ///< "netdev/" and the id of the netdev
    std::string ifname;             ///< of the interface
    std::uint64_t queue_length = 0; ///< packets that it keeps while nobody reads them, per queue

    bool operator==(const Link&) const = default;
};

/// Something that the VM has of a type of QEMU's.
struct UsedType {
    enum class Kind : std::uint8_t {
        device, ///< that the user added
        part,   ///< a device that such a device made itself
        object, ///< -object
        cpu,    ///< all vCPUs; it has no name
    };
    Kind kind = Kind::device;
    std::string name; ///< its id, or for a device without one the end of its path
    std::string type; ///< "virtio-net-pci"

    bool operator==(const UsedType&) const = default;
};

/// Which file it is: two open files with the same are one file.
struct FileId {
    std::uint64_t device = 0; ///< st_dev
    std::uint64_t inode = 0;  ///< st_ino

    auto operator<=>(const FileId&) const = default;
};

/// A file that QEMU has open as a disk, or as a part of one.
struct OpenImage {
    int fd = -1; ///< in QEMU
    FileId file; ///< as QEMU saw it when it opened it

    bool operator==(const OpenImage&) const = default;
};

/// By the name of an interface: packets that it has passed to the guest behind it, or dropped.
using LinkCounters = std::map<std::string, std::uint64_t>;

/// How an upgrade that QEMU gave up ended.
struct LastError {
    Errc code = Errc::unknown_qemu_code; ///< QEMU's code, typed
    /// prepare, flush (the guest was not paused), freeze, save, load, takeover, lease, rollback
    std::string phase;
    std::string message;              ///< QEMU's sentence; peer text
    std::string stderr_text;          ///< last words of the target; peer text
    std::optional<int> exit_status{}; ///< with which the target ended by itself, if it did
};

/// How long each part of a switch took. All on the host's monotonic clock.
struct SwitchTimings {
    std::chrono::nanoseconds flush{};    ///< before the pause: images flushed while the guest ran
    std::chrono::nanoseconds stop{};     ///< vCPUs stopped
    std::chrono::nanoseconds drain{};    ///< requests in flight counted down, metadata written
    std::chrono::nanoseconds save{};     ///< device state written
    std::chrono::nanoseconds load{};     ///< target: device state read
    std::chrono::nanoseconds activate{}; ///< target: images and back ends taken
    std::chrono::nanoseconds start{};    ///< target: ownership word, vCPUs started
    std::chrono::nanoseconds pause{};    ///< from vCPU stop on the source to start on the target
    std::uint64_t state_bytes = 0;       ///< size of the device state

    bool operator==(const SwitchTimings&) const = default;
};

/// The durations by their QMP names, in ns, for the API.
[[nodiscard]] std::map<std::string, std::int64_t> to_map_ns(const SwitchTimings& timings);

/// One answer to query-hot-upgrade.
struct VmFacts {
    int protocol = 0;                  ///< number of docs/qmp.md that QEMU speaks
    Role role = Role::source;          ///< which side it is
    PairState state = PairState::none; ///< where it stands
    UpgradeId upgrade;                 ///< the upgrade in progress, or the last one; may be empty
    QemuVersion version;               ///< number of the release
    std::string version_text;          ///< as QEMU wrote it
    std::string package;               ///< package version; "" if none
    std::string build_id;              ///< hex; "" if the binary has none
    pid_t claimed_pid = 0;             ///< what QEMU says; never used as an identity
    std::string name;                  ///< -name; "" if not given
    std::string uuid;                  ///< -uuid; "" if not given
    std::string machine;               ///< concrete machine type
    bool is_enabled = false;           ///< -machine hot-upgrade=on
    std::string run_state;             ///< RunState: "running", "paused", ...
    std::vector<std::string> argv;     ///< as the process was started
    std::string cwd;                   ///< where it was started
    std::string pidfile;               ///< the pidfile it owns; "" if none
    std::uint64_t ram_bytes = 0;       ///< guest RAM
    std::optional<std::chrono::nanoseconds> lease_left; ///< until it rolls back by itself
    std::vector<Blocker> blockers;                      ///< QEMU's own, all of them
    std::vector<Link> links;                            ///< its taps
    std::vector<UsedType> types;                        ///< what it is made of
    std::vector<OpenImage> images;     ///< files of its disks; a target gets them open
    std::set<std::string> image_names; ///< by which a target finds them; absolute, if cwd is known
    std::uint64_t generation = 0;      ///< raised whenever the shape changes
    std::string shape_digest;          ///< sha256 of the canonical shape
    std::string shape_class;     ///< equal for VMs of one kind of machine; see make_shape_class()
    pid_t claimed_child_pid = 0; ///< the target, on a source; 0 if none
    std::vector<std::string> takeover_degraded; ///< devices that did not come up after takeover
    std::optional<LastError> last_error;        ///< of the last failed command or upgrade
    std::optional<SwitchTimings> timings;       ///< of the last switch
    std::string rollback_waits_for; ///< in rolling-back: what it waits for; "" if nothing
};

/// The status in "the target exited with status 0"; nothing in any other sentence, as that of a
/// signal. The one sentence of QEMU that is read: the protocol has no member for it.
[[nodiscard]] std::optional<int> parse_exit_status(std::string_view message) noexcept;

/// Reads the value that query-hot-upgrade returned. Members that are not in docs/qmp.md are
/// ignored. Errors: Errc::unexpected_answer, if a member is missing, of another type, or out of
/// bounds.
[[nodiscard]] Result<VmFacts> parse_vm_facts(const nlohmann::json& value);

/// A name for the kind of machine: 16 hex digits of machine type, CPU, RAM map and types of
/// devices, back ends and objects. Names, paths, addresses and sizes are not in it, so that VMs
/// that were made alike are of one class; what a QEMU can load of one of them it can load of all.
[[nodiscard]] std::string make_shape_class(std::string_view machine, const nlohmann::json& shape);

/// The part of the device state that a target refused, from the words of QEMU; "" if they name
/// none. For people only: nothing is decided by it.
[[nodiscard]] std::string parse_refused_section(std::string_view words);

/// The file in "image/fe00:4711/rw", the id of a descriptor; nothing if it is not one of an image.
[[nodiscard]] std::optional<FileId> parse_image_id(std::string_view id) noexcept;

/// Reads the "timings" of a reply. Missing parts are zero.
/// Errors: Errc::unexpected_answer.
[[nodiscard]] Result<SwitchTimings> parse_switch_timings(const nlohmann::json& value);

/// What limits leave for a second process beside this one. A limit that nobody set, or that cannot
/// be read, is not there.
struct Headroom {
    std::optional<std::uint64_t> memory_bytes;  ///< least of the control group and those above it
    std::optional<std::uint64_t> tasks;         ///< likewise, in threads
    std::optional<std::uint64_t> memlock_bytes; ///< RLIMIT_MEMLOCK
    std::optional<std::uint64_t> host_bytes{};  ///< memory that is available on the host
};

/// A file of a disk that a new QEMU would not find.
struct LostImage {
    std::string name; ///< by which it was opened
    std::string path; ///< where it is now; "" if it was deleted or replaced

    bool operator==(const LostImage&) const = default;
};

/// What the kernel says about a QEMU process.
struct ProcessFacts {
    pid_t pid = 0;                     ///< as seen by the daemon; from SO_PEERCRED
    std::uint64_t start_ticks = 0;     ///< field 22 of /proc/PID/stat: with pid, the identity
    std::string exe;                   ///< target of /proc/PID/exe; "" if it cannot be read
    pid_t innermost_pid = 0;           ///< what the process itself sees as its pid; 0 if not known
    pid_t ppid = 0;                    ///< its parent
    uid_t uid = 0;                     ///< the user as whom it opens files now
    bool is_pid1_of_namespace = false; ///< its innermost pid is 1: its end ends the namespace
    std::uint64_t private_bytes = 0;   ///< memory that a second process does not share
    std::uint64_t locked_bytes = 0;    ///< locked into memory, as by mem-lock=on
    std::uint64_t threads = 0;         ///< of this process
    Headroom headroom;                 ///< for the second process
    Supervision supervision;           ///< who would notice its end
    bool has_other_files = false;      ///< another system than the daemon sees
    std::vector<LostImage> lost_images{}; ///< files of disks that have not kept their names
};

/// What the interfaces in /proc/PID/net/dev have sent, which is what goes to the guest if one is a
/// tap. Lines that are not as expected are left out.
[[nodiscard]] LinkCounters parse_link_counters(std::string_view net_dev_text);

/// The number that follows `key` at the beginning of a line, as in files of /proc and of control
/// groups; nothing if there is no such line, or a word in its place.
[[nodiscard]] std::optional<std::uint64_t> find_number(std::string_view text, std::string_view key);

/// MemAvailable in /proc/meminfo; nothing if it is not there.
[[nodiscard]] std::optional<std::uint64_t> parse_available_memory(std::string_view meminfo_text);

/// The soft "Max locked memory" in /proc/PID/limits; nothing if it is unlimited or not there.
[[nodiscard]] std::optional<std::uint64_t> parse_memlock_limit(std::string_view limits_text);

/// The path of the process in the unified hierarchy, from /proc/PID/cgroup; "" if it has none
/// there, or one above the daemon's own root.
[[nodiscard]] std::string parse_cgroup_path(std::string_view cgroup_text);

/// Reads field 4 and 22 of /proc/PID/stat, and of /proc/PID/status Uid, NSpid, RssAnon, VmLck and
/// Threads (0 if one is not there). Errors: Errc::unexpected_answer.
[[nodiscard]] Result<ProcessFacts>
parse_process_facts(pid_t pid, std::string_view stat_text, std::string_view status_text);

/// One look at one side of a pair.
struct Observation {
    enum class Presence : std::uint8_t {
        absent,  ///< no such process: nobody listens
        silent,  ///< somebody is there and does not answer, or cannot be asked
        answers, ///< `facts` are from just now
    };
    Presence presence = Presence::absent; ///< what is known
    VmFacts facts;                        ///< meaningful only when it answers
    std::optional<Failure> why;           ///< why it did not answer

    [[nodiscard]] bool answers() const noexcept { return presence == Presence::answers; }
    [[nodiscard]] bool is(PairState state) const noexcept {
        return answers() && facts.state == state;
    }
};

[[nodiscard]] std::string_view to_string(Observation::Presence presence) noexcept;

} // namespace qhup::upgrade
