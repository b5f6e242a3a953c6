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

TriedView find_tried(const std::vector<TriedView>& tried, const std::string& name) {
    for (const TriedView& each : tried) {
        if (each.name == name) {
            return each;
        }
    }
    return {};
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
    CHECK(find_passed({}, "aa", "bb", "6.1") == nullptr);
    CHECK(find_passed({make_result(true)}, "aa", "bb", "6.1") != nullptr);
    CHECK(find_passed({make_result(true)}, "aa", "bb", "6.12") == nullptr);
    CHECK(find_passed({make_result(true)}, "bb", "aa", "6.1") == nullptr);
    CHECK(find_passed({make_result(true), make_result(false)}, "aa", "bb", "6.1") == nullptr);
    CHECK(find_passed({make_result(false), make_result(true)}, "aa", "bb", "6.1") != nullptr);
    SelftestView running = make_result(true);
    running.state = "checking";
    CHECK(find_passed({running}, "aa", "bb", "6.1") == nullptr);
}

TEST_CASE("results survive the way to JSON and back", "[daemon][selftest]") {
    SelftestView view = make_result(true);
    view.run = "r1";
    view.guests = 5;
    view.accelerator = "kvm";
    view.hugepages = true;
    view.tried = {{.name = "kvm", .used = true, .text = "seen", .vms = 3}};
    view.counted = 700;
    view.pause_ms = 12.5;
    view.by_uid = 1000;
    const std::vector<SelftestView> all{view, make_result(false)};
    CHECK(selftests_from_json(to_json(all)) == all);
}

TEST_CASE(
    "what was seen to be used by every process of the guests was tried", "[daemon][selftest]"
) {
    HostUse all{.has_kvm = true, .has_vhost = true, .huge_kib = 8192, .label = "qemu (enforce)"};
    const auto tried = make_tried({all, all}, {}, {});
    CHECK(tried.size() == 4);
    for (const char* name : {"kvm", "huge_pages", "vhost", "security_module"}) {
        CAPTURE(name);
        CHECK(find_tried(tried, name).used);
        CHECK_FALSE(find_tried(tried, name).text.empty());
    }
    HostUse after = all;
    after.has_kvm = false;
    const TriedView kvm = find_tried(make_tried({all, after}, {all}, {}), "kvm");
    CHECK_FALSE(kvm.used);
    CHECK(kvm.text == "only 1 of 2 processes of the guests used it");
    CHECK(kvm.vms == 1);
    CHECK(make_tried({}, {all}, {}).empty());
}

TEST_CASE("what was not tried has a reason", "[daemon][selftest]") {
    const std::string kvm = "qemu: Could not access KVM kernel module: ";
    HostLimits limits{.huge_pages = 3, .wanted_pages = 32, .vhost = "no /dev/vhost-net"};
    HostUse none;
    none.label_error = 22; // EINVAL
    limits.log = kvm + "No such file or directory\nqemu: falling back to tcg\n";
    auto tried = make_tried({none}, {}, limits);
    CHECK(find_tried(tried, "kvm").text == "no /dev/kvm");
    CHECK(
        find_tried(tried, "huge_pages").text ==
        "3 of the 32 huge pages of 2 MiB that the guests need are free"
    );
    CHECK(find_tried(tried, "vhost").text == "no /dev/vhost-net");
    CHECK(find_tried(tried, "security_module").text == "no security module is loaded");
    CHECK(find_tried(tried, "libvirt_profile").name.empty());
    limits.log = kvm + "Permission denied\n";
    none.label = "unconfined";
    limits.has_libvirt = true;
    tried = make_tried({none}, {{.label = "libvirt-aa (enforce)"}}, limits);
    CHECK(find_tried(tried, "kvm").text == "QEMU may not open /dev/kvm: Permission denied");
    CHECK_FALSE(find_tried(tried, "security_module").used);
    CHECK(find_tried(tried, "security_module").text == "they ran as 'unconfined'");
    CHECK(find_tried(tried, "libvirt_profile").vms == 1);
    CHECK_FALSE(find_tried(tried, "libvirt_profile").used);
}

TEST_CASE("why a guest has no vhost is in QEMU's words", "[daemon][selftest]") {
    const std::string vhost = "qemu: -netdev tap: tap: open vhost char device failed: ";
    CHECK(explain_no_vhost(vhost + "No such file or directory\n") == "no /dev/vhost-net");
    CHECK(
        explain_no_vhost(vhost + "Permission denied\n") ==
        "QEMU may not open /dev/vhost-net: Permission denied"
    );
    CHECK(
        explain_no_vhost("could not open /dev/net/tun: No such file or directory") ==
        "no tap for a guest: no /dev/net/tun"
    );
    CHECK(explain_no_vhost("a\nb\n") == "a guest with vhost did not start: b");
    CHECK_FALSE(explain_no_vhost("").empty());
    const BlockerView blocker{.id = "netdev/net0", .klass = "netdev", .reason = "no vhost"};
    CHECK(
        explain_vhost({blocker}, true) ==
        "QEMU opened /dev/vhost-net, but QEMU refuses to upgrade a guest with it: no vhost"
    );
    CHECK_FALSE(explain_vhost({}, true).empty());
}

TEST_CASE("a VM that uses what the selftest did not try is named", "[daemon][selftest]") {
    SelftestView passed = make_result(true);
    passed.tried = make_tried({HostUse{.has_kvm = true}}, {}, {.vhost = "no /dev/vhost-net"});
    const HostUse vm{.has_kvm = true, .has_vhost = true, .huge_kib = 4};
    CHECK(list_untried(vm, passed) == std::vector<std::string>{"huge_pages", "vhost"});
    CHECK(list_untried({}, passed).empty());
    CHECK(list_untried(vm, make_result(true)).empty());
    const BlockerView one = make_partly_tested("vhost", {"a"}, passed);
    CHECK(one.id == "engine/selftest/vhost");
    CHECK(one.reason.find("vhost, which a uses: no /dev/vhost-net") != std::string::npos);
    const BlockerView many = make_partly_tested("huge_pages", {"a", "b", "c", "d"}, passed);
    CHECK(many.reason.find("huge pages, which a, b, c and 1 more use") != std::string::npos);
}

TEST_CASE("a guest is stuck only when its count does not rise", "[daemon][selftest]") {
    using std::chrono::seconds;
    const CountWatch::Time begin{};
    CountWatch slow(begin);
    CHECK_FALSE(slow.is_stuck(0, begin + seconds(170)));
    for (int i = 1; i < 20; ++i) {
        CHECK_FALSE(slow.is_stuck(static_cast<std::uint64_t>(i), begin + seconds(170 + 50 * i)));
    }
    CHECK(slow.is_stuck(19, begin + seconds(170 + 50 * 19 + 61)));
    CountWatch silent(begin);
    CHECK(silent.is_stuck(0, begin + seconds(181)));
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
    CHECK_FALSE(has(unit, "PrivateNetwork"));
    CHECK(has(selftest_command(arguments, "n", "/f", true, true), "PrivateNetwork=yes"));
    CHECK(selftest_command(arguments, "n", "/f", false).front() == "/bin/sh");
    CHECK(has(selftest_command(arguments, "n", "/f", false, true), "--net"));
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
