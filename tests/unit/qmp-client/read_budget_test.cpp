// SPDX-License-Identifier: GPL-2.0-or-later
#include "qmp-client/read_budget.hpp"
#include "tests/support/catch.hpp"

using qhup::qmp::ReadBudget;
using std::chrono::duration;
using std::chrono::milliseconds;
using std::chrono::seconds;

TEST_CASE("a peer within its rate is never paused", "[qmp][read_budget]") {
    ReadBudget budget(1000);
    ReadBudget::TimePoint now{seconds(100)};
    for (int i = 0; i < 1000; ++i) {
        now += milliseconds(100);
        CHECK(budget.on_read(100, now) == seconds(0));
    }
}

TEST_CASE("a burst passes, a flood is slowed to the rate", "[qmp][read_budget]") {
    ReadBudget budget(1000);
    ReadBudget::TimePoint now{seconds(100)};
    CHECK(budget.on_read(2000, now) == seconds(0));
    duration<double> paused{0};
    for (int i = 0; i < 100; ++i) {
        const auto pause = budget.on_read(1000, now);
        paused += pause;
        now += pause;
    }
    CHECK(paused.count() == Approx(100).epsilon(0.01));
}

TEST_CASE("a long silence does not save up more than a burst", "[qmp][read_budget]") {
    ReadBudget budget(1000);
    ReadBudget::TimePoint now{seconds(100)};
    CHECK(budget.on_read(1, now) == seconds(0));
    now += std::chrono::hours(10);
    CHECK(budget.on_read(3000, now) > milliseconds(900));
}
