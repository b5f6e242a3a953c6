// SPDX-License-Identifier: GPL-2.0-or-later
#include "qmp-client/errors.hpp"
#include "tests/support/catch.hpp"

#include <fstream>
#include <set>
#include <sstream>

using namespace qhup;
using qmp::Answer;

TEST_CASE("stable codes survive the way to the wire and back", "[qmp][errors]") {
    for (int value = 1; value <= static_cast<int>(qmp::PeerErrc::fault_injected); ++value) {
        const auto code = static_cast<qmp::PeerErrc>(value);
        const std::string_view word = qmp::to_peer_code(code);
        REQUIRE_FALSE(word.empty());
        CHECK(qmp::parse_peer_code(word) == code);
    }
    CHECK_FALSE(qmp::parse_peer_code("no-such-code").has_value());
    CHECK_FALSE(qmp::parse_peer_code("").has_value());
}

TEST_CASE("every code in docs/qmp.md is known, and no other", "[qmp][errors]") {
    std::ifstream file(QHUP_SOURCE_DIR "/docs/qmp.md");
    REQUIRE(file.good());
    std::set<std::string> documented;
    bool is_in_table = false;
    for (std::string line; std::getline(file, line);) {
        is_in_table = is_in_table ? line.rfind('|', 0) == 0 : line.rfind("| code |", 0) == 0;
        if (is_in_table && line.rfind("| `", 0) == 0) {
            documented.insert(line.substr(3, line.find('`', 3) - 3));
        }
    }
    std::set<std::string> known;
    for (int value = 1; value <= static_cast<int>(qmp::PeerErrc::fault_injected); ++value) {
        known.emplace(qmp::to_peer_code(static_cast<qmp::PeerErrc>(value)));
    }
    CHECK(documented == known);
}

TEST_CASE("wire codes of all QMP errors are present and differ", "[qmp][errors]") {
    std::set<std::string> seen;
    const auto check = [&](const error_code& code) {
        CHECK(wire_code_of(code) != "internal_error");
        CHECK(seen.insert(wire_code_of(code)).second);
        CHECK(code.message() != "unknown error");
    };
    for (int value = 1; value <= static_cast<int>(qmp::Errc::bad_reply); ++value) {
        check(static_cast<qmp::Errc>(value));
    }
    for (int value = 1; value <= static_cast<int>(qmp::PeerErrc::fault_injected); ++value) {
        check(static_cast<qmp::PeerErrc>(value));
    }
}

TEST_CASE("the three kinds of answers stay apart", "[qmp][errors]") {
    const auto answer = [](error_code code) {
        return qmp::answer_of(make_failure(code, "asking"));
    };
    CHECK(answer(qmp::Errc::connect_failed) == Answer::could_not_ask);
    CHECK(answer(qmp::Errc::nobody_listens) == Answer::could_not_ask);
    CHECK(answer(qmp::Errc::monitor_busy) == Answer::could_not_ask);
    CHECK(answer(qmp::Errc::monitor_forbidden) == Answer::could_not_ask);
    CHECK(answer(qmp::Errc::not_sent_timed_out) == Answer::could_not_ask);
    CHECK(answer(qmp::Errc::refused) == Answer::refused);
    CHECK(answer(qmp::PeerErrc::stale) == Answer::refused);
    CHECK(answer(qmp::Errc::timed_out) == Answer::unknown);
    CHECK(answer(qmp::Errc::connection_lost) == Answer::unknown);
    CHECK(answer(qhup::Errc::timed_out) == Answer::unknown);
}

TEST_CASE("an outcome that is not known is never called harmless", "[qmp][errors]") {
    for (int value = 1; value <= static_cast<int>(qmp::Errc::bad_reply); ++value) {
        const error_code code = static_cast<qmp::Errc>(value);
        if (qmp::answer_of(make_failure(code, "asking")) == Answer::unknown) {
            CHECK(severity_of(code) == Severity::needs_operator);
        }
    }
}

TEST_CASE("timeouts and cancellations are recognised whether sent or not", "[qmp][errors]") {
    CHECK(is_timed_out(make_failure(qmp::Errc::timed_out, "")));
    CHECK(is_timed_out(make_failure(qmp::Errc::not_sent_timed_out, "")));
    CHECK(is_cancelled(make_failure(qmp::Errc::cancelled, "")));
    CHECK(is_cancelled(make_failure(qmp::Errc::not_sent_cancelled, "")));
    CHECK_FALSE(is_cancelled(make_failure(qmp::Errc::connection_lost, "")));
    CHECK_FALSE(is_timed_out(make_failure(qmp::PeerErrc::target_timeout, "")));
}
