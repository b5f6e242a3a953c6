// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/vm_policy.hpp"
#include "tests/support/catch.hpp"

using namespace qhup::daemon;
using namespace std::chrono_literals;

namespace {

PolicyRule rule_for(std::vector<std::string> vms) {
    PolicyRule rule;
    rule.vms = std::move(vms);
    return rule;
}

VmPolicy policy_with(const std::vector<std::string>& windows) {
    VmPolicy policy;
    for (const std::string& text : windows) {
        policy.window.push_back(*parse_day_window(text));
    }
    return policy;
}

} // namespace

TEST_CASE("the later of two rules holds, for what it sets", "[daemon][vm_policy]") {
    PolicyRule all = rule_for({"*"});
    all.priority = 5;
    all.skip = true;
    all.rehearse = "all";
    PolicyRule web = rule_for({"db1", "web-*"});
    web.skip = false;
    web.pause_budget = 50ms;
    const std::vector<PolicyRule> rules{all, web};
    for (const char* name : {"web-1", "web-", "db1"}) {
        const VmPolicy policy = policy_of(rules, name);
        CHECK(policy.priority == 5);
        CHECK_FALSE(policy.skip);
        CHECK(policy.pause_budget == 50ms);
        CHECK(policy.rehearse == "all");
    }
    for (const char* name : {"web", "db11", "my-web-1"}) {
        CHECK(policy_of(rules, name).skip);
        CHECK_FALSE(policy_of(rules, name).pause_budget.has_value());
    }
    CHECK(policy_of({all, web}, "web-1") == policy_of({web, all, web}, "web-1"));
    CHECK(policy_of({}, "web-1") == VmPolicy{});
}

TEST_CASE("a run goes by priority, then by name", "[daemon][vm_policy]") {
    PolicyRule first = rule_for({"z*"});
    first.priority = 1;
    PolicyRule last = rule_for({"b"});
    last.priority = -1;
    const std::vector<std::string> expected{"z1", "z2", "a", "c", "b"};
    CHECK(in_order({"c", "b", "z2", "a", "z1"}, {first, last}) == expected);
    CHECK(in_order({"z1", "a", "b", "z2", "c"}, {last, first}) == expected);
}

TEST_CASE("a window is open from its first minute to before its last", "[daemon][vm_policy]") {
    const VmPolicy day = policy_with({"08:00-12:30"});
    CHECK_FALSE(is_open(day, 7h + 59min));
    CHECK(is_open(day, 8h));
    CHECK(is_open(day, 12h + 29min));
    CHECK_FALSE(is_open(day, 12h + 30min));
    const VmPolicy night = policy_with({"22:00-06:00"});
    CHECK(is_open(night, 22h));
    CHECK(is_open(night, 0min));
    CHECK(is_open(night, 5h + 59min));
    CHECK_FALSE(is_open(night, 6h));
    CHECK_FALSE(is_open(night, 21h + 59min));
    const VmPolicy both = policy_with({"08:00-09:00", "22:00-23:00"});
    CHECK(is_open(both, 8h + 30min));
    CHECK(is_open(both, 22h + 30min));
    CHECK_FALSE(is_open(both, 12h));
    CHECK(is_open(policy_with({"00:00-00:00"}), 12h));
    CHECK(is_open(VmPolicy{}, 12h));
}

TEST_CASE("a window is written as it is read, and nothing else is one", "[daemon][vm_policy]") {
    for (const char* text : {"22:00-06:00", "00:00-23:59", "09:05-09:06"}) {
        const auto window = parse_day_window(text);
        REQUIRE(window.has_value());
        CHECK(format_day_window(*window) == text);
    }
    for (const char* text :
         {"",
          "-",
          "22:00",
          "22:00-",
          "24:00-06:00",
          "22:60-06:00",
          "2:00-06:00",
          "22:00-06:00 ",
          "22:00 - 06:00",
          "-1:00-06:00",
          "22.00-06.00",
          "22:00-06:00-07:00",
          "+2:00-06:00"}) {
        INFO(text);
        CHECK(parse_day_window(text).has_error());
    }
}

TEST_CASE("no run allows a longer pause than a VM's policy", "[daemon][vm_policy]") {
    VmPolicy strict;
    strict.pause_budget = 50ms;
    CHECK(choose_pause_budget(std::nullopt, {}, 300ms) == 300ms);
    CHECK(choose_pause_budget(std::nullopt, strict, 300ms) == 50ms);
    CHECK(choose_pause_budget(20ms, strict, 300ms) == 20ms);
    CHECK(choose_pause_budget(200ms, strict, 300ms) == 50ms);
    CHECK(choose_pause_budget(900ms, {}, 300ms) == 900ms);
    strict.pause_budget = 1000ms; // more than usual, if the policy says so
    CHECK(choose_pause_budget(std::nullopt, strict, 300ms) == 1000ms);
}

TEST_CASE("a closed window is said with its times", "[daemon][vm_policy]") {
    VmPolicy policy;
    policy.window = {{22h, 6h}, {12h, 12h + 30min}};
    CHECK(
        describe_window("vm1", policy, 9h + 5min) ==
        "The policy of VM vm1 lets upgrades begin at 22:00-06:00, 12:00-12:30 only, and it is 09:05"
    );
}
