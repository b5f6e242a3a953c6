// SPDX-License-Identifier: GPL-2.0-or-later
#include "upgrade-engine/blockers.hpp"

#include <algorithm>
#include <array>
#include <optional>
#include <string_view>
#include <utility>

namespace qhup::upgrade {
namespace {

/// Oldest machine types that a release still builds, where it dropped some.
struct OldestMachine {
    std::string_view family;    ///< the name without its version
    QemuVersion since;          ///< releases from this one on
    QemuVersion oldest_machine; ///< build nothing older
};

// qemu: hw/i386/pc_piix.c and pc_q35.c of 10.0.13.
constexpr std::array kOldestMachines{
    OldestMachine{"pc-i440fx", {9, 1, 0}, {2, 4, 0}},
    OldestMachine{"pc-q35", {9, 1, 0}, {2, 4, 0}},
};

// What a new QEMU needs beyond what the old one has: buffers of a start, threads that come and go.
constexpr std::uint64_t kMemoryReserve = 32ULL << 20;
constexpr std::uint64_t kTaskReserve = 4;

/// The family and version in "pc-i440fx-7.2"; nothing for a machine without one ("microvm").
std::optional<std::pair<std::string_view, QemuVersion>> split_machine(std::string_view machine) {
    const std::size_t dash = machine.rfind('-');
    if (dash == std::string_view::npos) {
        return std::nullopt;
    }
    const std::optional<QemuVersion> version = parse_qemu_version(machine.substr(dash + 1));
    if (!version) {
        return std::nullopt;
    }
    return std::pair(machine.substr(0, dash), *version);
}

void add(Verdict& verdict, std::string name, std::string klass, std::string reason) {
    verdict.blockers.push_back({"engine/" + std::move(name), std::move(klass), std::move(reason)});
}

void check_machine(const VmFacts& facts, const ReleaseFacts& release, Verdict& verdict) {
    if (release.binary) {
        if (!release.binary->machines.contains(facts.machine)) {
            add(verdict,
                "machine",
                "machine",
                "The release " + release.name + " does not have the machine type " + facts.machine +
                    "; choose another release, or start the VM with another machine type.");
        }
        return;
    }
    const auto machine = split_machine(facts.machine);
    if (!machine || !release.version.is_known()) {
        return;
    }
    const QemuVersion first{machine->second.major, machine->second.minor, 0};
    if (first > release.version) {
        add(verdict,
            "machine",
            "machine",
            "The machine type " + facts.machine + " is newer than QEMU " +
                to_string(release.version) +
                "; choose a newer release, or start the VM with an older machine type.");
        return;
    }
    for (const OldestMachine& row : kOldestMachines) {
        if (row.family == machine->first && release.version >= row.since &&
            first < row.oldest_machine) {
            add(verdict,
                "machine",
                "machine",
                "QEMU " + to_string(release.version) + " no longer has the machine type " +
                    facts.machine + "; start the VM with a newer machine type.");
        }
    }
}

constexpr std::array kClasses{
    BlockerClass{"argv", "the reason says which option; start the VM without it"},
    BlockerClass{"cpu", "choose another release, or start the VM with another CPU model"},
    BlockerClass{
        "device", "unplug the device or start the VM without it, or choose another release"},
    BlockerClass{
        "image", "copy the disk to a new file, remove it, or give the file its name again"},
    BlockerClass{"machine", "choose another release, or start the VM with another machine type"},
    BlockerClass{"memory", "raise the limit that the reason names, or free memory"},
    BlockerClass{"mount-namespace", "start the VM in the host's mount namespace"},
    BlockerClass{"object", "remove the object, or choose another release"},
    BlockerClass{"qemu", "restart the VM once with a patched QEMU, or update the daemon"},
    BlockerClass{
        "release", "write version = \"...\" into the release file, or install a patched QEMU"},
    BlockerClass{"state", "wait for the end of the upgrade in progress, or roll it back"},
    BlockerClass{
        "supervisor",
        "run the VM in a unit that follows the new process: NotifyAccess=all, or PIDFile="},
};

/// What the release cannot make at all.
void check_type(const UsedType& used, const ReleaseFacts& release, Verdict& verdict) {
    if (used.kind == UsedType::Kind::part || release.binary->types.contains(used.type)) {
        return; // a part goes with its device
    }
    const std::string what = "The release " + release.name + " does not have ";
    switch (used.kind) {
    case UsedType::Kind::device:
        add(verdict,
            "device/" + used.name,
            "device",
            what + "the device type " + used.type + " of the device " + used.name +
                "; unplug it or start the VM without it, or choose another release.");
        return;
    case UsedType::Kind::object:
        add(verdict,
            "object/" + used.name,
            "object",
            what + "the type " + used.type + " of the object " + used.name +
                "; remove it, or choose another release.");
        return;
    case UsedType::Kind::cpu:
        add(verdict,
            "cpu",
            "cpu",
            what + "the CPU type " + used.type +
                "; choose another release, or start the VM with another CPU model.");
        return;
    case UsedType::Kind::part: return;
    }
}

/// What the VM's QEMU writes of a device and the release cannot read.
void check_state(const UsedType& used, const ReleaseFacts& release, Verdict& verdict) {
    const bool is_device = used.kind == UsedType::Kind::device || used.kind == UsedType::Kind::part;
    if (!is_device || !release.source_binary || release.binary->states.empty()) {
        return;
    }
    const StateFormats& theirs = release.binary->states;
    const auto written = release.source_binary->states.find(used.type);
    if (written == release.source_binary->states.end() ||
        !release.binary->types.contains(used.type)) {
        return;
    }
    const auto read = theirs.find(used.type);
    const std::string why =
        read == theirs.end() ? "it has none" : judge_state(written->second, read->second);
    if (!why.empty()) {
        add(verdict,
            "device/" + used.name,
            "device",
            "The release " + release.name + " cannot read the state of the device " + used.name +
                " (" + used.type + "), since " + why +
                "; unplug it or start the VM without it, or choose another release.");
    }
}

/// What the release's binary says of itself, against what the VM is made of.
void check_binary(
    const VmFacts& facts, const ReleaseFacts& release, const ArgvPlan& argv, Verdict& verdict
) {
    if (!release.binary) {
        return;
    }
    if (!release.binary->is_patched) {
        add(verdict,
            "release-not-patched",
            "release",
            "The QEMU of the release " + release.name +
                " cannot take over a running VM; install one with the patches for hot upgrades.");
    }
    for (const UsedType& used : facts.types) {
        check_type(used, release, verdict);
        check_state(used, release, verdict);
    }
    for (const std::string_view option : argv.options) {
        const std::string spelled = "-" + std::string(option);
        const bool is_named =
            std::any_of(argv.problems.begin(), argv.problems.end(), [&](const ArgvProblem& each) {
                return each.option == spelled || each.option == "-" + spelled;
            });
        if (!is_named && release.binary->refused_options.contains(option)) {
            add(verdict,
                "argv/" + spelled,
                "argv",
                "The release " + release.name + " does not have the option " + spelled +
                    "; start the VM without it, or choose another release.");
        }
    }
}

std::string in_mib(std::uint64_t bytes) {
    return std::to_string(bytes >> 20) + " MiB";
}

/// A second process has to fit beside the first one, or the kernel kills one of them in the middle.
void check_headroom(const ProcessFacts& process, Verdict& verdict) {
    const Headroom& headroom = process.headroom;
    const std::uint64_t memory = process.private_bytes + kMemoryReserve;
    if (headroom.memory_bytes && *headroom.memory_bytes < memory) {
        add(verdict,
            "memory",
            "memory",
            "The control group of the VM has " + in_mib(*headroom.memory_bytes) +
                " left, and a second QEMU needs about " + in_mib(memory) +
                " of its own; raise memory.max.");
    }
    if (headroom.host_bytes && *headroom.host_bytes < memory) {
        add(verdict,
            "host-memory",
            "memory",
            "The host has " + in_mib(*headroom.host_bytes) +
                " of memory available, and a second QEMU needs about " + in_mib(memory) +
                " of its own; free some.");
    }
    const std::uint64_t tasks = process.threads + kTaskReserve;
    if (headroom.tasks && *headroom.tasks < tasks) {
        add(verdict,
            "tasks",
            "memory",
            "The control group of the VM may have " + std::to_string(*headroom.tasks) +
                " more threads, and a second QEMU needs about " + std::to_string(tasks) +
                "; raise pids.max.");
    }
    if (headroom.memlock_bytes && process.locked_bytes > *headroom.memlock_bytes) {
        add(verdict,
            "mem-lock",
            "memory",
            "QEMU has locked " + in_mib(process.locked_bytes) +
                " of memory, and its limit is now " + in_mib(*headroom.memlock_bytes) +
                ", so a second QEMU could not lock them; raise RLIMIT_MEMLOCK (prlimit --memlock)."
        );
    }
}

/// A new QEMU finds the files of disks by their names, and takes only the very file that the VM
/// has.
void check_images(const VmFacts& facts, const ProcessFacts& process, Verdict& verdict) {
    // why: what the guest writes with snapshot=on is in a file that never had a name for long, and
    // QEMU has said so.
    const bool is_temporary =
        std::any_of(facts.blockers.begin(), facts.blockers.end(), [](const Blocker& each) {
            return each.klass == "snapshot";
        });
    if (is_temporary) {
        return;
    }
    for (const LostImage& image : process.lost_images) {
        const std::string reason =
            image.path.empty()
                ? "The disk image " + image.name +
                      " was deleted or replaced while QEMU had it open, so a new QEMU would not "
                      "find it, and what is in it is lost when this QEMU ends; copy it to a new "
                      "file (blockdev-backup) and start the VM on that, or remove the disk."
            : image.path == image.name
                ? "The disk image " + image.path +
                      " had another name when QEMU opened it, by which a new QEMU would not find "
                      "it; move it back."
                : "The disk image " + image.name + " is now " + image.path +
                      ", where a new QEMU would not find it; move it back, or give it its old name "
                      "again (ln).";
        const std::string slash = image.name.starts_with('/') ? "" : "/";
        add(verdict, "image" + slash + image.name, "image", reason);
    }
}

} // namespace

std::span<const BlockerClass> blocker_classes() noexcept {
    return kClasses;
}

Blocker make_not_patched_blocker() {
    return {"engine/not-patched", "qemu", std::string(explain(Errc::not_patched))};
}

Verdict find_blockers(
    const VmFacts& facts,
    const ProcessFacts& process,
    const ReleaseFacts& release,
    const ArgvPlan& argv,
    const std::vector<std::string>& trusted
) {
    Verdict verdict;
    if (facts.protocol != kProtocol) {
        add(verdict,
            "protocol",
            "qemu",
            "This QEMU speaks version " + std::to_string(facts.protocol) +
                " of the hand-over and the daemon version " + std::to_string(kProtocol) +
                "; update the daemon.");
        return verdict;
    }
    verdict.is_already_there = !release.build_id.empty() && facts.build_id == release.build_id;
    verdict.blockers = facts.blockers;
    if (facts.role != Role::source || facts.state != PairState::none) {
        add(verdict,
            "in-progress",
            "state",
            "An upgrade of this VM is in progress (" + std::string(to_string(facts.role)) + ", " +
                std::string(to_string(facts.state)) +
                "); wait for its end, or roll it back, and start again.");
    }
    if (!release.version.is_known()) {
        add(verdict,
            "release-version",
            "release",
            "The QEMU version of the release " + release.name +
                " cannot be told; write version = \"...\" into its release file.");
    }
    check_machine(facts, release, verdict);
    check_binary(facts, release, argv, verdict);
    for (const ArgvProblem& problem : argv.problems) {
        add(verdict,
            "argv" + (problem.option.empty() ? std::string() : "/" + problem.option),
            "argv",
            problem.reason);
    }
    if (process.is_pid1_of_namespace) {
        add(verdict,
            "supervisor",
            "supervisor",
            "QEMU is process 1 of its pid namespace, so the new QEMU would end together with the "
            "old one; run QEMU under an init process in its container.");
    }
    const auto why = judge_supervision(process.supervision, process.pid, facts.pidfile, trusted);
    if (why && !process.is_pid1_of_namespace) {
        add(verdict, "supervisor", "supervisor", *why);
    }
    if (process.has_other_files) {
        add(verdict,
            "mount-namespace",
            "mount-namespace",
            "QEMU runs in a mount namespace with another /usr or /etc than the host's, so the new "
            "QEMU would not find its libraries and firmware; start the VM in the host's.");
    }
    check_headroom(process, verdict);
    check_images(facts, process, verdict);
    return verdict;
}

} // namespace qhup::upgrade
