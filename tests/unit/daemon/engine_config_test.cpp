// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/engine_config.hpp"
#include "tests/support/catch.hpp"

using namespace qhup::daemon;
using namespace std::chrono_literals;

TEST_CASE("the engine keeps to what the operator has set", "[daemon][engine_config]") {
    Config config;
    config.deadlines.prepare = 7s;
    config.deadlines.verify = 3s;
    config.deadlines.drain = 90ms;
    config.deadlines.pause_budget = 210ms;
    config.leases.prepared = 33s;
    config.leases.frozen = 800ms;
    config.trusted_supervisors = {"vm-*.service"};
    const auto runner = make_runner_config(config);
    CHECK(runner.deadlines.at(qhup::upgrade::Phase::prepare) == 7s);
    CHECK(runner.watch_window == 3s);
    CHECK(runner.switch_limits.drain_deadline == 90ms);
    CHECK(runner.switch_limits.budget == 210ms);
    CHECK(runner.lease == 33s);
    CHECK(runner.switch_limits.frozen_lease == 800ms);
    CHECK(runner.trusted_supervisors == std::vector<std::string>{"vm-*.service"});
}

TEST_CASE("starts of standbys leave the pauses their processors", "[daemon][engine_config]") {
    Config config;
    config.parallel = 8;
    CHECK(make_scheduler_limits(config, 0).prepare_slots == 2);
    CHECK(make_scheduler_limits(config, 2).prepare_slots == 2);
    CHECK(make_scheduler_limits(config, 2).pause_slots == 1);
    CHECK(make_scheduler_limits(config, 8).prepare_slots == 4);
    CHECK(make_scheduler_limits(config, 8).pause_slots == 4);
    CHECK(make_scheduler_limits(config, 64).prepare_slots == 8);
    config.parallel = 1;
    CHECK(make_scheduler_limits(config, 64).prepare_slots == 1);
    config.parallel = 8;
    config.pause_slots = 7;
    CHECK(make_scheduler_limits(config, 4).prepare_slots == 2);
}
