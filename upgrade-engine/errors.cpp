// SPDX-License-Identifier: GPL-2.0-or-later
#include "upgrade-engine/errors.hpp"

#include <algorithm>

namespace qhup::upgrade {
namespace {

/// Everything that is fixed about a code.
struct Row {
    Errc code;
    const char* wire;          ///< stable name for the API
    Severity severity;         ///< what it means to whoever asked
    std::string_view sentence; ///< what is true and what to do
};

// clang-format off
constexpr std::array kRows{
    Row{Errc::wrong_state, "wrong_state", Severity::transient,
        "QEMU was not in the state that this step needs; look at the VM and start the upgrade again."},
    Row{Errc::blocked, "blocked", Severity::refused,
        "The VM has a blocker; remove what the blockers name and start the upgrade again."},
    Row{Errc::bad_argument, "bad_argument", Severity::refused,
        "QEMU could not use an argument of the upgrade; check the control folder and the release."},
    Row{Errc::spawn_failed, "spawn_failed", Severity::refused,
        "The new QEMU could not be started, and the guest was never paused; check that the release's binary and its libraries are installed and that there is memory for a second process."},
    Row{Errc::target_died, "target_died", Severity::rolled_back,
        "The new QEMU ended before it took the guest over, and the guest runs on the old one; read its last words and correct what they name."},
    Row{Errc::target_timeout, "target_timeout", Severity::rolled_back,
        "The new QEMU did not get ready in time, and the guest runs on the old one; try again when the host is less busy."},
    Row{Errc::protocol_mismatch, "protocol_mismatch", Severity::refused,
        "The two QEMUs speak different versions of the hand-over; choose a release that fits this daemon."},
    Row{Errc::shape_differs, "shape_differs", Severity::refused,
        "The new QEMU built another machine than the one that runs, and the guest was never paused; compare machine type, CPU and devices of the two releases."},
    Row{Errc::stale, "stale", Severity::rolled_back,
        "The VM was changed while the upgrade was prepared, and the guest runs on the old QEMU; start the upgrade again."},
    Row{Errc::retry, "retry", Severity::rolled_back,
        "The guest was resetting, shutting down or being woken each time, and it runs on the old QEMU; start the upgrade again later."},
    Row{Errc::drain_timeout, "drain_timeout", Severity::rolled_back,
        "Disk requests of the guest did not finish in time, and it runs on the old QEMU; check the storage, or try again when it is less busy."},
    Row{Errc::budget_exceeded, "budget_exceeded", Severity::rolled_back,
        "The pause would have become longer than allowed, and the guest runs on the old QEMU; try again when the host is less busy, or allow a longer pause."},
    Row{Errc::save_failed, "save_failed", Severity::rolled_back,
        "The device state could not be saved, and the guest runs on the old QEMU; read QEMU's reason."},
    Row{Errc::load_failed, "load_failed", Severity::rolled_back,
        "The new QEMU refused the device state, and the guest runs on the old one; this release cannot take this VM."},
    Row{Errc::takeover_failed, "takeover_failed", Severity::rolled_back,
        "The new QEMU could not take the disks or back ends, and the guest runs on the old one; read QEMU's reason."},
    Row{Errc::lease_expired, "lease_expired", Severity::rolled_back,
        "Nobody went on with the upgrade in time, so QEMU undid it and the guest runs on the old one; start the upgrade again."},
    Row{Errc::rolled_back, "rolled_back", Severity::rolled_back,
        "Somebody asked for a rollback, and the guest runs on the old QEMU."},
    Row{Errc::fault_injected, "fault_injected", Severity::rolled_back,
        "A fault point that was set for a test ended the upgrade, and the guest runs on the old QEMU."},
    Row{Errc::unknown_qemu_code, "unknown_qemu_code", Severity::needs_operator,
        "QEMU ended the upgrade with a reason that this daemon does not know; look at the VM, and update the daemon."},
    Row{Errc::not_answering, "not_answering", Severity::transient,
        "The VM's QMP socket does not answer; check that the VM runs and that no other client holds the socket."},
    Row{Errc::not_patched, "not_patched", Severity::refused,
        "This QEMU knows no hot upgrade; restart the VM once with a patched QEMU."},
    Row{Errc::already_on_release, "already_on_release", Severity::refused,
        "The VM runs this binary already; there is nothing to do."},
    Row{Errc::binary_refused, "binary_refused", Severity::refused,
        "The release's binary must not be used; correct the release."},
    Row{Errc::binary_changed, "binary_changed", Severity::refused,
        "The release's binary was changed after it was checked; start the upgrade again when the installation is complete."},
    Row{Errc::release_invalid, "release_invalid", Severity::refused,
        "The release file cannot be understood; correct it."},
    Row{Errc::stopped, "stopped", Severity::refused,
        "The run was stopped before it came to this VM; start it again for the VMs that are left."},
    Row{Errc::wrong_target, "wrong_target", Severity::needs_operator,
        "The guest runs on another QEMU than the one that was asked for; look at it before anything else is done."},
    Row{Errc::guest_changed, "guest_changed", Severity::needs_operator,
        "The guest does not run as it did before the upgrade; look at its console."},
    Row{Errc::target_remains, "target_remains", Severity::rolled_back,
        "The guest runs on the old QEMU, but the new process was killed and hangs in the kernel, as on a disk that does not answer; the VM can be upgraded again as soon as that process has ended."},
    Row{Errc::source_remains, "source_remains", Severity::needs_operator,
        "The guest runs on the new QEMU, but the old process has not ended; end the old process once you have looked at it."},
    Row{Errc::split, "split", Severity::needs_operator,
        "Both processes say that they run the guest; stop one of them at once and check the disks."},
    Row{Errc::vm_gone, "vm_gone", Severity::needs_operator,
        "Neither the old nor the new QEMU is there any more; check whether the guest shut down, and start it again."},
    Row{Errc::lost_contact, "lost_contact", Severity::needs_operator,
        "Neither the old nor the new QEMU answers; within the lease they finish or undo the upgrade by themselves, so look again after it."},
    Row{Errc::unexpected_answer, "unexpected_answer", Severity::needs_operator,
        "QEMU's answer does not have the documented form; check that its patches fit this daemon."},
    Row{Errc::rollback_stuck, "rollback_stuck", Severity::needs_operator,
        "The old QEMU cannot take the guest back yet and goes on trying; remove what it waits for."},
    Row{Errc::guest_lost, "guest_lost", Severity::needs_operator,
        "The new QEMU ended after the guest had run on it, so the guest is down and cannot go back to the old one; read QEMU's reason and start the VM again."},
    Row{Errc::journal_failed, "journal_failed", Severity::transient,
        "What the upgrade was about to do could not be written to the journal, so it was not begun, and the guest was not paused; make room below state_dir or read the log of qhupd, and start the upgrade again."},
    Row{Errc::recovery_given_up, "recovery_given_up", Severity::needs_operator,
        "qhupd ended several times while it finished this upgrade, so it does not touch the VM any more; the pair goes on or back by itself within its leases. Look at the VM and at the log of qhupd; upgrading the VM again ends what is left first."},
    Row{Errc::budget, "budget", Severity::refused,
        "From what was measured before, the pause would become longer than allowed, so the guest was not moved; rehearse it when the host is less busy, or allow a longer pause."},
    Row{Errc::rehearsal_failed, "rehearsal_failed", Severity::refused,
        "A VM of the same kind of machine was rehearsed, and the release could not take it, so this one was not touched; look at the other VM's entry."},
    Row{Errc::probe_failed, "probe_failed", Severity::needs_operator,
        "The guest runs on the new QEMU, but the probe of its policy says that it is not well; look at the guest, then keep it or revert it."},
    Row{Errc::held, "held", Severity::refused,
        "The VM is held, so it was not touched; wait until the hold has expired, or take it off."},
    Row{Errc::outside_window, "outside_window", Severity::refused,
        "The VM's policy lets upgrades begin at other times of day only, so it was not touched; start the upgrade again then."},
};
// clang-format on

static_assert(kRows.size() == kAllErrcs.size(), "a code has no row");

constexpr const Row* find_row(int value) noexcept {
    for (const Row& row : kRows) {
        if (static_cast<int>(row.code) == value) {
            return &row;
        }
    }
    return nullptr;
}

constexpr bool every_code_has_a_row() noexcept {
    return std::all_of(kAllErrcs.begin(), kAllErrcs.end(), [](Errc code) {
        return find_row(static_cast<int>(code)) != nullptr;
    });
}
static_assert(every_code_has_a_row(), "a code has no row");

class UpgradeCategory final : public Category {
public:
    constexpr UpgradeCategory() noexcept : Category(0x51e8f3a7c20b9d44U) {}

    const char* name() const noexcept override { return "qhup.upgrade"; }

    std::string message(int value) const override {
        const Row* row = find_row(value);
        return row == nullptr ? "unknown error" : std::string(row->sentence);
    }

    Severity severity(int value) const noexcept override {
        const Row* row = find_row(value);
        return row == nullptr ? Severity::needs_operator : row->severity;
    }

    const char* wire_code(int value) const noexcept override {
        const Row* row = find_row(value);
        return row == nullptr ? "internal_error" : row->wire;
    }
};

} // namespace

const Category& upgrade_category() noexcept {
    static const UpgradeCategory category;
    return category;
}

error_code make_error_code(Errc value) noexcept {
    return {static_cast<int>(value), upgrade_category()};
}

Errc parse_qemu_code(std::string_view text) noexcept {
    for (const Errc code : kAllErrcs) {
        if (code == Errc::unknown_qemu_code) {
            break; // what follows are our own codes
        }
        const std::string_view wire = find_row(static_cast<int>(code))->wire;
        const bool is_same = std::equal(
            wire.begin(),
            wire.end(),
            text.begin(),
            text.end(),
            [](char ours, char theirs) { return (ours == '_' ? '-' : ours) == theirs; }
        );
        if (is_same) {
            return code;
        }
    }
    return Errc::unknown_qemu_code;
}

std::string_view explain(Errc code) noexcept {
    const Row* row = find_row(static_cast<int>(code));
    return row == nullptr ? std::string_view() : row->sentence;
}

} // namespace qhup::upgrade
