// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/pause_history.hpp"
#include "tests/support/catch.hpp"

using namespace qhup::daemon;
using namespace std::chrono_literals;

namespace {

RunVmView make_vm(const std::string& outcome) {
    RunVmView vm;
    vm.vm = "vm1";
    vm.outcome = outcome;
    vm.shape_class = "c1";
    vm.from_build_id = "old";
    vm.to_build_id = "new";
    return vm;
}

RunVmView make_upgraded(double pause_ms) {
    RunVmView vm = make_vm("upgraded");
    vm.pause_ms = pause_ms;
    vm.timings_ns = {{"activate", 2'000'000}, {"start", 1'000'000}};
    return vm;
}

RunVmView make_rehearsed(double predicted_ms) {
    RunVmView vm = make_vm("rehearsed");
    vm.rehearsal = RehearsalView{"passed", "", "", "", 3.0, predicted_ms};
    return vm;
}

RunView make_run(const std::string& id, std::vector<RunVmView> vms) {
    RunView run;
    run.id = id;
    run.vms = std::move(vms);
    return run;
}

RunHistory history_of(const std::vector<RunView>& runs) {
    RunHistory history;
    for (const RunView& run : runs) {
        history.push_back(&run);
    }
    return history;
}

std::optional<qhup::upgrade::PausePrediction>
predict(const std::vector<RunView>& runs, const std::string& vm) {
    return predict_pause(history_of(runs), vm);
}

bool is_proven_way(
    const std::vector<RunView>& runs,
    const std::string& shape_class,
    const std::string& from,
    const std::string& to
) {
    return is_way_proven(history_of(runs), shape_class, from, to);
}

} // namespace

TEST_CASE("a pause is predicted from what was measured last", "[daemon][pause_history]") {
    CHECK_FALSE(predict({}, "vm1").has_value());
    CHECK_FALSE(predict({make_run("r1", {make_vm("rolled_back")})}, "vm1").has_value());
    CHECK_FALSE(predict({make_run("r1", {make_upgraded(9)})}, "vm2").has_value());
    const auto upgraded = predict({make_run("r2", {make_upgraded(9)})}, "vm1");
    REQUIRE(upgraded.has_value());
    CHECK(upgraded->pause == 9ms);
    CHECK(upgraded->takeover == 3ms);
    CHECK(upgraded->basis.find("r2") != std::string::npos);
    const auto rehearsed =
        predict({make_run("r3", {make_rehearsed(20)}), make_run("r2", {make_upgraded(9)})}, "vm1");
    REQUIRE(rehearsed.has_value());
    CHECK(rehearsed->pause == 20ms);
    CHECK(rehearsed->takeover == 3ms); // no rehearsal measures that
    CHECK(rehearsed->basis.find("r3") != std::string::npos);
    const auto later =
        predict({make_run("r3", {make_upgraded(9)}), make_run("r2", {make_rehearsed(20)})}, "vm1");
    REQUIRE(later.has_value());
    CHECK(later->pause == 9ms);
}

TEST_CASE("a way is proven by the last of its kind that went it", "[daemon][pause_history]") {
    const auto is_proven = [](std::vector<RunVmView> newest_first) {
        std::vector<RunView> runs;
        for (RunVmView& vm : newest_first) {
            runs.push_back(make_run("r", {std::move(vm)}));
        }
        return is_proven_way(runs, "c1", "old", "new");
    };
    RunVmView failed = make_vm("rolled_back");
    failed.code = "load_failed";
    RunVmView busy = make_vm("rolled_back");
    busy.code = "drain_timeout";
    RunVmView back = make_upgraded(9);
    back.from_build_id = "new";
    back.to_build_id = "old";
    CHECK(is_proven({make_upgraded(9)}));
    CHECK(is_proven({make_rehearsed(9)}));
    CHECK(is_proven({busy, make_upgraded(9)}));
    CHECK_FALSE(is_proven({failed, make_upgraded(9)}));
    CHECK(is_proven({make_upgraded(9), failed}));
    CHECK_FALSE(is_proven({back}));
    CHECK_FALSE(is_proven({}));
    CHECK_FALSE(is_proven_way({make_run("r", {make_upgraded(9)})}, "c2", "old", "new"));
    CHECK_FALSE(is_proven_way({make_run("r", {make_vm("upgraded")})}, "", "old", "new"));
}
