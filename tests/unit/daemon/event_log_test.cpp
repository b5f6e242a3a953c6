// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/event_log.hpp"
#include "tests/support/catch.hpp"

#include <string>

using namespace qhup::daemon;
using Reason = EventLog::Gap::Reason;

namespace {

/// Events whose texts are their ids.
void add(EventLog& log, int count, const std::string& run = "", const std::string& vm = "") {
    for (int i = 0; i < count; ++i) {
        log.add(
            {.type = run.empty() ? "log" : "upgrade_phase",
             .run = run,
             .vm = vm,
             .text = std::to_string(log.next_id()) + " "}
        );
    }
}

} // namespace

TEST_CASE("a follower gets what came after the last event that he saw", "[daemon][events]") {
    EventLog log(101);
    CHECK(log.next_id() == 101);
    add(log, 3);
    const auto reading = log.read(101, {});
    CHECK_FALSE(reading.gap);
    CHECK(reading.text == "102 103 ");
    CHECK(reading.last == 103);
    CHECK(reading.is_at_end);
    CHECK(log.read(103, {}).text.empty());
    CHECK(log.read(103, {}).last == 103);
    CHECK_FALSE(log.read(100, {}).gap);
    CHECK(log.read(100, {}).text == "101 102 103 ");
}

TEST_CASE("a slow follower is told what the ring has forgotten", "[daemon][events]") {
    EventLog log(101, {.events = 4});
    add(log, 10);
    const auto reading = log.read(102, {});
    REQUIRE(reading.gap);
    CHECK(reading.gap->reason == Reason::slow);
    CHECK(reading.gap->first == 103);
    CHECK(reading.gap->last == 106);
    CHECK(reading.gap->count == 4);
    CHECK(reading.text == "107 108 109 110 ");
    CHECK_FALSE(log.read(106, {}).gap);
}

TEST_CASE("the ring is bounded in bytes, and keeps the last event anyway", "[daemon][events]") {
    EventLog log(1, {.events = 100, .bytes = 10});
    log.add({.type = "log", .run = "", .vm = "", .text = "123456"});
    log.add({.type = "log", .run = "", .vm = "", .text = "7890ab"});
    CHECK(log.read(0, {}).text == "7890ab");
    log.add({.type = "log", .run = "", .vm = "", .text = std::string(50, 'x')});
    CHECK(log.read(0, {}).text == std::string(50, 'x'));
    CHECK(log.read(1, {}).gap->count == 1);
}

TEST_CASE("an id of a daemon before this one, or of nobody, is told apart", "[daemon][events]") {
    EventLog log(101);
    const auto idle = log.read(50, {});
    REQUIRE(idle.gap);
    CHECK(idle.gap->reason == Reason::restart);
    CHECK(idle.last == 100);
    add(log, 2);
    const auto old = log.read(50, {});
    REQUIRE(old.gap);
    CHECK(old.gap->reason == Reason::restart);
    CHECK(old.gap->first == 51);
    CHECK(old.gap->last == 100);
    CHECK_FALSE(old.gap->count);
    CHECK(old.text == "101 102 ");
    const auto nobody = log.read(900, {});
    REQUIRE(nobody.gap);
    CHECK(nobody.gap->reason == Reason::unknown);
    CHECK(nobody.text == "101 102 ");
    CHECK(nobody.last == 102);
    CHECK_FALSE(log.read(0, {}).gap);
}

TEST_CASE("a filter hides events, and the reader comes forward all the same", "[daemon][events]") {
    EventLog log(1);
    add(log, 1);
    add(log, 1, "r1");
    add(log, 1, "r1", "vm1");
    add(log, 1, "r2", "vm1");
    add(log, 1, "", "vm2");
    CHECK(log.read(0, {.runs = {"r1"}, .vms = {}, .types = {}}).text == "2 3 ");
    CHECK(log.read(0, {.runs = {"r1", "r2"}, .vms = {}, .types = {}}).text == "2 3 4 ");
    CHECK(log.read(0, {.runs = {}, .vms = {"vm1"}, .types = {}}).text == "3 4 ");
    CHECK(log.read(0, {.runs = {"r1"}, .vms = {"vm1"}, .types = {}}).text == "3 ");
    CHECK(log.read(0, {.runs = {}, .vms = {}, .types = {"log"}}).text == "1 5 ");
    const auto nothing = log.read(0, {.runs = {"r9"}, .vms = {}, .types = {}});
    CHECK(nothing.text.empty());
    CHECK(nothing.last == 5);
}

TEST_CASE("much is given in parts", "[daemon][events]") {
    EventLog log(1, {.batch = 4});
    add(log, 5);
    const auto first = log.read(0, {});
    CHECK(first.text == "1 2 ");
    CHECK_FALSE(first.is_at_end);
    CHECK(log.read(first.last, {}).text == "3 4 ");
    CHECK(log.read(4, {}).is_at_end);
}

TEST_CASE("ids go back neither with the clock nor with the file", "[daemon][events]") {
    CHECK(first_event_id(0, 1'000) == 1'000);
    CHECK(first_event_id(5'000, 1'000) == 5'000);
    CHECK(first_event_id(0, 0) == 1);
}
