// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/fault_points.hpp"
#include "tests/support/catch.hpp"
#include "upgrade-engine/phase.hpp"

#include <algorithm>
#include <set>

using namespace qhup;
using namespace qhup::daemon;

TEST_CASE(
    "each phase, both ends of a run and a hold have a point before and after", "[daemon][faults]"
) {
    const auto names = all_fault_points();
    CHECK(names.size() == 2 * (upgrade::kAllPhases.size() + 3));
    CHECK(std::set<std::string>(names.begin(), names.end()).size() == names.size());
    for (const upgrade::Phase phase : upgrade::kAllPhases) {
        RunVmView vm;
        vm.phase = std::string(upgrade::to_string(phase));
        const std::string mark = mark_of(make_upgrade_row("r1", 0, vm));
        CHECK(std::count(names.begin(), names.end(), "journal." + mark + ".before") == 1);
        CHECK(std::count(names.begin(), names.end(), "journal." + mark + ".after") == 1);
    }
}

TEST_CASE("a point is reached by the mark that it names only", "[daemon][faults]") {
    RunView run;
    run.id = "r1";
    run.state = "running";
    run.vms.resize(1);
    run.vms[0].phase = "commit";
    const auto changes = put_whole(run);
    CHECK(is_fault_point("journal.run.before", changes, "before"));
    CHECK(is_fault_point("journal.commit.after", changes, "after"));
    CHECK_FALSE(is_fault_point("journal.commit.after", changes, "before"));
    CHECK_FALSE(is_fault_point("journal.verify.before", changes, "before"));
    CHECK_FALSE(is_fault_point("journal.finished.before", changes, "before"));
    CHECK_FALSE(is_fault_point("", changes, "before"));
    run.state = "finished";
    CHECK(is_fault_point("journal.finished.before", put_whole(run), "before"));
    CHECK_FALSE(is_fault_point("journal.run.before", {}, "before"));
    const JournalChange hold{
        JournalChange::Kind::put, make_hold_row({.vm = "vm1", .reason = "why"})};
    CHECK(is_fault_point("journal.hold.after", {hold}, "after"));
    CHECK_FALSE(is_fault_point("journal.run.after", {hold}, "after"));
}
