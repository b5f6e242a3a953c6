// SPDX-License-Identifier: GPL-2.0-or-later
//
// The words for where an upgrade stands and how a step of it ended. Pure: values and their names.
// The names are persisted and go over the wire: they never change.
// Which phase follows which is not said here but in plan.hpp.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string_view>

namespace qhup::upgrade {

/// Where an upgrade of one VM stands. Live phases are named by what is being done, terminal ones by
/// what is true.
///
///     queued ─► preflight ─► prepare ─► await_pause ─► switch_over ─► verify ─► commit ─► upgraded
///        │          │           │            │          │        │        │
///        ▼          ▼           ▼            ▼          ▼        ▼        ▼
///       refused ◄───┴────── discarding ◄─────┴──────────┘   rolling_back ◄┘
///                                             declined           ▼
///                                                           rolled_back
///
/// A rehearsal goes another way from await_pause on, and never to a target that runs:
///
///     await_pause ─► rehearse ─► ending_rehearsal ─► rehearsed
///                       └─► rolling_back, or discarding when it is declined
///
/// Not drawn: prepare goes to refused when it is declined; each phase from discarding on may also
/// end in lost_contact or needs_operator.
enum class Phase : std::uint8_t {
    queued,           ///< accepted; nothing was asked of the VM yet
    preflight,        ///< asks the VM and the host whether it can be upgraded; changes nothing
    prepare,          ///< the source builds the standby while the guest runs
    await_pause,      ///< prepared; waits for a pause slot and renews the lease
    switch_over,      ///< the only phase in which the guest is paused
    verify,           ///< the guest runs on the target; the source is parked
    commit,           ///< the parked source is told to exit
    discarding,       ///< undo of prepare: the standby is killed; the guest was never paused
    rolling_back,     ///< undo of the switch: the source takes the guest back
    rehearse,         ///< the standby loads the state of the paused guest, and is thrown away
    ending_rehearsal, ///< makes sure that the standby of a rehearsal is gone
    upgraded,         ///< terminal: the guest runs on the target and the source is gone
    refused,          ///< terminal: the guest was not even paused and runs on the source
    rolled_back,    ///< terminal: the switch was tried; the guest runs on the source; nothing lost
    lost_contact,   ///< terminal: nobody answered; the pair finishes by itself within its leases
    needs_operator, ///< terminal: known, but a person must choose; the failure says between what
    rehearsed,      ///< terminal: a standby loaded the guest's state; the guest runs on the source
};

/// Every phase, in the order of the enumeration.
inline constexpr std::array kAllPhases{
    Phase::queued,
    Phase::preflight,
    Phase::prepare,
    Phase::await_pause,
    Phase::switch_over,
    Phase::verify,
    Phase::commit,
    Phase::discarding,
    Phase::rolling_back,
    Phase::rehearse,
    Phase::ending_rehearsal,
    Phase::upgraded,
    Phase::refused,
    Phase::rolled_back,
    Phase::lost_contact,
    Phase::needs_operator,
    Phase::rehearsed,
};

/// What the walk through the table is for.
enum class Goal : std::uint8_t {
    upgrade,   ///< the guest shall run on the target
    rehearsal, ///< it shall be known whether it could; the guest stays on the source
};

inline constexpr std::array kAllGoals{Goal::upgrade, Goal::rehearsal};

/// How a step ended.
enum class Outcome : std::uint8_t {
    ok,       ///< what the step promises is true
    failed,   ///< it is known not to be true
    declined, ///< it is known not to be true, and the step did not touch the guest either
    unknown,  ///< nobody could say, not even when asked again
};

inline constexpr std::array kAllOutcomes{
    Outcome::ok, Outcome::failed, Outcome::declined, Outcome::unknown};

/// True for the six phases that nothing follows.
[[nodiscard]] constexpr bool is_terminal(Phase phase) noexcept {
    switch (phase) {
    case Phase::upgraded:
    case Phase::refused:
    case Phase::rolled_back:
    case Phase::lost_contact:
    case Phase::needs_operator:
    case Phase::rehearsed: return true;
    case Phase::queued:
    case Phase::preflight:
    case Phase::prepare:
    case Phase::await_pause:
    case Phase::switch_over:
    case Phase::verify:
    case Phase::commit:
    case Phase::discarding:
    case Phase::rolling_back:
    case Phase::rehearse:
    case Phase::ending_rehearsal: return false;
    }
    return true;
}

/// True for the phases that put things back.
[[nodiscard]] constexpr bool is_undo(Phase phase) noexcept {
    return phase == Phase::discarding || phase == Phase::rolling_back ||
           phase == Phase::ending_rehearsal;
}

/// The stable word of a phase, for storage and wire.
[[nodiscard]] std::string_view to_string(Phase phase) noexcept;

/// The stable word of an outcome.
[[nodiscard]] std::string_view to_string(Outcome outcome) noexcept;

/// The phase with that word, or nothing.
[[nodiscard]] std::optional<Phase> parse_phase(std::string_view word) noexcept;

} // namespace qhup::upgrade
