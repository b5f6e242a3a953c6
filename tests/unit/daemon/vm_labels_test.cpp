// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/vm_labels.hpp"
#include "daemon/vm_policy.hpp"
#include "tests/support/catch.hpp"

using namespace qhup::daemon;

TEST_CASE("a label file is lines of key = value", "[daemon][vm_labels]") {
    const auto labels = parse_labels("# of the shop\n\ntier = db\nrack=7/b  # row 7\r\ntier = web");
    REQUIRE(labels.has_value());
    CHECK(*labels == VmLabels{{"rack", "7/b"}, {"tier", "web"}});
    CHECK(parse_labels("")->empty());
    for (const char* bad :
         {"tier",
          "tier =",
          "= db",
          "tier = a b",
          "ti er = a",
          "tier = \"db\"",
          "-t = a",
          "\x01 = a"}) {
        INFO(bad);
        const auto refused = parse_labels(std::string("ok = yes\n") + bad);
        REQUIRE(refused.has_error());
        CHECK(refused.error().message.find("line 2") == 0);
    }
    CHECK_FALSE(is_label_word(std::string(64, 'a')));
    CHECK(is_label_word(std::string(63, 'a')));
}

TEST_CASE("a file labels its VM before the configuration does", "[daemon][vm_labels]") {
    const std::vector<LabelRule> rules{
        {{"db-*"}, {{"tier", "db"}, {"rack", "1"}}, ""}, {{"*-9"}, {{"rack", "9"}}, ""}};
    CHECK(labels_of(rules, "db-9", {}) == VmLabels{{"rack", "9"}, {"tier", "db"}});
    CHECK(labels_of(rules, "db-9", {{"rack", "2"}}) == VmLabels{{"rack", "2"}, {"tier", "db"}});
    CHECK(labels_of(rules, "web", {}).empty());
}

TEST_CASE("a VM must have each label that is wanted", "[daemon][vm_labels]") {
    const VmLabels has{{"rack", "1"}, {"tier", "db"}};
    CHECK(has_labels(has, {}));
    CHECK(has_labels(has, {{"tier", "db"}}));
    CHECK(has_labels(has, has));
    CHECK_FALSE(has_labels(has, {{"tier", "web"}}));
    CHECK_FALSE(has_labels(has, {{"tier", "db"}, {"site", "a"}}));
    CHECK_FALSE(has_labels({}, {{"tier", "db"}}));
}

TEST_CASE("a policy can be for VMs with labels", "[daemon][vm_labels]") {
    PolicyRule db;
    db.labels = {{"tier", "db"}};
    db.priority = -5;
    PolicyRule some_db = db;
    some_db.vms = {"a*"};
    some_db.skip = true;
    const std::vector<PolicyRule> rules{db, some_db};
    const VmLabels labels{{"tier", "db"}, {"rack", "1"}};
    CHECK(policy_of(rules, "a1", labels).skip);
    CHECK(policy_of(rules, "a1", labels).priority == -5);
    CHECK(policy_of(rules, "b1", labels).priority == -5);
    CHECK_FALSE(policy_of(rules, "b1", labels).skip);
    CHECK(policy_of(rules, "a1", {}) == VmPolicy{});
    const std::vector<std::string> expected{"b", "c", "a"};
    CHECK(in_order({"a", "b", "c"}, rules, {{"a", labels}}) == expected);
}
