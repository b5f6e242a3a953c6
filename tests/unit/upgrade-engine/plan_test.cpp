// SPDX-License-Identifier: GPL-2.0-or-later
#include "tests/support/catch.hpp"
#include "upgrade-engine/plan.hpp"

#include <set>
#include <string>

using namespace qhup::upgrade;

TEST_CASE("every phase has a word of its own that leads back to it", "[upgrade][plan]") {
    std::set<std::string> words;
    for (const Phase phase : kAllPhases) {
        const std::string word(to_string(phase));
        CHECK_FALSE(word.empty());
        CHECK(words.insert(word).second);
        CHECK(parse_phase(word) == phase);
    }
    CHECK_FALSE(parse_phase("committed").has_value());
    CHECK_FALSE(parse_phase("").has_value());
}

TEST_CASE("an upgrade in which all goes well passes the phases in order", "[upgrade][plan]") {
    const std::array expected{
        Phase::queued,
        Phase::preflight,
        Phase::prepare,
        Phase::await_pause,
        Phase::switch_over,
        Phase::verify,
        Phase::commit,
        Phase::upgraded,
    };
    Phase phase = Phase::queued;
    for (const Phase wanted : expected) {
        CHECK(to_string(phase) == to_string(wanted));
        phase = next(phase, Outcome::ok);
    }
    CHECK(phase == Phase::upgraded);
}

TEST_CASE("a rehearsal in which all goes well moves no guest", "[upgrade][plan]") {
    const std::array expected{
        Phase::queued,
        Phase::preflight,
        Phase::prepare,
        Phase::await_pause,
        Phase::rehearse,
        Phase::ending_rehearsal,
        Phase::rehearsed,
    };
    Phase phase = Phase::queued;
    for (const Phase wanted : expected) {
        CHECK(to_string(phase) == to_string(wanted));
        phase = next(phase, Outcome::ok, Goal::rehearsal);
    }
    CHECK(is_terminal(phase));
}

TEST_CASE("a rehearsal whose outcome is unknown goes back", "[upgrade][plan]") {
    CHECK(next(Phase::rehearse, Outcome::unknown, Goal::rehearsal) == Phase::rolling_back);
    CHECK(next(Phase::rehearse, Outcome::declined, Goal::rehearsal) == Phase::discarding);
}

TEST_CASE("nothing follows a terminal phase", "[upgrade][plan]") {
    for (const Phase phase : kAllPhases) {
        for (const Outcome outcome : kAllOutcomes) {
            if (is_terminal(phase)) {
                CHECK(next(phase, outcome) == phase);
            } else {
                CHECK(next(phase, outcome) != phase);
            }
        }
    }
}

TEST_CASE("refused can be reached only if the guest was never paused", "[upgrade][plan]") {
    for (const Transition& row : kTransitions) {
        if (row.to == Phase::refused) {
            INFO(to_string(row.from));
            CHECK_FALSE(row_of(row.from).vm_paused);
        }
    }
}

TEST_CASE(
    "a switch that did not pause the guest ends in refused, others do not", "[upgrade][plan]"
) {
    const Phase undo = next(Phase::switch_over, Outcome::declined);
    CHECK(undo == Phase::discarding);
    CHECK(next(undo, Outcome::ok) == Phase::refused);
    CHECK(next(Phase::switch_over, Outcome::failed) == Phase::rolling_back);
    CHECK(next(Phase::verify, Outcome::declined) == Phase::rolling_back);
}

TEST_CASE("an upgrade that is not ours is not undone", "[upgrade][plan]") {
    CHECK(next(Phase::prepare, Outcome::declined) == Phase::refused);
}

TEST_CASE("a switch whose outcome is unknown is never undone blindly", "[upgrade][plan]") {
    CHECK(next(Phase::switch_over, Outcome::unknown) == Phase::lost_contact);
    CHECK(next(Phase::verify, Outcome::unknown) == Phase::lost_contact);
}

TEST_CASE("undo phases never lead forward", "[upgrade][plan]") {
    for (const Transition& row : kTransitions) {
        if (is_undo(row.from)) {
            CHECK(is_terminal(row.to));
            CHECK(row.to != Phase::upgraded);
        }
    }
}

TEST_CASE("only what touches the VM and may be left undone waits for a disk", "[upgrade][plan]") {
    for (const PhaseRow& row : kPhaseRows) {
        INFO(to_string(row.phase));
        const bool waits = row.phase == Phase::prepare || row.phase == Phase::switch_over ||
                           row.phase == Phase::rehearse;
        CHECK(row.intent_first == waits);
        CHECK_FALSE((row.intent_first && is_undo(row.phase)));
    }
}
