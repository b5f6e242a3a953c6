// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/way_back.hpp"
#include "tests/support/catch.hpp"

using namespace qhup::daemon;

namespace {

RunVmView make_vm(const std::string& from, const std::string& to, const std::string& outcome) {
    RunVmView vm;
    vm.vm = "vm1";
    vm.outcome = outcome;
    vm.from = "7.2.22";
    vm.from_build_id = from;
    vm.to_build_id = to;
    return vm;
}

RunView make_run(const std::string& id, RunVmView vm) {
    RunView run;
    run.id = id;
    run.vms.push_back(std::move(vm));
    return run;
}

} // namespace

TEST_CASE("the way back of a VM is the newest that led to where it is", "[daemon][way_back]") {
    const RunView failed = make_run("r3", make_vm("old", "new", "rolled_back"));
    const RunView back = make_run("r2", make_vm("new", "old", "upgraded"));
    const RunView forth = make_run("r1", make_vm("old", "new", "upgraded"));
    const RunHistory history{&failed, &back, &forth};
    const auto from_new = find_way_back(history, "vm1", "new");
    REQUIRE(from_new.has_value());
    CHECK(from_new->build_id == "old");
    CHECK(from_new->version == "7.2.22");
    CHECK(from_new->run == "r1");
    CHECK(find_way_back(history, "vm1", "old")->build_id == "new");
    CHECK_FALSE(find_way_back(history, "vm1", "third").has_value());
    CHECK_FALSE(find_way_back(history, "vm1", "").has_value());
    CHECK_FALSE(find_way_back(history, "vm2", "new").has_value());
}

TEST_CASE("ways back of many VMs are those of each", "[daemon][way_back]") {
    RunView all = make_run("r1", make_vm("old", "new", "upgraded"));
    for (const char* const vm : {"vm2", "vm3", "vm4"}) {
        all.vms.push_back(all.vms.front());
        all.vms.back().vm = vm;
    }
    all.vms[2].outcome = "rolled_back"; // vm3
    RunView newer = make_run("r2", make_vm("older", "new", "upgraded"));
    newer.vms.front().vm = "vm2";
    const RunHistory history{&newer, &all};
    const std::unordered_map<std::string, std::string> build_ids{
        {"vm1", "new"}, {"vm2", "new"}, {"vm3", "new"}, {"vm4", "third"}, {"vm5", "new"}};
    const auto ways = find_ways_back(history, build_ids);
    CHECK(ways.size() == 2);
    for (const auto& [vm, way] : ways) {
        const auto alone = find_way_back(history, vm, build_ids.at(vm));
        REQUIRE(alone.has_value());
        CHECK(way.build_id == alone->build_id);
        CHECK(way.run == alone->run);
    }
    CHECK(ways.at("vm2").build_id == "older");
    CHECK(ways.at("vm2").run == "r2");
    CHECK(find_ways_back({}, build_ids).empty());
}

TEST_CASE("a way back is open while the binary at its end is kept", "[daemon][way_back]") {
    const CameFrom from{.build_id = "old", .version = "7.2.22", .run = "r1"};
    const WayBack open = judge_way_back(from, true, "");
    CHECK(open.is_open);
    CHECK(open.version == "7.2.22");
    CHECK(open.reason.empty());
    const WayBack unknown = judge_way_back(from, false, "");
    CHECK_FALSE(unknown.is_open);
    CHECK(unknown.build_id == "old");
    CHECK(unknown.reason == "The binary that it came from, 7.2.22, is not kept");
    CHECK(judge_way_back(from, false, "The disk is full").reason == "The disk is full");
    const WayBack nowhere = judge_way_back(std::nullopt, false, "");
    CHECK_FALSE(nowhere.is_open);
    CHECK(nowhere.version.empty());
    CHECK(nowhere.reason == "No run that is remembered brought the VM to the binary that it runs");
}

TEST_CASE("a VM that was not well after its upgrade can go back", "[daemon][way_back]") {
    for (const char* outcome : {"needs_operator", "lost_contact"}) {
        INFO(outcome);
        const RunView unwell = make_run("r1", make_vm("old", "new", outcome));
        const auto from = find_way_back({&unwell}, "vm1", "new");
        REQUIRE(from.has_value());
        CHECK(from->build_id == "old");
        // it runs what it ran: it has not moved, whatever became of the upgrade
        CHECK_FALSE(find_way_back({&unwell}, "vm1", "old").has_value());
    }
}

TEST_CASE("a revert of a run takes all that it has moved", "[daemon][way_back]") {
    RunView run;
    const auto add = [&run](const char* name, const char* outcome) {
        run.vms.push_back(make_vm("old", "new", outcome));
        run.vms.back().vm = name;
    };
    add("moved", "upgraded");
    add("moved-on", "upgraded");
    add("unwell", "needs_operator");
    add("stayed", "needs_operator");
    add("unknown", "lost_contact");
    add("refused", "refused");
    add("gone", "upgraded");
    const auto moved = choose_moved(
        run,
        {{"moved", "new"},
         {"moved-on", "newer"},
         {"unwell", "new"},
         {"stayed", "old"},
         {"unknown", ""},
         {"refused", "new"}}
    );
    std::string names;
    for (const RunVmView& vm : moved) {
        names += vm.vm + " ";
    }
    CHECK(names == "moved moved-on unwell ");
}
