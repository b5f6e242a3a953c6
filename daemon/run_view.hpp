// SPDX-License-Identifier: GPL-2.0-or-later
//
// What the API says about an upgrade: from the engine's report to one row of a run. Pure.
#pragma once

#include "daemon/api_types.hpp"
#include "upgrade-engine/recovery.hpp"
#include "upgrade-engine/runner.hpp"

#include <chrono>
#include <string>
#include <vector>

namespace qhup::daemon {

/// What is true of the run that the report belongs to.
struct RunFacts {
    std::string vm;            ///< name
    std::string upgrade;       ///< id of the VM's upgrade
    std::string release;       ///< wanted; "" for recovery
    std::string from;          ///< version that the VM had when the run began; "" if unknown
    std::string from_build_id; ///< of the binary that the VM had; "" if unknown
    std::string to_build_id;   ///< of the release's binary; "" for recovery
    bool is_dry_run = false;
    std::uint32_t recoveries = 0;       ///< how often a restarted daemon began to finish it
    std::vector<StepView> steps_before; ///< what a daemon before us did, or a rehearsal
    upgrade::Goal goal = upgrade::Goal::upgrade;   ///< what is being done with the VM now
    std::string shape_class;                       ///< of the VM; "" if unknown
    std::optional<RehearsalView> rehearsal;        ///< that was done before
    std::uint32_t stage = 0;                       ///< of the run, from 1; 0: it has none
    std::string run_state;                         ///< QEMU's run state when the run began
    std::chrono::steady_clock::time_point started; ///< of the run
};

/// The row. `outcome` is set exactly if the report's phase is terminal:
/// upgraded, unchanged (was there already), checked (dry run, nothing against it), refused,
/// rolled_back, lost_contact, needs_operator.
RunVmView make_run_vm_view(const upgrade::UpgradeReport& report, const RunFacts& run);

/// A VM that waits for its turn.
RunVmView make_queued_view(const RunFacts& run);

/// A VM that was refused before the engine saw it.
RunVmView make_refused_view(
    const RunFacts& run, std::string code, std::string message, std::string next_step
);

/// A VM that is left out of the run, which nobody calls a failure.
RunVmView make_skipped_view(
    const RunFacts& run, std::string code, std::string message, std::string next_step
);

/// The same row; if it was refused because the run was stopped, the message says by whom.
/// @param stopped_by, reason  of the run
RunVmView say_why_stopped(
    RunVmView view,
    const std::string& run,
    const std::string& stopped_by,
    const std::string& reason = {}
);

/// True for a VM that runs on the new QEMU and is not well: its policy says what becomes of it.
bool is_unwell(const RunVmView& view) noexcept;

/// The row of a VM that was not well after its upgrade and is on the old binary again.
///
/// @param unwell  the row that its upgrade would have had
RunVmView make_taken_back_view(RunVmView unwell, const RunVmView& back);

/// The row of such a VM that could not be taken back.
/// @param why  a sentence
RunVmView make_not_taken_back_view(RunVmView unwell, const std::string& why);

/// The row of a VM whose upgrade ended with its rehearsal: nothing but that was tried.
RunVmView say_it_was_rehearsed(RunVmView view);

/// A VM that is not touched any more, since the daemon ended so often while it finished this.
/// @param last_phase  that the journal tells of
RunVmView make_given_up_view(const RunFacts& run, const std::string& last_phase);

/// A VM of which only the journal's record and the VM itself were left after a restart.
/// @param version  that the VM has now; "" if unknown
RunVmView make_view_without_pair(
    const RunFacts& run, const upgrade::Ending& ending, const std::string& version
);

} // namespace qhup::daemon
