// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/rehearsal_choice.hpp"
#include "tests/support/catch.hpp"

using namespace qhup::daemon;
using qhup::upgrade::RehearsalTurn;

namespace {

RunVmView make_vm(const std::string& name, const std::string& kind, std::uint32_t stage = 0) {
    RunVmView vm;
    vm.vm = name;
    vm.shape_class = kind;
    vm.from_build_id = "old";
    vm.to_build_id = "new";
    vm.stage = stage;
    return vm;
}

} // namespace

TEST_CASE("the first of each kind is rehearsed, the others wait for it", "[daemon][rehearsal]") {
    RunView run;
    run.vms = {make_vm("a", "c1"), make_vm("b", "c1"), make_vm("c", "c2"), make_vm("d", "c1")};
    const auto chosen = choose_rehearsals(run, {"first", "first", "first", "none"}, {});
    CHECK(chosen.turn_of(0) == RehearsalTurn::rehearse);
    CHECK(chosen.turn_of(1) == RehearsalTurn::wait);
    CHECK(chosen.turn_of(2) == RehearsalTurn::rehearse);
    CHECK_FALSE(chosen.contains(3));
}

TEST_CASE("no VM waits for one of a later stage", "[daemon][rehearsal]") {
    RunView run;
    run.vms = {make_vm("a", "c1", 2), make_vm("b", "c1", 1)};
    const auto chosen = choose_rehearsals(run, {"first", "first"}, {});
    CHECK(chosen.turn_of(0) == RehearsalTurn::wait);
    CHECK(chosen.turn_of(1) == RehearsalTurn::rehearse);
}

TEST_CASE("a kind that has made the way is not rehearsed again", "[daemon][rehearsal]") {
    RunView run;
    run.vms = {make_vm("a", "c1"), make_vm("b", "c2")};
    RunView before;
    before.vms = {make_vm("x", "c1")};
    before.vms[0].outcome = "upgraded";
    before.vms[0].pause_ms = 9;
    const auto chosen = choose_rehearsals(run, {"first", "first"}, {&before});
    CHECK_FALSE(chosen.contains(0));
    CHECK(chosen.contains(1));
}

TEST_CASE("who has ended, is there already or is of no known kind is not", "[daemon][rehearsal]") {
    RunView run;
    run.vms = {make_vm("a", "c1"), make_vm("b", "c2"), make_vm("c", "")};
    run.vms[0].outcome = "refused";
    run.vms[1].from_build_id = "new";
    const auto chosen = choose_rehearsals(run, {"first", "first", "first"}, {});
    CHECK_FALSE(chosen.contains(0));
    CHECK_FALSE(chosen.contains(1));
    CHECK_FALSE(chosen.contains(2));
}
