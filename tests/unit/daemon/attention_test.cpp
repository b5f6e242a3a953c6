// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/attention.hpp"
#include "tests/support/catch.hpp"

using namespace qhup::daemon;

namespace {

RunView make_run(const std::string& id, const std::string& outcome, const std::string& vm = "vm1") {
    RunView run;
    run.id = id;
    run.kind = "upgrade";
    run.started_unix_ms = 5000;
    run.request = RunRequest();
    run.request->vms = {vm};
    run.vms.emplace_back();
    run.vms.back().vm = vm;
    run.vms.back().upgrade = id + ".0";
    run.vms.back().outcome = outcome;
    run.vms.back().code = "probe_failed";
    run.vms.back().message = "Look at the guest.";
    run.vms.back().since_ms = 700;
    return run;
}

} // namespace

TEST_CASE("a VM needs an operator after an upgrade that says so", "[daemon][attention]") {
    Attention attention;
    CHECK_FALSE(attention.on_end(make_run("r1", "needs_operator"), 0));
    CHECK_FALSE(attention.on_end(make_run("r2", "lost_contact", "vm2"), 0));
    CHECK_FALSE(attention.on_end(make_run("r3", "rolled_back", "vm3"), 0));
    const auto first = attention.find("vm1");
    REQUIRE(first);
    CHECK(first->run == "r1");
    CHECK(first->code == "probe_failed");
    CHECK(first->message == "Look at the guest.");
    CHECK(first->next_step.find("'qhupd-ctl status r1'") != std::string::npos);
    CHECK(first->since_unix_ms == 5700);
    CHECK(attention.find("vm2"));
    CHECK_FALSE(attention.find("vm3"));
    CHECK(attention.list().size() == 2);
    attention.forget("r1");
    CHECK(attention.list().size() == 1);
}

TEST_CASE("what a VM needed is over when it is no longer true", "[daemon][attention]") {
    struct Row {
        const char* outcome;
        const char* kind;
        bool is_all;
        bool is_dry_run;
        bool is_over;
    };
    const Row rows[] = {
        {"upgraded", "upgrade", true, false, true},
        {"upgraded", "revert", false, false, true},
        {"upgraded", "recovery", false, false, true},
        {"rolled_back", "recovery of it", false, false, true},
        {"rolled_back", "recovery", false, false, false}, // of a rehearsal
        {"unchanged", "upgrade", false, false, true},     // it was named, so it is kept
        {"unchanged", "upgrade", true, false, false},
        {"unchanged", "upgrade", false, true, false},
        {"rolled_back", "upgrade", false, false, false},
        {"refused", "upgrade", false, false, false},
        {"checked", "upgrade", false, true, false},
        {"rehearsed", "rehearsal", false, false, false},
        {"unchanged", "rehearsal", false, false, false},
        {"skipped", "upgrade", true, false, false},
    };
    for (const Row& row : rows) {
        INFO(row.kind << " of " << (row.is_all ? "all" : "one") << " ends " << row.outcome);
        Attention attention;
        (void)attention.on_end(make_run("r1", "needs_operator"), 0);
        RunView later = make_run("r2", row.outcome);
        later.kind = row.kind;
        if (later.kind == "recovery of it") {
            later.kind = "recovery";
            later.vms.front().upgrade = "r1.0";
        }
        later.dry_run = row.is_dry_run;
        later.request->all = row.is_all;
        if (row.is_all) {
            later.request->vms.clear();
        }
        const auto settled = attention.on_end(later, 0);
        CHECK(settled.has_value() == row.is_over);
        CHECK((!settled || (settled->run == "r1" && settled->number == 0)));
        CHECK(attention.find("vm1").has_value() != row.is_over);
    }
}

TEST_CASE("a newer reason stands in place of an older one", "[daemon][attention]") {
    Attention attention;
    (void)attention.on_end(make_run("r1", "needs_operator"), 0);
    const auto settled = attention.on_end(make_run("r2", "lost_contact"), 0);
    REQUIRE(settled);
    CHECK(settled->run == "r1");
    CHECK(attention.find("vm1")->run == "r2");
    // a row of a daemon before us that was settled then
    RunView old = make_run("r0", "needs_operator", "vm2");
    old.vms.front().settled = true;
    CHECK_FALSE(attention.on_end(old, 0));
    CHECK_FALSE(attention.find("vm2"));
}

TEST_CASE("a reason that is told twice is not settled by itself", "[daemon][attention]") {
    Attention attention;
    CHECK_FALSE(attention.on_end(make_run("r1", "needs_operator"), 0));
    CHECK_FALSE(attention.on_end(make_run("r1", "needs_operator"), 0));
    CHECK(attention.find("vm1"));
}

TEST_CASE("what a recovery finds once more is told since the upgrade", "[daemon][attention]") {
    Attention attention;
    CHECK_FALSE(attention.on_end(make_run("r1", "needs_operator"), 0));
    RunView recovery = make_run("r2", "needs_operator");
    recovery.kind = "recovery";
    recovery.vms.front().upgrade = "r1.0";
    const auto settled = attention.on_end(recovery, 0);
    REQUIRE(settled);
    CHECK(settled->run == "r2");
    CHECK(attention.find("vm1")->run == "r1");
    // something else
    recovery.vms.front().code = "split";
    CHECK(attention.on_end(recovery, 0)->run == "r1");
    CHECK(attention.find("vm1")->code == "split");
}

TEST_CASE("a VM that was started again needs nobody", "[daemon][attention]") {
    Attention attention;
    (void)attention.on_end(make_run("r1", "needs_operator"), 0);
    CHECK_FALSE(attention.on_look("vm1", false));
    CHECK_FALSE(attention.on_look("vm2", true));
    CHECK(attention.find("vm1"));
    const auto settled = attention.on_look("vm1", true);
    REQUIRE(settled);
    CHECK(settled->run == "r1");
    CHECK(attention.list().empty());
}
