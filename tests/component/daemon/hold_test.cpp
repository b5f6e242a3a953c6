// SPDX-License-Identifier: GPL-2.0-or-later
//
// VMs that are held: nobody touches them, and everybody is told why.
#include "tests/component/daemon/harness.hpp"
#include "tests/support/catch.hpp"

#include <chrono>
#include <filesystem>

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

} // namespace

TEST_CASE("a request stands in the history before what came of it", "[daemon][hold]") {
    Host host(1);
    host.serve();
    REQUIRE(host.start_daemon());
    REQUIRE(host.ctl({"hold", "vm0", "--reason", "a backup goes on"}).status == 0);
    // what is refused ends as soon as it begins
    CHECK(host.ctl({"upgrade", "--yes", "vm0", "--to", "new"}).status == 6);
    const json entries = json::parse(host.ctl({"--json", "history"}).out).at("history");
    REQUIRE(entries.size() == 3);
    CHECK(entries.at(0).at("action") == "vm_ended");
    CHECK(entries.at(1).at("action") == "run_requested");
    CHECK_FALSE(entries.at(1).at("by").at("user").get<std::string>().empty());
    CHECK(entries.at(1).at("run") == entries.at(0).at("run"));
    host.kill_daemon();
    REQUIRE(host.start_daemon());
    CHECK(json::parse(host.ctl({"--json", "history"}).out).at("history") == entries);
}

TEST_CASE("a VM that is held is refused by its name, and left out of --all", "[daemon][hold]") {
    Host host(2);
    host.serve();
    REQUIRE(host.start_daemon());
    const Ran held = host.ctl({"hold", "vm0", "--reason", "a backup goes on", "--for", "2h"});
    INFO(held.err << held.out << host.daemon_log());
    REQUIRE(held.status == 0);
    CHECK(held.out.starts_with("vm0 is held until "));
    // after a restart too
    host.kill_daemon();
    REQUIRE(host.start_daemon());
    for (const char* command : {"upgrade", "rehearse"}) {
        const Ran named = host.ctl({"--json", command, "--yes", "vm0", "--to", "new"});
        CHECK(named.status == 6);
        const json refused = vm_of(json::parse(named.out), "vm0");
        CHECK(refused.at("outcome") == "refused");
        CHECK(refused.at("code") == "held");
        const auto message = refused.at("message").get<std::string>();
        CHECK(message.find("until 20") != std::string::npos);
        CHECK(message.find("a backup goes on") != std::string::npos);
    }
    CHECK(host.ctl({"revert", "--yes", "vm0"}).status == 6);
    CHECK(host.ctl({"check", "vm0", "--to", "new"}).status == 6);
    CHECK(host.ctl({"list"}).out.find("a backup goes on") != std::string::npos);
    CHECK(host.ctl({"show", "vm0"}).out.find("a backup goes on") != std::string::npos);
    const Ran all = host.ctl({"--json", "upgrade", "--yes", "--all", "--to", "new"});
    CHECK(all.status == 0);
    CHECK(vm_of(json::parse(all.out), "vm0").at("outcome") == "skipped");
    CHECK(vm_of(json::parse(all.out), "vm0").at("code") == "held");
    CHECK(vm_of(json::parse(all.out), "vm1").at("outcome") == "upgraded");
    CHECK_FALSE(has_command(host, "main hot-upgrade-prepare"));
    const Ran again = host.ctl({"upgrade", "--yes", "--all", "--to", "new"});
    CHECK(again.status == 2);
    CHECK(again.out.find("vm0 was left out: VM vm0 is held until") != std::string::npos);
    REQUIRE(host.ctl({"unhold", "vm0"}).status == 0);
    CHECK(host.ctl({"unhold", "vm0"}).status == 3);
    CHECK(host.ctl({"upgrade", "--yes", "--all", "--to", "new"}).status == 0);
    // taken off is taken off, after a restart too
    host.kill_daemon();
    REQUIRE(host.start_daemon());
    CHECK(json::parse(host.ctl({"--json", "show", "vm0"}).out).at("hold").is_null());
}

TEST_CASE(
    "holds and runs outlast a state folder that was emptied under the daemon", "[daemon][hold]"
) {
    Host host(2);
    host.serve();
    REQUIRE(host.start_daemon());
    REQUIRE(host.ctl({"upgrade", "--yes", "vm0", "--to", "new"}).status == 0);
    REQUIRE(host.ctl({"hold", "vm0", "--reason", "before"}).status == 0);
    std::filesystem::remove_all(host.dir() / "state");
    // without its folder nothing is promised
    CHECK(host.ctl({"hold", "vm1", "--reason", "nowhere"}).status != 0);
    CHECK(host.ctl({"upgrade", "--yes", "vm1", "--to", "new"}).status != 0);
    CHECK_FALSE(has_command(host, "main hot-upgrade-prepare", 1));
    std::filesystem::create_directory(host.dir() / "state");
    REQUIRE(host.ctl({"hold", "vm1", "--reason", "after"}).status == 0);
    REQUIRE(wait_until([&] { return host.journal_log().find("before") != std::string::npos; }));
    host.kill_daemon();
    REQUIRE(host.start_daemon());
    CHECK(host.ctl({"show", "vm0"}).out.find("before") != std::string::npos);
    CHECK(host.ctl({"show", "vm1"}).out.find("after") != std::string::npos);
    CHECK(host.ctl({"status"}).out.find("1 upgraded") != std::string::npos);
}

TEST_CASE("a hold that has expired holds nobody", "[daemon][hold]") {
    Host host(1);
    host.serve();
    REQUIRE(host.start_daemon());
    REQUIRE(host.ctl({"hold", "vm0", "--reason", "why", "--for", "1s"}).status == 0);
    CHECK_FALSE(json::parse(host.ctl({"--json", "show", "vm0"}).out).at("hold").is_null());
    CHECK(wait_until([&] {
        return host.ctl({"upgrade", "--yes", "vm0", "--to", "new"}).status == 0;
    }));
    CHECK(json::parse(host.ctl({"--json", "show", "vm0"}).out).at("hold").is_null());
    CHECK(host.ctl({"unhold", "vm0"}).status == 3);
}

TEST_CASE("a VM that is held while it waits in a run is not begun", "[daemon][hold]") {
    Host host(2);
    host.extra_config = "parallel = 1";
    const auto paused = std::make_shared<std::atomic<bool>>(true);
    host.options(0).vm.reactions["hot-upgrade-switch"].held = paused;
    host.serve();
    REQUIRE(host.start_daemon());
    const pid_t upgrade = host.start_ctl({"--json", "upgrade", "--yes", "--all", "--to", "new"});
    REQUIRE(wait_until([&] { return has_command(host, "source hot-upgrade-switch"); }));
    // the one that is in its pause finishes all the same
    REQUIRE(host.ctl({"hold", "vm0", "vm1", "--reason", "stop it"}).status == 0);
    *paused = false;
    const Ran ran = host.finish_ctl(upgrade);
    INFO(ran.err << ran.out << host.daemon_log());
    CHECK(ran.status == 6);
    CHECK(vm_of(json::parse(ran.out), "vm0").at("outcome") == "upgraded");
    CHECK(vm_of(json::parse(ran.out), "vm1").at("code") == "held");
    CHECK_FALSE(has_command(host, "main hot-upgrade-prepare", 1));
}

TEST_CASE("what is no hold changes nothing", "[daemon][hold]") {
    Host host(1);
    host.serve();
    REQUIRE(host.start_daemon());
    CHECK(host.ctl({"hold", "vm9", "--reason", "why"}).status == 3);
    const Ran late = host.ctl({"hold", "vm0", "--reason", "why", "--until", "2020-01-01Z"});
    CHECK(late.status == 64);
    CHECK(late.err.find("is over") != std::string::npos);
    const std::string put = "PUT /v1/vms/vm0/hold HTTP/1.1\r\nHost: q\r\nConnection: close\r\n";
    CHECK(host.raw_request(put + "Content-Length: 2\r\n\r\n{}").find("400") != std::string::npos);
    CHECK(
        host.raw_request("GET /v1/holds HTTP/1.1\r\nHost: q\r\nConnection: close\r\n\r\n")
            .find("{\"holds\":[]}") != std::string::npos
    );
    // what cannot be written down does not hold
    REQUIRE(host.ctl({"upgrade", "--yes", "vm0", "--to", "new", "--dry-run"}).status == 0);
    host.fill_disk(true);
    CHECK(host.ctl({"hold", "vm0", "--reason", "why"}).status == 75);
    host.fill_disk(false);
    CHECK(host.ctl({"upgrade", "--yes", "vm0", "--to", "new"}).status == 0);
}
