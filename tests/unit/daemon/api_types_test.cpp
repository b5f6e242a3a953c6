// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/api_types.hpp"
#include "tests/support/catch.hpp"

#include <nlohmann/json.hpp>

using namespace qhup::daemon;

namespace {

std::string error_of(std::string_view body) {
    const auto request = parse_run_request(body);
    return request.has_error() ? request.error().message : "no error";
}

} // namespace

TEST_CASE("a run survives the way over the wire", "[daemon][api_types]") {
    RunView run;
    run.id = "r1";
    run.kind = "upgrade";
    run.state = "running";
    run.to = "deb13";
    run.parallel = 3;
    run.started_unix_ms = 1;
    RunVmView vm;
    vm.vm = "vm1";
    vm.phase = "switch_over";
    vm.since_ms = 12;
    vm.pause_ms = 1.5;
    vm.timings_ns = {{"save", 7}};
    vm.shape_class = "0123456789abcdef";
    vm.rehearsal = RehearsalView{"failed", "load_failed", "words", "virtio-net", 2.5, 9.5};
    vm.blockers = {{.id = "a/b", .klass = "a", .reason = "because"}};
    run.vms = {vm};
    const auto parsed = parse_json(format_json(to_json(run)));
    REQUIRE(parsed.has_value());
    CHECK(to_json(run_from_json(*parsed)) == to_json(run));
}

TEST_CASE("a VM survives the way over the wire", "[daemon][api_types]") {
    VmView vm;
    vm.name = "vm1";
    vm.pid = 77;
    vm.ram_bytes = 1ULL << 40U;
    vm.reachable = true;
    vm.blockers = {{.id = "a/b", .klass = "a", .reason = "because"}};
    CHECK(to_json(vm_from_json(to_json(vm))) == to_json(vm));
    vm.hold =
        HoldView{.vm = "vm1", .reason = "why", .since_unix_ms = 1, .until_unix_ms = 2, .by_uid = 3};
    CHECK(to_json(vm_from_json(to_json(vm))) == to_json(vm));
}

TEST_CASE("a check survives the way over the wire", "[daemon][api_types]") {
    CheckView check;
    check.vm = "vm1";
    check.blockers = {{.id = "a/b", .klass = "a", .reason = "because"}};
    check.warnings = {{.id = "netdev/n0", .klass = "packet-loss", .reason = "busy"}};
    const CheckView back = check_from_json(to_json(check));
    CHECK(to_json(back) == to_json(check));
    REQUIRE(back.warnings.size() == 1);
    CHECK(back.warnings[0].reason == "busy");
}

TEST_CASE("members of another type keep their default", "[daemon][api_types]") {
    const auto vm = vm_from_json({{"name", 7}, {"pid", "x"}, {"blockers", "y"}, {"reachable", 1}});
    CHECK(vm.name.empty());
    CHECK(vm.pid == 0);
    CHECK(vm.blockers.empty());
    CHECK_FALSE(vm.reachable);
    CHECK(run_from_json(nlohmann::json::array()).id.empty());
}

TEST_CASE("text of a QEMU that is no UTF-8 does not break the answer", "[daemon][api_types]") {
    VmView vm;
    vm.version = "\xff\xfe";
    CHECK(parse_json(format_json(to_json(vm))).has_value());
}

TEST_CASE("a request in which a member is twice is refused", "[daemon][api_types]") {
    for (const char* body :
         {R"({"vms": ["a"], "to": "b", "dry_run": true, "dry_run": false})",
          R"({"vms": ["a"], "to": "b", "\u0074o": "c"})",
          R"({"all": true, "to": "b", "labels": {"a": "b", "a": "c"}})"}) {
        INFO(body);
        const auto parsed = parse_run_request(body);
        REQUIRE(parsed.has_error());
        CHECK(parsed.error().message.find("twice") != std::string::npos);
    }
    // the same name in two objects is none
    CHECK(parse_run_request(R"({"all": true, "to": "b", "labels": {"to": "c"}})").has_value());
    CHECK(parse_hold_request(R"({"reason": "a", "reason": "b"})").has_error());
}

TEST_CASE("a request for a run is read", "[daemon][api_types]") {
    const auto request =
        parse_run_request(R"({"vms": ["a", "b", "a"], "to": "deb13", "parallel": 2})");
    REQUIRE(request.has_value());
    CHECK(request->vms == std::vector<std::string>{"a", "b"});
    CHECK(request->parallel == 2U);
    CHECK_FALSE(request->dry_run);
    CHECK(request->request_id.empty());
    CHECK(
        parse_run_request(R"({"all": true, "to": "x", "request_id": "job-7"})")->request_id ==
        "job-7"
    );
}

TEST_CASE("what was asked is part of the run and comes back", "[daemon][api_types]") {
    RunView run;
    CHECK_FALSE(run_from_json(to_json(run)).request);
    run.request = RunRequest{
        .kind = "rehearsal",
        .vms = {"a", "b"},
        .all = false,
        .to = "x",
        .parallel = 3,
        .max_failures = 2,
        .dry_run = true,
        .rehearse = "all",
        .pause_budget_ms = 7,
        .request_id = "i",
        .allow = {"untested"}};
    const auto again = run_from_json(to_json(run));
    REQUIRE(again.request);
    CHECK(to_json(*again.request) == to_json(*run.request));
}

TEST_CASE("a request with anything wrong in it starts nothing", "[daemon][api_types]") {
    const auto bad = GENERATE(
        "",
        "[]",
        "{",
        R"({"vms": ["a"]})",
        R"({"to": "x"})",
        R"({"vms": [], "to": "x"})",
        R"({"vms": ["a"], "all": true, "to": "x"})",
        R"({"vms": "a", "to": "x"})",
        R"({"vms": ["../a"], "to": "x"})",
        R"({"vms": [1], "to": "x"})",
        R"({"all": 1, "to": "x"})",
        R"({"all": true, "to": "/bin/sh"})",
        R"({"all": true, "to": "x", "parallel": 0})",
        R"({"all": true, "to": "x", "parallel": 5000})",
        R"({"all": true, "to": "x", "parallel": -1})",
        R"({"all": true, "to": "x", "request_id": ""})",
        R"({"all": true, "to": "x", "max_failures": 0})",
        R"({"all": true, "to": "x", "max_failures": "2"})",
        R"({"all": true, "to": "x", "request_id": 7})",
        R"({"all": true, "to": "x", "dryrun": true})"
    );
    INFO(bad);
    CHECK(error_of(bad) != "no error");
}

TEST_CASE("a whole number may be written with a point", "[daemon][api_types]") {
    const auto request = parse_run_request(
        R"({"all": true, "to": "x", "parallel": 2.0, "batch": 1e3, "soak_ms": 1000.0, "max_failures": 1.0})"
    );
    REQUIRE(request.has_value());
    CHECK(request->parallel == 2U);
    CHECK(request->batch == 1000);
    CHECK(request->soak_ms == 1000);
    CHECK(request->max_failures == 1);
    for (const char* number : {"1.5", "0.0", "-1.0", "1e300", "-1e300", "1025.0", "0.9999999"}) {
        INFO(number);
        const std::string body = R"({"all": true, "to": "x", "parallel": )" + std::string(number);
        CHECK(error_of(body + "}") != "no error");
    }
    CHECK(
        parse_hold_request(R"({"reason": "a", "until_unix_ms": 4e12})")->until_unix_ms ==
        4'000'000'000'000
    );
    CHECK(parse_hold_request(R"({"reason": "a", "until_unix_ms": -0})")->until_unix_ms == 0);
    for (const char* until : {"null", "-1", "1.5", "9007199254740992", "18446744073709551615"}) {
        INFO(until);
        const std::string body = R"({"reason": "a", "until_unix_ms": )" + std::string(until) + "}";
        CHECK(parse_hold_request(body).has_error());
    }
}

TEST_CASE("the reason of a hold is counted in characters", "[daemon][api_types]") {
    std::string words;
    for (int i = 0; i < 500; ++i) {
        words += "\u00e9";
    }
    CHECK(parse_hold_request(R"({"reason": ")" + words + "\"}").has_value());
    CHECK(parse_hold_request(R"({"reason": ")" + words + "x\"}").has_error());
    CHECK(parse_hold_request(R"({"reason": "two\nlines"})").has_error());
}

TEST_CASE("labels of a request are words", "[daemon][api_types]") {
    const std::string head = R"({"all": true, "to": "x", "labels": )";
    CHECK(parse_run_request(head + R"({"tier": "db/1"}})").has_value());
    for (const char* labels :
         {"{}", "[]", R"({"": "a"})", R"({"a": ""})", R"({"a": 1})", R"({"a b": "c"})"}) {
        INFO(labels);
        CHECK(parse_run_request(head + labels + "}").has_error());
    }
}

TEST_CASE("JSON that is nested deeply is refused before it is built", "[daemon][api_types]") {
    CHECK(error_of(std::string(100'000, '[')).find("deep") != std::string::npos);
    CHECK(error_of(R"({"vms": )" + std::string(40, '[')).find("deep") != std::string::npos);
    // brackets in a string nest nothing, and an escaped quote does not end it
    const std::string brackets(100, '[');
    CHECK(parse_json(R"({"a": ")" + brackets + R"("})").has_value());
    CHECK(parse_json(R"({"a": "\"{{)" + brackets + R"(\\"})").has_value());
    CHECK(parse_json(R"({"a": "\\", "b": )" + brackets).has_error());
    // what closes too often is no JSON, however the depth is counted
    CHECK(parse_json("]]]]" + brackets).has_error());
}

TEST_CASE("names that could leave their folder are not names", "[daemon][api_types]") {
    CHECK(is_valid_name("vm-1.example~2"));
    CHECK_FALSE(is_valid_name(""));
    CHECK_FALSE(is_valid_name(".."));
    CHECK_FALSE(is_valid_name("-rf"));
    CHECK_FALSE(is_valid_name("a/b"));
    CHECK_FALSE(is_valid_name("a b"));
    CHECK_FALSE(is_valid_name("a\n"));
    CHECK_FALSE(is_valid_name(std::string(129, 'a')));
}

TEST_CASE("a request with an unknown member names it", "[daemon][api_types]") {
    const std::string wrong = error_of(R"({"all": true, "too": "x"})");
    CHECK(wrong.find("no member 'too'. Did you mean 'to'? It has vms, all, ") != wrong.npos);
    const std::string strange = error_of(R"({"all": true, "colour": "x"})");
    CHECK(strange.find("no member 'colour'. It has") != strange.npos);
    const std::string huge = error_of("{\"" + std::string(1U << 20U, 'x') + "\": 1}");
    CHECK(huge.size() < 1000);
}

TEST_CASE("a request for a rehearsal, and for rehearsals before upgrades", "[daemon][api_types]") {
    const auto one =
        parse_run_request(R"({"vms": ["a"], "to": "x", "kind": "rehearsal", "pause_budget_ms": 50})"
        );
    REQUIRE(one.has_value());
    CHECK(one->kind == "rehearsal");
    CHECK(one->pause_budget_ms == 50U);
    CHECK(run_request_from_json(to_json(*one)) == *one);
    const auto other = parse_run_request(R"({"vms": ["a"], "to": "x", "rehearse": "all"})");
    REQUIRE(other.has_value());
    CHECK(other->rehearse == "all");
    CHECK(other->kind == "upgrade");
    CHECK(run_request_from_json(to_json(*other)) == *other);
    CHECK_FALSE(error_of(R"({"vms": ["a"], "to": "x", "kind": "recovery"})") == "no error");
    CHECK_FALSE(error_of(R"({"vms": ["a"], "to": "x", "rehearse": true})") == "no error");
    CHECK_FALSE(error_of(R"({"vms": ["a"], "to": "x", "pause_budget_ms": 0})") == "no error");
    CHECK_FALSE(error_of(R"({"vms": ["a"], "to": "x", "pause_budget_ms": 30001})") == "no error");
}

TEST_CASE("stages of a run are asked for and come back", "[daemon][api_types]") {
    const auto request = parse_run_request(
        R"({"all": true, "to": "x", "canaries": 2, "batch": 10, "soak_ms": 60000})"
    );
    REQUIRE(request.has_value());
    CHECK(request->canaries == 2);
    CHECK(request->batch == 10);
    CHECK(request->soak_ms == 60000);
    CHECK(run_request_from_json(to_json(*request)) == *request);
    const std::string head = R"({"all": true, "to": "x", )";
    for (const char* rest :
         {R"("canaries": 0})",
          R"("canaries": "2"})",
          R"("batch": 10001})",
          R"("batch": -1})",
          R"("soak_ms": 5})",
          R"("batch": 1, "soak_ms": 604800001})",
          R"("batch": 1, "kind": "rehearsal"})"}) {
        INFO(rest);
        CHECK(parse_run_request(head + rest).has_error());
    }
    RunView run;
    run.stopped_by = "canaries";
    run.stop_reason = "canary vm1 was refused";
    run.stage = StageView{
        .name = "canaries", .number = 1, .of = 3, .state = "soaking", .soak_until_unix_ms = 7};
    run.vms.resize(1);
    run.vms[0].stage = 1;
    run.vms[0].run_state = "paused";
    CHECK(to_json(run_from_json(to_json(run))) == to_json(run));
    RunEvent event;
    event.sequence = 3;
    event.stage = run.stage;
    CHECK(run_event_from_json(to_json(event)).stage == run.stage);
}

TEST_CASE("a revert names no release", "[daemon][api_types]") {
    const auto request = parse_run_request(R"({"vms": ["a"], "kind": "revert"})");
    REQUIRE(request.has_value());
    CHECK(request->kind == "revert");
    CHECK(run_request_from_json(to_json(*request)) == *request);
    CHECK_FALSE(error_of(R"({"vms": ["a"], "kind": "revert", "to": "x"})") == "no error");
    CHECK_FALSE(error_of(R"({"vms": ["a"]})") == "no error");
}
