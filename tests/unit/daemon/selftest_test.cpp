// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/routes.hpp"
#include "daemon/selftest_judge.hpp"
#include "tests/support/catch.hpp"

#include <nlohmann/json.hpp>

#include <algorithm>

using namespace qhup::daemon;

namespace {

SelftestView make_result(bool passed, std::string kernel = "6.1") {
    SelftestView view;
    view.id = "s1";
    view.state = "finished";
    view.passed = passed;
    view.from_build_id = "aa";
    view.to_build_id = "bb";
    view.kernel = std::move(kernel);
    return view;
}

} // namespace

TEST_CASE("a guest that counts without a gap is well", "[daemon][selftest]") {
    const auto count = read_count("count 0000000001\r\ncount 0000000002\r\ncount 00000");
    CHECK(count.problem.empty());
    CHECK(count.numbers == 2);
    CHECK(count.last == 2);
    CHECK(read_count("").numbers == 0);
}

TEST_CASE("a number that is missing, said twice or torn is a problem", "[daemon][selftest]") {
    CHECK_FALSE(read_count("count 0000000002\r\n").problem.empty());
    CHECK(
        read_count("count 0000000001\r\ncount 0000000003\r\n").problem == "the guest said 3 after 1"
    );
    CHECK(
        read_count("count 0000000001\r\ncount 0000000001\r\n").problem == "the guest said 1 after 1"
    );
    CHECK_FALSE(read_count("count 0000000001\r\ndisk error\r\n").problem.empty());
    CHECK_FALSE(read_count("count 00000x0001\r\n").problem.empty());
}

TEST_CASE("the number of a sector is read where it is", "[daemon][selftest]") {
    CHECK(number_of_sector("xx0000000042yy", 2) == 42);
    CHECK_FALSE(number_of_sector("xx00000", 2));
    CHECK_FALSE(number_of_sector(std::string(512, '\0'), 2));
}

TEST_CASE("a run passes only with all guests upgraded", "[daemon][selftest]") {
    RunView run;
    CHECK_FALSE(judge_run(run).empty());
    run.vms.resize(2);
    run.vms[0].vm = "qhup-selftest-s1-1";
    run.vms[0].outcome = "upgraded";
    run.vms[1].vm = "qhup-selftest-s1-2";
    run.vms[1].outcome = "rolled_back";
    run.vms[1].code = "load_failed";
    CHECK(
        judge_run(run) == "guest qhup-selftest-s1-2 was not upgraded but is rolled_back "
                          "(load_failed)"
    );
    run.vms[1].outcome = "upgraded";
    CHECK(judge_run(run).empty());
}

TEST_CASE("the newest result of pair and kernel counts", "[daemon][selftest]") {
    CHECK_FALSE(has_passed({}, "aa", "bb", "6.1"));
    CHECK(has_passed({make_result(true)}, "aa", "bb", "6.1"));
    CHECK_FALSE(has_passed({make_result(true)}, "aa", "bb", "6.12"));
    CHECK_FALSE(has_passed({make_result(true)}, "bb", "aa", "6.1"));
    CHECK_FALSE(has_passed({make_result(true), make_result(false)}, "aa", "bb", "6.1"));
    CHECK(has_passed({make_result(false), make_result(true)}, "aa", "bb", "6.1"));
    SelftestView running = make_result(true);
    running.state = "checking";
    CHECK_FALSE(has_passed({running}, "aa", "bb", "6.1"));
}

TEST_CASE("results survive the way to JSON and back", "[daemon][selftest]") {
    SelftestView view = make_result(true);
    view.run = "r1";
    view.guests = 5;
    view.accelerator = "kvm";
    view.hugepages = true;
    view.counted = 700;
    view.pause_ms = 12.5;
    view.by_uid = 1000;
    const std::vector<SelftestView> all{view, make_result(false)};
    CHECK(selftests_from_json(to_json(all)) == all);
}

TEST_CASE("requests for selftests are strict", "[daemon][selftest]") {
    const auto request = parse_selftest_request(R"({"to": "new", "from": "old", "guests": 50})");
    REQUIRE(request.has_value());
    CHECK(*request == SelftestRequest{.to = "new", .from = "old", .guests = 50});
    CHECK(parse_selftest_request(R"({"to": "new"})")->guests == 5);
    for (const char* body :
         {"",
          "[]",
          "{}",
          R"({"to": ""})",
          R"({"to": "../x"})",
          R"({"to": "new", "guests": 0})",
          R"({"to": "new", "guests": 51})",
          R"({"to": "new", "guests": "2"})",
          R"({"to": "new", "arguments": ["-s"]})"}) {
        CAPTURE(body);
        CHECK(parse_selftest_request(body).has_error());
    }
}

TEST_CASE("a guest is started as a unit that follows its new process", "[daemon][selftest]") {
    const auto arguments =
        selftest_arguments({"/usr/bin/qemu", "-L", "/fw"}, "qhup-selftest-s1-1", "/f", true);
    CHECK(arguments.front() == "/usr/bin/qemu");
    CHECK(arguments.back() == "/fw");
    const auto has = [](const std::vector<std::string>& words, const std::string& part) {
        return std::any_of(words.begin(), words.end(), [&part](const std::string& word) {
            return word.find(part) != std::string::npos;
        });
    };
    CHECK(has(arguments, "hugetlb=on"));
    CHECK_FALSE(has(selftest_arguments({"/q"}, "n", "/f", false), "hugetlb"));
    const auto unit = selftest_command(arguments, "qhup-selftest-s1-1", "/f", true);
    CHECK(unit.front() == "/usr/bin/systemd-run");
    CHECK(has(unit, "NotifyAccess=all"));
    CHECK(selftest_command(arguments, "n", "/f", false).front() == "/bin/sh");
    CHECK(is_selftest_guest("qhup-selftest-s1-1"));
    CHECK_FALSE(is_selftest_guest("selftest"));
}

TEST_CASE("only refusals that harm no guest can be overruled", "[daemon][selftest]") {
    CHECK(is_overrulable("untested"));
    CHECK(is_overrulable("outside_window"));
    for (const char* code : {"", "held", "blocked", "shape_differs", "busy", "binary_refused"}) {
        CHECK_FALSE(is_overrulable(code));
    }
    const auto request = parse_run_request(
        R"({"all": true, "to": "new", "allow": ["untested", "outside_window", "untested"]})"
    );
    REQUIRE(request.has_value());
    CHECK(request->allow == std::vector<std::string>{"outside_window", "untested"});
    CHECK(allows(*request, "untested"));
    CHECK_FALSE(allows(*request, "held"));
    CHECK(run_request_from_json(to_json(*request)) == *request);
    CHECK(parse_run_request(R"({"all": true, "to": "new", "allow": ["held"]})").has_error());
    CHECK(parse_run_request(R"({"all": true, "to": "new", "allow": "untested"})").has_error());
    CHECK(
        std::holds_alternative<GetCheck>(find_route("GET", "/v1/vms/a/check?to=new&allow=untested"))
    );
    CHECK(std::holds_alternative<Problem>(find_route("GET", "/v1/vms/a/check?to=new&allow=held")));
}

TEST_CASE("selftests have their paths", "[daemon][selftest]") {
    CHECK(std::holds_alternative<PostSelftest>(find_route("POST", "/v1/selftests")));
    CHECK(std::holds_alternative<GetSelftests>(find_route("GET", "/v1/selftests")));
    CHECK(std::holds_alternative<GetSelftest>(find_route("GET", "/v1/selftests/s1")));
    CHECK(std::holds_alternative<Problem>(find_route("DELETE", "/v1/selftests/s1")));
    CHECK(is_action(find_route("POST", "/v1/selftests")));
    CHECK_FALSE(is_action(find_route("GET", "/v1/selftests")));
}
