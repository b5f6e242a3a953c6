// SPDX-License-Identifier: GPL-2.0-or-later
#include "common/task_group.hpp"

#include "common/log.hpp"

#include <cstdlib>
#include <list>

namespace qhup {

struct TaskGroup::Member {
    std::string name;
    asio::any_io_executor executor;
    // invariant: used on `executor` only, after the coroutine was started.
    asio::cancellation_signal cancel;
};

struct TaskGroup::State {
    State(asio::any_io_executor group_executor, OnBug bug_handler)
        : executor(std::move(group_executor)), on_bug(std::move(bug_handler)), changed(executor) {}

    asio::any_io_executor executor;
    OnBug on_bug;
    Notifier changed;
    std::list<std::shared_ptr<Member>> members;
    bool is_stopping = false;
};

namespace {

awaitable<void> run_root(awaitable<void> coroutine) {
    co_await asio::this_coro::throw_if_cancelled(false);
    co_await std::move(coroutine);
}

std::string to_text(const std::exception_ptr& thrown) {
    try {
        std::rethrow_exception(thrown);
    } catch (const std::exception& exception) {
        return exception.what();
    } catch (...) {
        return "not a std::exception";
    }
}

[[noreturn]] void stop_process(const std::string& name, const std::string& what) {
    log().critical("coroutine {} ended with an exception: {}; stopping the process", name, what);
    log().flush();
    std::abort();
}

} // namespace

TaskGroup::TaskGroup(asio::any_io_executor executor, OnBug on_bug)
    : state_(std::make_shared<State>(
          std::move(executor), on_bug ? std::move(on_bug) : OnBug(stop_process)
      )) {}

void TaskGroup::spawn(std::string name, awaitable<void> coroutine) {
    spawn(std::move(name), state_->executor, std::move(coroutine));
}

void TaskGroup::spawn(std::string name, asio::any_io_executor executor, awaitable<void> coroutine) {
    auto member = std::make_shared<Member>();
    member->name = std::move(name);
    member->executor = executor;
    state_->members.push_back(member);
    auto on_end = [state = state_, member](std::exception_ptr thrown) {
        if (thrown) {
            state->on_bug(member->name, to_text(thrown));
        }
        asio::dispatch(state->executor, [state, member] {
            state->members.remove(member);
            state->changed.notify();
        });
    };
    asio::co_spawn(
        executor,
        run_root(std::move(coroutine)),
        asio::bind_cancellation_slot(member->cancel.slot(), std::move(on_end))
    );
    if (state_->is_stopping) {
        asio::post(executor, [member] { member->cancel.emit(asio::cancellation_type::terminal); });
    }
}

void TaskGroup::request_stop() {
    state_->is_stopping = true;
    for (const auto& member : state_->members) {
        // why: not Asio's own forwarding, see on_executor().
        asio::post(member->executor, [member] {
            member->cancel.emit(asio::cancellation_type::terminal);
        });
    }
}

awaitable<void> TaskGroup::join() {
    const auto state = state_;
    while (!state->members.empty()) {
        co_await state->changed.wait_uncancelled();
    }
}

std::size_t TaskGroup::size() const noexcept {
    return state_->members.size();
}

} // namespace qhup
