// SPDX-License-Identifier: GPL-2.0-or-later
//
// THE table: every change of phase of an upgrade is a row here, and next() is the only way to make
// one. The compiler proves it total, without a cycle, and without a dead phase. Pure.
#pragma once

#include "upgrade-engine/phase.hpp"

#include <algorithm>
#include <array>
#include <chrono>
#include <cstddef>

namespace qhup::upgrade {

/// One row: a step of phase `from` ended with `outcome`, so the upgrade goes on in `to`.
struct Transition {
    Phase from;
    Outcome outcome;
    Phase to;
};

// clang-format off
inline constexpr std::array kTransitions{
    Transition{Phase::queued,       Outcome::ok,       Phase::preflight},
    Transition{Phase::queued,       Outcome::failed,   Phase::refused},
    Transition{Phase::queued,       Outcome::declined, Phase::refused},
    Transition{Phase::queued,       Outcome::unknown,  Phase::refused},

    // Preflight only asks: whatever happens to the answer, nothing was touched.
    Transition{Phase::preflight,    Outcome::ok,       Phase::prepare},
    Transition{Phase::preflight,    Outcome::failed,   Phase::refused},
    Transition{Phase::preflight,    Outcome::declined, Phase::refused},
    Transition{Phase::preflight,    Outcome::unknown,  Phase::refused},

    // Declined: another upgrade of this VM is in progress. It is not ours to undo.
    Transition{Phase::prepare,      Outcome::ok,       Phase::await_pause},
    Transition{Phase::prepare,      Outcome::failed,   Phase::discarding},
    Transition{Phase::prepare,      Outcome::declined, Phase::refused},
    Transition{Phase::prepare,      Outcome::unknown,  Phase::discarding},

    Transition{Phase::await_pause,  Outcome::ok,       Phase::switch_over},
    Transition{Phase::await_pause,  Outcome::failed,   Phase::discarding},
    Transition{Phase::await_pause,  Outcome::declined, Phase::discarding},
    Transition{Phase::await_pause,  Outcome::unknown,  Phase::discarding},

    // The pair goes through the pause by itself. When nobody can be asked, to act would be to guess.
    // Declined: the guest was not even paused, in no try, so the standby is all there is to undo.
    Transition{Phase::switch_over,  Outcome::ok,       Phase::verify},
    Transition{Phase::switch_over,  Outcome::failed,   Phase::rolling_back},
    Transition{Phase::switch_over,  Outcome::declined, Phase::discarding},
    Transition{Phase::switch_over,  Outcome::unknown,  Phase::lost_contact},

    Transition{Phase::verify,       Outcome::ok,       Phase::commit},
    Transition{Phase::verify,       Outcome::failed,   Phase::rolling_back},
    Transition{Phase::verify,       Outcome::declined, Phase::rolling_back},
    Transition{Phase::verify,       Outcome::unknown,  Phase::lost_contact},

    // From here the guest is proven to run on the target: there is no way back, only forward.
    Transition{Phase::commit,       Outcome::ok,       Phase::upgraded},
    Transition{Phase::commit,       Outcome::failed,   Phase::needs_operator},
    Transition{Phase::commit,       Outcome::declined, Phase::needs_operator},
    Transition{Phase::commit,       Outcome::unknown,  Phase::lost_contact},

    Transition{Phase::discarding,   Outcome::ok,       Phase::refused},
    Transition{Phase::discarding,   Outcome::failed,   Phase::needs_operator},
    Transition{Phase::discarding,   Outcome::declined, Phase::needs_operator},
    Transition{Phase::discarding,   Outcome::unknown,  Phase::lost_contact},

    Transition{Phase::rolling_back, Outcome::ok,       Phase::rolled_back},
    Transition{Phase::rolling_back, Outcome::failed,   Phase::needs_operator},
    Transition{Phase::rolling_back, Outcome::declined, Phase::needs_operator},
    Transition{Phase::rolling_back, Outcome::unknown,  Phase::lost_contact},

    // A rehearsal never tells the target to take over, so to go back is right whatever is unknown.
    Transition{Phase::rehearse,     Outcome::ok,       Phase::ending_rehearsal},
    Transition{Phase::rehearse,     Outcome::failed,   Phase::rolling_back},
    Transition{Phase::rehearse,     Outcome::declined, Phase::discarding},
    Transition{Phase::rehearse,     Outcome::unknown,  Phase::rolling_back},

    Transition{Phase::ending_rehearsal, Outcome::ok,       Phase::rehearsed},
    Transition{Phase::ending_rehearsal, Outcome::failed,   Phase::needs_operator},
    Transition{Phase::ending_rehearsal, Outcome::declined, Phase::needs_operator},
    Transition{Phase::ending_rehearsal, Outcome::unknown,  Phase::lost_contact},
};

/// Where a rehearsal goes another way than an upgrade.
inline constexpr std::array kRehearsalTransitions{
    Transition{Phase::await_pause,  Outcome::ok,       Phase::rehearse},
};
// clang-format on

/// What is fixed about a live phase.
struct PhaseRow {
    Phase phase;
    Phase undo;                         ///< where a known failure goes
    std::chrono::milliseconds deadline; ///< for the whole phase, retries included; zero: none
    bool idempotent;                    ///< its step may be run again without asking first
    bool vm_paused;                     ///< the guest may be paused in it
    bool intent_first;                  ///< does not begin before its intent is durable
};

// clang-format off
inline constexpr std::array kPhaseRows{
    // Intent first: what touches the VM and need not be done. An undo, and what only leads forward,
    // must not wait for a disk.
    //       phase                undo                   deadline                         idempotent paused intent
    PhaseRow{Phase::queued,       Phase::refused,        std::chrono::milliseconds{0},     true,  false, false},
    PhaseRow{Phase::preflight,    Phase::refused,        std::chrono::milliseconds{10000}, true,  false, false},
    PhaseRow{Phase::prepare,      Phase::discarding,     std::chrono::milliseconds{45000}, false, false, true},
    PhaseRow{Phase::await_pause,  Phase::discarding,     std::chrono::milliseconds{0},     true,  false, false},
    PhaseRow{Phase::switch_over,  Phase::rolling_back,   std::chrono::milliseconds{20000}, false, true,  true},
    PhaseRow{Phase::verify,       Phase::rolling_back,   std::chrono::milliseconds{15000}, true,  false, false},
    PhaseRow{Phase::commit,       Phase::needs_operator, std::chrono::milliseconds{10000}, true,  false, false},
    PhaseRow{Phase::discarding,   Phase::needs_operator, std::chrono::milliseconds{30000}, true,  false, false},
    PhaseRow{Phase::rolling_back, Phase::needs_operator, std::chrono::milliseconds{30000}, true,  true,  false},
    PhaseRow{Phase::rehearse,     Phase::rolling_back,   std::chrono::milliseconds{20000}, false, true,  true},
    PhaseRow{Phase::ending_rehearsal, Phase::needs_operator, std::chrono::milliseconds{30000}, true, true, false},
};
// clang-format on

namespace plan_detail {

[[nodiscard]] constexpr std::size_t count_rows(Phase from, Outcome outcome) noexcept {
    std::size_t count = 0;
    for (const Transition& row : kTransitions) {
        count += (row.from == from && row.outcome == outcome) ? 1U : 0U;
    }
    return count;
}

} // namespace plan_detail

/// The phase after `phase` when its step ended with `outcome`. A terminal phase is its own
/// successor.
[[nodiscard]] constexpr Phase
next(Phase phase, Outcome outcome, Goal goal = Goal::upgrade) noexcept {
    if (goal == Goal::rehearsal) {
        for (const Transition& row : kRehearsalTransitions) {
            if (row.from == phase && row.outcome == outcome) {
                return row.to;
            }
        }
    }
    for (const Transition& row : kTransitions) {
        if (row.from == phase && row.outcome == outcome) {
            return row.to;
        }
    }
    return phase;
}

/// The row of a live phase. invariant: static_assert below proves that each has one.
[[nodiscard]] constexpr const PhaseRow& row_of(Phase phase) noexcept {
    for (const PhaseRow& row : kPhaseRows) {
        if (row.phase == phase) {
            return row;
        }
    }
    return kPhaseRows.back();
}

namespace plan_detail {

/// Each live phase has exactly one row for each outcome; a terminal has none.
[[nodiscard]] constexpr bool table_is_total() noexcept {
    for (const Phase phase : kAllPhases) {
        for (const Outcome outcome : kAllOutcomes) {
            if (count_rows(phase, outcome) != (is_terminal(phase) ? 0U : 1U)) {
                return false;
            }
        }
    }
    return true;
}

/// Each live phase has exactly one row of properties; its undo is where `failed` leads.
[[nodiscard]] constexpr bool rows_agree() noexcept {
    std::size_t live = 0;
    for (const Phase phase : kAllPhases) {
        live += is_terminal(phase) ? 0U : 1U;
    }
    if (live != kPhaseRows.size()) {
        return false;
    }
    for (const PhaseRow& row : kPhaseRows) {
        if (is_terminal(row.phase) || row_of(row.phase).undo != next(row.phase, Outcome::failed)) {
            return false;
        }
    }
    return true;
}

[[nodiscard]] constexpr std::size_t index_of(Phase phase) noexcept {
    return static_cast<std::size_t>(phase);
}

/// What can be reached from queued, with that goal.
[[nodiscard]] constexpr std::array<bool, kAllPhases.size()> reachable(Goal goal) noexcept {
    std::array<bool, kAllPhases.size()> seen{};
    seen[index_of(Phase::queued)] = true;
    for (std::size_t round = 0; round < kAllPhases.size(); ++round) {
        for (const Phase phase : kAllPhases) {
            for (const Outcome outcome : kAllOutcomes) {
                const std::size_t to = index_of(next(phase, outcome, goal));
                seen[to] = seen[to] || seen[index_of(phase)];
            }
        }
    }
    return seen;
}

/// Everything can be reached from queued, by an upgrade or by a rehearsal.
[[nodiscard]] constexpr bool every_phase_is_reachable() noexcept {
    const auto upgrade = reachable(Goal::upgrade);
    const auto rehearsal = reachable(Goal::rehearsal);
    return std::all_of(kAllPhases.begin(), kAllPhases.end(), [&](Phase phase) {
        return upgrade[index_of(phase)] || rehearsal[index_of(phase)];
    });
}

/// Whatever happens in a rehearsal, the guest is not given to the target.
[[nodiscard]] constexpr bool a_rehearsal_never_takes_over() noexcept {
    const auto rehearsal = reachable(Goal::rehearsal);
    const auto upgrade = reachable(Goal::upgrade);
    return !rehearsal[index_of(Phase::switch_over)] && !rehearsal[index_of(Phase::verify)] &&
           !rehearsal[index_of(Phase::commit)] && !rehearsal[index_of(Phase::upgraded)] &&
           !upgrade[index_of(Phase::rehearse)] && !upgrade[index_of(Phase::rehearsed)];
}

/// No walk through the table is longer than there are phases, so none comes back.
[[nodiscard]] constexpr bool no_cycle(Goal goal) noexcept {
    std::array<bool, kAllPhases.size()> ends{};
    for (const Phase phase : kAllPhases) {
        ends[index_of(phase)] = is_terminal(phase);
    }
    for (std::size_t round = 0; round < kAllPhases.size(); ++round) {
        for (const Phase phase : kAllPhases) {
            if (is_terminal(phase)) {
                continue;
            }
            bool all_end = true;
            for (const Outcome outcome : kAllOutcomes) {
                all_end = all_end && ends[index_of(next(phase, outcome, goal))];
            }
            ends[index_of(phase)] = all_end;
        }
    }
    return std::all_of(ends.begin(), ends.end(), [](bool end) { return end; });
}

/// A guest that may have been paused is never said to be refused: only a step that says that it did
/// not pause it leads from such a phase to where `refused` follows.
[[nodiscard]] constexpr bool refused_means_never_paused() noexcept {
    return std::all_of(kTransitions.begin(), kTransitions.end(), [](const Transition& row) {
        const bool leads_to_refused = row.to == Phase::refused || row.to == Phase::discarding;
        return !leads_to_refused || !row_of(row.from).vm_paused || row.outcome == Outcome::declined;
    });
}

/// The guest may be paused only where it is meant to be, and each such phase has a deadline.
[[nodiscard]] constexpr bool pauses_are_bounded() noexcept {
    for (const PhaseRow& row : kPhaseRows) {
        if (row.vm_paused && row.deadline == std::chrono::milliseconds{0}) {
            return false;
        }
    }
    return true;
}

/// Nobody waits for a disk while the guest may be paused: what waits for its intent comes only
/// after phases in which the guest runs.
[[nodiscard]] constexpr bool no_disk_inside_the_pause() noexcept {
    return std::all_of(kTransitions.begin(), kTransitions.end(), [](const Transition& row) {
        return is_terminal(row.to) || !row_of(row.to).intent_first || !row_of(row.from).vm_paused;
    });
}

/// A phase that is not begun for want of a durable intent is declined: nothing was done, so it must
/// not lead to the undo of what was not done.
[[nodiscard]] constexpr bool unwritten_intents_end_refused() noexcept {
    return std::all_of(kPhaseRows.begin(), kPhaseRows.end(), [](const PhaseRow& row) {
        const Phase to = next(row.phase, Outcome::declined);
        return !row.intent_first || to == Phase::refused || to == Phase::discarding;
    });
}

} // namespace plan_detail

static_assert(plan_detail::table_is_total(), "a phase misses a row, or has one too many");
static_assert(plan_detail::rows_agree(), "kPhaseRows and kTransitions disagree");
static_assert(plan_detail::every_phase_is_reachable(), "a phase cannot be reached");
static_assert(plan_detail::no_cycle(Goal::upgrade), "an upgrade could go round in circles");
static_assert(plan_detail::no_cycle(Goal::rehearsal), "a rehearsal could go round in circles");
static_assert(plan_detail::a_rehearsal_never_takes_over(), "a rehearsal could move the guest");
static_assert(plan_detail::pauses_are_bounded(), "a pause without a deadline");
static_assert(plan_detail::refused_means_never_paused(), "a paused guest could end in refused");
static_assert(plan_detail::no_disk_inside_the_pause(), "a paused guest could wait for a disk");
static_assert(plan_detail::unwritten_intents_end_refused(), "not begun, but undone");

} // namespace qhup::upgrade
