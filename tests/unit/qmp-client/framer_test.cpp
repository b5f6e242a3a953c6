// SPDX-License-Identifier: GPL-2.0-or-later
#include "qmp-client/framer.hpp"
#include "tests/support/catch.hpp"

#include <vector>

using namespace qhup;
using qmp::Framer;

namespace {

std::vector<std::string> take_lines(Framer& framer, std::size_t limit) {
    std::vector<std::string> lines;
    while (true) {
        const auto line = framer.next_line(limit);
        REQUIRE(line.has_value());
        if (!line->has_value()) {
            return lines;
        }
        lines.push_back(**line);
    }
}

} // namespace

TEST_CASE("lines are the same wherever the bytes are split", "[qmp][framer]") {
    const std::string bytes = "{\"a\":1}\r\n\r\n\n{\"b\":\"\xff\"}\nlast\r\n";
    const std::vector<std::string> expected{"{\"a\":1}", "{\"b\":\"\xff\"}", "last"};
    for (std::size_t first = 0; first <= bytes.size(); ++first) {
        for (std::size_t second = first; second <= bytes.size(); ++second) {
            Framer framer;
            std::vector<std::string> lines;
            for (const std::string& part :
                 {bytes.substr(0, first),
                  bytes.substr(first, second - first),
                  bytes.substr(second)}) {
                framer.push(part);
                for (std::string& line : take_lines(framer, 100)) {
                    lines.push_back(std::move(line));
                }
            }
            CHECK(lines == expected);
            CHECK(framer.size() == 0);
        }
    }
}

TEST_CASE("a line of exactly the limit passes, one byte more ends it", "[qmp][framer]") {
    Framer framer;
    framer.push("12345678\n123456789\n");
    CHECK(framer.next_line(8).value() == "12345678");
    const auto longer = framer.next_line(8);
    REQUIRE(longer.has_error());
    CHECK(longer.error().code == qmp::Errc::line_too_long);
}

TEST_CASE("a line that never ends is refused before it is complete", "[qmp][framer]") {
    Framer framer;
    framer.push(std::string(8, 'x'));
    CHECK(framer.next_line(8).value() == std::nullopt);
    framer.push("x");
    CHECK(framer.next_line(8).has_error());
}

TEST_CASE("the limit is that of the moment", "[qmp][framer]") {
    Framer framer;
    framer.push("short\n" + std::string(100, 'x') + "\n");
    CHECK(framer.next_line(10).value() == "short");
    CHECK(framer.next_line(200).value() == std::string(100, 'x'));
}

TEST_CASE("handed-out bytes are not kept", "[qmp][framer]") {
    Framer framer;
    for (int i = 0; i < 1000; ++i) {
        framer.push("0123456789\n01");
        CHECK(take_lines(framer, 1000).size() == 1);
        CHECK(framer.size() < 20);
        framer.push("\n");
        CHECK(take_lines(framer, 1000).size() == 1);
    }
}
