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
    BlockerClass{"machine", "choose another release, or start the VM with another machine type"},
    BlockerClass{"memory", "raise the limit that the reason names, or free memory"},
    BlockerClass{"mount-namespace", "start the VM in the host's mount namespace"},
    BlockerClass{"qemu", "restart the VM once with a patched QEMU, or update the daemon"},
    BlockerClass{"release", "write version = \"...\" into the release file"},
    BlockerClass{"state", "wait for the end of the upgrade in progress, or roll it back"},
    BlockerClass{
        "supervisor",
        "run the VM in a unit that follows the new process: NotifyAccess=all, or PIDFile="},
};

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
    return verdict;
}

} // namespace qhup::upgrade
