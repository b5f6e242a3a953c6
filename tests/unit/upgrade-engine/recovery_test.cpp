// SPDX-License-Identifier: GPL-2.0-or-later
#include "tests/support/catch.hpp"
#include "upgrade-engine/recovery.hpp"

#include <algorithm>
#include <array>
#include <string>
#include <vector>

using namespace qhup::upgrade;

namespace {

using Presence = Observation::Presence;

Observation answer(PairState state) {
    Observation view{Presence::answers, {}, std::nullopt};
    view.facts.state = state;
    return view;
}

Observation silence(Presence presence) {
    return {presence, {}, std::nullopt};
}

/// Everything one side can show.
std::vector<Observation> all_views() {
    std::vector<Observation> views{silence(Presence::absent), silence(Presence::silent)};
    for (const PairState state : kAllPairStates) {
        views.push_back(answer(state));
    }
    return views;
}

bool runs_guest(const Observation& target) {
    return target.is(PairState::running) || target.is(PairState::none);
}

std::string name_of(const Observation& view) {
    return std::string(view.answers() ? to_string(view.facts.state) : to_string(view.presence));
}

struct Row {
    PairState source;
    // absent, silent, starting, standby, loading, loaded, running, none (alone)
    std::array<Action, 8> actions;
};

} // namespace

TEST_CASE("recovery has the written answer for each pair of states", "[upgrade][recovery]") {
    using enum Action;
    const std::array targets{
        silence(Presence::absent),
        silence(Presence::silent),
        answer(PairState::starting),
        answer(PairState::standby),
        answer(PairState::loading),
        answer(PairState::loaded),
        answer(PairState::running),
        answer(PairState::none),
    };
    // clang-format off
    const std::array rows{
        Row{PairState::none,         {nothing_to_do, wait, wait, wait, wait, wait, needs_operator, needs_operator}},
        Row{PairState::preparing,    {roll_back, roll_back, roll_back, roll_back, wait, wait, wait, wait}},
        Row{PairState::prepared,     {roll_back, roll_back, roll_back, roll_back, wait, wait, wait, wait}},
        Row{PairState::frozen,       {wait, wait, wait, wait, wait, wait, wait, wait}},
        Row{PairState::ceded,        {wait, wait, wait, wait, wait, wait, commit, wait}},
        Row{PairState::rolling_back, {wait, wait, wait, wait, wait, wait, needs_operator, needs_operator}},
    };
    const std::array source_gone{vm_gone, lost_contact, wait, wait, wait, wait, upgraded, upgraded};
    const std::array source_mute{lost_contact, lost_contact, wait, wait, wait, wait, commit, upgraded};
    // clang-format on
    for (std::size_t i = 0; i < targets.size(); ++i) {
        INFO("target " << name_of(targets[i]));
        for (const Row& row : rows) {
            INFO("source " << to_string(row.source));
            CHECK(
                to_string(decide(answer(row.source), targets[i]).action) ==
                to_string(row.actions[i])
            );
        }
        CHECK(decide(silence(Presence::absent), targets[i]).action == source_gone[i]);
        CHECK(decide(silence(Presence::silent), targets[i]).action == source_mute[i]);
    }
}

TEST_CASE("a parked source tells how its target ended", "[upgrade][recovery]") {
    const Observation gone = silence(Presence::absent);
    Observation source = answer(PairState::ceded);
    source.facts.last_error = LastError{Errc::target_died, "takeover", "", "", 0};
    CHECK(decide(source, gone).action == Action::guest_ended);
    source.facts.last_error->exit_status = 1;
    CHECK(decide(source, gone).action == Action::guest_lost);
    source.facts.last_error->exit_status.reset();
    CHECK(decide(source, gone).action == Action::guest_lost);
    // then: a target that shows itself is believed more than the source
    CHECK(decide(source, answer(PairState::running)).action == Action::commit);
    CHECK(decide(source, silence(Presence::silent)).action == Action::wait);
    source.facts.last_error->code = Errc::retry;
    CHECK(decide(source, gone).action == Action::wait);
    source.facts.state = PairState::none;
    source.facts.last_error->code = Errc::target_died;
    CHECK(decide(source, gone).action == Action::nothing_to_do);
}

TEST_CASE("recovery gives a reason for every combination", "[upgrade][recovery]") {
    for (const Observation& source : all_views()) {
        for (const Observation& target : all_views()) {
            INFO(name_of(source) << " / " << name_of(target));
            const Decision decision = decide(source, target);
            CHECK(decision.reason.ends_with("."));
            CHECK_FALSE(to_string(decision.action).empty());
        }
    }
}

TEST_CASE("recovery never rolls back a guest that runs on the target", "[upgrade][recovery]") {
    for (const Observation& source : all_views()) {
        for (const Observation& target : all_views()) {
            if (runs_guest(target)) {
                INFO(name_of(source) << " / " << name_of(target));
                const Action action = decide(source, target).action;
                CHECK(action != Action::roll_back);
                CHECK(action != Action::nothing_to_do);
            }
        }
    }
}

TEST_CASE("recovery commits only when the target is seen to run", "[upgrade][recovery]") {
    for (const Observation& source : all_views()) {
        for (const Observation& target : all_views()) {
            const Action action = decide(source, target).action;
            if (action == Action::commit || action == Action::upgraded) {
                INFO(name_of(source) << " / " << name_of(target));
                CHECK(runs_guest(target));
            }
        }
    }
}

TEST_CASE(
    "without a pair, record and VM say how it ended, over the whole grid", "[upgrade][recovery]"
) {
    const auto is_never_paused = [](Phase phase) {
        return phase == Phase::queued || phase == Phase::preflight || phase == Phase::prepare ||
               phase == Phase::await_pause || phase == Phase::discarding;
    };
    for (const Phase phase : kAllPhases) {
        for (const std::string from : {"old", ""}) {
            for (const std::string to : {"new", ""}) {
                for (const std::string now : {"old", "new", "other", ""}) {
                    for (const bool answers : {true, false}) {
                        if (is_terminal(phase)) {
                            continue;
                        }
                        INFO(to_string(phase) << " " << from << "->" << to << " now " << now);
                        const Ending end = end_without_pair({phase, from, to}, {answers, now});
                        CHECK(is_terminal(end.phase));
                        CHECK(end.sentence.ends_with("."));
                        CHECK(end.code.has_value() == (end.phase != Phase::upgraded));
                        Phase expected = Phase::needs_operator;
                        if (!answers) {
                            expected = Phase::lost_contact;
                        } else if (is_never_paused(phase)) {
                            expected = Phase::refused;
                        } else if (now == "new" && to == "new") {
                            expected = Phase::upgraded;
                        } else if (now == "old" && from == "old") {
                            expected = Phase::rolled_back;
                        } else if (now.empty() || (from.empty() && to.empty())) {
                            expected = Phase::lost_contact;
                        }
                        CHECK(to_string(end.phase) == to_string(expected));
                    }
                }
            }
        }
    }
}
