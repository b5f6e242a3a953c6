// SPDX-License-Identifier: GPL-2.0-or-later
#include "tests/support/catch.hpp"
#include "upgrade-engine/rehearsal_order.hpp"

using namespace qhup::upgrade;

namespace {

/// VMs 0, 2 and 3 are of one kind, 1 is of another; 4 was not added.
RehearsalOrder make_order() {
    RehearsalOrder order;
    order.add(0, "a");
    order.add(1, "b");
    order.add(2, "a");
    order.add(3, "a");
    return order;
}

std::vector<RehearsalTurn> turns_of(const RehearsalOrder& order) {
    std::vector<RehearsalTurn> turns;
    for (std::size_t vm = 0; vm < 5; ++vm) {
        turns.push_back(order.turn_of(vm));
    }
    return turns;
}

constexpr auto kWait = RehearsalTurn::wait;
constexpr auto kRehearse = RehearsalTurn::rehearse;
constexpr auto kGoOn = RehearsalTurn::go_on;
constexpr auto kGiveUp = RehearsalTurn::give_up;

} // namespace

TEST_CASE("the first VM of each kind is rehearsed, in the order of the run", "[upgrade][order]") {
    RehearsalOrder order = make_order();
    CHECK(turns_of(order) == std::vector{kRehearse, kRehearse, kWait, kWait, kGoOn});
    CHECK(order.contains(3));
    CHECK_FALSE(order.contains(4));
    // whoever is not asked cannot decide
    order.on_rehearsed(2, RehearsalFinding::failed);
    CHECK(turns_of(order) == std::vector{kRehearse, kRehearse, kWait, kWait, kGoOn});
    CHECK_FALSE(order.decided_by(3).has_value());
}

TEST_CASE("a rehearsal decides for its kind, and for no other one", "[upgrade][order]") {
    RehearsalOrder passed = make_order();
    passed.on_rehearsed(0, RehearsalFinding::passed);
    CHECK(turns_of(passed) == std::vector{kGoOn, kRehearse, kGoOn, kGoOn, kGoOn});
    RehearsalOrder failed = make_order();
    failed.on_rehearsed(0, RehearsalFinding::failed);
    CHECK(turns_of(failed) == std::vector{kGiveUp, kRehearse, kGiveUp, kGiveUp, kGoOn});
    CHECK(failed.decided_by(3) == 0U);
    CHECK_FALSE(failed.decided_by(1).has_value());
    // what is decided stays so
    failed.on_gone(2);
    failed.on_rehearsed(3, RehearsalFinding::passed);
    CHECK(failed.turn_of(3) == kGiveUp);
}

TEST_CASE("the next VM is asked where one says nothing, or leaves", "[upgrade][order]") {
    RehearsalOrder order = make_order();
    order.on_gone(2); // before its turn
    CHECK(turns_of(order)[0] == kRehearse);
    order.on_rehearsed(0, RehearsalFinding::nothing);
    CHECK(order.turn_of(3) == kRehearse);
    order.on_gone(3);
    order.on_gone(4);
    order.on_gone(1);
    CHECK_FALSE(order.decided_by(3).has_value());
    CHECK(order.turn_of(3) == kWait); // nobody is left who could go on
}
