// SPDX-License-Identifier: GPL-2.0-or-later
#include "upgrade-engine/slot_gate.hpp"

#include "upgrade-engine/errors.hpp"

#include <map>
#include <string>
#include <utility>

namespace qhup::upgrade {

/// Everything below is touched on `executor` only.
struct SlotGate::State {
    /// One VM's coroutine, and what it was told last.
    struct Waiter {
        explicit Waiter(const asio::any_io_executor& executor) : changed(executor) {}
        Notifier changed;
        std::optional<GrantKind> told;
    };

    State(asio::any_io_executor executor_in, SchedulerLimits limits)
        : executor(std::move(executor_in)), scheduler(limits) {}

    void tell_everybody() {
        for (const Grant& grant : scheduler.next_grants()) {
            const auto found = waiters.find(grant.ticket);
            if (found != waiters.end()) {
                found->second->told = grant.kind;
                found->second->changed.notify();
            }
        }
    }

    void leave(Ticket ticket, bool is_failure) {
        scheduler.on_finished(ticket, is_failure);
        waiters.erase(ticket);
        tell_everybody();
    }

    asio::any_io_executor executor;
    Scheduler scheduler;
    std::map<Ticket, std::shared_ptr<Waiter>> waiters;
};

namespace {

Failure make_stopped() {
    return make_failure(Errc::stopped, std::string(explain(Errc::stopped)));
}

} // namespace

SlotGate::SlotGate(asio::any_io_executor executor, SchedulerLimits limits)
    : state_(std::make_shared<State>(std::move(executor), limits)) {}

SlotGate::~SlotGate() = default;

BatchId SlotGate::add_batch(BatchLimits limits) {
    return state_->scheduler.add_batch(limits);
}

void SlotGate::stop_batch(BatchId batch) {
    state_->scheduler.on_stop(batch);
    state_->tell_everybody();
}

bool SlotGate::is_stopped(BatchId batch) const {
    return state_->scheduler.is_stopped(batch);
}

std::shared_ptr<SlotGate::Turn> SlotGate::add_vm(BatchId batch) {
    const Ticket ticket = state_->scheduler.add_vm(batch);
    state_->waiters.emplace(ticket, std::make_shared<State::Waiter>(state_->executor));
    return std::make_shared<Turn>(state_, ticket);
}

/// The coroutines of Turn that run on the gate's executor. They own what they use.
struct SlotGate::Turn::OnGate {
    static awaitable<Result<void>>
    wait(std::shared_ptr<State> state, Ticket ticket, GrantKind wanted, Deadline deadline) {
        if (wanted == GrantKind::pause) {
            state->scheduler.on_prepared(ticket);
        }
        state->tell_everybody();
        const auto found = state->waiters.find(ticket);
        if (found == state->waiters.end()) {
            co_return make_stopped();
        }
        const std::shared_ptr<State::Waiter> waiter = found->second;
        while (waiter->told != wanted) {
            if (waiter->told == GrantKind::stop) {
                co_return make_stopped();
            }
            const Result<void> woken = co_await waiter->changed.wait(deadline);
            // invariant: a grant that came together with the timeout is not lost, `told` has it.
            if (woken.has_error() && waiter->told != wanted) {
                co_return woken.error();
            }
        }
        co_return Result<void>();
    }

    static awaitable<bool> end_pause(std::shared_ptr<State> state, Ticket ticket) {
        state->scheduler.on_pause_over(ticket);
        state->tell_everybody();
        co_return true;
    }

    static awaitable<bool> finish(std::shared_ptr<State> state, Ticket ticket, bool is_failure) {
        state->leave(ticket, is_failure);
        co_return true;
    }
};

SlotGate::Turn::Turn(std::shared_ptr<SlotGate::State> state, Ticket ticket)
    : state_(std::move(state)), ticket_(ticket) {}

SlotGate::Turn::~Turn() {
    asio::post(state_->executor, [state = state_, ticket = ticket_] {
        state->leave(ticket, false);
    });
}

awaitable<Result<void>> SlotGate::Turn::wait_to_start() {
    co_return co_await on_executor(
        state_->executor, OnGate::wait(state_, ticket_, GrantKind::start, Deadline::never())
    );
}

awaitable<Result<void>> SlotGate::Turn::wait_to_pause(Deadline deadline) {
    co_return co_await on_executor(
        state_->executor, OnGate::wait(state_, ticket_, GrantKind::pause, deadline)
    );
}

awaitable<void> SlotGate::Turn::end_pause() {
    (void)co_await on_executor(state_->executor, OnGate::end_pause(state_, ticket_));
}

awaitable<void> SlotGate::Turn::finish(bool is_failure) {
    (void)co_await on_executor(state_->executor, OnGate::finish(state_, ticket_, is_failure));
}

} // namespace qhup::upgrade
