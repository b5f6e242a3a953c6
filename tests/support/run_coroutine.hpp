// SPDX-License-Identifier: GPL-2.0-or-later
//
// Runs a coroutine to its end on a strand, on as many threads as the preset says: two under
// ThreadSanitizer, so that strands, not luck, protect us.
#pragma once

#include "common/async.hpp"

#include <exception>
#include <thread>
#include <vector>

#ifndef QHUP_TEST_THREADS
#define QHUP_TEST_THREADS 1
#endif

namespace qhup::test {

/// Calls body(strand), which returns awaitable<void>, and waits until all work is done. What it
/// throws (a failed REQUIRE) is thrown here. The body may capture: it outlives the coroutine.
template <class Body>
void run_coroutine(Body body) {
    asio::io_context io(QHUP_TEST_THREADS);
    const Strand strand = asio::make_strand(io);
    std::exception_ptr thrown;
    auto root = [](Body& each, Strand on) -> awaitable<void> {
        co_await asio::this_coro::throw_if_cancelled(false);
        co_await each(on);
    };
    asio::co_spawn(strand, root(body, strand), [&](std::exception_ptr error) {
        thrown = error;
        if (error) {
            io.stop();
        }
    });
    std::vector<std::thread> threads;
    for (int i = 1; i < QHUP_TEST_THREADS; ++i) {
        threads.emplace_back([&] { io.run(); });
    }
    io.run();
    for (std::thread& each : threads) {
        each.join();
    }
    if (thrown) {
        std::rethrow_exception(thrown);
    }
}

} // namespace qhup::test
