// SPDX-License-Identifier: GPL-2.0-or-later
//
// qhupd dies at every mark of its journal, before and after the mark is durable, and again while it
// recovers; then a new one starts. At each death the journal must tell what had been done to the VM
// (intent before effect), and at the end guest, run and journal must agree.
#include "daemon/fault_points.hpp"
#include "daemon/journal_db.hpp"
#include "tests/component/daemon/harness.hpp"
#include "tests/support/catch.hpp"

#include <signal.h>

#include <algorithm>
#include <filesystem>
#include <functional>
#include <iostream>
#include <map>
#include <set>

using namespace qhup::test;
using namespace qhup::daemon;
using nlohmann::json;
using namespace std::chrono_literals;

namespace {

constexpr int kKilled = 128 + 9;

/// What VM 0 does, so that its upgrade comes by the marks that are wanted.
struct Scenario {
    const char* name;
    std::vector<std::string> marks;
    std::function<void(FakeVmOptions&)> set_up;
    std::function<void(Host&)> act; ///< while the upgrade goes on
    const char* config = "";        ///< more lines of qhupd.toml
    const char* command = "upgrade";
};

std::string version_of(Host& host, std::size_t vm) {
    std::string version;
    host.qemu().with_vm([&version](FakeVm& fake) { version = fake.version(); }, vm);
    return version;
}

std::vector<std::string> sides_of(Host& host, std::size_t vm) {
    std::vector<std::string> sides;
    host.qemu().with_vm([&sides](FakeVm& fake) { sides = fake.running_sides(); }, vm);
    return sides;
}

/// A daemon that died at the first point dies again at these marks, while it recovers.
struct SecondDeath {
    const char* first;
    std::vector<std::string> second;
};
const SecondDeath kSecondDeaths[] = {
    {"journal.await_pause.after", {"rolling_back", "rolled_back", "finished"}},
    {"journal.switch_over.after", {"rolling_back", "rolled_back", "finished"}},
    {"journal.commit.after", {"verify", "commit", "upgraded", "finished"}},
    {"journal.verify.before", {"verify", "commit", "upgraded", "finished"}},
};

const std::vector<Scenario>& scenarios() {
    static const std::vector<Scenario> all{
        {"all goes well",
         {"run",
          "queued",
          "preflight",
          "prepare",
          "await_pause",
          "switch_over",
          "verify",
          "commit",
          "upgraded",
          "finished"},
         [](FakeVmOptions&) {},
         {}},
        {"it is rehearsed first",
         {"rehearse", "ending_rehearsal"},
         [](FakeVmOptions&) {},
         {},
         "leases.frozen = \"10s\"\nrehearse = \"first\""},
        {"it is only rehearsed",
         {"rehearsed"},
         [](FakeVmOptions&) {},
         {},
         "leases.frozen = \"10s\"\n",
         "rehearse"},
        {"the standby is given up",
         {"discarding", "refused"},
         [](FakeVmOptions& vm) {
             vm.reactions["hot-upgrade-switch"].error_code = "stale";
             vm.reactions["hot-upgrade-switch"].error_phase = "flush";
         },
         {}},
        {"the state is refused",
         {"rolling_back", "rolled_back"},
         [](FakeVmOptions& vm) { vm.reactions["hot-upgrade-switch"].error_code = "load-failed"; },
         {}},
        {"the new process dies after it ran the guest",
         {"needs_operator"},
         [](FakeVmOptions&) {},
         [](Host& host) {
             REQUIRE(wait_until([&] { return has_command(host, "target query-hot-upgrade"); }));
             REQUIRE(wait_until([&] {
                 return sides_of(host, 0) == std::vector<std::string>{"target"};
             }));
             host.qemu().with_vm([](FakeVm& vm) { vm.kill_target(); }, 0);
         }},
    };
    return all;
}

/// The journal as the next daemon will find it.
std::vector<RunView> journal_of(const Host& host) {
    auto db = JournalDb::open(host.journal_path());
    REQUIRE(db.has_value());
    return db->take_runs();
}

bool has_step(const RunVmView& vm, const std::string& phase) {
    return std::any_of(vm.steps.begin(), vm.steps.end(), [&phase](const StepView& step) {
        return step.phase == phase;
    });
}

/// Whatever was done to the VM had been announced.
void check_intents(Host& host) {
    const auto runs = journal_of(host);
    const bool has_vm = !runs.empty() && !runs.back().vms.empty();
    const RunVmView vm = has_vm ? runs.back().vms.front() : RunVmView();
    INFO("journal: " << vm.phase << " " << vm.outcome);
    if (has_command(host, "main getfd") || has_command(host, "main hot-upgrade-prepare")) {
        CHECK(has_step(vm, "prepare"));
    }
    if (has_command(host, "source hot-upgrade-switch")) {
        CHECK(has_step(vm, "switch_over"));
    }
}

/// Nothing that is left keeps the VMs from being upgraded.
void check_upgradable(Host& host) {
    CHECK(wait_until([&host] {
        const Ran again = host.ctl({"upgrade", "--yes", "--all", "--to", "new"});
        return again.status == 0 || again.status == 2;
    }));
    CHECK(version_of(host, 0) == "10.0.13");
    CHECK(version_of(host, 1) == "10.0.13");
}

/// Guest, run and journal agree.
/// What became of a run was asked for before, unless the daemon began it by itself.
void check_history(Host& host) {
    json entries = json::parse(host.ctl({"--json", "history"}).out).at("history");
    std::set<std::string> own; // asked afterwards, so that each is among them
    for (const json& run : json::parse(host.ctl({"--json", "status"}).out).at("runs")) {
        if (run.at("kind") == "recovery" || run.at("kind") == "way_back") {
            own.insert(run.at("id").get<std::string>());
        }
    }
    INFO(entries.dump());
    std::reverse(entries.begin(), entries.end()); // oldest first
    std::set<std::string> asked;
    for (const json& entry : entries) {
        const auto run = entry.at("run").get<std::string>();
        if (entry.at("action") == "run_requested") {
            asked.insert(run);
        } else if (entry.at("action") == "vm_ended") {
            CHECK((asked.count(run) != 0 || own.count(run) != 0));
        }
    }
}

void check_end(Host& host, bool was_told_lost) {
    check_history(host);
    const std::string id = host.newest_run();
    if (!id.empty()) {
        json run;
        REQUIRE(wait_until([&] {
            run = json::parse(host.ctl({"--json", "status", id, "--once"}).out);
            return run.at("state") == "finished";
        }));
        for (std::size_t i = 0; i < run.at("vms").size(); ++i) {
            const json& vm = run.at("vms").at(i);
            INFO(vm.dump());
            const auto outcome = vm.at("outcome").get<std::string>();
            const bool is_lost = was_told_lost && i == 0;
            CHECK(
                (outcome == "upgraded" || outcome == "rolled_back" || outcome == "refused" ||
                 outcome == "rehearsed" ||
                 (is_lost && (outcome == "needs_operator" || outcome == "lost_contact")))
            );
            if (outcome != "needs_operator" && outcome != "lost_contact") {
                CHECK(sides_of(host, i).size() == 1);
                CHECK(version_of(host, i) == (outcome == "upgraded" ? "10.0.13" : "7.2.22"));
            }
        }
        // and what it says is what the journal says, once the daemon has ended
        REQUIRE(host.stop_daemon() == 0);
        const auto runs = journal_of(host);
        REQUIRE_FALSE(runs.empty());
        CHECK(to_json(runs.back()) == run);
        REQUIRE(host.start_daemon());
    }
    if (!was_told_lost) {
        check_upgradable(host);
    }
}

void start_and_die(Host& host, const Scenario& scenario) {
    REQUIRE(host.start_daemon());
    const pid_t ctl = host.start_ctl({scenario.command, "--yes", "--all", "--to", "new"});
    if (scenario.act) {
        scenario.act(host);
    }
    CHECK(host.wait_for_daemon() == kKilled); // else this mark was not reached
    ::kill(ctl, SIGKILL);
    (void)host.finish_ctl(ctl);
}

} // namespace

TEST_CASE("a daemon that dies at any mark of its journal leaves no VM behind", "[daemon][crash]") {
    for (const Scenario& scenario : scenarios()) {
        for (const std::string& mark : scenario.marks) {
            for (const char* moment : {".before", ".after"}) {
                DYNAMIC_SECTION(scenario.name << ": " << mark << moment) {
                    Host host(2);
                    scenario.set_up(host.options(0).vm);
                    host.extra_config = scenario.config;
                    if (scenario.act) {
                        host.verify = "2s";
                    }
                    host.serve();
                    host.fault = "journal." + mark + moment;
                    start_and_die(host, scenario);
                    check_intents(host);
                    host.qemu().with_vm([](FakeVm& vm) { vm.options().reactions.clear(); }, 0);
                    REQUIRE(host.start_daemon());
                    check_end(host, scenario.act != nullptr);
                }
            }
        }
    }
}

TEST_CASE("a daemon that dies again while it recovers leaves no VM behind", "[daemon][crash]") {
    for (const SecondDeath& row : kSecondDeaths) {
        for (const std::string& mark : row.second) {
            for (const char* moment : {".before", ".after"}) {
                DYNAMIC_SECTION(row.first << ", then " << mark << moment) {
                    Host host(2);
                    host.serve();
                    host.fault = row.first;
                    start_and_die(host, scenarios().front());
                    host.fault = "journal." + mark + moment;
                    (void)host.start_daemon(); // it may die before it is READY
                    CHECK(host.wait_for_daemon() == kKilled);
                    check_intents(host);
                    REQUIRE(host.start_daemon());
                    check_end(host, false);
                }
            }
        }
    }
}

TEST_CASE("a VM that is gone after the restart is lost once, whenever it dies", "[daemon][crash]") {
    for (const char* moment : {".before", ".after"}) {
        DYNAMIC_SECTION(moment) {
            Host host(1);
            host.serve();
            host.fault = "journal.verify.before";
            start_and_die(host, scenarios().front());
            // its sockets are gone: nobody can be asked any more
            std::filesystem::remove_all(host.dir() / "q");
            std::filesystem::remove_all(host.dir() / "vms");
            host.fault = "journal.lost_contact" + std::string(moment);
            (void)host.start_daemon();
            CHECK(host.wait_for_daemon() == kKilled);
            REQUIRE(host.start_daemon());
            const std::string id = host.newest_run();
            json run;
            REQUIRE(wait_until([&] {
                run = json::parse(host.ctl({"--json", "status", id, "--once"}).out);
                return run.at("state") == "finished";
            }));
            CHECK(run.at("vms").at(0).at("outcome") == "lost_contact");
            CHECK(has_step(run_vm_from_json(run.at("vms").at(0)), "switch_over"));
        }
    }
}

TEST_CASE("a hold is kept from when it is written, and not before", "[daemon][crash]") {
    for (const bool is_written : {false, true}) {
        DYNAMIC_SECTION((is_written ? "after" : "before")) {
            Host host(1);
            host.serve();
            host.fault = is_written ? "journal.hold.after" : "journal.hold.before";
            REQUIRE(host.start_daemon());
            const Ran held = host.ctl({"hold", "vm0", "--reason", "why"});
            CHECK(held.status == 69); // nobody was told that it is held
            CHECK(host.wait_for_daemon() == kKilled);
            REQUIRE(host.start_daemon());
            const Ran ran = host.ctl({"--json", "upgrade", "--yes", "vm0", "--to", "new"});
            CHECK(ran.status == (is_written ? 6 : 0));
            CHECK((ran.out.find("\"held\"") != std::string::npos) == is_written);
        }
    }
}

TEST_CASE("a VM that is asked late after a restart is not called lost", "[daemon][crash]") {
    // given a VM whose upgrade had not touched it yet, and many that hang and are asked before it
    constexpr std::size_t kOthers = 130;
    Host host(1 + kOthers);
    host.options(0).qmp_path = host.dir() / "q/zzz.qmp";
    host.extra_sections = "probe = \"200ms\"\n"; // of [deadlines]
    host.serve();
    host.fault = "journal.preflight.after";
    REQUIRE(host.start_daemon());
    const pid_t ctl = host.start_ctl({"upgrade", "--yes", "vm0", "--to", "new"});
    REQUIRE(host.wait_for_daemon() == kKilled);
    (void)host.finish_ctl(ctl);
    FaultScript hangs;
    hangs.is_without_greeting = true;
    for (std::size_t i = 1; i <= kOthers; ++i) {
        host.qemu().set_main_script(hangs, i);
    }
    // when
    REQUIRE(host.start_daemon());
    // then
    json run;
    REQUIRE(wait_until([&] {
        run = json::parse(host.ctl({"--json", "status", host.newest_run(), "--once"}).out);
        return run.at("state") == "finished";
    }));
    INFO(run.dump());
    CHECK(run.at("vms").at(0).at("outcome") == "refused");
    CHECK(run.at("vms").at(0).at("code") == "stopped");
}

TEST_CASE("a recovery that kills the daemon is tried five times, not more", "[daemon][crash]") {
    for (const bool is_journal_lost : {false, true}) {
        DYNAMIC_SECTION((is_journal_lost ? "adopted" : "resumed")) {
            Host host(2);
            host.serve();
            host.fault = "journal.await_pause.after";
            start_and_die(host, scenarios().front());
            if (is_journal_lost) {
                std::filesystem::remove_all(host.dir() / "state");
            }
            for (int i = 0; i < 5; ++i) {
                INFO("attempt " << i + 1);
                host.fault = "journal.rolling_back.before";
                (void)host.start_daemon();
                REQUIRE(host.wait_for_daemon() == kKilled);
            }
            const std::size_t commands = host.qemu().commands(0).size();
            host.fault = "journal.rolling_back.before"; // and now it does not come to it any more
            REQUIRE(host.start_daemon());
            const std::string id = host.newest_run();
            json run;
            REQUIRE(wait_until([&] {
                run = json::parse(host.ctl({"--json", "status", id, "--once"}).out);
                return run.at("state") == "finished";
            }));
            INFO(run.dump());
            std::size_t given_up = 0;
            for (const json& vm : run.at("vms")) {
                given_up += vm.at("code") == "recovery_given_up" ? 1U : 0U;
                CHECK(vm.at("recoveries").get<int>() <= 5);
            }
            CHECK(given_up >= 1);
            CHECK(sides_of(host, 0) == std::vector<std::string>{"source"});
            const auto after = host.qemu().commands(0);
            CHECK(std::none_of(
                after.begin() + static_cast<std::ptrdiff_t>(commands),
                after.end(),
                [](const std::string& command) {
                    return command.find("hot-upgrade-rollback") != std::string::npos;
                }
            ));
            // it stays so over another start, and an operator who asks gets his upgrade
            REQUIRE(host.stop_daemon() == 0);
            host.fault = "journal.rolling_back.before";
            REQUIRE(host.start_daemon());
            CHECK(host.newest_run() == id);
            REQUIRE(host.stop_daemon() == 0);
            REQUIRE(host.start_daemon());
            check_upgradable(host);
        }
    }
}

TEST_CASE("every fault point of the daemon is walked by these tests", "[daemon][crash]") {
    // Cells of the matrix: each fails if the daemon does not die at its point.
    std::map<std::string, std::size_t> walked{
        {"journal.lost_contact.before", 1},
        {"journal.lost_contact.after", 1},
        {"journal.hold.before", 1},
        {"journal.hold.after", 1}};
    const auto walk = [&walked](const std::string& mark) {
        ++walked["journal." + mark + ".before"];
        ++walked["journal." + mark + ".after"];
    };
    for (const Scenario& scenario : scenarios()) {
        std::for_each(scenario.marks.begin(), scenario.marks.end(), walk);
    }
    for (const SecondDeath& row : kSecondDeaths) {
        std::for_each(row.second.begin(), row.second.end(), walk);
        ++walked[row.first];
    }
    std::size_t cells = 0;
    for (const std::string& point : all_fault_points()) {
        std::cout << walked[point] << "  " << point << "\n";
        cells += walked[point];
        INFO(point);
        CHECK(walked[point] > 0);
    }
    std::cout << cells << " deaths at " << all_fault_points().size() << " fault points\n";
    CHECK(walked.size() == all_fault_points().size());
}
