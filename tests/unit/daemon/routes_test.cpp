// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/routes.hpp"
#include "tests/support/catch.hpp"

using namespace qhup::daemon;

namespace {

std::string problem_of(std::string_view method, std::string_view target) {
    const Route route = find_route(method, target);
    const auto* problem = std::get_if<Problem>(&route);
    return problem == nullptr ? "" : problem->code;
}

} // namespace

TEST_CASE("each path leads to its call", "[daemon][routes]") {
    CHECK(std::holds_alternative<GetHealth>(find_route("GET", "/healthz")));
    CHECK(std::holds_alternative<GetVersion>(find_route("GET", "/v1/version")));
    CHECK(std::holds_alternative<GetVms>(find_route("GET", "/v1/vms")));
    CHECK(std::get<GetVm>(find_route("GET", "/v1/vms/vm%2D1")).name == "vm-1");
    const auto check = std::get<GetCheck>(find_route("GET", "/v1/vms/vm1/check?to=deb%31"));
    CHECK(check.vm == "vm1");
    CHECK(check.to == "deb1");
    CHECK(std::holds_alternative<GetReleases>(find_route("GET", "/v1/releases")));
    CHECK(std::holds_alternative<PostRun>(find_route("POST", "/v1/runs")));
    CHECK(std::holds_alternative<GetRuns>(find_route("GET", "/v1/runs")));
    CHECK(std::get<GetRun>(find_route("GET", "/v1/runs/r1")).id == "r1");
    CHECK(std::get<GetRunEvents>(find_route("GET", "/v1/runs/r1/events?after=7")).after == 7);
    CHECK(std::get<GetRunEvents>(find_route("GET", "/v1/runs/r1/events")).after == 0);
    CHECK(std::get<AbortRun>(find_route("POST", "/v1/runs/r1/abort")).id == "r1");
    CHECK(std::get<HoldVm>(find_route("PUT", "/v1/vms/vm1/hold")).vm == "vm1");
    CHECK(std::get<UnholdVm>(find_route("DELETE", "/v1/vms/vm1/hold")).vm == "vm1");
    CHECK(std::holds_alternative<GetCodes>(find_route("GET", "/v1/codes")));
    CHECK(std::holds_alternative<GetHolds>(find_route("GET", "/v1/holds")));
    CHECK(problem_of("GET", "/v1/vms/vm1/hold") == "method_not_allowed");
    CHECK(problem_of("POST", "/v1/vms/vm1/hold") == "method_not_allowed");
    CHECK(problem_of("DELETE", "/v1/vms/vm1") == "method_not_allowed");
    CHECK(problem_of("DELETE", "/v1/holds") == "method_not_allowed");
}

TEST_CASE("events are chosen by run, VM and type, and by nothing else", "[daemon][routes]") {
    const auto all = std::get<GetEvents>(find_route("GET", "/v1/events"));
    CHECK_FALSE(all.after);
    CHECK(all.filter.runs.empty());
    const auto some = std::get<GetEvents>(
        find_route("GET", "/v1/events?after=17&run=r1&run=r2&vm=a%2Db&type=upgrade_ended")
    );
    CHECK(some.after == 17);
    CHECK(some.filter.runs == std::vector<std::string>{"r1", "r2"});
    CHECK(some.filter.vms == std::vector<std::string>{"a-b"});
    CHECK(some.filter.types == std::vector<std::string>{"upgrade_ended"});
    for (const char* bad :
         {"after=x", "after=", "after=-1", "runs=r1", "vm=", "vm=a%2fb", "type=x"}) {
        INFO(bad);
        CHECK(problem_of("GET", "/v1/events?" + std::string(bad)) == "bad_request");
    }
    CHECK(problem_of("POST", "/v1/events") == "method_not_allowed");
}

TEST_CASE("what happened before is chosen by what is known, and nothing else", "[daemon][routes]") {
    const auto upgrades = std::get<GetUpgrades>(
        find_route("GET", "/v1/upgrades?vm=vm1&run=r1&outcome=upgraded&limit=5")
    );
    CHECK(upgrades.vm == "vm1");
    CHECK(upgrades.outcome == "upgraded");
    CHECK(upgrades.limit == 5);
    CHECK(std::get<GetUpgrade>(find_route("GET", "/v1/upgrades/r1.0")).id == "r1.0");
    CHECK(std::get<GetRehearsals>(find_route("GET", "/v1/rehearsals?vm=vm1")).vm == "vm1");
    const auto history =
        std::get<GetHistory>(find_route("GET", "/v1/history?action=hold_set&before=9")).filter;
    CHECK(history.action == "hold_set");
    CHECK(history.before == 9);
    CHECK(history.limit == 1000);
    CHECK(std::holds_alternative<GetMetrics>(find_route("GET", "/metrics")));
    for (const char* bad : {"who=me", "vm=a&vm=b", "limit=0", "limit=x", "action=x", "vm="}) {
        INFO(bad);
        CHECK(problem_of("GET", "/v1/history?" + std::string(bad)) == "bad_request");
    }
    CHECK(problem_of("GET", "/v1/upgrades/a/b") == "no_such_path");
    CHECK(problem_of("POST", "/metrics") == "method_not_allowed");
}

TEST_CASE("only what changes something is an action", "[daemon][routes]") {
    for (const char* target : {"/v1/runs", "/v1/runs/r1/abort"}) {
        CHECK(is_action(find_route("POST", target)));
    }
    CHECK(is_action(find_route("PUT", "/v1/vms/vm1/hold")));
    CHECK(is_action(find_route("DELETE", "/v1/vms/vm1/hold")));
    for (const char* target : {"/v1/runs", "/v1/vms/a/check?to=b", "/metrics", "/v1/nothing"}) {
        CHECK_FALSE(is_action(find_route("GET", target)));
    }
}

TEST_CASE("a path that does not exist says so", "[daemon][routes]") {
    const auto target = GENERATE(
        "/", "/v2/vms", "/v1", "/v1/nothing", "/v1/vms/a/b", "/v1/runs/a/b", "/v1/vms/a/check/c"
    );
    INFO(target);
    CHECK(problem_of("GET", target) == "no_such_path");
}

TEST_CASE("a target that is not understood is a bad request", "[daemon][routes]") {
    const auto target = GENERATE(
        "",
        "*",
        "http://x/v1/vms",
        "/v1/vms/%zz",
        "/v1/vms/%4",
        "/v1/vms/%2e%2e",
        "/v1/vms/a%2fb",
        "/v1/vms/",
        "/v1/vms/a/check",
        "/v1/vms/a/check?to=",
        "/v1/runs/a/events?after=x"
    );
    INFO(target);
    CHECK(problem_of("GET", target) == "bad_request");
}

TEST_CASE("a method that a path does not take is named", "[daemon][routes]") {
    CHECK(problem_of("POST", "/v1/vms") == "method_not_allowed");
    const Route labelled = find_route("GET", "/v1/vms?labels=tier%3Ddb%2Crack%3D7%2Fb");
    const std::map<std::string, std::string> wanted{{"rack", "7/b"}, {"tier", "db"}};
    CHECK(std::get<GetVms>(labelled).labels == wanted);
    CHECK(problem_of("GET", "/v1/vms?labels=tier") == "bad_request");
    CHECK(problem_of("DELETE", "/v1/runs/r1") == "method_not_allowed");
    CHECK(problem_of("PUT", "/v1/runs") == "method_not_allowed");
    CHECK(problem_of("GET", "/v1/runs/r1/abort") == "method_not_allowed");
    CHECK(problem_of("POST", "/v1/runs/r1/events") == "method_not_allowed");
    CHECK(problem_of("POST", "/v1/vms/r1/abort") == "no_such_path");
    CHECK(problem_of("DELETE", "/v1/vms?nothing=1") == "method_not_allowed");
    const auto refused = std::get<Problem>(find_route("PATCH", "/v1/runs"));
    CHECK(refused.allow == "GET, HEAD, POST");
    CHECK(std::get<Problem>(find_route("GET", "/v1/vms/vm1/hold")).allow == "PUT, DELETE");
    CHECK(std::get<Problem>(find_route("HEAD", "/v1/runs/r1/abort")).allow == "POST");
    CHECK(std::get<Problem>(find_route("GET", "/v1/nothing")).allow.empty());
}

TEST_CASE("HEAD is the call of GET, and changes nothing", "[daemon][routes]") {
    CHECK(std::holds_alternative<GetVms>(find_route("HEAD", "/v1/vms")));
    CHECK(std::holds_alternative<GetRuns>(find_route("HEAD", "/v1/runs")));
    CHECK_FALSE(is_action(find_route("HEAD", "/v1/runs")));
    CHECK(problem_of("HEAD", "/v1/vms/a/hold") == "method_not_allowed");
}

TEST_CASE("a query that a call does not take is refused", "[daemon][routes]") {
    for (const char* path :
         {"/v1/version",
          "/v1/codes",
          "/v1/vms",
          "/v1/vms/a",
          "/v1/holds",
          "/v1/releases",
          "/v1/selftests",
          "/v1/selftests/s1",
          "/v1/runs",
          "/v1/runs/r1",
          "/v1/runs/r1/events",
          "/v1/upgrades",
          "/v1/upgrades/r1.0",
          "/v1/rehearsals",
          "/v1/history",
          "/v1/events"}) {
        INFO(path);
        CHECK(problem_of("GET", path).empty());
        CHECK(problem_of("GET", std::string(path) + "?nothing=1") == "bad_request");
    }
    CHECK(problem_of("POST", "/v1/runs?dry_run=true") == "bad_request");
    CHECK(problem_of("POST", "/v1/runs/r1/abort?now=1") == "bad_request");
    CHECK(problem_of("GET", "/v1/vms/a/check?to=b&too=c") == "bad_request");
    CHECK(problem_of("GET", "/v1/vms/a/check?to=b&to=c") == "bad_request");
    CHECK(problem_of("GET", "/v1/events?after=1&after=2") == "bad_request");
    CHECK(problem_of("GET", "/v1/events?after=9007199254740992") == "bad_request");
    CHECK(problem_of("GET", "/v1/vms?labels=a%3Db&labels=c%3Dd") == "bad_request");
    for (const char* labels : {"", "a=b,", ",a=b", "a=", "=b", "a=b,,c=d", "a b=c", "a=b=c"}) {
        INFO(labels);
        CHECK(problem_of("GET", "/v1/vms?labels=" + std::string(labels)) == "bad_request");
    }
    CHECK(problem_of("GET", "/healthz?from=balancer").empty());
    CHECK(problem_of("GET", "/metrics?a=1&a=2").empty());
}
