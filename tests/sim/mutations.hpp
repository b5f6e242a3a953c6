// SPDX-License-Identifier: GPL-2.0-or-later
//
// Mistakes that somebody could make in the engine, in the daemon or in QEMU. The linker leads the
// engine's calls of decide(), run_step() and end_without_pair() through mutations.cpp (--wrap), so
// that the code under test is that of production, and each mistake is one branch there.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

namespace qhup::sim {

enum class Mutation : std::uint8_t {
    none,
    recovery_always_resumes,         ///< decide(): whoever answers is told to roll back
    silence_means_gone,              ///< decide(): a source that says nothing has lost the guest
    silence_means_nothing_to_do,     ///< decide(): nobody answers, so all is well
    frozen_means_prepared,           ///< decide(): a frozen source runs the guest
    ceded_means_lost,                ///< decide(): no commit, the guest is given up
    records_always_refuse,           ///< end_without_pair(): nothing can have moved
    unknown_switch_is_declined,      ///< switch_over: unknown goes where declined goes
    failed_switch_is_declined,       ///< switch_over: failed goes where declined goes
    failed_prepare_is_declined,      ///< prepare: failed goes where declined goes
    failed_verify_is_ok,             ///< verify: failed goes where ok goes
    failed_rehearsal_is_ok,          ///< rehearse: failed goes where ok goes
    commit_is_skipped,               ///< commit: ok without a step
    undo_is_skipped,                 ///< rolling_back: ok without a step
    discard_is_skipped,              ///< discarding: ok without a step
    intent_is_not_awaited,           ///< the journal says yes before the row is on disk
    outcome_is_not_written,          ///< the daemon forgets to write how it ended
    recovery_is_not_counted,         ///< a recovery that kills the daemon is tried for ever
    gone_pair_is_judged_by_old_look, ///< what a VM was before its pair was gone
    source_runs_before_the_word,     ///< QEMU: see Break
    source_ignores_ran,              ///< QEMU: see Break
    lone_target_is_overlooked,       ///< who has the main monitor of a VM whose pair is gone
};

struct MutationRow {
    Mutation mutation;
    std::string_view name;
};

/// All but `none`.
[[nodiscard]] std::span<const MutationRow> all_mutations() noexcept;

void set_mutation(Mutation mutation) noexcept;
[[nodiscard]] Mutation mutation() noexcept;

} // namespace qhup::sim
