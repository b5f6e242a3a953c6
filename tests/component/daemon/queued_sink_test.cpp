// SPDX-License-Identifier: GPL-2.0-or-later
#include "common/log_fields.hpp"
#include "daemon/queued_sink.hpp"
#include "tests/support/catch.hpp"

#include <spdlog/logger.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <memory>
#include <mutex>

using namespace qhup;
using namespace qhup::daemon;
using namespace std::chrono_literals;

namespace {

/// A journald that can be stopped.
struct FakeJournald {
    std::mutex mutex;
    std::condition_variable changed;
    bool is_stuck = false;
    bool has_begun = false;
    std::vector<std::vector<std::string>> taken;

    bool take(const QueuedMessage& message) {
        std::unique_lock lock(mutex);
        has_begun = true;
        changed.notify_all();
        changed.wait(lock, [this] { return !is_stuck; });
        taken.push_back(to_journald_fields(message));
        return true;
    }
    void set_stuck(bool stuck) {
        const std::lock_guard lock(mutex);
        is_stuck = stuck;
        changed.notify_all();
    }
    bool wait_until_it_is_asked() {
        std::unique_lock lock(mutex);
        return changed.wait_for(lock, 5s, [this] { return has_begun; });
    }
};

bool has(const std::vector<std::string>& fields, const std::string& field) {
    return std::find(fields.begin(), fields.end(), field) != fields.end();
}

} // namespace

TEST_CASE("journald gets priority, text and fields", "[daemon][log]") {
    const auto journald = std::make_shared<FakeJournald>();
    const auto sink = std::make_shared<QueuedSink>([journald](const auto& message) {
        return journald->take(message);
    });
    spdlog::logger logger("test", sink);
    {
        const LogFields fields(std::vector<LogField>{LogField{"QHUPD_VM", "a\nb"}});
        logger.warn("one {}", 1);
    }
    logger.info("two");
    REQUIRE(sink->drain(5s));
    REQUIRE(journald->taken.size() == 2);
    CHECK(has(journald->taken[0], "MESSAGE=one 1"));
    CHECK(has(journald->taken[0], "PRIORITY=4"));
    CHECK(has(journald->taken[0], "QHUPD_VM=a\nb"));
    CHECK(has(journald->taken[1], "PRIORITY=6"));
    CHECK_FALSE(has(journald->taken[1], "QHUPD_VM=a\nb"));
}

TEST_CASE("what could not be written is counted until that can be told", "[daemon][log]") {
    auto taken = std::make_shared<std::vector<QueuedMessage>>();
    auto is_broken = std::make_shared<std::atomic<bool>>(true);
    const auto sink = std::make_shared<QueuedSink>([taken, is_broken](const auto& message) {
        if (!*is_broken) {
            taken->push_back(message);
        }
        return !*is_broken;
    });
    spdlog::logger logger("test", sink);
    for (int i = 0; i < 50; ++i) {
        logger.info("{}", i);
    }
    REQUIRE(sink->drain(5s));
    *is_broken = false;
    logger.info("again");
    REQUIRE(sink->drain(5s));
    REQUIRE(taken->size() == 2);
    CHECK(taken->at(0).text == "again");
    CHECK(taken->at(1).text.starts_with("50 messages were lost"));
}

TEST_CASE(
    "who logs does not wait for a journald that hangs, and what was lost is counted",
    "[daemon][log]"
) {
    const auto journald = std::make_shared<FakeJournald>();
    journald->set_stuck(true);
    const auto sink = std::make_shared<QueuedSink>(
        [journald](const auto& message) { return journald->take(message); }, 10
    );
    spdlog::logger logger("test", sink);
    logger.info("first");
    REQUIRE(journald->wait_until_it_is_asked());
    for (int i = 0; i < 100; ++i) {
        logger.info("{}", i);
    }
    CHECK_FALSE(sink->drain(1ms));
    journald->set_stuck(false);
    REQUIRE(sink->drain(5s));
    REQUIRE(journald->taken.size() == 1 + 10 + 1);
    CHECK(has(journald->taken[1], "MESSAGE=0"));
    CHECK(has(journald->taken[2], "QHUPD_LOST=90"));
}
