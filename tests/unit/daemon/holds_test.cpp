// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/holds.hpp"
#include "daemon/journal_rows.hpp"
#include "tests/support/catch.hpp"

using namespace qhup::daemon;

namespace {

HoldView make_hold(const std::string& vm, std::int64_t until_unix_ms) {
    return {
        .vm = vm,
        .reason = "a migration goes on",
        .since_unix_ms = 1000,
        .until_unix_ms = until_unix_ms,
        .by_uid = 7};
}

} // namespace

TEST_CASE("a hold ends at its time, or when it is taken off", "[daemon][holds]") {
    Holds holds({make_hold("a", 2000), make_hold("b", 0), make_hold("c", 1400)}, 1500);
    CHECK(holds.list(1500).size() == 2); // one had expired already
    REQUIRE(holds.find("a", 1999).has_value());
    CHECK(holds.find("a", 1999)->reason == "a migration goes on");
    CHECK_FALSE(holds.find("a", 2000).has_value());
    CHECK(holds.find("b", 9'000'000'000'000).has_value());
    CHECK_FALSE(holds.find("x", 1500).has_value());
    CHECK(holds.drop_expired(1999).empty());
    CHECK(holds.drop_expired(2000) == std::vector<std::string>{"a"});
    CHECK(holds.remove("b"));
    CHECK_FALSE(holds.remove("b"));
    CHECK(holds.list(0).empty());
}

TEST_CASE("a second hold of a VM replaces the first", "[daemon][holds]") {
    Holds holds;
    holds.put(make_hold("a", 2000));
    holds.put(make_hold("a", 3000));
    CHECK(holds.list(0).size() == 1);
    CHECK(holds.find("a", 2500)->until_unix_ms == 3000);
}

TEST_CASE("a hold is described with its end and its reason", "[daemon][holds]") {
    CHECK(
        describe(make_hold("vm1", 1'700'000'000'000)) ==
        "VM vm1 is held until 2023-11-14 22:13:20Z: a migration goes on"
    );
    CHECK(describe(make_hold("vm1", 0)) == "VM vm1 is held: a migration goes on");
}

TEST_CASE("a row of a hold is read as it was made, and a foreign one is not", "[daemon][holds]") {
    const HoldView hold = make_hold("vm1", 5000);
    const JournalRow row = make_hold_row(hold);
    const auto read = assemble_holds({row, make_hold_row(make_hold("vm2", 0))});
    REQUIRE(read.has_value());
    REQUIRE(read->size() == 2);
    CHECK(read->front() == hold);
    JournalRow renamed = row;
    renamed.hold = "vm3";
    CHECK(checksum_of(renamed) != checksum_of(row));
    CHECK(assemble_holds({renamed}).has_error());
    JournalRow spoilt = row;
    spoilt.record = "{}";
    CHECK(assemble_holds({spoilt}).has_error());
    spoilt.record = "no";
    CHECK(assemble_holds({spoilt}).has_error());
}

TEST_CASE("of several changes of a hold the last one is kept", "[daemon][holds]") {
    const JournalChange put{JournalChange::Kind::put, make_hold_row(make_hold("vm1", 5000))};
    const JournalChange later{JournalChange::Kind::put, make_hold_row(make_hold("vm1", 6000))};
    const JournalChange other{JournalChange::Kind::put, make_hold_row(make_hold("vm2", 0))};
    const JournalChange forget = forget_hold("vm1");
    using Changes = std::vector<JournalChange>;
    CHECK(merged({put, other, later}) == Changes{other, later});
    CHECK(merged({put, forget, other}) == Changes{forget, other});
    CHECK(merged({forget, put}) == Changes{put});
}

TEST_CASE("a hold is asked for with a reason, and with an end that is to come", "[daemon][holds]") {
    const auto good = parse_hold_request(R"({"reason": "why", "until_unix_ms": 5000})");
    REQUIRE(good.has_value());
    CHECK(good->reason == "why");
    CHECK(good->until_unix_ms == 5000);
    CHECK(parse_hold_request(R"({"reason": "why"})")->until_unix_ms == 0);
    for (const char* body :
         {"",
          "[]",
          "{}",
          R"({"reason": ""})",
          R"({"reason": 7})",
          R"({"reason": "a\nb"})",
          R"({"reason": "why", "until_unix_ms": "5000"})",
          R"({"reason": "why", "until_unix_ms": -1})",
          R"({"reason": "why", "until": 1})"}) {
        INFO(body);
        CHECK(parse_hold_request(body).has_error());
    }
    CHECK(parse_hold_request(R"({"reason": ")" + std::string(501, 'x') + "\"}").has_error());
}
