// SPDX-License-Identifier: GPL-2.0-or-later
//
// async.hpp and task_group.hpp in one program: each coroutine file costs much to compile.
#include "common/async.hpp"
#include "common/task_group.hpp"
#include "tests/support/capture_log.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/run_coroutine.hpp"

#include <stdexcept>
#include <thread>

using namespace qhup;
using std::chrono::milliseconds;
using std::chrono::seconds;
using test::run_coroutine;

namespace {

constexpr milliseconds kShort{5};
constexpr seconds kLong{30};

awaitable<Result<int>> return_after(Deadline::Clock::duration time, int value) {
    const Result<void> slept = co_await sleep_until(Deadline::in(time));
    if (slept.has_error()) {
        co_return slept.error();
    }
    co_return value;
}

/// Sleeps, and returns a value even when cancelled: an effect that had happened already.
awaitable<Result<int>> return_in_spite_of_cancel(int value) {
    ignore(co_await sleep_until(Deadline::in(kLong)), "the value is there anyhow");
    co_return value;
}

/// Does, when cancelled, something that must not be interrupted.
awaitable<void> run_with_undo(bool& is_undone) {
    const Result<void> slept = co_await sleep_until(Deadline::in(kLong));
    if (slept.has_error()) {
        co_await asio::this_coro::reset_cancellation_state(asio::disable_cancellation());
        const Result<void> undo = co_await sleep_until(Deadline::in(kShort));
        is_undone = undo.has_value();
    }
}

awaitable<void> run_for(Deadline::Clock::duration time, int& count) {
    ignore(co_await sleep_until(Deadline::in(time)), "ended or cancelled, it counts");
    ++count;
}

awaitable<void> run_and_throw() {
    throw std::runtime_error("a bug");
    co_return;
}

} // namespace

TEST_CASE("an operation within its deadline returns its value", "[common][async]") {
    run_coroutine([](Strand) -> awaitable<void> {
        const Result<int> result =
            co_await with_timeout(return_after(kShort, 7), Deadline::in(kLong), "waiting");
        CHECK(result.value() == 7);
        const Result<int> unbounded =
            co_await with_timeout(return_after(kShort, 8), Deadline::never(), "waiting");
        CHECK(unbounded.value() == 8);
    });
}

TEST_CASE("an operation beyond its deadline is ended and named", "[common][async]") {
    run_coroutine([](Strand) -> awaitable<void> {
        const Result<int> result =
            co_await with_timeout(return_after(kLong, 7), Deadline::in(kShort), "waiting for it");
        REQUIRE(result.has_error());
        CHECK(result.error().code == Errc::timed_out);
        CHECK(result.error().message == "waiting for it: took too long");
        CHECK(is_cancelled(result.error().also.at(0)));
    });
}

TEST_CASE("a value that came in spite of the deadline is not thrown away", "[common][async]") {
    run_coroutine([](Strand) -> awaitable<void> {
        const Result<int> result =
            co_await with_timeout(return_in_spite_of_cancel(7), Deadline::in(kShort), "waiting");
        CHECK(result.value() == 7);
    });
}

TEST_CASE("an operation's own failure is the answer", "[common][async]") {
    run_coroutine([](Strand) -> awaitable<void> {
        auto fail = []() -> awaitable<Result<int>> {
            co_return make_failure(Errc::not_found, "looking");
        };
        const Result<int> result = co_await with_timeout(fail(), Deadline::in(kLong), "waiting");
        CHECK(result.error().code == Errc::not_found);
    });
}

TEST_CASE("an exception of an operation passes through", "[common][async]") {
    const auto body = [](Strand) -> awaitable<void> {
        auto raise = []() -> awaitable<Result<int>> {
            throw std::runtime_error("a bug");
            co_return 1;
        };
        ignore(co_await with_timeout(raise(), Deadline::in(kLong), "waiting"), "it throws");
    };
    CHECK_THROWS_AS(run_coroutine(body), std::runtime_error);
}

TEST_CASE("cancelling the caller is cancelled, not timed out", "[common][async]") {
    std::optional<Result<int>> result;
    bool is_started_again = false;
    run_coroutine([&](Strand strand) -> awaitable<void> {
        auto wait = [](std::optional<Result<int>>& out, bool& again) -> awaitable<void> {
            out = co_await with_timeout(return_after(kLong, 7), Deadline::in(kLong), "waiting");
            auto mark = [](bool& mark_) -> awaitable<Result<int>> {
                mark_ = true;
                co_return 1;
            };
            const Result<int> second =
                co_await with_timeout(mark(again), Deadline::in(kLong), "waiting again");
            CHECK(is_cancelled(second.error()));
        };
        TaskGroup group(strand);
        group.spawn("wait", wait(result, is_started_again));
        ignore(co_await sleep_until(Deadline::in(kShort)), "let it start");
        group.request_stop();
        co_await group.join();
    });
    REQUIRE(result.has_value());
    CHECK(result->error().code == Errc::cancelled);
    CHECK_FALSE(is_started_again);
}

TEST_CASE("undo runs to its end, however often it is cancelled", "[common][async]") {
    bool is_undone = false;
    run_coroutine([&](Strand strand) -> awaitable<void> {
        TaskGroup group(strand);
        group.spawn("upgrade", run_with_undo(is_undone));
        ignore(co_await sleep_until(Deadline::in(kShort)), "let it start");
        group.request_stop();
        group.request_stop();
        ignore(co_await sleep_until(Deadline::in(milliseconds(1))), "let undo start");
        group.request_stop();
        co_await group.join();
    });
    CHECK(is_undone);
}

TEST_CASE("a notification before the wait is not lost, and counts once", "[common][async]") {
    run_coroutine([](Strand strand) -> awaitable<void> {
        Notifier notifier(strand);
        notifier.notify();
        notifier.notify();
        const Result<void> first = co_await notifier.wait(Deadline::in(kLong));
        CHECK(first.has_value());
        const Result<void> second = co_await notifier.wait(Deadline::in(kShort));
        CHECK(second.error().code == Errc::timed_out);
    });
}

TEST_CASE("work on another strand comes back to the caller's", "[common][async]") {
    run_coroutine([](Strand strand) -> awaitable<void> {
        const auto context = &strand.get_inner_executor().context();
        const Strand other = asio::make_strand(*context);
        auto work = [](Strand there) -> awaitable<Result<int>> {
            CHECK(there.running_in_this_thread());
            co_return 7;
        };
        const Result<int> result = co_await on_executor(other, work(other));
        CHECK(result.value() == 7);
        CHECK(strand.running_in_this_thread());
    });
}

TEST_CASE("cancellation reaches work on another strand, which is waited for", "[common][async]") {
    std::optional<Result<int>> result;
    run_coroutine([&](Strand strand) -> awaitable<void> {
        auto hop = [](Strand other, std::optional<Result<int>>& out) -> awaitable<void> {
            out = co_await on_executor(other, return_after(kLong, 7));
        };
        const auto context = &strand.get_inner_executor().context();
        TaskGroup group(strand);
        group.spawn("hop", hop(asio::make_strand(*context), result));
        ignore(co_await sleep_until(Deadline::in(kShort)), "let it start");
        group.request_stop();
        co_await group.join();
    });
    REQUIRE(result.has_value());
    CHECK(is_cancelled(result->error()));
}

TEST_CASE("blocking work runs on the pool's thread", "[common][async]") {
    asio::thread_pool pool(1);
    run_coroutine([&](Strand strand) -> awaitable<void> {
        const auto here = std::this_thread::get_id();
        const Result<bool> is_elsewhere = co_await blocking(pool, [here] {
            return Result<bool>(std::this_thread::get_id() != here);
        });
        CHECK(is_elsewhere.value());
        CHECK(strand.running_in_this_thread());
    });
}

TEST_CASE("a task group joins what it started, on any strand", "[common][task_group]") {
    int count = 0;
    int other_count = 0;
    run_coroutine([&](Strand strand) -> awaitable<void> {
        const auto context = &strand.get_inner_executor().context();
        TaskGroup group(strand);
        group.spawn("first", run_for(kShort, count));
        group.spawn("second", run_for(kLong, count));
        group.spawn("third", asio::make_strand(*context), run_for(kLong, other_count));
        CHECK(group.size() == 3);
        group.request_stop();
        co_await group.join();
        CHECK(group.size() == 0);
    });
    CHECK(count == 2);
    CHECK(other_count == 1);
}

TEST_CASE("what is started after the stop starts cancelled", "[common][task_group]") {
    int count = 0;
    run_coroutine([&](Strand strand) -> awaitable<void> {
        TaskGroup group(strand);
        group.request_stop();
        group.spawn("late", run_for(kLong, count));
        co_await group.join();
    });
    CHECK(count == 1);
}

TEST_CASE("an exception in a root coroutine is reported with its name", "[common][task_group]") {
    std::string report;
    run_coroutine([&](Strand strand) -> awaitable<void> {
        TaskGroup group(strand, [&](const std::string& name, const std::string& what) {
            report = name + ": " + what;
        });
        group.spawn("buggy", run_and_throw());
        co_await group.join();
    });
    CHECK(report == "buggy: a bug");
}
