// SPDX-License-Identifier: GPL-2.0-or-later
//
// One run: a VM, a daemon with the engine of production, a journal, and a scheduler with a seed
// that picks who acts, dies, stops, says nothing or garbage. After it: what must be true.
#pragma once

#include "tests/sim/hits.hpp"

#include <cstdint>
#include <string>

namespace qhup::sim {

/// What became of one run.
struct Verdict {
    std::string broken;      ///< the rule that does not hold, as a sentence; "" if all hold
    std::string story;       ///< what happened, a line each; only if it was asked for
    std::uint64_t steps = 0; ///< of the scheduler
};

/// Runs one seed. The same seed gives the same run, whatever ran before.
///
/// @param hits  counts what the run came across
/// @param is_told  the story is wanted
[[nodiscard]] Verdict simulate(std::uint64_t seed, Hits& hits, bool is_told);

} // namespace qhup::sim
