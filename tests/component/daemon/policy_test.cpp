// SPDX-License-Identifier: GPL-2.0-or-later
//
// What the configuration says about single VMs, as runs obey it.
#include "daemon/vm_policy.hpp"
#include "tests/component/daemon/harness.hpp"
#include "tests/support/catch.hpp"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <ctime>
#include <fstream>

using namespace qhup::test;
using nlohmann::json;
using namespace std::chrono_literals;

namespace {

json vm_of(const json& run, const std::string& name) {
    for (const json& vm : run.at("vms")) {
        if (vm.at("vm") == name) {
            return vm;
        }
    }
    return json::object();
}

std::string names_of(const json& run) {
    std::string names;
    for (const json& vm : run.at("vms")) {
        names += vm.at("vm").get<std::string>() + " ";
    }
    return names;
}

/// A window of the host's clock that begins and ends so long from now.
std::string window(std::chrono::minutes from, std::chrono::minutes to) {
    const std::time_t now = std::time(nullptr);
    std::tm local{};
    ::localtime_r(&now, &local);
    const auto today = std::chrono::hours(local.tm_hour) + std::chrono::minutes(local.tm_min);
    const auto day = std::chrono::minutes(24h);
    return qhup::daemon::format_day_window({(today + from + day) % day, (today + to + day) % day});
}

} // namespace

TEST_CASE("a run goes by priority, then by name", "[daemon][policy]") {
    Host host(4);
    host.extra_config = "parallel = 1";
    host.extra_sections = "[[policy]]\nvms = [\"vm2\"]\npriority = 10\n"
                          "[[policy]]\nvms = [\"vm[0]\"]\npriority = -1\n";
    host.serve();
    REQUIRE(host.start_daemon());
    const Ran ran = host.ctl({"--json", "upgrade", "--yes", "--all", "--to", "new"});
    INFO(ran.err << ran.out << host.daemon_log());
    REQUIRE(ran.status == 0);
    const json run = json::parse(ran.out);
    CHECK(names_of(run) == "vm2 vm1 vm3 vm0 ");
    std::uint64_t before = 0;
    for (const json& vm : run.at("vms")) {
        const auto begun = vm.at("steps").at(1).at("at_ms").get<std::uint64_t>();
        CHECK(begun >= before);
        before = begun;
    }
}

TEST_CASE("the VM that a priority makes the first of its kind is rehearsed", "[daemon][policy]") {
    Host host(3);
    host.extra_config = "leases.frozen = \"10s\"\nrehearse = \"first\"";
    host.extra_sections = "[[policy]]\nvms = [\"vm1\"]\npriority = 1\npause_budget = \"20s\"\n"
                          "[[policy]]\nvms = [\"vm2\"]\nrehearse = \"none\"\n";
    host.serve();
    REQUIRE(host.start_daemon());
    const Ran ran =
        host.ctl({"--json", "upgrade", "--yes", "--all", "--to", "new", "--pause-budget", "10000"});
    INFO(ran.err << ran.out << host.daemon_log());
    CHECK(ran.status == 0);
    CHECK(has_command(host, "source hot-upgrade-load", 1));
    CHECK_FALSE(has_command(host, "source hot-upgrade-load", 0));
    CHECK_FALSE(has_command(host, "source hot-upgrade-load", 2));
    CHECK(vm_of(json::parse(ran.out), "vm1").at("rehearsal").at("result") == "passed");
}

TEST_CASE("check says of all VMs what a dry run over all does", "[daemon][policy]") {
    struct Row {
        const char* why;
        const char* policy;
        bool is_held;
        std::size_t vms;
        int status;
    };
    const Row rows[] = {
        {"one is left out by the configuration", "skip = true", false, 1, 2},
        {"one is held", "priority = 1", true, 1, 2},
        {"one of two is left out", "skip = true", false, 2, 0},
        {"one of two is held", "priority = 1", true, 2, 0},
        {"none is left out", "priority = 1", false, 2, 0},
    };
    for (const Row& row : rows) {
        INFO(row.why);
        Host host(row.vms);
        host.extra_sections = std::string("[[policy]]\nvms = [\"vm0\"]\n") + row.policy + "\n";
        host.serve();
        REQUIRE(host.start_daemon());
        if (row.is_held) {
            REQUIRE(host.ctl({"hold", "vm0", "--reason", "a backup"}).status == 0);
        }
        const bool is_left_out = row.is_held || std::string(row.policy) == "skip = true";
        const Ran dry = host.ctl({"upgrade", "--all", "--to", "new", "--dry-run"});
        const Ran check = host.ctl({"check", "--all", "--to", "new"});
        CHECK(dry.status == row.status);
        CHECK(check.status == row.status);
        CHECK((check.out.find("vm0: is left out: ") != std::string::npos) == is_left_out);
        // by its name it is judged
        CHECK(host.ctl({"check", "vm0", "--to", "new"}).status == (row.is_held ? 6 : 0));
    }
}

TEST_CASE("a VM that is skipped is upgraded only by its name", "[daemon][policy]") {
    Host host(2);
    host.extra_sections = "[[policy]]\nvms = [\"vm1\"]\nskip = true\n";
    host.serve();
    REQUIRE(host.start_daemon());
    const Ran all = host.ctl({"--json", "upgrade", "--yes", "--all", "--to", "new"});
    INFO(all.err << all.out << host.daemon_log());
    CHECK(all.status == 0);
    const json left_out = vm_of(json::parse(all.out), "vm1");
    CHECK(left_out.at("outcome") == "skipped");
    CHECK(left_out.at("code") == "skipped");
    CHECK(vm_of(json::parse(all.out), "vm0").at("outcome") == "upgraded");
    CHECK_FALSE(has_command(host, "main hot-upgrade-prepare", 1));
    const Ran again = host.ctl({"upgrade", "--yes", "--all", "--to", "new"});
    CHECK(again.status == 2);
    CHECK(again.out.find("vm1 was left out") != std::string::npos);
    CHECK(host.ctl({"upgrade", "--yes", "vm1", "--to", "new"}).status == 0);
}

TEST_CASE("no upgrade begins outside the window of its VM", "[daemon][policy]") {
    Host host(3);
    host.extra_sections = "[[policy]]\nvms = [\"vm0\"]\nwindow = [\"" + window(120min, 180min) +
                          "\"]\n[[policy]]\nvms = [\"vm1\"]\nwindow = [\"" +
                          window(120min, 180min) + "\", \"" + window(-60min, 60min) + "\"]\n";
    host.serve();
    REQUIRE(host.start_daemon());
    const Ran ran =
        host.ctl({"--json", "upgrade", "--yes", "--all", "--to", "new", "--max-failures", "1"});
    INFO(ran.err << ran.out << host.daemon_log());
    CHECK(ran.status == 6);
    const json run = json::parse(ran.out);
    CHECK(vm_of(run, "vm0").at("outcome") == "refused");
    CHECK(vm_of(run, "vm0").at("code") == "outside_window");
    const std::string message = vm_of(run, "vm0").at("message").get<std::string>();
    CHECK(message.find(window(120min, 180min)) != std::string::npos);
    CHECK_FALSE(has_command(host, "main hot-upgrade-prepare", 0));
    // it was not tried, so it is no failure of the run
    CHECK(run.at("stopped_by") == "");
    CHECK(vm_of(run, "vm1").at("outcome") == "upgraded");
    CHECK(vm_of(run, "vm2").at("outcome") == "upgraded");
    const Ran show = host.ctl({"show", "vm0"});
    CHECK(show.out.find("upgrades may begin at") != std::string::npos);
    CHECK(show.out.find("not now") != std::string::npos);
    CHECK(host.ctl({"show", "vm2"}).out.find("Policy") == std::string::npos);
    const Ran check = host.ctl({"--json", "check", "vm0", "vm2", "--to", "new"});
    CHECK(check.status == 6);
    CHECK(check.out.find("outside_window") != std::string::npos);
    CHECK(check.out.find(window(120min, 180min)) != std::string::npos);
    // a rehearsal pauses the guest too
    CHECK(host.ctl({"rehearse", "--yes", "vm0", "--to", "new"}).status == 6);
}

TEST_CASE(
    "what may be overruled is refused by name, goes by its word, and is recorded",
    "[daemon][policy]"
) {
    struct Check {
        std::string option;
        std::string code;
        std::string config;
        std::string sections;
    };
    const std::vector<Check> checks{
        {"--allow-outside-window",
         "outside_window",
         "",
         "[[policy]]\nvms = [\"*\"]\nwindow = [\"" + window(120min, 180min) + "\"]\n"},
        {"--allow-untested", "untested", "selftest = \"require\"", ""},
    };
    for (const Check& check : checks) {
        INFO(check.option);
        Host host(1);
        host.extra_config = check.config;
        host.extra_sections = check.sections;
        host.serve();
        REQUIRE(host.start_daemon());
        // an option that is not in the table above has no test
        const Ran help = host.shell(
            Host::ctl_program() +
            " upgrade --help | grep -o -- '--allow-[a-z-]*' | sort | tr '\\n' ' '"
        );
        CHECK(help.out == "--allow-outside-window --allow-untested ");
        const Ran refused = host.ctl({"--json", "upgrade", "--yes", "vm0", "--to", "new"});
        INFO(refused.err << refused.out << host.daemon_log());
        CHECK(refused.status == 6);
        const json vm = vm_of(json::parse(refused.out), "vm0");
        CHECK(vm.at("outcome") == "refused");
        CHECK(vm.at("code") == check.code);
        CHECK(vm.dump().find(check.option) != std::string::npos); // it says what would overrule it
        CHECK_FALSE(has_command(host, "main hot-upgrade-prepare", 0));
        // the word of another check does not help
        const std::string other = checks[&check == &checks.front() ? 1 : 0].option;
        CHECK(host.ctl({"upgrade", "--yes", "vm0", "--to", "new", other}).status == 6);
        CHECK_FALSE(has_command(host, "main hot-upgrade-prepare", 0));
        const Ran allowed =
            host.ctl({"--json", "upgrade", "--yes", "vm0", "--to", "new", check.option});
        INFO(allowed.err << allowed.out);
        REQUIRE(allowed.status == 0);
        const json run = json::parse(allowed.out);
        CHECK(vm_of(run, "vm0").at("outcome") == "upgraded");
        CHECK(run.at("request").at("allow") == json::array({check.code}));
        const json asked = json::parse(host.ctl({"--json", "history"}).out).at("history");
        const auto entry = std::find_if(asked.begin(), asked.end(), [&run](const json& each) {
            return each.at("action") == "run_requested" && each.at("run") == run.at("id");
        });
        REQUIRE(entry != asked.end());
        CHECK(entry->at("message") == "upgrade of vm0 to new, allowing " + check.code);
        CHECK(entry->at("allow") == json::array({check.code}));
        CHECK(entry->at("by").at("uid") == ::getuid());
        // and so after a restart
        host.kill_daemon();
        REQUIRE(host.start_daemon());
        CHECK(host.ctl({"history"}).out.find("allowing " + check.code) != std::string::npos);
    }
}

TEST_CASE("VMs that have no room together are upgraded one after another", "[daemon][memory]") {
    Host host(4);
    // more than any host has: nobody fits beside another one
    host.extra_config = "parallel = 4\npause_slots = 4\nmemory_reserve_mib = 16777216";
    host.serve();
    REQUIRE(host.start_daemon());
    const Ran ran = host.ctl({"--json", "upgrade", "--yes", "--all", "--to", "new"});
    INFO(ran.err << ran.out << host.daemon_log());
    REQUIRE(ran.status == 0);
    std::vector<std::pair<int, int>> spans; // from preflight to commit
    const json run = json::parse(ran.out);
    for (const json& vm : run.at("vms")) {
        const json steps = vm.at("steps");
        CHECK(steps.at(1).at("phase") == "preflight");
        spans.emplace_back(steps.at(1).at("at_ms").get<int>(), steps.back().at("at_ms").get<int>());
    }
    std::sort(spans.begin(), spans.end());
    for (std::size_t i = 1; i < spans.size(); ++i) {
        CHECK(spans[i].first >= spans[i - 1].second);
    }
    CHECK(host.daemon_log().find("waits for the memory of others") != std::string::npos);
}

TEST_CASE("an abort reaches who waits for memory", "[daemon][memory]") {
    Host host(2);
    host.extra_config = "parallel = 2\nmemory_reserve_mib = 16777216";
    const auto held = std::make_shared<std::atomic<bool>>(true);
    for (const std::size_t i : {0U, 1U}) {
        host.options(i).vm.reactions["hot-upgrade-switch"].held = held;
    }
    host.serve();
    REQUIRE(host.start_daemon());
    const pid_t ctl = host.start_ctl({"--json", "upgrade", "--yes", "--all", "--to", "new"});
    REQUIRE(wait_until([&] {
        return (has_command(host, "source hot-upgrade-switch", 0) ||
                has_command(host, "source hot-upgrade-switch", 1)) &&
               host.daemon_log().find("waits for the memory") != std::string::npos;
    }));
    // whoever came first
    const bool is_first = has_command(host, "source hot-upgrade-switch", 0);
    const std::string begun = is_first ? "vm0" : "vm1";
    const std::string waiting = is_first ? "vm1" : "vm0";
    const pid_t abort = host.start_ctl({"--json", "abort", host.newest_run()});
    REQUIRE(wait_until([&] {
        const Ran now = host.ctl({"--json", "status", host.newest_run(), "--once"});
        return vm_of(json::parse(now.out), waiting).at("code") == "stopped";
    }));
    *held = false;
    CHECK(host.finish_ctl(abort).status == 7);
    CHECK(vm_of(json::parse(host.finish_ctl(ctl).out), begun).at("outcome") == "upgraded");
    CHECK(host.ctl({"upgrade", "--yes", "--all", "--to", "new"}).status == 0);
}

TEST_CASE("no run allows a longer pause than the policy of a VM", "[daemon][policy]") {
    Host host(2);
    host.extra_config = "leases.frozen = \"10s\"";
    host.extra_sections = "[[policy]]\nvms = [\"vm0\"]\npause_budget = \"15ms\"\n";
    for (std::size_t i = 0; i < 2; ++i) {
        host.options(i).vm.switch_time = 60ms;
    }
    host.serve();
    REQUIRE(host.start_daemon());
    const Ran ran =
        host.ctl({"--json", "rehearse", "--yes", "--all", "--to", "new", "--pause-budget", "10000"}
        );
    INFO(ran.err << ran.out << host.daemon_log());
    const json run = json::parse(ran.out);
    CHECK(vm_of(run, "vm0").at("outcome") == "rolled_back");
    // from the prediction, or, on a busy host, in the pause itself
    CHECK(vm_of(run, "vm0").at("code").get<std::string>().starts_with("budget"));
    CHECK(vm_of(run, "vm1").at("outcome") == "rehearsed");
    const json vm = json::parse(host.ctl({"--json", "show", "vm0"}).out);
    CHECK(vm.at("policy").at("pause_budget_ms") == 15);
}

TEST_CASE("labels choose VMs for policies and for runs", "[daemon][policy]") {
    Host host(4);
    host.extra_config = "parallel = 1";
    host.extra_sections = "[[vm]]\nvms = [\"vm[12]\"]\nlabels = { tier = \"db\" }\n"
                          "[[policy]]\nlabels = { tier = \"db\" }\npriority = 5\n"
                          "[[policy]]\nlabels = { tier = \"db\", rack = \"7\" }\nskip = true\n";
    host.serve();
    const auto label_file = [&host](std::size_t vm) { return host.qemu().path(vm) + ".labels"; };
    std::ofstream(label_file(2)) << "rack = 7\n";
    std::ofstream(label_file(3)) << "tier = db\n";
    ::chmod(label_file(3).c_str(), 0666); // whoever writes it chooses the VM's policy
    ::chmod(label_file(2).c_str(), 0644);
    REQUIRE(host.start_daemon());
    const Ran list = host.ctl({"--json", "list", "--label", "tier=db"});
    INFO(list.err << list.out << host.daemon_log());
    const json vms = json::parse(list.out).at("vms");
    REQUIRE(vms.size() == 2);
    CHECK(vms.at(0).at("name") == "vm1");
    CHECK(vms.at(0).at("labels") == json{{"tier", "db"}});
    CHECK(vms.at(1).at("labels") == json{{"rack", "7"}, {"tier", "db"}});
    CHECK(vms.at(1).at("policy").at("skip") == true);
    CHECK(host.daemon_log().find(label_file(3) + " is not used") != std::string::npos);
    const Ran check = host.ctl({"check", "--label", "tier=db", "--label", "rack=7", "--to", "new"});
    CHECK(check.out.find("vm2: is left out: ") == 0); // as in the run below
    CHECK(check.out.find("vm1") == std::string::npos);
    const Ran some = host.ctl({"--json", "upgrade", "--yes", "--label", "tier=db", "--to", "new"});
    INFO(some.err << some.out);
    CHECK(some.status == 0);
    const json run = json::parse(some.out);
    CHECK(names_of(run) == "vm1 vm2 ");
    CHECK(vm_of(run, "vm1").at("outcome") == "upgraded");
    CHECK(vm_of(run, "vm2").at("outcome") == "skipped");
    const Ran all = host.ctl({"--json", "upgrade", "--yes", "--all", "--to", "new"});
    CHECK(names_of(json::parse(all.out)) == "vm1 vm2 vm0 vm3 ");
    CHECK(host.ctl({"upgrade", "--yes", "vm0", "--label", "a=b", "--to", "new"}).status == 64);
    CHECK(host.ctl({"upgrade", "--yes", "--label", "tier", "--to", "new"}).status == 64);
}
