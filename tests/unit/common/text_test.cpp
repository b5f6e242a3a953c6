// SPDX-License-Identifier: GPL-2.0-or-later
#include "common/text.hpp"
#include "tests/support/catch.hpp"

using qhup::quote_peer_text;
using qhup::with_stop;

TEST_CASE("no byte of a peer reaches a log or a terminal unescaped", "[common][text]") {
    for (int byte = 0; byte < 256; ++byte) {
        const std::string quoted = quote_peer_text(std::string(1, static_cast<char>(byte)));
        for (const char each : quoted) {
            CHECK((each >= 0x20 && each < 0x7f));
        }
    }
    CHECK(quote_peer_text("\x1b[2Ja\"\\\n\xc3\xa9") == "\"\\x1b[2Ja\\\"\\\\\\n\\xc3\\xa9\"");
}

TEST_CASE("long peer text is cut, and the cut can be seen", "[common][text]") {
    CHECK(quote_peer_text("abcdef", 3) == "\"abc…\"");
    CHECK(quote_peer_text("abc", 3) == "\"abc\"");
}

TEST_CASE("a sentence has one full stop", "[common][text]") {
    CHECK(with_stop("It is so") == "It is so.");
    CHECK(with_stop("It is so.") == "It is so.");
}
