// SPDX-License-Identifier: GPL-2.0-or-later
//
// What our coroutines need beyond Asio 1.81: results instead of exceptions, deadlines, hops between
// strands, work on a blocking thread. Everything here keeps to one rule: after a wait it is known
// whether the operation ended, and a value that it produced is never thrown away.
#pragma once

#include "common/deadline.hpp"
#include "common/result.hpp"

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/as_tuple.hpp>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/bind_cancellation_slot.hpp>
#include <boost/asio/cancellation_signal.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/deferred.hpp>
#include <boost/asio/dispatch.hpp>
#include <boost/asio/experimental/parallel_group.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/strand.hpp>
#include <boost/asio/this_coro.hpp>
#include <boost/asio/thread_pool.hpp>
#include <boost/asio/use_awaitable.hpp>

#include <cassert>
#include <exception>
#include <memory>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>

/// In debug builds: the caller must be on this strand.
#define QHUP_ASSERT_ON_STRAND(strand) assert((strand).running_in_this_thread())

namespace qhup {

namespace asio = boost::asio;

using asio::awaitable;
using Strand = asio::strand<asio::io_context::executor_type>;

/// Completion token for all I/O: `const auto [error] = co_await timer.async_wait(use_result);`
inline constexpr auto use_result = asio::as_tuple(asio::use_awaitable);

/// Whether the running coroutine was cancelled; with throw_if_cancelled(false) nobody else says so.
[[nodiscard]] inline awaitable<bool> was_cancelled() {
    const asio::cancellation_state state = co_await asio::this_coro::cancellation_state;
    co_return state.cancelled() != asio::cancellation_type::none;
}

/// Waits until the deadline.
///
/// Errors:       Errc::cancelled
/// Cancellation: ends the wait at once
[[nodiscard]] inline awaitable<Result<void>> sleep_until(Deadline deadline) {
    const bool is_cancelled_already = co_await was_cancelled();
    if (!is_cancelled_already) {
        const auto executor = co_await asio::this_coro::executor;
        asio::steady_timer timer(executor, deadline.point());
        const auto [error] = co_await timer.async_wait(use_result);
        if (!error) {
            co_return Result<void>();
        }
    }
    co_return make_failure(Errc::cancelled, "waiting was cancelled");
}

/// An event that one coroutine waits for and others raise. A notify() before the wait is not lost;
/// several of them count as one.
///
/// Thread: one strand, for waiting and for raising.
class Notifier {
public:
    explicit Notifier(const asio::any_io_executor& executor)
        : timer_(executor, Deadline::never().point()) {}

    void notify() {
        is_raised_ = true;
        timer_.cancel();
    }

    /// Waits for notify().
    ///
    /// Errors:       Errc::timed_out at the deadline, Errc::cancelled
    /// Cancellation: ends the wait at once; an event that was raised before wins
    [[nodiscard]] awaitable<Result<void>> wait(Deadline deadline = Deadline::never()) {
        while (!is_raised_) {
            const bool is_cancelled_already = co_await was_cancelled();
            if (is_cancelled_already) {
                co_return make_failure(Errc::cancelled, "waiting was cancelled");
            }
            timer_.expires_at(deadline.point());
            const auto [error] = co_await timer_.async_wait(use_result);
            if (!error && !is_raised_) {
                co_return make_failure(Errc::timed_out, "waiting took too long");
            }
        }
        is_raised_ = false;
        co_return Result<void>();
    }

    /// Waits for notify() and for nothing else.
    /// Cancellation: not cancellable
    [[nodiscard]] awaitable<void> wait_uncancelled() {
        while (!is_raised_) {
            timer_.expires_at(Deadline::never().point());
            (void)co_await timer_.async_wait(asio::as_tuple(
                asio::bind_cancellation_slot(asio::cancellation_slot(), asio::use_awaitable)
            ));
        }
        is_raised_ = false;
    }

private:
    asio::steady_timer timer_;
    bool is_raised_ = false;
};

namespace detail {

template <class T>
awaitable<std::optional<T>> run_without_throw(awaitable<T> operation) {
    co_await asio::this_coro::throw_if_cancelled(false);
    co_return std::optional<T>(co_await std::move(operation));
}

inline awaitable<error_code> run_timer(Deadline deadline) {
    co_await asio::this_coro::throw_if_cancelled(false);
    const auto executor = co_await asio::this_coro::executor;
    asio::steady_timer timer(executor, deadline.point());
    const auto [error] = co_await timer.async_wait(use_result);
    co_return error;
}

template <class Function>
awaitable<std::optional<std::invoke_result_t<Function>>> call(Function function) {
    co_return std::optional<std::invoke_result_t<Function>>(function());
}

} // namespace detail

/// Runs the operation, cancels it at the deadline, and waits until it has really ended.
///
/// @param doing  what the operation does, for the message: "connecting to vm a"
/// @return       what the operation returned, whenever it returned a value; its own failure, too,
///               unless the deadline or the caller's cancellation is what ended it
/// Errors:        Errc::timed_out, Errc::cancelled (the operation's own failure is in `also`)
/// After failure: as the operation says for cancellation
/// Cancellation:  passed to the operation; does not start it if it came before
template <class T>
[[nodiscard]] awaitable<Result<T>>
with_timeout(awaitable<Result<T>> operation, Deadline deadline, std::string doing) {
    const bool is_cancelled_already = co_await was_cancelled();
    if (is_cancelled_already) {
        co_return make_failure(Errc::cancelled, doing + ": cancelled");
    }
    if (deadline.is_never()) {
        co_return co_await std::move(operation);
    }
    const auto executor = co_await asio::this_coro::executor;
    auto group = asio::experimental::make_parallel_group(
        asio::co_spawn(executor, detail::run_without_throw(std::move(operation)), asio::deferred),
        asio::co_spawn(executor, detail::run_timer(deadline), asio::deferred)
    );
    auto [order, thrown, result, timer_thrown, timer_error] =
        co_await group.async_wait(asio::experimental::wait_for_one(), asio::use_awaitable);
    if (thrown) {
        std::rethrow_exception(thrown);
    }
    // invariant: no exception means that the operation's coroutine ran to its end.
    if (result.has_value() && result->has_value()) {
        co_return std::move(*result);
    }
    const bool is_operation_first = order[0] == 0;
    if (result.has_value() && is_operation_first) {
        co_return std::move(*result);
    }
    Failure failure = timer_error ? make_failure(Errc::cancelled, doing + ": cancelled")
                                  : make_failure(Errc::timed_out, doing + ": took too long");
    if (result.has_value()) {
        add_also(failure, result->error());
    }
    co_return failure;
}

/// Runs the operation on another executor (a strand) and brings its result back.
///
/// Cancellation: passed to the operation on its own executor; waits until it has ended.
/// Thread:       any; the operation runs on `there`, the caller resumes where it was
template <class T>
[[nodiscard]] awaitable<T> on_executor(asio::any_io_executor there, awaitable<T> operation) {
    // why: not co_spawn(there, ..., use_awaitable): in Boost 1.81 a cancellation that crosses
    // executors keeps a raw pointer into a handler that may be gone when it arrives.
    struct State {
        explicit State(const asio::any_io_executor& here) : changed(here) {}
        Notifier changed;
        asio::cancellation_signal cancel; // used on `there` only
        bool is_done = false;
        std::exception_ptr thrown;
        std::optional<T> result;
    };
    const asio::any_io_executor here = co_await asio::this_coro::executor;
    auto state = std::make_shared<State>(here);
    auto on_end = [state, here](std::exception_ptr thrown, std::optional<T> result) {
        asio::post(here, [state, thrown, result = std::move(result)]() mutable {
            state->thrown = thrown;
            state->result = std::move(result);
            state->is_done = true;
            state->changed.notify();
        });
    };
    asio::co_spawn(
        there,
        detail::run_without_throw(std::move(operation)),
        asio::bind_cancellation_slot(state->cancel.slot(), std::move(on_end))
    );
    const Result<void> first = co_await state->changed.wait();
    if (first.has_error()) {
        asio::post(there, [state] { state->cancel.emit(asio::cancellation_type::terminal); });
    }
    while (!state->is_done) {
        co_await state->changed.wait_uncancelled();
    }
    if (state->thrown) {
        std::rethrow_exception(state->thrown);
    }
    co_return std::move(*state->result);
}

/// Calls a function that blocks (fdatasync, readdir, fork) on the pool's thread.
///
/// Cancellation: not cancellable; a blocking call is waited for.
/// Blocking:     the pool's thread, as long as the function takes
template <class Function>
[[nodiscard]] awaitable<std::invoke_result_t<Function>>
blocking(asio::thread_pool& pool, Function function) {
    auto work = detail::call(std::move(function));
    auto result = co_await asio::co_spawn(
        pool.get_executor(),
        std::move(work),
        asio::bind_cancellation_slot(asio::cancellation_slot(), asio::use_awaitable)
    );
    co_return std::move(*result);
}

} // namespace qhup
