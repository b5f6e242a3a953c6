// SPDX-License-Identifier: GPL-2.0-or-later
//
// Every stable code that a client can meet, with what it means and what to do: the one source of
// the API's problems, the engine's errors, docs/api.md and `qhupd-ctl explain`. Pure.
// A code never changes its meaning and is never taken away; new ones are added.
#pragma once

#include "common/result.hpp"

#include <array>
#include <string_view>

namespace qhup {

/// Where a code is met.
enum class CodeKind {
    problem, ///< `code` of an error answer of the API
    upgrade, ///< `code` of a VM in a run, or of a check
};

/// One code.
struct CodeRow {
    std::string_view word;
    CodeKind kind;
    int status;                 ///< of HTTP; 0 for upgrades
    Severity severity;          ///< refused for problems that the client can correct
    std::string_view sentence;  ///< problem: its title. upgrade: "what is true; what to do."
    std::string_view next_step; ///< problem: what to do if the answer says nothing better; else ""
};

// clang-format off
inline constexpr std::array kCodeCatalog{
    // --- problems, by status
    CodeRow{"bad_request", CodeKind::problem, 400, Severity::refused, "The request is not understood",
        "Correct it as `detail` says; docs/api.md and docs/openapi.yaml describe every "
        "call."},
    CodeRow{"not_permitted", CodeKind::problem, 403, Severity::refused, "Not permitted",
        "Run it as root or as a member of the group that `detail` names."},
    CodeRow{"read_only", CodeKind::problem, 403, Severity::refused, "This socket may only read",
        "Use the socket that may act, as root or as a member of its group."},
    CodeRow{"no_such_path", CodeKind::problem, 404, Severity::refused, "No such path",
        "Compare the address with docs/api.md; an older daemon may lack a call, and GET "
        "/v1/version says which one this is."},
    CodeRow{"vm_not_found", CodeKind::problem, 404, Severity::refused, "No such VM",
        "'qhupd-ctl list' shows all."},
    CodeRow{"release_not_found", CodeKind::problem, 404, Severity::refused, "No such release",
        "'qhupd-ctl releases' shows all."},
    CodeRow{"run_not_found", CodeKind::problem, 404, Severity::refused, "No such run",
        "'qhupd-ctl status' shows the runs that are remembered."},
    CodeRow{"upgrade_not_found", CodeKind::problem, 404, Severity::refused, "No such upgrade",
        "GET /v1/upgrades lists those that are remembered."},
    CodeRow{"selftest_not_found", CodeKind::problem, 404, Severity::refused, "No such selftest",
        "GET /v1/selftests lists those that are remembered."},
    CodeRow{"hold_not_found", CodeKind::problem, 404, Severity::refused, "The VM is not held",
        "'qhupd-ctl list' shows which VMs are."},
    CodeRow{"method_not_allowed", CodeKind::problem, 405, Severity::refused, "The path does not take this method",
        "Compare the method with docs/api.md."},
    CodeRow{"request_too_slow", CodeKind::problem, 408, Severity::transient, "The request did not arrive in time",
        "Send it again."},
    CodeRow{"vm_busy", CodeKind::problem, 409, Severity::transient, "The VM is in a run",
        "Wait until the run has finished."},
    CodeRow{"request_id_reused", CodeKind::problem, 409, Severity::refused, "Another request had this id",
        "Take a new id for a new request."},
    CodeRow{"not_abortable", CodeKind::problem, 409, Severity::refused, "The run cannot be aborted",
        "Wait: the run only finishes or undoes what was begun before."},
    CodeRow{"too_large", CodeKind::problem, 413, Severity::refused, "The request is too large",
        "Name fewer VMs, or send several requests."},
    CodeRow{"release_unusable", CodeKind::problem, 422, Severity::refused, "The release must not be used",
        "'qhupd-ctl releases' says why; correct the release."},
    CodeRow{"vm_unreachable", CodeKind::problem, 422, Severity::transient, "The VM does not answer",
        "Check that the VM runs and that no other client holds its QMP socket."},
    CodeRow{"too_many_runs", CodeKind::problem, 429, Severity::transient, "Too many runs",
        "Wait until one has finished."},
    CodeRow{"too_many_requests", CodeKind::problem, 429, Severity::transient, "Too many requests at once",
        "Wait for the answers to earlier requests, or close connections that are not "
        "needed."},
    CodeRow{"headers_too_large", CodeKind::problem, 431, Severity::refused, "The header of the request is too large",
        "Send fewer or shorter header fields."},
    CodeRow{"internal_error", CodeKind::problem, 500, Severity::needs_operator, "qhupd has a bug",
        "Read the log of qhupd, and report it."},
    CodeRow{"journal_failed", CodeKind::problem, 507, Severity::transient, "The journal cannot be written",
        "Make room on the disk below state_dir, or read the log of qhupd."},
    CodeRow{"stopping", CodeKind::problem, 503, Severity::transient, "qhupd is stopping",
        "Try again soon."},

    // --- upgrades, in the order of docs/api.md
    CodeRow{"wrong_state", CodeKind::upgrade, 0, Severity::transient,
        "QEMU was not in the state that this step needs; look at the VM and start the "
        "upgrade again.", ""},
    CodeRow{"blocked", CodeKind::upgrade, 0, Severity::refused,
        "The VM has a blocker; remove what the blockers name and start the upgrade "
        "again.", ""},
    CodeRow{"bad_argument", CodeKind::upgrade, 0, Severity::refused,
        "QEMU could not use an argument of the upgrade; check the control folder and "
        "the release.", ""},
    CodeRow{"spawn_failed", CodeKind::upgrade, 0, Severity::refused,
        "The new QEMU could not be started, and the guest was never paused; check that "
        "the release's binary and its libraries are installed and that there is memory "
        "for a second process.", ""},
    CodeRow{"target_died", CodeKind::upgrade, 0, Severity::rolled_back,
        "The new QEMU ended before it took the guest over, and the guest runs on the "
        "old one; read its last words and correct what they name.", ""},
    CodeRow{"target_timeout", CodeKind::upgrade, 0, Severity::rolled_back,
        "The new QEMU did not get ready in time, and the guest runs on the old one; try "
        "again when the host is less busy.", ""},
    CodeRow{"protocol_mismatch", CodeKind::upgrade, 0, Severity::refused,
        "The two QEMUs speak different versions of the hand-over; choose a release that "
        "fits this daemon.", ""},
    CodeRow{"shape_differs", CodeKind::upgrade, 0, Severity::refused,
        "The new QEMU built another machine than the one that runs, and the guest was "
        "never paused; compare machine type, CPU and devices of the two releases.", ""},
    CodeRow{"stale", CodeKind::upgrade, 0, Severity::rolled_back,
        "The VM was changed while the upgrade was prepared, and the guest runs on the "
        "old QEMU; start the upgrade again.", ""},
    CodeRow{"retry", CodeKind::upgrade, 0, Severity::rolled_back,
        "The guest was resetting, shutting down or being woken each time, and it runs "
        "on the old QEMU; start the upgrade again later.", ""},
    CodeRow{"drain_timeout", CodeKind::upgrade, 0, Severity::rolled_back,
        "Disk requests of the guest did not finish in time, and it runs on the old "
        "QEMU; check the storage, or try again when it is less busy.", ""},
    CodeRow{"budget_exceeded", CodeKind::upgrade, 0, Severity::rolled_back,
        "The pause would have become longer than allowed, and the guest runs on the old "
        "QEMU; try again when the host is less busy, or allow a longer pause.", ""},
    CodeRow{"save_failed", CodeKind::upgrade, 0, Severity::rolled_back,
        "The device state could not be saved, and the guest runs on the old QEMU; read "
        "QEMU's reason.", ""},
    CodeRow{"load_failed", CodeKind::upgrade, 0, Severity::rolled_back,
        "The new QEMU refused the device state, and the guest runs on the old one; this "
        "release cannot take this VM.", ""},
    CodeRow{"takeover_failed", CodeKind::upgrade, 0, Severity::rolled_back,
        "The new QEMU could not take the disks or back ends, and the guest runs on the "
        "old one; read QEMU's reason.", ""},
    CodeRow{"lease_expired", CodeKind::upgrade, 0, Severity::rolled_back,
        "Nobody went on with the upgrade in time, so QEMU undid it and the guest runs "
        "on the old one; start the upgrade again.", ""},
    CodeRow{"rolled_back", CodeKind::upgrade, 0, Severity::rolled_back,
        "Somebody asked for a rollback, and the guest runs on the old QEMU.", ""},
    CodeRow{"fault_injected", CodeKind::upgrade, 0, Severity::rolled_back,
        "A fault point that was set for a test ended the upgrade, and the guest runs on "
        "the old QEMU.", ""},
    CodeRow{"unknown_qemu_code", CodeKind::upgrade, 0, Severity::needs_operator,
        "QEMU ended the upgrade with a reason that this daemon does not know; look at "
        "the VM, and update the daemon.", ""},
    CodeRow{"not_answering", CodeKind::upgrade, 0, Severity::transient,
        "The VM's QMP socket does not answer; check that the VM runs and that no other "
        "client holds the socket.", ""},
    CodeRow{"not_patched", CodeKind::upgrade, 0, Severity::refused,
        "This QEMU knows no hot upgrade; restart the VM once with a patched QEMU.", ""},
    CodeRow{"already_on_release", CodeKind::upgrade, 0, Severity::refused,
        "The VM runs this binary already; there is nothing to do.", ""},
    CodeRow{"binary_refused", CodeKind::upgrade, 0, Severity::refused,
        "The release's binary must not be used; correct the release.", ""},
    CodeRow{"binary_changed", CodeKind::upgrade, 0, Severity::refused,
        "The release's binary was changed after it was checked; start the upgrade again "
        "when the installation is complete.", ""},
    CodeRow{"release_invalid", CodeKind::upgrade, 0, Severity::refused,
        "The release file cannot be understood; correct it.", ""},
    CodeRow{"stopped", CodeKind::upgrade, 0, Severity::refused,
        "The run was stopped before it came to this VM; start it again for the VMs that "
        "are left.", ""},
    CodeRow{"wrong_target", CodeKind::upgrade, 0, Severity::needs_operator,
        "The guest runs on another QEMU than the one that was asked for; look at it "
        "before anything else is done.", ""},
    CodeRow{"guest_changed", CodeKind::upgrade, 0, Severity::needs_operator,
        "The guest does not run as it did before the upgrade; look at its console.", ""},
    CodeRow{"target_remains", CodeKind::upgrade, 0, Severity::rolled_back,
        "The guest runs on the old QEMU, but the new process was killed and hangs in "
        "the kernel, as on a disk that does not answer; the VM can be upgraded again as "
        "soon as that process has ended.", ""},
    CodeRow{"source_remains", CodeKind::upgrade, 0, Severity::needs_operator,
        "The guest runs on the new QEMU, but the old process has not ended; end the old "
        "process once you have looked at it.", ""},
    CodeRow{"split", CodeKind::upgrade, 0, Severity::needs_operator,
        "Both processes say that they run the guest; stop one of them at once and check "
        "the disks.", ""},
    CodeRow{"vm_gone", CodeKind::upgrade, 0, Severity::needs_operator,
        "Neither the old nor the new QEMU is there any more; check whether the guest "
        "shut down, and start it again.", ""},
    CodeRow{"lost_contact", CodeKind::upgrade, 0, Severity::needs_operator,
        "Neither the old nor the new QEMU answers; within the lease they finish or undo "
        "the upgrade by themselves, so look again after it.", ""},
    CodeRow{"unexpected_answer", CodeKind::upgrade, 0, Severity::needs_operator,
        "QEMU's answer does not have the documented form; check that its patches fit "
        "this daemon.", ""},
    CodeRow{"rollback_stuck", CodeKind::upgrade, 0, Severity::needs_operator,
        "The old QEMU cannot take the guest back yet and goes on trying; remove what it "
        "waits for.", ""},
    CodeRow{"guest_lost", CodeKind::upgrade, 0, Severity::needs_operator,
        "The new QEMU ended when the guest ran on it already, or was about to, so the guest is "
        "down and cannot go back to the old one; read QEMU's reason and start the VM again.", ""},
    CodeRow{"journal_failed", CodeKind::upgrade, 0, Severity::transient,
        "What the upgrade was about to do could not be written to the journal, so it "
        "was not begun, and the guest was not paused; make room below state_dir or read "
        "the log of qhupd, and start the upgrade again.", ""},
    CodeRow{"recovery_given_up", CodeKind::upgrade, 0, Severity::needs_operator,
        "qhupd ended several times while it finished this upgrade, so it does not touch "
        "the VM any more; the pair goes on or back by itself within its leases. Look at "
        "the VM and at the log of qhupd; upgrading the VM again ends what is left "
        "first.", ""},
    CodeRow{"budget", CodeKind::upgrade, 0, Severity::refused,
        "From what was measured before, the pause would become longer than allowed, so "
        "the guest was not moved; rehearse it when the host is less busy, or allow a "
        "longer pause.", ""},
    CodeRow{"rehearsal_failed", CodeKind::upgrade, 0, Severity::refused,
        "A VM of the same kind of machine was rehearsed, and the release could not take "
        "it, so this one was not touched; look at the other VM's entry.", ""},
    CodeRow{"probe_failed", CodeKind::upgrade, 0, Severity::needs_operator,
        "The guest runs on the new QEMU, but the probe of its policy says that it is "
        "not well; look at the guest, then keep it or revert it.", ""},
    CodeRow{"held", CodeKind::upgrade, 0, Severity::refused,
        "The VM is held, so it was not touched; wait until the hold has expired, or "
        "take it off.", ""},
    CodeRow{"outside_window", CodeKind::upgrade, 0, Severity::refused,
        "The VM's policy lets upgrades begin at other times of day only, so it was not "
        "touched; start the upgrade again then.", ""},
    CodeRow{"untested", CodeKind::upgrade, 0, Severity::refused,
        "No selftest of these two binaries has passed on this host under its kernel, and the "
        "configuration wants one, so the VM was not touched; make the selftest, or allow the "
        "upgrade without.", ""},
    CodeRow{"no_way_back", CodeKind::upgrade, 0, Severity::refused,
        "The VM cannot be reverted: no run that is remembered brought it to its binary, "
        "or the one before is not kept; the message says which.", ""},
    CodeRow{"skipped", CodeKind::upgrade, 0, Severity::refused,
        "The configuration leaves the VM out of runs over all VMs; name it, and it is "
        "not left out. Its outcome is `skipped`.", ""},
    CodeRow{"busy", CodeKind::upgrade, 0, Severity::transient,
        "Another run works on this VM; wait until it has finished.", ""},
    CodeRow{"cancelled", CodeKind::upgrade, 0, Severity::refused,
        "qhupd was stopped before the guest was paused; upgrade it again.", ""},
    CodeRow{"timed_out", CodeKind::upgrade, 0, Severity::needs_operator,
        "A deadline passed and nothing more could be learned; look at the VM.", ""},
    CodeRow{"system_error", CodeKind::upgrade, 0, Severity::transient,
        "The host's system refused something; the message says what.", ""},
    CodeRow{"shutting_down", CodeKind::upgrade, 0, Severity::transient,
        "qhupd is stopping; upgrade it again.", ""},
};
// clang-format on

/// The row, or nullptr. A word can be a code of both kinds.
constexpr const CodeRow* find_code(CodeKind kind, std::string_view word) noexcept {
    for (const CodeRow& row : kCodeCatalog) {
        if (row.kind == kind && row.word == word) {
            return &row;
        }
    }
    return nullptr;
}

/// What is true, and what to do: the parts of a row's sentences.
struct CodeMeaning {
    std::string_view meaning;   ///< without a full stop
    std::string_view next_step; ///< begins small where it was a part of a sentence; "" if nothing
};

constexpr CodeMeaning meaning_of(const CodeRow& row) noexcept {
    if (row.kind == CodeKind::problem) {
        return {row.sentence, row.next_step};
    }
    const auto cut = row.sentence.find("; ");
    if (cut == std::string_view::npos) {
        return {row.sentence.substr(0, row.sentence.size() - 1), {}};
    }
    return {row.sentence.substr(0, cut), row.sentence.substr(cut + 2)};
}

} // namespace qhup
