// SPDX-License-Identifier: GPL-2.0-or-later
//
// Where the upgrades of many VMs wait for their turn. A dull shell around Scheduler: it owns the
// waiting coroutines, Scheduler decides. One gate serves the whole daemon.
#pragma once

#include "common/async.hpp"
#include "upgrade-engine/scheduler.hpp"

#include <memory>

namespace qhup::upgrade {

/// Thread: create, and call every member, on `executor`; upgrades of other strands hop to it by
/// themselves. The gate must outlive its turns.
class SlotGate {
public:
    SlotGate(asio::any_io_executor executor, SchedulerLimits limits);
    ~SlotGate();
    SlotGate(const SlotGate&) = delete;
    SlotGate& operator=(const SlotGate&) = delete;

    [[nodiscard]] BatchId add_batch(BatchLimits limits);

    /// No further VM of this batch is touched; those in their pause finish it.
    void stop_batch(BatchId batch);
    [[nodiscard]] bool is_stopped(BatchId batch) const;

    class Turn;

    /// Adds a VM at the end of the order. It waits to start.
    [[nodiscard]] std::shared_ptr<Turn> add_vm(BatchId batch);

private:
    struct State;
    std::shared_ptr<State> state_;
};

/// One VM's place in the queue. Gives back what it holds when it is destroyed.
///
/// Thread: the awaitable members from any strand, one at a time.
class SlotGate::Turn {
public:
    Turn(std::shared_ptr<SlotGate::State> state, Ticket ticket);
    ~Turn();
    Turn(const Turn&) = delete;
    Turn& operator=(const Turn&) = delete;

    /// Waits until this VM may start.
    /// Errors:       Errc::stopped, if its batch was stopped; qhup::Errc::cancelled
    /// Cancellation: ends the wait; the place in the queue is kept
    [[nodiscard]] awaitable<Result<void>> wait_to_start();

    /// Waits until this VM may be paused. The first call gives the prepare slot back. May be called
    /// again after a timeout: the place in the queue is kept.
    /// Errors:       Errc::stopped, qhup::Errc::timed_out, qhup::Errc::cancelled
    /// Cancellation: ends the wait; the place in the queue is kept
    [[nodiscard]] awaitable<Result<void>> wait_to_pause(Deadline deadline);

    /// The guest runs again: the next VM may be paused.
    [[nodiscard]] awaitable<void> end_pause();

    /// Everything is over. Failures count towards the batch's limit.
    [[nodiscard]] awaitable<void> finish(bool is_failure);

private:
    struct OnGate;
    std::shared_ptr<SlotGate::State> state_;
    Ticket ticket_;
};

} // namespace qhup::upgrade
