// SPDX-License-Identifier: GPL-2.0-or-later
//
// Rehearses ways back in the background: starts a run of the kind way_back when way_back_trials
// says so and nothing else is in work, and gives way to everything that somebody asks for.
#pragma once

#include "daemon/hold_store.hpp"
#include "daemon/kept_binaries.hpp"
#include "daemon/run_book.hpp"
#include "daemon/way_back_trials.hpp"

#include <functional>
#include <vector>

namespace qhup::daemon {

/// Thread: all members on the home strand.
class WayBackRehearsals {
public:
    /// Starts a run. @return  why it could not be; "" if it was
    using Start = std::function<awaitable<std::string>(RunRequest)>;

    WayBackRehearsals(
        RunServices services,
        RunBook& book,
        const HoldStore& holds,
        const KeptBinaries& kept,
        Start start
    )
        : services_(std::move(services)),
          book_(book),
          holds_(holds),
          kept_(kept),
          start_(std::move(start)) {}

    /// Until cancelled.
    [[nodiscard]] awaitable<void> run();

    /// Ends the rehearsals that go on: VMs that are not paused are let go at once. Returns when all
    /// are free, or after a while.
    [[nodiscard]] awaitable<void> give_way();

private:
    [[nodiscard]] std::vector<WayBackCandidate> find_candidates() const;

    /// Asks VMs of which is not known what their last run left.
    /// @return  it is known of all now
    [[nodiscard]] awaitable<bool> look_at_doubtful();

    RunServices services_;
    RunBook& book_;
    const HoldStore& holds_;
    const KeptBinaries& kept_;
    Start start_;
};

} // namespace qhup::daemon
