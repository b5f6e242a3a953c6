// SPDX-License-Identifier: GPL-2.0-or-later
#include "tests/sim/mutations.hpp"

#include "tests/sim/hits.hpp"
#include "upgrade-engine/steps.hpp"

#include <array>

namespace qhup::sim {
namespace {

constexpr std::array kRows{
    MutationRow{Mutation::recovery_always_resumes, "recovery_always_resumes"},
    MutationRow{Mutation::silence_means_gone, "silence_means_gone"},
    MutationRow{Mutation::silence_means_nothing_to_do, "silence_means_nothing_to_do"},
    MutationRow{Mutation::frozen_means_prepared, "frozen_means_prepared"},
    MutationRow{Mutation::ceded_means_lost, "ceded_means_lost"},
    MutationRow{Mutation::records_always_refuse, "records_always_refuse"},
    MutationRow{Mutation::unknown_switch_is_declined, "unknown_switch_is_declined"},
    MutationRow{Mutation::failed_switch_is_declined, "failed_switch_is_declined"},
    MutationRow{Mutation::failed_prepare_is_declined, "failed_prepare_is_declined"},
    MutationRow{Mutation::failed_verify_is_ok, "failed_verify_is_ok"},
    MutationRow{Mutation::failed_rehearsal_is_ok, "failed_rehearsal_is_ok"},
    MutationRow{Mutation::commit_is_skipped, "commit_is_skipped"},
    MutationRow{Mutation::undo_is_skipped, "undo_is_skipped"},
    MutationRow{Mutation::discard_is_skipped, "discard_is_skipped"},
    MutationRow{Mutation::intent_is_not_awaited, "intent_is_not_awaited"},
    MutationRow{Mutation::outcome_is_not_written, "outcome_is_not_written"},
    MutationRow{Mutation::recovery_is_not_counted, "recovery_is_not_counted"},
    MutationRow{Mutation::gone_pair_is_judged_by_old_look, "gone_pair_is_judged_by_old_look"},
    MutationRow{Mutation::source_runs_before_the_word, "source_runs_before_the_word"},
    MutationRow{Mutation::source_ignores_ran, "source_ignores_ran"},
    MutationRow{Mutation::lone_target_is_overlooked, "lone_target_is_overlooked"},
};

Mutation g_mutation = Mutation::none;
Hits* g_hits = nullptr;

std::size_t index_of(const Observation& seen) {
    const std::size_t states = kAllPairStates.size();
    switch (seen.presence) {
    case Presence::absent: return states;
    case Presence::silent: return states + 1;
    case Presence::answers: break;
    }
    return static_cast<std::size_t>(seen.facts.state);
}

Decision mutate(Decision decision, const Observation& source) {
    switch (g_mutation) {
    case Mutation::recovery_always_resumes:
        if (source.answers()) {
            decision.action = Action::roll_back;
        }
        break;
    case Mutation::silence_means_gone:
        if (source.presence == Presence::silent) {
            decision.action = Action::vm_gone;
        }
        break;
    case Mutation::silence_means_nothing_to_do:
        if (decision.action == Action::lost_contact) {
            decision.action = Action::nothing_to_do;
        }
        break;
    case Mutation::frozen_means_prepared:
        if (source.is(PairState::frozen)) {
            decision.action = Action::nothing_to_do;
        }
        break;
    case Mutation::ceded_means_lost:
        if (source.is(PairState::ceded) && decision.action == Action::commit) {
            decision.action = Action::guest_lost;
        }
        break;
    default: break;
    }
    return decision;
}

/// The outcome that leads where the mistake leads.
Outcome mutate(Phase phase, Outcome outcome) {
    const auto is = [&](Mutation wanted, Phase at, Outcome from) {
        return g_mutation == wanted && phase == at && outcome == from;
    };
    if (is(Mutation::unknown_switch_is_declined, Phase::switch_over, Outcome::unknown) ||
        is(Mutation::failed_switch_is_declined, Phase::switch_over, Outcome::failed) ||
        is(Mutation::failed_prepare_is_declined, Phase::prepare, Outcome::failed)) {
        return Outcome::declined;
    }
    if (is(Mutation::failed_verify_is_ok, Phase::verify, Outcome::failed) ||
        is(Mutation::failed_rehearsal_is_ok, Phase::rehearse, Outcome::failed)) {
        return Outcome::ok;
    }
    return outcome;
}

bool is_skipped(Phase phase) {
    return (g_mutation == Mutation::commit_is_skipped && phase == Phase::commit) ||
           (g_mutation == Mutation::undo_is_skipped && phase == Phase::rolling_back) ||
           (g_mutation == Mutation::discard_is_skipped && phase == Phase::discarding);
}

} // namespace

std::span<const MutationRow> all_mutations() noexcept {
    return kRows;
}

void set_mutation(Mutation mutation) noexcept {
    g_mutation = mutation;
}

Mutation mutation() noexcept {
    return g_mutation;
}

void set_hits(Hits* hits) noexcept {
    g_hits = hits;
}

} // namespace qhup::sim

using namespace qhup::upgrade;
using qhup::awaitable;

// The linker's names: __real_X is the function of the engine, __wrap_X is what is called instead.
// clang-format off
Decision real_decide(const Observation& source, const Observation& target)
    __asm__("__real__ZN4qhup7upgrade6decideERKNS0_11ObservationES3_");
Decision wrapped_decide(const Observation& source, const Observation& target)
    __asm__("__wrap__ZN4qhup7upgrade6decideERKNS0_11ObservationES3_");
Ending real_end_without_pair(const LastRecord& record, const LoneVm& vm)
    __asm__("__real__ZN4qhup7upgrade16end_without_pairERKNS0_10LastRecordERKNS0_6LoneVmE");
Ending wrapped_end_without_pair(const LastRecord& record, const LoneVm& vm)
    __asm__("__wrap__ZN4qhup7upgrade16end_without_pairERKNS0_10LastRecordERKNS0_6LoneVmE");
awaitable<StepResult> real_run_step(StepContext& context, Phase phase)
    __asm__("__real__ZN4qhup7upgrade8run_stepERNS0_11StepContextENS0_5PhaseE");
awaitable<StepResult> wrapped_run_step(StepContext& context, Phase phase)
    __asm__("__wrap__ZN4qhup7upgrade8run_stepERNS0_11StepContextENS0_5PhaseE");
// clang-format on

Decision wrapped_decide(const Observation& source, const Observation& target) {
    Decision decision = qhup::sim::mutate(real_decide(source, target), source);
    if (qhup::sim::g_hits != nullptr) {
        ++qhup::sim::g_hits->decisions[static_cast<std::size_t>(decision.action)];
        ++qhup::sim::g_hits->of_source[qhup::sim::index_of(source)];
        ++qhup::sim::g_hits->of_target[qhup::sim::index_of(target)];
    }
    return decision;
}

Ending wrapped_end_without_pair(const LastRecord& record, const LoneVm& vm) {
    Ending ending = real_end_without_pair(record, vm);
    if (qhup::sim::mutation() == qhup::sim::Mutation::records_always_refuse && vm.answers) {
        ending.phase = Phase::refused;
        ending.code = Errc::stopped;
    }
    return ending;
}

namespace {

awaitable<StepResult> run_mutated(StepContext& context, Phase phase) {
    if (qhup::sim::is_skipped(phase)) {
        co_return StepResult{Outcome::ok, std::nullopt};
    }
    StepResult result = co_await real_run_step(context, phase);
    result.outcome = qhup::sim::mutate(phase, result.outcome);
    co_return result;
}

} // namespace

// why: gcc 12 cannot give a coroutine a name of the linker's.
awaitable<StepResult> wrapped_run_step(StepContext& context, Phase phase) {
    return run_mutated(context, phase);
}
