// SPDX-License-Identifier: GPL-2.0-or-later
//
// Takes one VM through the table of plan.hpp: runs the step of the phase, asks the pair when an
// outcome is unknown, undoes what was begun, and reports each phase. One coroutine per VM; many of
// them share one io_context and one SlotGate.
#pragma once

#include "common/async.hpp"
#include "upgrade-engine/binary_store.hpp"
#include "upgrade-engine/blockers.hpp"
#include "upgrade-engine/plan.hpp"
#include "upgrade-engine/slot_gate.hpp"
#include "upgrade-engine/vm_port.hpp"

#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace qhup::upgrade {

/// Times of one upgrade. Defaults are for production.
struct RunnerConfig {
    /// What verify has beyond its window, to ask and to begin the window anew.
    static constexpr std::chrono::milliseconds kVerifySlack{5000};

    std::map<Phase, std::chrono::milliseconds> deadlines; ///< other than those of plan.hpp
    std::chrono::milliseconds ask_timeout{2000};          ///< for one observation of one side
    std::chrono::milliseconds poll_interval{10};          ///< between two observations
    std::chrono::milliseconds watch_window{300}; ///< how long the target must run before commit
    std::chrono::milliseconds probe_limit{0};    ///< how long a probe may take
    std::chrono::nanoseconds lease{std::chrono::seconds(60)}; ///< in prepared; renewed at a third
    SwitchLimits switch_limits;                               ///< bounds of the pause
    std::uint32_t switch_attempts = 5;              ///< tries when QEMU says retry, drain-timeout
    std::chrono::milliseconds retry_delay{200};     ///< between two of them
    std::chrono::milliseconds intent_timeout{5000}; ///< for writing what is about to be done
    std::vector<std::string> trusted_supervisors;   ///< see judge_supervision()

    /// Deadline of a phase: the one set here, or that of the table; verify has more if its window
    /// needs it. Zero: none.
    [[nodiscard]] std::chrono::milliseconds deadline_of(Phase phase) const;
};

/// What is known of the pauses of a VM before its upgrade begins.
struct PausePrediction {
    std::chrono::nanoseconds pause{};    ///< of the whole upgrade
    std::chrono::nanoseconds takeover{}; ///< the part after the load, which no rehearsal measures
    std::string basis;                   ///< where it is from, for people: "its last upgrade"
};

/// What a rehearsal measured.
struct Rehearsal {
    std::chrono::nanoseconds pause{};     ///< for which the guest stood still
    std::chrono::nanoseconds predicted{}; ///< pause of the upgrade, if it is done now
    SwitchTimings timings;                ///< parts that were measured; the others are zero
};

/// Called on the VM's strand when its turn has come, before the VM is asked anything.
/// Errors:        any; the VM is refused with it
/// Cancellation:  ends the wait
using Admission = std::function<awaitable<Result<void>>()>;

/// Called on the VM's strand in verify, when the target has run the guest for its whole window.
/// Bounded by itself, within RunnerConfig::probe_limit.
/// Errors:        any; the guest is then not as it shall be
using GuestProbe = std::function<awaitable<Result<void>>()>;

/// One VM to be upgraded.
struct UpgradeRequest {
    VmId vm;                                    ///< for messages
    UpgradeId upgrade;                          ///< new for each attempt
    std::shared_ptr<const PinnedBinary> binary; ///< where to
    /// What `binary` says of itself, and what the VM's own one does; null: it is not known.
    std::shared_ptr<const BinaryFacts> binary_facts;
    std::shared_ptr<const BinaryFacts> source_facts;
    /// release_tail() of every configured release, so that tails do not pile up; see argv_plan.hpp.
    std::vector<std::vector<std::string>> known_tails;
    bool is_dry_run = false;   ///< preflight only: ends in refused with no failure
    Goal goal = Goal::upgrade; ///< rehearsal: ends in rehearsed, refused or rolled_back
    /// How long the pause will probably be, from what was measured before; a prediction beyond the
    /// budget is refused before anything is touched.
    std::optional<PausePrediction> prediction;
    Admission may_begin; ///< none: it may
    GuestProbe probe;    ///< none: nothing more is asked
    RunnerConfig config;
};

/// One phase that was entered.
struct PhaseMark {
    Phase phase;
    std::chrono::steady_clock::time_point at; ///< when it was entered
    std::optional<Outcome> ended;             ///< how its step ended; nothing while it goes on
};

/// Everything that is known about one upgrade, so far or at its end.
struct UpgradeReport {
    VmId vm;
    UpgradeId upgrade;
    Phase phase = Phase::queued;          ///< where it stands; terminal at the end
    std::vector<PhaseMark> marks;         ///< every phase entered, in order
    std::optional<Failure> failure;       ///< the first one; what followed is in `also`
    std::vector<Blocker> blockers;        ///< why preflight refused; or, in a dry run, would refuse
    bool is_nothing_to_do = false;        ///< refused because the VM runs this binary already
    std::optional<SwitchTimings> timings; ///< of the switch that succeeded
    std::optional<Rehearsal> rehearsal;   ///< of a rehearsal that loaded the state
    /// For which the guest stood still in a pause that was taken back; of several tries the
    /// longest. As the source measured it, or else at most: from the command until the guest was
    /// seen to run on the source again. Nothing if that was not seen.
    std::optional<std::chrono::nanoseconds> pause_taken_back;
    std::uint32_t switch_attempts = 0; ///< how often the switch was tried
    std::vector<std::string> warnings; ///< sentences: what came up, but not in full; in a dry
                                       ///< run, what should be known before
    QemuVersion from;                  ///< version before; not known until preflight
    QemuVersion to;                    ///< version after, or the one that was wanted
    std::string from_text;             ///< as QEMU wrote it
    std::string to_text;               ///< as the target wrote it; "" until it was asked

    /// Time since the upgrade began until the last mark.
    [[nodiscard]] std::chrono::nanoseconds elapsed() const;
};

/// Called on the VM's strand at every change of phase, with the report so far. Must not block.
using UpgradeObserver = std::function<void(const UpgradeReport&)>;

/// Called on the VM's strand before a phase that plan.hpp marks `intent_first` begins; the report's
/// phase is the one that is about to begin. Returns when that survives a crash of the host.
/// Errors:        any; the phase is then not begun
/// Cancellation:  ends the wait
using IntentWriter = std::function<awaitable<Result<void>>(UpgradeReport, Deadline)>;

/// Upgrades one VM and returns when the phase is terminal. Never fails otherwise and never throws.
///
/// @param write_intent  none: nothing is written; for tests, and where nobody must remember
/// Cancellation: until the switch begins it stops at the next wait, discards the standby and ends
/// in
///               refused; from the switch on it is not cancellable, and bounded by its deadlines.
/// Thread:       the VM's strand; `port`, `turn` and whatever `observer` refers to must live until
///               it returns
[[nodiscard]] awaitable<UpgradeReport> run_upgrade(
    VmPort& port,
    std::shared_ptr<SlotGate::Turn> turn,
    UpgradeRequest request,
    UpgradeObserver observer,
    IntentWriter write_intent = {}
);

/// A pair that was found after a restart of the daemon.
struct RecoveryRequest {
    VmId vm;           ///< for messages
    UpgradeId upgrade; ///< from the name of the control socket
    RunnerConfig config;
    GuestProbe probe = nullptr; ///< none: nothing more is asked in verify
};

/// Finishes or undoes what a daemon before us began; the pair says which. Ends in upgraded,
/// rolled_back, lost_contact or needs_operator; in rolled_back also when there was nothing to undo.
/// Every end but upgraded has a failure that says why.
///
/// Cancellation: not cancellable; bounded by its deadlines
/// Thread:       as run_upgrade()
[[nodiscard]] awaitable<UpgradeReport>
run_recovery(VmPort& port, RecoveryRequest request, UpgradeObserver observer);

/// Asks the VM and judges it, without upgrading it.
/// Errors: Errc::not_answering
/// Cancellation: ends the wait
[[nodiscard]] awaitable<Result<Verdict>> check_upgrade(VmPort& port, UpgradeRequest request);

} // namespace qhup::upgrade
