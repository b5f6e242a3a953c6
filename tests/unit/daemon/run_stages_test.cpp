// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/run_stages.hpp"
#include "tests/support/catch.hpp"

using namespace qhup::daemon;

namespace {

using Stages = std::vector<std::uint32_t>;

/// Letters are kinds; a capital one cannot be upgraded.
std::vector<StageCandidate> make_order(const std::string& letters) {
    std::vector<StageCandidate> order;
    for (const char c : letters) {
        const bool can = c >= 'a';
        order.push_back(
            {.kind = std::string(1, can ? c : static_cast<char>(c + 32)), .can_be_upgraded = can}
        );
    }
    return order;
}

RunView make_run(const std::vector<std::pair<std::uint32_t, std::string>>& vms) {
    RunView run;
    for (const auto& [stage, outcome] : vms) {
        RunVmView vm;
        vm.vm = "vm" + std::to_string(run.vms.size());
        vm.stage = stage;
        vm.outcome = outcome;
        vm.to_build_id = "new";
        vm.run_state = "running";
        run.vms.push_back(vm);
    }
    return run;
}

VmView make_vm(const std::string& state) {
    VmView vm;
    vm.reachable = true;
    vm.build_id = "new";
    vm.state = state;
    return vm;
}

} // namespace

TEST_CASE("canaries are the first of the order, one of each kind first", "[daemon][stages]") {
    CHECK(
        plan_stages(make_order("aaabbc"), {.canaries = 3, .batch = 0}) == Stages{1, 2, 2, 1, 2, 1}
    );
    CHECK(
        plan_stages(make_order("aaabbc"), {.canaries = 2, .batch = 0}) == Stages{1, 2, 2, 1, 2, 2}
    );
    CHECK(plan_stages(make_order("aaabb"), {.canaries = 4, .batch = 0}) == Stages{1, 1, 1, 1, 2});
    // one that cannot be upgraded proves nothing
    CHECK(plan_stages(make_order("AaBb"), {.canaries = 2, .batch = 0}) == Stages{2, 1, 2, 1});
    CHECK(plan_stages(make_order("aab"), {.canaries = 9, .batch = 0}) == Stages{1, 1, 1});
}

TEST_CASE("what is left comes in batches, in the order of the run", "[daemon][stages]") {
    CHECK(plan_stages(make_order("aaaaa"), {.canaries = 1, .batch = 2}) == Stages{1, 2, 2, 3, 3});
    CHECK(plan_stages(make_order("aaaaa"), {.canaries = 0, .batch = 2}) == Stages{1, 1, 2, 2, 3});
    CHECK(plan_stages(make_order("AAaAA"), {.canaries = 1, .batch = 3}) == Stages{2, 2, 1, 2, 3});
}

TEST_CASE("a run that is one stage has no stages", "[daemon][stages]") {
    CHECK(plan_stages(make_order("aaa"), {}) == Stages{0, 0, 0});
    CHECK(plan_stages(make_order("aaa"), {.canaries = 0, .batch = 3}) == Stages{0, 0, 0});
    CHECK(plan_stages(make_order("AAA"), {.canaries = 2, .batch = 0}) == Stages{0, 0, 0});
    CHECK(plan_stages({}, {.canaries = 2, .batch = 2}).empty());
    CHECK(last_stage(make_run({{0, ""}})) == 0);
}

TEST_CASE("a stage is over when each of its VMs has an outcome", "[daemon][stages]") {
    const RunView run = make_run({{1, "upgraded"}, {2, ""}, {1, "refused"}, {2, "upgraded"}});
    CHECK(is_stage_over(run, 1));
    CHECK_FALSE(is_stage_over(run, 2));
    CHECK(last_stage(run) == 2);
    CHECK(make_stage(run, 1, true).name == "canaries");
    CHECK(make_stage(run, 1, false).name == "batch");
    CHECK(make_stage(run, 2, true).name == "batch");
    CHECK(make_stage(run, 2, true).of == 2);
}

TEST_CASE("a canary that is not on the release speaks for the others", "[daemon][stages]") {
    CHECK_FALSE(find_bad_canary(make_run({{1, "upgraded"}, {1, "unchanged"}, {2, "refused"}})));
    for (const char* outcome :
         {"refused", "rolled_back", "lost_contact", "needs_operator", "skipped"}) {
        RunView run = make_run({{1, "upgraded"}, {1, outcome}, {2, ""}});
        run.vms[1].code = "some_code";
        const auto bad = find_bad_canary(run);
        INFO(outcome);
        REQUIRE(bad.has_value());
        CHECK(bad->find("canary vm1 was ") == 0);
        CHECK(bad->find("(some_code)") != std::string::npos);
    }
}

TEST_CASE("a soak finds a VM that is not as it was left", "[daemon][stages]") {
    const RunView run = make_run({{1, "upgraded"}, {2, "upgraded"}, {1, "unchanged"}});
    CHECK(soaking_vms(run, 1) == std::vector<std::size_t>{0});
    const RunVmView& vm = run.vms.front();
    CHECK_FALSE(find_unwell(vm, make_vm("running")).has_value());
    CHECK(find_unwell(vm, std::nullopt)->find("not there") != std::string::npos);
    CHECK(find_unwell(vm, make_vm("paused"))->find("paused") != std::string::npos);
    CHECK(find_unwell(vm, make_vm("guest-panicked")).has_value());
    VmView other = make_vm("running");
    other.build_id = "old";
    CHECK(find_unwell(vm, other)->find("the release") != std::string::npos);
    other.run = "r2";
    CHECK_FALSE(find_unwell(vm, other).has_value());
    VmView silent = make_vm("running");
    silent.reachable = false;
    CHECK(find_unwell(vm, silent)->find("answer") != std::string::npos);
    RunVmView paused = vm;
    paused.run_state = "paused";
    CHECK_FALSE(find_unwell(paused, make_vm("paused")).has_value());
    CHECK_FALSE(find_unwell(paused, make_vm("running")).has_value());
}
