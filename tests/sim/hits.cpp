// SPDX-License-Identifier: GPL-2.0-or-later
#include "tests/sim/hits.hpp"

#include <algorithm>
#include <utility>

namespace qhup::sim {
namespace {

/// Rows that are there because the table is total: no step ends so. If one does after all, this
/// list is wrong.
struct NeverTaken {
    Phase from;
    Outcome outcome;
};
constexpr std::array kNeverTaken{
    NeverTaken{Phase::queued, Outcome::declined},           // waits for a turn, or is given up
    NeverTaken{Phase::queued, Outcome::unknown},            //
    NeverTaken{Phase::preflight, Outcome::declined},        // asks only
    NeverTaken{Phase::await_pause, Outcome::declined},      // has no pause to decline
    NeverTaken{Phase::verify, Outcome::declined},           // the guest was paused
    NeverTaken{Phase::commit, Outcome::declined},           // likewise
    NeverTaken{Phase::discarding, Outcome::declined},       // an undo does or does not
    NeverTaken{Phase::rolling_back, Outcome::declined},     // likewise
    NeverTaken{Phase::ending_rehearsal, Outcome::declined}, // likewise
};

/// What a look at one side cannot show.
constexpr std::array kNeverOfSource{
    PairState::starting,
    PairState::standby,
    PairState::loading,
    PairState::loaded,
    PairState::running};
constexpr std::array kNeverOfTarget{
    PairState::starting, // it does not listen yet
    PairState::preparing,
    PairState::prepared,
    PairState::frozen,
    PairState::ceded,
    PairState::rolling_back};

bool is_never_taken(const Transition& row) {
    return std::any_of(kNeverTaken.begin(), kNeverTaken.end(), [&row](const NeverTaken& never) {
        return never.from == row.from && never.outcome == row.outcome;
    });
}

/// One thing that can be counted.
struct Row {
    std::string name;
    std::uint64_t hits;
    bool is_expected;
};

std::string name_of(const Transition& row) {
    return std::string(to_string(row.from)) + " " + std::string(to_string(row.outcome)) + " -> " +
           std::string(to_string(row.to));
}

template <std::size_t Size, std::size_t Never>
void add_looks(
    std::vector<Row>& rows,
    const std::string& side,
    const std::array<std::uint64_t, Size>& counts,
    const std::array<PairState, Never>& never
) {
    for (const PairState state : kAllPairStates) {
        const bool is_never = std::find(never.begin(), never.end(), state) != never.end();
        rows.push_back(
            {"saw " + side + " " + std::string(to_string(state)),
             counts[static_cast<std::size_t>(state)],
             !is_never}
        );
    }
    rows.push_back({"saw " + side + " absent", counts[Size - 2], true});
    rows.push_back({"saw " + side + " silent", counts[Size - 1], true});
}

std::vector<Row> rows_of(const Hits& hits) {
    std::vector<Row> rows;
    for (const Phase phase : kAllPhases) {
        const std::string name = "phase " + std::string(to_string(phase));
        rows.push_back({name, hits.phases[static_cast<std::size_t>(phase)], true});
    }
    for (std::size_t i = 0; i < kTransitions.size(); ++i) {
        const Transition& row = kTransitions[i];
        rows.push_back({"goes " + name_of(row), hits.transitions[i], !is_never_taken(row)});
    }
    for (std::size_t i = 0; i < kRehearsalTransitions.size(); ++i) {
        const std::string name = "goes " + name_of(kRehearsalTransitions[i]) + " (rehearsal)";
        rows.push_back({name, hits.rehearsal_transitions[i], true});
    }
    for (std::size_t i = 0; i < kActions; ++i) {
        // Two processes that both run the guest, or a target that plays a source: the world does
        // not lie, so it never comes to that.
        const auto action = static_cast<Action>(i);
        const bool is_expected = action != Action::needs_operator;
        rows.push_back({"decides " + std::string(to_string(action)), hits.decisions[i], is_expected}
        );
    }
    add_looks(rows, "source", hits.of_source, kNeverOfSource);
    add_looks(rows, "target", hits.of_target, kNeverOfTarget);
    for (std::size_t i = 0; i < kFaults; ++i) {
        const std::string name = "fault " + std::string(to_string(static_cast<Fault>(i)));
        rows.push_back({name, hits.faults[i], true});
    }
    for (std::size_t i = 0; i < kActs; ++i) {
        const std::string name = "step " + std::string(to_string(static_cast<Act>(i)));
        rows.push_back({name, hits.acts[i], true});
    }
    for (const char* const found :
         {"a pair of an open record",
          "an open record without a pair",
          "a pair of which both sides are gone",
          "a pair of a finished record",
          "too many recoveries",
          "nothing"}) {
        const auto count = hits.daemons.find(found);
        rows.push_back(
            {"daemon finds " + std::string(found),
             count == hits.daemons.end() ? 0 : count->second,
             true}
        );
    }
    for (const auto& [claim, count] : hits.claims) {
        rows.push_back({"ends " + claim, count, true});
    }
    return rows;
}

} // namespace

void Hits::note_transition(Phase from, Outcome outcome, Phase to, Goal goal) {
    if (goal == Goal::rehearsal) {
        for (std::size_t i = 0; i < kRehearsalTransitions.size(); ++i) {
            const Transition& row = kRehearsalTransitions[i];
            if (row.from == from && row.outcome == outcome && row.to == to) {
                ++rehearsal_transitions[i];
                return;
            }
        }
    }
    for (std::size_t i = 0; i < kTransitions.size(); ++i) {
        const Transition& row = kTransitions[i];
        if (row.from == from && row.outcome == outcome && row.to == to) {
            ++transitions[i];
        }
    }
}

std::string Hits::to_text() const {
    std::string text;
    for (const Row& row : rows_of(*this)) {
        if (row.hits == 0 && !row.is_expected) {
            continue;
        }
        std::string count = std::to_string(row.hits);
        count.insert(0, count.size() < 10 ? 10 - count.size() : 0, ' ');
        text += count + "  " + row.name + "\n";
    }
    return text;
}

std::vector<std::string> Hits::find_gaps() const {
    std::vector<std::string> gaps;
    for (const Row& row : rows_of(*this)) {
        if (row.is_expected && row.hits == 0) {
            gaps.push_back("never: " + row.name);
        }
        if (!row.is_expected && row.hits != 0) {
            gaps.push_back("said to be impossible, but happened: " + row.name);
        }
    }
    return gaps;
}

} // namespace qhup::sim
