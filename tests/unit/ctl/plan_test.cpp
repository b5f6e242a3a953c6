// SPDX-License-Identifier: GPL-2.0-or-later
#include "ctl/plan.hpp"
#include "tests/support/catch.hpp"

using namespace qhup;
using namespace qhup::ctl;

namespace {

Plan make_plan() {
    Plan plan;
    plan.verb = "Upgrade";
    plan.to = "deb13";
    plan.work.push_back({"vm1", "7.2.22", "deb13", 12.04});
    plan.work.push_back({"web-2", "7.2.22", "deb13", std::nullopt});
    plan.left_out.push_back(
        {"vm3", "blocked", "Use a pty.", {{"chardev/serial0", "chardev", "Use a pty."}}}
    );
    plan.left_out.push_back({"vm4", "already_on_release", "it runs this release already"});
    return plan;
}

bool has(const std::string& text, const std::string& part) {
    return text.find(part) != std::string::npos;
}

} // namespace

TEST_CASE("a plan says who moves, who does not and why, and the longest pause", "[ctl][plan]") {
    CHECK(
        render_plan(make_plan()) ==
        "Upgrade 2 VMs to release deb13, while they run:\n"
        "\n"
        "  VM     FROM    TO     PAUSE TO EXPECT\n"
        "  vm1    7.2.22  deb13  about 12.0 ms\n"
        "  web-2  7.2.22  deb13  not measured yet\n"
        "\n"
        "Not touched\n"
        "  vm3:\n"
        "    chardev/serial0: Use a pty.\n"
        "  vm4: it runs this release already.\n"
        "\n"
        "Longest pause to expect: about 12.0 ms; 1 of 2 VMs were never measured. One that would "
        "become longer than pause_budget of the configuration is given up, and that guest runs on "
        "where it is.\n"
    );
}

TEST_CASE("a plan names the budget that the command line gave, and warnings", "[ctl][plan]") {
    Plan plan = make_plan();
    plan.pause_budget_ms = 50;
    plan.work[1].warnings.push_back({"netdev/n0", "packet-loss", "Packets will be lost."});
    const std::string text = render_plan(plan);
    CHECK(has(text, "longer than 50.0 ms is given up"));
    CHECK(has(text, "Warning for web-2\n  netdev/n0: Packets will be lost.\n"));
}

TEST_CASE("a plan names every pause, and the budget that is configured", "[ctl][plan]") {
    Plan plan = make_plan();
    for (PlannedVm& vm : plan.work) {
        vm.kind = "pc 7.2";
        vm.rehearse = "first";
        vm.rehearse_back = "first";
        vm.budget_ms = 300;
    }
    choose_rehearsed(plan.work);
    CHECK(plan.work[0].is_rehearsed);
    CHECK_FALSE(plan.work[1].is_rehearsed);
    const std::string text = render_plan(plan);
    CHECK(has(text, "longer than 300.0 ms is given up"));
    CHECK(has(text, "vm1 is paused once more before, for a rehearsal, about as long.\n"));
    CHECK(has(text, "After the run the way back is rehearsed in the background"));
    CHECK(has(text, "of one VM of each kind.\n"));

    plan.work[1].rehearse = "all";
    plan.work[1].budget_ms = 50;
    choose_rehearsed(plan.work);
    CHECK(has(render_plan(plan), "for a rehearsal, about as long: vm1, web-2.\n"));
    CHECK(has(render_plan(plan), "its VM's pause_budget (50.0 ms to 300.0 ms) is given up"));

    plan.work.pop_back();
    plan.work[0].is_way_known = true;
    plan.work[0].rehearse_back = "none";
    choose_rehearsed(plan.work);
    CHECK(has(render_plan(plan), "Upgrade 1 VM to release deb13, while it runs:"));
    CHECK_FALSE(has(render_plan(plan), "rehears"));
}

TEST_CASE("the first of its kind in the order of the run is rehearsed", "[ctl][plan]") {
    std::vector<PlannedVm> work(4);
    const char* const names[] = {"b", "a", "z", "other"};
    for (std::size_t i = 0; i < work.size(); ++i) {
        work[i].vm = names[i];
        work[i].kind = "one";
        work[i].rehearse = "first";
    }
    work[2].priority = 1;
    work[3].kind = "";
    choose_rehearsed(work);
    CHECK(work[2].is_rehearsed);
    CHECK_FALSE((work[0].is_rehearsed || work[1].is_rehearsed || work[3].is_rehearsed));
    work[2].priority = 0;
    choose_rehearsed(work);
    CHECK(work[1].is_rehearsed);
}

TEST_CASE("whose policy allows less than the command line is named", "[ctl][plan]") {
    Plan plan = make_plan();
    plan.pause_budget_ms = 200;
    plan.work[0].policy_budget_ms = 10;
    plan.work[1].policy_budget_ms = 500;
    CHECK(has(
        render_plan(plan), "--pause-budget does not lift what a policy allows: 10.0 ms for vm1.\n"
    ));
    CHECK(render_caps(plan.work, 5).empty());
}

TEST_CASE("a run says which pauses come behind it", "[ctl][plan]") {
    CHECK(render_pauses_to_come({}, false).empty());
    CHECK(has(render_pauses_to_come({"vm1"}, false), "The way back of vm1 is rehearsed later"));
    CHECK(has(render_pauses_to_come({"vm1", "vm2"}, true), "of each: vm1, vm2.\n"));
    CHECK(has(render_pauses_to_come({"vm1", "vm2"}, false), "one VM of each kind: vm1, vm2.\n"));
}

TEST_CASE("a plan with nobody to work on says so and has an exit status", "[ctl][plan]") {
    Plan plan = make_plan();
    plan.work.clear();
    CHECK(has(render_plan(plan), "Upgrade 0 VMs to release deb13: there is nothing to do.\n"));
    CHECK(exit_status_of_nothing(plan) == ExitStatus::refused);
    plan.left_out.erase(plan.left_out.begin());
    CHECK(exit_status_of_nothing(plan) == ExitStatus::nothing_to_do);
    plan.left_out = {{"vm1", "skipped", "left out"}};
    CHECK(exit_status_of_nothing(plan) == ExitStatus::nothing_to_do);
    plan.left_out = {{"vm1", "not_answering", "silent"}};
    CHECK(exit_status_of_nothing(plan) == ExitStatus::try_later);
}

TEST_CASE("a plan of a thousand VMs does not hide the question", "[ctl][plan]") {
    Plan plan = make_plan();
    plan.work.assign(1000, plan.work.front());
    const std::string text = render_plan(plan);
    CHECK(std::count(text.begin(), text.end(), '\n') < 40);
    CHECK(has(text, "… and 980 more"));
}

TEST_CASE("the newest measured or predicted pause of a VM is expected", "[ctl][plan]") {
    daemon::RunView old;
    old.vms.resize(2);
    old.vms[0].vm = "vm1";
    old.vms[0].outcome = "upgraded";
    old.vms[0].pause_ms = 20.0;
    old.vms[1].vm = "vm2";
    old.vms[1].outcome = "refused";
    daemon::RunView young = old;
    young.vms[0].outcome = "rehearsed";
    young.vms[0].pause_ms = 9.0;
    young.vms[0].rehearsal = daemon::RehearsalView{};
    young.vms[0].rehearsal->predicted_pause_ms = 14.0;
    CHECK(expected_pause({young, old}, "vm1") == 14.0);
    CHECK(expected_pause({old, young}, "vm1") == 20.0);
    CHECK_FALSE(expected_pause({young, old}, "vm2").has_value());
}

TEST_CASE("a word is quoted only where the shell needs it", "[ctl][plan]") {
    CHECK(shell_quoted("vm-1.x") == "vm-1.x");
    CHECK(shell_quoted("a b") == "'a b'");
    CHECK(shell_quoted("it's") == "'it'\\''s'");
    CHECK(shell_quoted("") == "''");
    CHECK(shell_quoted("$(x)") == "'$(x)'");
}
