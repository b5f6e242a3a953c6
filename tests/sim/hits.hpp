// SPDX-License-Identifier: GPL-2.0-or-later
//
// What the runs came across, and what they never did: a simulation that misses a transition proves
// nothing about it.
#pragma once

#include "tests/sim/world.hpp"
#include "upgrade-engine/plan.hpp"
#include "upgrade-engine/recovery.hpp"

#include <array>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace qhup::sim {

inline constexpr std::size_t kActions = 10; // of recovery.hpp

struct Hits {
    std::array<std::uint64_t, kAllPhases.size()> phases{};
    std::array<std::uint64_t, kTransitions.size()> transitions{};
    std::array<std::uint64_t, kRehearsalTransitions.size()> rehearsal_transitions{};
    std::array<std::uint64_t, kActions> decisions{};
    /// By what a look showed: a state, or (the last two) absent, silent.
    std::array<std::uint64_t, kAllPairStates.size() + 2> of_source{};
    std::array<std::uint64_t, kAllPairStates.size() + 2> of_target{};
    std::array<std::uint64_t, kFaults> faults{};
    std::array<std::uint64_t, kActs> acts{};
    std::map<std::string, std::uint64_t> claims;  ///< "upgraded", "refused (stale)"
    std::map<std::string, std::uint64_t> daemons; ///< what a daemon that starts finds

    void note_transition(Phase from, Outcome outcome, Phase to, Goal goal);

    /// A table for people.
    [[nodiscard]] std::string to_text() const;
    /// What should have been hit and was not, or the other way round; a sentence each.
    [[nodiscard]] std::vector<std::string> find_gaps() const;
};

/// Where the engine's decisions are counted; null: nowhere. See mutations.cpp.
void set_hits(Hits* hits) noexcept;

} // namespace qhup::sim
