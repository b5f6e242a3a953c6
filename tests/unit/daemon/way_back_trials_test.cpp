// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/way_back_trials.hpp"
#include "tests/support/catch.hpp"

using namespace qhup::daemon;
using namespace std::chrono_literals;

namespace {

WayBackCandidate make_candidate(const std::string& vm, const std::string& rehearse = "first") {
    return {
        .vm = vm,
        .shape_class = "c1",
        .build_id = "new",
        .from = {.build_id = "old", .version = "7.2.22", .run = "r1", .moved_unix_ms = 1000},
        .rehearse = rehearse,
        .is_free = true};
}

RunView
make_trial(const std::string& vm, const std::string& outcome, const std::string& code = {}) {
    RunView run;
    run.id = "r2";
    run.kind = "way_back";
    run.finished_unix_ms = 40'000;
    run.vms.push_back({});
    run.vms.back().vm = vm;
    run.vms.back().shape_class = "c1";
    run.vms.back().from_build_id = "new";
    run.vms.back().to_build_id = "old";
    run.vms.back().outcome = outcome;
    run.vms.back().code = code;
    return run;
}

using Names = std::vector<std::string>;

} // namespace

TEST_CASE("the way back is rehearsed a while after the upgrade", "[daemon][way_back]") {
    const std::vector<WayBackCandidate> one{make_candidate("vm1")};
    const DueTrials early = choose_trials(one, {}, 30'999, 30s);
    CHECK(early.vms.empty());
    CHECK(early.look_again_ms == 31'000);
    CHECK(choose_trials(one, {}, 31'000, 30s).vms == Names{"vm1"});
}

TEST_CASE("one of each kind is rehearsed, or all, or none", "[daemon][way_back]") {
    const auto trials = [](const std::string& rehearse) {
        return choose_trials(
                   {make_candidate("vm1", rehearse), make_candidate("vm2", rehearse)},
                   {},
                   99'000,
                   30s
        )
            .vms;
    };
    CHECK(trials("first") == Names{"vm1"});
    CHECK(trials("all") == Names{"vm1", "vm2"});
    CHECK(trials("none").empty());
}

TEST_CASE("what a rehearsal has shown is not asked again", "[daemon][way_back]") {
    const RunView passed = make_trial("vm1", "rehearsed");
    const RunView failed = make_trial("vm1", "rolled_back", "load_failed");
    const RunView alone = make_trial("vm1", "rolled_back", "drain_timeout");
    const auto trials = [](const RunView& run, const std::string& rehearse) {
        return choose_trials(
                   {make_candidate("vm1", rehearse), make_candidate("vm2", rehearse)},
                   {&run},
                   99'000,
                   30s
        )
            .vms;
    };
    CHECK(trials(passed, "first").empty());
    CHECK(trials(passed, "all") == Names{"vm2"});
    CHECK(trials(failed, "first").empty());
    CHECK(trials(failed, "all").empty());
    // it says nothing about the kind, so the next VM of it is asked
    CHECK(trials(alone, "first") == Names{"vm2"});
}

TEST_CASE("a VM that moved again is rehearsed again", "[daemon][way_back]") {
    const RunView before = make_trial("vm1", "rolled_back", "drain_timeout");
    RunView move;
    move.id = "r3";
    WayBackCandidate candidate = make_candidate("vm1");
    candidate.from.run = "r3";
    CHECK(choose_trials({candidate}, {&move, &before}, 99'000, 30s).vms == Names{"vm1"});
    CHECK(choose_trials({make_candidate("vm1")}, {&before}, 99'000, 30s).vms.empty());
}

TEST_CASE("who was put off comes again later", "[daemon][way_back]") {
    const RunView stopped = make_trial("vm1", "refused", "stopped");
    const std::vector<WayBackCandidate> one{make_candidate("vm1")};
    const DueTrials early = choose_trials(one, {&stopped}, 69'999, 30s);
    CHECK(early.vms.empty());
    CHECK(early.look_again_ms == 70'000);
    CHECK(choose_trials(one, {&stopped}, 70'000, 30s).vms == Names{"vm1"});
}

TEST_CASE("a VM that is held or out of its window is left alone", "[daemon][way_back]") {
    WayBackCandidate held = make_candidate("vm1");
    held.is_free = false;
    const DueTrials due = choose_trials({held, make_candidate("vm2")}, {}, 99'000, 30s);
    CHECK(due.vms == Names{"vm2"});
    CHECK(due.look_again_ms == 399'000);
}

TEST_CASE("a VM that does not look as its last run left it is asked", "[daemon][way_back]") {
    RunView move = make_trial("vm1", "upgraded");
    move.vms.back().to_build_id = "new";
    const RunView older = make_trial("vm1", "upgraded"); // to "old"
    const RunHistory history{&move, &older};
    VmView vm;
    vm.name = "vm1";
    vm.build_id = "new";
    vm.upgradable = true;
    CHECK(choose_doubtful({vm}, history).empty());
    vm.build_id = "old";
    CHECK(choose_doubtful({vm}, history) == Names{"vm1"});
    vm.run = "r9";
    CHECK(choose_doubtful({vm}, history).empty());
    vm.run.clear();
    vm.build_id = "new";
    vm.upgradable = false;
    CHECK(choose_doubtful({vm}, history) == Names{"vm1"});
    vm.name = "stranger";
    CHECK(choose_doubtful({vm}, history).empty());
}

TEST_CASE("the newest try of a kind says what is known of a way back", "[daemon][way_back]") {
    const RunView passed = make_trial("vm1", "rehearsed");
    const RunView failed = make_trial("vm3", "rolled_back", "load_failed");
    const auto result = [](const RunHistory& history, const std::string& kind) {
        return WayTrials(history).find(kind, "new", "old").result;
    };
    using Result = WayTrial::Result;
    CHECK(result({&passed}, "c1") == Result::passed);
    CHECK(result({&passed}, "c2") == Result::none);
    CHECK(result({&passed}, "") == Result::none);
    CHECK(result({&failed, &passed}, "c1") == Result::failed);
    CHECK(result({&passed, &failed}, "c1") == Result::passed);
    const CameFrom from{.build_id = "old", .version = "7.2.22", .run = "r1"};
    const WayBack closed =
        judge_way_back(from, true, "", WayTrials({&failed}).find("c1", "new", "old"));
    CHECK_FALSE(closed.is_open);
    CHECK(closed.rehearsed == "failed");
    CHECK(closed.reason.find("VM vm3") != std::string::npos);
    CHECK(closed.reason.find("load_failed") != std::string::npos);
    const WayBack open =
        judge_way_back(from, true, "", WayTrials({&passed}).find("c1", "new", "old"));
    CHECK(open.is_open);
    CHECK(open.rehearsed == "passed");
}
