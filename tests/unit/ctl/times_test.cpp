// SPDX-License-Identifier: GPL-2.0-or-later
#include "ctl/times.hpp"
#include "tests/support/catch.hpp"

using namespace qhup::ctl;
using namespace std::chrono_literals;

TEST_CASE("a span is a number with its unit", "[ctl][times]") {
    CHECK(parse_span("90s") == 90s);
    CHECK(parse_span("30min") == 30min);
    CHECK(parse_span("8h") == 8h);
    CHECK(parse_span("7d") == 168h);
    for (const char* text :
         {"", "8", "h", "0h", "-1h", "8 h", "8hours", "99999d", "99999999999999999999s", "1.5h"}) {
        INFO(text);
        CHECK_FALSE(parse_span(text).has_value());
    }
}

TEST_CASE("a point of time is a date, with or without a time of day", "[ctl][times]") {
    CHECK(parse_time("2023-11-14T22:13:20Z") == 1'700'000'000'000);
    CHECK(parse_time("2023-11-14 22:13Z") == 1'699'999'980'000);
    CHECK(parse_time("2023-11-14Z") == 1'699'920'000'000);
    // without a Z it is the clock of the host, no more than a day away
    const auto local = parse_time("2023-11-14 22:13:20");
    REQUIRE(local.has_value());
    CHECK(*local > 1'700'000'000'000 - 86'400'000);
    CHECK(*local < 1'700'000'000'000 + 86'400'000);
    for (const char* text :
         {"",
          "Z",
          "22:13",
          "2023-11-14T22:13:20ZZ",
          "2023-02-30",
          "2023-13-01",
          "2023-11-14T25:00Z",
          "2023-11-14T22:13:20 ",
          "yesterday",
          "1960-01-01Z"}) {
        INFO(text);
        CHECK_FALSE(parse_time(text).has_value());
    }
}
