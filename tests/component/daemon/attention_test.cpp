// SPDX-License-Identifier: GPL-2.0-or-later
//
// A VM whose last upgrade needs an operator says so wherever it is shown, and as long as that is
// true.
#include "tests/component/daemon/harness.hpp"
#include "tests/support/catch.hpp"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <filesystem>

using namespace qhup::test;
using nlohmann::json;

namespace {

/// One VM whose probe fails.
struct Unwell {
    Unwell() {
        host.extra_sections = "[[policy]]\nvms = [\"*\"]\nprobe = [\"/bin/false\"]\n";
        host.serve();
        REQUIRE(host.start_daemon());
        CHECK(host.ctl({"list"}).out.find("operator") == std::string::npos);
        CHECK(host.ctl({"upgrade", "--yes", "--all", "--to", "new"}).status == 5);
        run = host.newest_run();
    }

    json vm() {
        const json list = json::parse(host.ctl({"--json", "list"}).out);
        return list.at("vms").empty() ? json() : list.at("vms").at(0);
    }
    bool needs_operator() { return !vm().at("attention").is_null(); }
    std::string metrics() {
        return host.raw_request("GET /metrics HTTP/1.1\r\nHost: q\r\nConnection: close\r\n\r\n");
    }
    bool is_settled() {
        const json status = json::parse(host.ctl({"--json", "status", run, "--once"}).out);
        return status.at("vms").at(0).at("settled").get<bool>();
    }
    bool is_found_by_doctor() {
        const json found = json::parse(host.ctl({"--json", "doctor"}).out).at("findings");
        return std::any_of(found.begin(), found.end(), [](const json& one) {
            return one.at("name") == "VM vm0" && one.at("level") == "fail";
        });
    }

    Host host{1};
    std::string run;
};

} // namespace

TEST_CASE("a VM that needs an operator says so wherever it is shown", "[daemon][attention]") {
    Unwell unwell;
    Host& host = unwell.host;
    for (int i = 0; i < 2; ++i) {
        INFO((i == 0 ? "after the run" : "after a new start of qhupd") << host.daemon_log());
        const json vm = unwell.vm();
        CHECK(vm.at("state") == "running");
        CHECK(vm.at("attention").at("run") == unwell.run);
        CHECK(vm.at("attention").at("code") == "probe_failed");
        CHECK(vm.at("attention").at("since_unix_ms") > 0);
        const std::string list = host.ctl({"list"}).out;
        CHECK(list.find("running, needs operator") != std::string::npos);
        CHECK(list.find("vm0 needs an operator: Look at the guest") != std::string::npos);
        const std::string show = host.ctl({"show", "vm0"}).out;
        CHECK(show.find("vm0 needs an operator: Look at the guest") != std::string::npos);
        CHECK(show.find("status " + unwell.run) != std::string::npos);
        CHECK(unwell.is_found_by_doctor());
        CHECK(unwell.metrics().find("\nqhup_vms_needing_operator 1\n") != std::string::npos);
        CHECK_FALSE(unwell.is_settled());
        if (i == 0) {
            CHECK(host.stop_daemon() == 0);
            REQUIRE(host.start_daemon());
            // what is left of the upgrade is looked at again, and found as it was
            REQUIRE(wait_until([&] { return host.newest_run() != unwell.run; }));
            REQUIRE(wait_until([&] {
                return host.ctl({"status", host.newest_run(), "--once"}).out.find("probe_failed") !=
                       std::string::npos;
            }));
        }
    }
}

TEST_CASE("a VM is kept by naming the release that it runs", "[daemon][attention]") {
    Unwell unwell;
    Host& host = unwell.host;
    (void)host.ctl({"upgrade", "--yes", "--all", "--to", "new"});
    (void)host.ctl({"upgrade", "vm0", "--to", "new", "--dry-run"});
    CHECK(unwell.needs_operator());
    const Ran kept = host.ctl({"--json", "upgrade", "--yes", "vm0", "--to", "new"});
    CHECK(json::parse(kept.out).at("vms").at(0).at("outcome") == "unchanged");
    CHECK_FALSE(unwell.needs_operator());
    CHECK(unwell.is_settled());
    CHECK_FALSE(unwell.is_found_by_doctor());
    CHECK(host.ctl({"list"}).out.find("operator") == std::string::npos);
    CHECK(unwell.metrics().find("\nqhup_vms_needing_operator 0\n") != std::string::npos);
    CHECK(host.stop_daemon() == 0);
    REQUIRE(host.start_daemon());
    CHECK_FALSE(unwell.needs_operator());
}

TEST_CASE("a VM that was started again needs no operator", "[daemon][attention]") {
    Unwell unwell;
    Host& host = unwell.host;
    // while it is away, it says so still
    host.qemu().hang_up(0);
    std::filesystem::remove(host.qemu().path(0));
    REQUIRE(wait_until([&] { return unwell.vm().is_null(); }));
    const json gone = json::parse(host.ctl({"--json", "list"}).out).at("gone");
    REQUIRE(gone.size() == 1);
    CHECK(gone.at(0).at("vm") == "vm0");
    CHECK(host.ctl({"list"}).out.find("vm0 is not there") != std::string::npos);
    CHECK(unwell.is_found_by_doctor());

    const FakeQemu again(host.options(0));
    REQUIRE(wait_until([&] { return !unwell.vm().is_null() && !unwell.needs_operator(); }));
    CHECK(json::parse(host.ctl({"--json", "list"}).out).at("gone").empty());
    CHECK(unwell.is_settled());
    CHECK(host.daemon_log().find("vm0 was started again") != std::string::npos);
    // and that is remembered, whatever QEMU says afterwards
    (void)host.ctl({"--json", "rehearse", "--yes", "vm0", "--to", "new"});
    host.kill_daemon();
    REQUIRE(host.start_daemon());
    CHECK_FALSE(unwell.needs_operator());
    CHECK(unwell.metrics().find("\nqhup_vms_needing_operator 0\n") != std::string::npos);
}
