// SPDX-License-Identifier: GPL-2.0-or-later
#include "ctl/render.hpp"
#include "tests/support/catch.hpp"

using namespace qhup;
using namespace qhup::ctl;

TEST_CASE("nothing that a VM says can drive the terminal", "[ctl][render]") {
    CHECK(printable("a\x1b[2Jb\nc\x7f") == "a?[2Jb c?");
    CHECK(
        printable("\xc2\x9b"
                  "31m") == "??31m"
    );
    CHECK(printable("gr\xc3\xbc\xc3\x9f") == "gr\xc3\xbc\xc3\x9f");
}

TEST_CASE("a list shows every VM and why one is unreachable", "[ctl][render]") {
    daemon::VmView good;
    good.name = "vm1";
    good.pid = 12;
    good.version = "7.2.22";
    good.state = "running";
    good.reachable = true;
    good.upgradable = true;
    daemon::VmView blocked = good;
    blocked.name = "longer-name";
    blocked.upgradable = false;
    blocked.blockers = {{.id = "a/b", .klass = "a", .reason = "x"}};
    daemon::VmView gone;
    gone.name = "gone";
    gone.reason = "nobody listens";
    CHECK(
        render_vms({good, blocked, gone}) ==
        "VM           PID  VERSION  STATE        UPGRADABLE\n"
        "vm1          12   7.2.22   running      yes\n"
        "longer-name  12   7.2.22   running      no, 1 blocker\n"
        "gone         -    -        unreachable  -\n"
        "\n"
        "gone: nobody listens.\n"
    );
}

TEST_CASE("a list says who holds a VM, and why", "[ctl][render]") {
    daemon::VmView vm;
    vm.name = "vm1";
    vm.reachable = true;
    vm.upgradable = true;
    vm.hold = daemon::HoldView{
        .vm = "vm1",
        .reason = "a backup\x1b goes on",
        .since_unix_ms = 1,
        .until_unix_ms = 1'700'000'000'000,
        .by_uid = 7};
    const std::string line =
        "vm1 is held until 2023-11-14 22:13:20Z by uid 7: a backup? goes on.\n";
    CHECK(render_vms({vm}).find("  held\n") != std::string::npos);
    CHECK(render_vms({vm}).find(line) != std::string::npos);
    CHECK(render_vm(vm).find(line) != std::string::npos);
    vm.hold->until_unix_ms = 0;
    CHECK(render_hold(*vm.hold) == "vm1 is held by uid 7: a backup? goes on.\n");
}

TEST_CASE("a list says which VMs were not asked for a while", "[ctl][render]") {
    daemon::VmView vm;
    vm.name = "a";
    vm.reachable = true;
    vm.age_ms = 900;
    CHECK(render_vms({vm}).find("last known") == std::string::npos);
    daemon::VmView old = vm;
    old.age_ms = 60'000;
    daemon::VmView in_run = old; // nobody asks it but its run
    in_run.run = "r1";
    const std::string text = render_vms({vm, old, in_run});
    CHECK(text.find("1 VM could not be asked in a moment, and is shown") != std::string::npos);
}

TEST_CASE("a run ends with a table and a sentence for each VM not upgraded", "[ctl][render]") {
    daemon::RunVmView good;
    good.vm = "vm1";
    good.from = "7.2.22";
    good.to = "10.0.13";
    good.outcome = "upgraded";
    good.pause_ms = 12.34;
    good.total_ms = 1234.5;
    daemon::RunVmView bad;
    bad.vm = "vm2";
    bad.from = "7.2.22";
    bad.to = "deb13";
    bad.outcome = "rolled_back";
    bad.code = "load_failed";
    bad.message = "The new QEMU refused the state.";
    bad.next_step = "Report it";
    daemon::RunView run;
    run.vms = {good, bad};
    CHECK(
        render_run(run) ==
        "VM   FROM    TO       OUTCOME      PAUSE    TOTAL\n"
        "vm1  7.2.22  10.0.13  upgraded     12.3 ms  1.23 s\n"
        "vm2  7.2.22  deb13    rolled back  -        -\n"
        "\n"
        "vm2 was rolled back; the guest runs on where it was: The new QEMU refused the state "
        "[load_failed]. Report it.\n"
    );
}

TEST_CASE("what is to be said of an upgraded VM is said", "[ctl][render]") {
    daemon::RunView run;
    daemon::RunVmView vm;
    vm.vm = "vm1";
    vm.outcome = "upgraded";
    run.vms = {vm};
    CHECK(render_run(run).find("was upgraded") == std::string::npos);
    run.vms.front().message = "The guest powered off after the upgrade.";
    CHECK(
        render_run(run).find("vm1 was upgraded: The guest powered off after the upgrade.\n") !=
        std::string::npos
    );
}

TEST_CASE("a rehearsal says what it found and that nothing moved", "[ctl][render]") {
    daemon::RunVmView vm;
    vm.vm = "vm1";
    vm.from = "7.2.22";
    vm.to = "deb13";
    vm.outcome = "rehearsed";
    vm.pause_ms = 8.25;
    vm.rehearsal = daemon::RehearsalView{"passed", "", "", "", 8.25, 12.0};
    daemon::RunView run;
    run.kind = "rehearsal";
    run.vms = {vm};
    const std::string good = render_run(run);
    CHECK(
        good.find("  rehearsal of vm1 passed, paused for 8.2 ms, an upgrade would pause for about "
                  "12.0 ms.\n") != std::string::npos
    );
    CHECK(good.find("no guest was moved") != std::string::npos);
    CHECK(good.find("vm1 was rehearsed") == std::string::npos);
    run.vms[0].outcome = "rolled_back";
    run.vms[0].message = "It was refused.";
    run.vms[0].rehearsal = daemon::RehearsalView{"failed", "load_failed", "w", "net\x1b", {}, {}};
    const std::string bad = render_run(run);
    CHECK(bad.find("It was refused") != std::string::npos);
    CHECK(bad.find("  rehearsal of vm1 failed, refused: net?.\n") != std::string::npos);
}

TEST_CASE("a run says in which stage it is, and why it was stopped", "[ctl][render]") {
    daemon::RunView run;
    run.state = "running";
    run.vms.resize(1);
    run.stage = daemon::StageView{
        .name = "canaries", .number = 1, .of = 3, .state = "working", .soak_until_unix_ms = 0};
    CHECK(render_run(run).find("Stage 1 of 3 (canaries).\n") != std::string::npos);
    run.stage->state = "soaking";
    run.stage->soak_until_unix_ms = 1'700'000'000'000;
    CHECK(render_run(run).find("are watched until 2023-11-14 22:13:20Z.\n") != std::string::npos);
    run.state = "finished";
    run.stop_reason = "canary vm1 was refused";
    CHECK(render_run(run).find("Stage") == std::string::npos);
    CHECK(
        render_run(run).find("The run was stopped: canary vm1 was refused.") != std::string::npos
    );
}

TEST_CASE("all blockers of a refused VM are shown below it", "[ctl][render]") {
    daemon::RunVmView vm;
    vm.vm = "vm1";
    vm.outcome = "refused";
    vm.code = "blocked";
    vm.blockers = {
        {.id = "net/n0", .klass = "net", .reason = "stop it"},
        {.id = "dev/d0", .klass = "dev", .reason = "remove it."}};
    daemon::RunView run;
    run.vms = {vm};
    const std::string text = render_run(run);
    CHECK(text.find("  net/n0: stop it.\n  dev/d0: remove it.\n") != std::string::npos);
}

TEST_CASE("of a VM that could not be asked nobody says that it runs", "[ctl][render]") {
    daemon::RunVmView vm;
    vm.vm = "vm1";
    vm.outcome = "refused";
    vm.code = "not_answering";
    vm.message = "QEMU does not answer.";
    daemon::RunView run;
    run.vms = {vm};
    const std::string text = render_run(run);
    CHECK(text.find("vm1 was refused and not touched: QEMU does not answer") != std::string::npos);
    CHECK(text.find("runs on") == std::string::npos);
}

TEST_CASE("the reason of a blocked VM is said once", "[ctl][render]") {
    daemon::RunVmView vm;
    vm.vm = "vm1";
    vm.outcome = "refused";
    vm.code = "blocked";
    vm.message = "The VM has a blocker; remove it.";
    vm.peer_text = "stop it";
    vm.blockers = {{.id = "net/n0", .klass = "net", .reason = "stop it"}};
    daemon::RunView run;
    run.vms = {vm};
    const std::string text = render_run(run);
    CHECK(text.ends_with("vm1 was refused and not touched: The VM has a blocker; remove it "
                         "[blocked].\n  net/n0: stop it.\n"));
}

TEST_CASE("the list of runs counts their outcomes", "[ctl][render]") {
    daemon::RunView run;
    run.id = "r1";
    run.kind = "upgrade";
    run.state = "finished";
    run.to = "new";
    for (const char* outcome : {"upgraded", "rolled_back", "upgraded", ""}) {
        run.vms.push_back({});
        run.vms.back().outcome = outcome;
    }
    CHECK(render_runs({run}).find("2 upgraded, 1 rolled back\n") != std::string::npos);
    CHECK(render_runs({}) == "No run yet.\n");
}

TEST_CASE("a state is not said twice, and a release has a path", "[ctl][render]") {
    daemon::VmView vm;
    vm.name = "vm1";
    vm.reachable = true;
    vm.state = "running";
    vm.upgrade_state = "running";
    CHECK(render_vm(vm).find("(running)") == std::string::npos);
    CHECK(render_releases({}).find("path = ") != std::string::npos);
    daemon::CheckView check;
    check.vm = "vm1";
    check.to = "new";
    check.code = "already_on_release";
    CHECK(render_checks({check}) == "vm1: runs new already.\n");
}

TEST_CASE("a warning is shown below a VM that can be upgraded", "[ctl][render]") {
    daemon::CheckView check;
    check.vm = "vm1";
    check.from = "7.2";
    check.to = "new";
    check.can_upgrade = true;
    check.warnings = {{.id = "netdev/n0", .klass = "packet-loss", .reason = "It is busy."}};
    CHECK(
        render_checks({check}) == "vm1: can be upgraded from 7.2 to new.\n"
                                  "  warning: netdev/n0: It is busy.\n"
    );
}

TEST_CASE("a selftest says what of the host it did not try, and who uses it", "[ctl][render]") {
    qhup::daemon::SelftestView selftest;
    selftest.id = "s1";
    selftest.from = "old";
    selftest.to = "new";
    selftest.kernel = "6.1";
    selftest.passed = true;
    selftest.guests = 2;
    selftest.counted = 70;
    selftest.tried = {
        {.name = "kvm", .used = true, .text = "each had it", .vms = 2},
        {.name = "huge_pages", .text = "none free", .vms = 1}};
    const std::string text = render_selftest(selftest);
    CHECK(text.find("KVM") != std::string::npos);
    CHECK(text.find(" tried: each had it\n") != std::string::npos);
    CHECK(text.find("not tried: none free; 1 VM of this host uses it\n") != std::string::npos);
    selftest.passed = false;
    CHECK(render_selftest(selftest).find("not tried: none free") != std::string::npos);
}

TEST_CASE("a progress line has time, VM and phase", "[ctl][render]") {
    daemon::RunVmView vm;
    vm.vm = "vm1";
    vm.phase = "prepare";
    vm.since_ms = 412;
    CHECK(render_progress("upgrade", vm) == "   0.412 s  vm1  prepare");
    vm.outcome = "upgraded";
    vm.pause_ms = 3.0;
    CHECK(render_progress("upgrade", vm) == "   0.412 s  vm1  upgraded, paused for 3.0 ms");
    CHECK(render_progress("revert", vm) == "   0.412 s  vm1  reverted, paused for 3.0 ms");
}

TEST_CASE("a problem says what is true and what to do", "[ctl][render]") {
    daemon::Problem problem;
    problem.title = "No such VM";
    problem.detail = "There is no VM 'x'.";
    problem.next_step = "Try another";
    CHECK(render_problem(problem) == "There is no VM 'x'. Try another.\n");
    problem.detail = "";
    CHECK(render_problem(problem) == "No such VM. Try another.\n");
}

TEST_CASE("empty lists say what to do", "[ctl][render]") {
    CHECK(render_vms({}).find("qhupd.toml") != std::string::npos);
    CHECK(render_releases({}).find("releases_dir") != std::string::npos);
    CHECK_FALSE(render_runs({}).empty());
}

TEST_CASE("a history says of each end who asked for the run", "[ctl][render]") {
    daemon::HistoryView asked;
    asked.id = 1;
    asked.action = "run_requested";
    asked.time_unix_ms = 60'000;
    asked.run = "r1";
    asked.by = daemon::AskerView{.uid = 7, .user = "anna", .pid = 4711};
    daemon::HistoryView ended;
    ended.id = 2;
    ended.action = "vm_ended";
    ended.time_unix_ms = 60'000;
    ended.run = "r1";
    ended.vm = "vm1";
    ended.outcome = "rolled_back";
    ended.from = "7.2.22";
    ended.to = "10.0.13";
    ended.pause_ms = 9.75;
    daemon::HistoryView other = ended;
    other.vm = "vm2";
    other.run = "r0"; // asked for before anything that is remembered
    other.pause_ms.reset();
    const std::vector<daemon::HistoryView> all{other, ended, asked};

    const auto of_vm = choose_history(all, {"vm1"}, 10);
    REQUIRE(of_vm.size() == 1);
    CHECK(of_vm[0].by->user == "anna");
    CHECK(choose_history(all, {}, 2).size() == 2);
    CHECK_FALSE(choose_history(all, {}, 2)[0].by);
    CHECK(
        render_history(choose_history(all, {}, 10)) ==
        "WHEN               VM   WHAT           FROM    TO       PAUSE   RUN  WHO\n"
        "1970-01-01 00:01Z  vm2  rolled back    7.2.22  10.0.13  -       r0   -\n"
        "1970-01-01 00:01Z  vm1  rolled back    7.2.22  10.0.13  9.8 ms  r1   anna\n"
        "1970-01-01 00:01Z  -    run requested  -       -        -       r1   anna\n"
    );
}

TEST_CASE("a revert goes back, and its VMs were reverted", "[ctl][render]") {
    daemon::RunView run;
    run.id = "r1";
    run.kind = "revert";
    run.state = "finished";
    run.to = "kept";
    run.vms.resize(2);
    run.vms[0].vm = "vm1";
    run.vms[0].from = "10.0.13";
    run.vms[0].to = "7.2.22";
    run.vms[0].outcome = "upgraded";
    run.vms[1].vm = "vm2";
    run.vms[1].to = "kept";
    run.vms[1].outcome = "refused";
    const std::string table = render_run(run);
    CHECK(table.find("vm1  10.0.13  7.2.22  reverted") != std::string::npos);
    CHECK(table.find("back") != std::string::npos);
    CHECK(table.find("kept") == std::string::npos);
    const std::string list = render_runs({run});
    CHECK(list.find("1 reverted, 1 refused\n") != std::string::npos);
    CHECK(list.find("  back  ") != std::string::npos);
    run.kind = "way_back";
    CHECK(render_runs({run}).find("way back  ") != std::string::npos);
    run.kind = "upgrade"; // a release of that name
    CHECK(render_runs({run}).find("  kept  ") != std::string::npos);
}

TEST_CASE("labels that no VM has are named", "[ctl][render]") {
    CHECK(render_no_vm_with({{"tier", "no"}}) == "No VM has the label tier=no.\n");
    CHECK(render_no_vm_with({{"a", "1"}, {"b", "\x1b"}}) == "No VM has the labels a=1 and b=?.\n");
}

TEST_CASE("a history says what was not done and why", "[ctl][render]") {
    daemon::HistoryView unhold;
    unhold.action = "hold_removed";
    unhold.vm = "vm1";
    unhold.code = "hold_not_found";
    daemon::HistoryView refused;
    refused.action = "vm_ended";
    refused.vm = "vm1";
    refused.run = "r1";
    refused.outcome = "refused";
    refused.code = "blocked";
    daemon::HistoryView asked;
    asked.action = "run_requested";
    asked.run = "r1";
    daemon::HistoryView bad = asked;
    bad.run = "";
    bad.code = "vm_not_found";
    const auto entries = choose_history({unhold, refused, asked, bad}, {}, 10);
    REQUIRE(entries.size() == 4);
    const std::string text = render_history(entries);
    CHECK(text.find("hold not removed (hold_not_found)") != std::string::npos);
    CHECK(text.find("refused (blocked)") != std::string::npos);
    CHECK(text.find("run requested, refused (vm_not_found)") != std::string::npos);
}
