// SPDX-License-Identifier: GPL-2.0-or-later
//
// Which ways back are rehearsed now: after an upgrade the binary that a VM came from loads its
// state once, so that an operator knows before the need whether it can go back. Pure.
#pragma once

#include "daemon/pause_history.hpp"
#include "daemon/way_back.hpp"

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace qhup::daemon {

/// A VM whose way back could be rehearsed.
struct WayBackCandidate {
    std::string vm;
    std::string shape_class; ///< "" if unknown
    std::string build_id;    ///< of the binary that it runs
    CameFrom from;
    std::string rehearse; ///< none, first (of each kind and way) or all
    bool is_free = false; ///< it answers, is in no run, is not held, and its window is open
};

/// The VMs that a remembered run moved and of which something else is known: they run another
/// binary, do not answer, or cannot be upgraded. What is known of them may be older than the move.
[[nodiscard]] std::vector<std::string>
choose_doubtful(const std::vector<VmView>& vms, const RunHistory& newest_first);

/// What to do now.
struct DueTrials {
    std::vector<std::string> vms;              ///< to be rehearsed, in the order of the candidates
    std::optional<std::int64_t> look_again_ms; ///< wall clock; none: when a run has ended
};

/// Each VM is tried once after each upgrade, when that was `delay` ago; one that could not be tried
/// because of somebody else comes again. A kind that is known not to load is not tried again.
[[nodiscard]] DueTrials choose_trials(
    const std::vector<WayBackCandidate>& candidates,
    const RunHistory& newest_first,
    std::int64_t now_unix_ms,
    std::chrono::milliseconds delay
);

} // namespace qhup::daemon
