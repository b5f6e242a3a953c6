// SPDX-License-Identifier: GPL-2.0-or-later
//
// What is done in each live phase: one coroutine per phase. A step does its one thing, looks until
// the pair shows the outcome, and says it. It never changes the phase, never undoes, and never
// repeats a command: the runner does. Called by the runner only.
#pragma once

#include "upgrade-engine/runner.hpp"

#include <optional>

namespace qhup::upgrade {

/// How a step ended.
struct StepResult {
    Outcome outcome = Outcome::ok;
    std::optional<Failure> failure; ///< set unless ok, or unless there is nothing to complain about
};

/// What the steps of one upgrade share. Lives in the runner's frame.
struct StepContext {
    VmPort& port;
    const UpgradeRequest& request;
    UpgradeReport& report;
    SlotGate::Turn* turn = nullptr;        ///< null in recovery, which has no queue
    Deadline deadline = Deadline::never(); ///< of the phase
    VmFacts before;                        ///< the source in preflight; empty in recovery
    std::vector<std::string> argv;         ///< the target's command line, from preflight
    bool was_paused = false;               ///< a switch that failed stopped the guest, or may have
    /// When the command was given that may have stopped the guest; until it is known how it ended.
    std::optional<std::chrono::steady_clock::time_point> stop_asked = std::nullopt;
    bool has_guest_ended = false; ///< the guest was seen to have powered off on the target
};

/// Runs the step of a live phase.
///
/// After failure: as the phase's undo expects; an undo may be run again.
/// Cancellation:  ends waits; the outcome is then failed or unknown, with qhup::Errc::cancelled
[[nodiscard]] awaitable<StepResult> run_step(StepContext& context, Phase phase);

/// Both sides, the source first: decide() relies on that order.
struct PairView {
    Observation source;
    Observation target;
};

/// One look at both sides.
/// Cancellation: ends the waits; a side that was not asked is `silent`
[[nodiscard]] awaitable<PairView> observe_pair(StepContext& context);

/// Asks the VM and judges it. Fills `before`, `argv`, and the report's versions and blockers.
/// Errors: why it could not be asked
[[nodiscard]] awaitable<Result<Verdict>> judge(StepContext& context);

} // namespace qhup::upgrade
