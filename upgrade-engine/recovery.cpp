// SPDX-License-Identifier: GPL-2.0-or-later
#include "upgrade-engine/recovery.hpp"

namespace qhup::upgrade {
namespace {

using Presence = Observation::Presence;

/// What a target shows, as far as a decision depends on it.
enum class TargetView : std::uint8_t {
    absent,  ///< not there
    silent,  ///< there, but mute
    waits,   ///< starting, standby: has nothing of the guest
    loads,   ///< loading, loaded: has the state, not the guest
    runs,    ///< runs the guest while the source is there
    alone,   ///< runs the guest and knows that the source is gone
    strange, ///< a state that a target cannot have
};

TargetView view_of(const Observation& target) noexcept {
    if (target.presence == Presence::absent) {
        return TargetView::absent;
    }
    if (target.presence == Presence::silent) {
        return TargetView::silent;
    }
    switch (target.facts.state) {
    case PairState::starting:
    case PairState::standby: return TargetView::waits;
    case PairState::loading:
    case PairState::loaded: return TargetView::loads;
    case PairState::running: return TargetView::runs;
    case PairState::none: return TargetView::alone;
    case PairState::preparing:
    case PairState::prepared:
    case PairState::frozen:
    case PairState::ceded:
    case PairState::rolling_back: break;
    }
    return TargetView::strange;
}

bool runs_the_guest(TargetView view) noexcept {
    return view == TargetView::runs || view == TargetView::alone;
}

Decision decide_idle_source(TargetView target) {
    switch (target) {
    case TargetView::absent:
        return {Action::nothing_to_do, "The guest runs on the old QEMU, and no new one is there."};
    case TargetView::runs:
    case TargetView::alone:
        return {Action::needs_operator, "Both processes say that they run the guest."};
    case TargetView::strange:
        return {Action::needs_operator, "The new QEMU is in an upgrade of its own."};
    case TargetView::silent:
    case TargetView::waits:
    case TargetView::loads: break;
    }
    return {Action::wait, "The guest runs on the old QEMU, and the new one is on its way out."};
}

Decision decide_prepared_source(TargetView target) {
    if (target == TargetView::absent || target == TargetView::silent ||
        target == TargetView::waits) {
        return {
            Action::roll_back,
            "The new QEMU was prepared and nobody went on; the guest was not paused."};
    }
    // why: the two looks are not at one instant; the source was asked before it went on.
    return {Action::wait, "The pair is in its switch."};
}

Decision decide_ceded_source(const VmFacts& source, TargetView target) {
    if (target == TargetView::runs) {
        return {Action::commit, "The guest runs on the new QEMU, and the old one is parked."};
    }
    // invariant: a source whose target ends before it ran the guest does not stay ceded.
    const std::optional<LastError>& last = source.last_error;
    if (target == TargetView::absent && last && last->code == Errc::target_died) {
        if (last->exit_status == 0) {
            return {
                Action::guest_ended,
                "The guest ran on the new QEMU, which has ended by itself; the old one is parked."};
        }
        return {
            Action::guest_lost,
            "The guest ran on the new QEMU, which has died; the old one is parked."};
    }
    return {
        Action::wait,
        "The old QEMU gave the guest away, and the new one does not show yet that it runs."};
}

Decision decide_source_gone(TargetView target) {
    switch (target) {
    case TargetView::absent:
        return {Action::vm_gone, "Neither the old nor the new QEMU is there any more."};
    case TargetView::runs:
    case TargetView::alone:
        return {Action::upgraded, "The guest runs on the new QEMU, and the old one is gone."};
    case TargetView::waits:
    case TargetView::loads:
        return {
            Action::wait,
            "The old QEMU is gone; the new one takes over if it has the state, or ends."};
    case TargetView::silent:
        return {Action::lost_contact, "The old QEMU is gone, and the new one does not answer."};
    case TargetView::strange: break;
    }
    return {Action::needs_operator, "The new QEMU is in an upgrade of its own."};
}

Decision decide_source_silent(TargetView target) {
    switch (target) {
    case TargetView::runs:
        // invariant: once the target runs the guest, the source can never resume it.
        return {Action::commit, "The guest runs on the new QEMU; the old one does not answer."};
    case TargetView::alone:
        return {Action::upgraded, "The guest runs on the new QEMU, and the old one is gone."};
    case TargetView::waits:
    case TargetView::loads:
        return {Action::wait, "The old QEMU does not answer, and its lease runs."};
    case TargetView::absent:
    case TargetView::silent:
        return {Action::lost_contact, "Neither the old nor the new QEMU answers."};
    case TargetView::strange: break;
    }
    return {Action::needs_operator, "The new QEMU is in an upgrade of its own."};
}

} // namespace

std::string_view to_string(Action action) noexcept {
    switch (action) {
    case Action::nothing_to_do: return "nothing_to_do";
    case Action::roll_back: return "roll_back";
    case Action::commit: return "commit";
    case Action::upgraded: return "upgraded";
    case Action::guest_ended: return "guest_ended";
    case Action::guest_lost: return "guest_lost";
    case Action::wait: return "wait";
    case Action::lost_contact: return "lost_contact";
    case Action::vm_gone: return "vm_gone";
    case Action::needs_operator: return "needs_operator";
    }
    return "";
}

Decision decide(const Observation& source, const Observation& target) {
    const TargetView view = view_of(target);
    if (source.presence == Presence::absent) {
        return decide_source_gone(view);
    }
    if (source.presence == Presence::silent) {
        return decide_source_silent(view);
    }
    switch (source.facts.state) {
    case PairState::none: return decide_idle_source(view);
    case PairState::preparing:
    case PairState::prepared: return decide_prepared_source(view);
    case PairState::frozen:
        return {Action::wait, "The guest is paused, and the pair goes on or back by itself."};
    case PairState::rolling_back:
        return {
            runs_the_guest(view) ? Action::needs_operator : Action::wait,
            runs_the_guest(view) ? "Both processes say that they own the guest."
                                 : "The old QEMU is taking the guest back."};
    case PairState::ceded: return decide_ceded_source(source.facts, view);
    case PairState::starting:
    case PairState::standby:
    case PairState::loading:
    case PairState::loaded:
    case PairState::running: break;
    }
    return {Action::needs_operator, "The old QEMU is itself the target of another upgrade."};
}

Ending end_without_pair(const LastRecord& record, const LoneVm& vm) {
    const std::string during = "qhupd ended in phase " + std::string(to_string(record.phase));
    if (!vm.answers) {
        return {
            Phase::lost_contact,
            Errc::lost_contact,
            during + ", and the VM does not answer now; nothing is left of the pair."};
    }
    // invariant: a switch is not begun before its intent is durable (plan.hpp), so without that
    // record the guest was not paused.
    const bool is_begun = record.phase != Phase::queued && record.phase != Phase::preflight;
    const bool may_have_moved = is_begun && record.phase != Phase::prepare &&
                                record.phase != Phase::await_pause &&
                                record.phase != Phase::discarding;
    if (!may_have_moved) {
        return {
            Phase::refused,
            Errc::stopped,
            is_begun ? during + ", before the guest was paused; the standby has ended."
                     : "qhupd ended before the upgrade of this VM began."};
    }
    if (!vm.build_id.empty() && vm.build_id == record.to_build_id) {
        return {
            Phase::upgraded,
            std::nullopt,
            during + "; the pair went on by itself, and the guest runs on the new QEMU."};
    }
    if (!vm.build_id.empty() && vm.build_id == record.from_build_id) {
        return {
            Phase::rolled_back,
            Errc::lease_expired,
            during + "; the pair went back by itself, and the guest runs on the old QEMU."};
    }
    if (vm.build_id.empty() || (record.from_build_id.empty() && record.to_build_id.empty())) {
        return {
            Phase::lost_contact,
            Errc::lost_contact,
            during + ". The VM answers, but nothing says which of the two binaries it runs."};
    }
    return {
        Phase::needs_operator,
        Errc::wrong_target,
        during + ". The VM answers, but it runs neither the old nor the new binary."};
}

} // namespace qhup::upgrade
