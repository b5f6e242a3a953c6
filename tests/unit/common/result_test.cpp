// SPDX-License-Identifier: GPL-2.0-or-later
#include "common/result.hpp"
#include "tests/support/catch.hpp"

#include <boost/asio/error.hpp>

#include <cerrno>
#include <set>

using namespace qhup;

TEST_CASE("context is put in front of the message and keeps the code", "[common][result]") {
    const Result<int> failed = make_failure(Errc::not_found, "reading the record", "ENOENT");
    const Result<int> result = with_context(failed, "upgrading vm a");
    REQUIRE(result.has_error());
    CHECK(result.error().message == "upgrading vm a: reading the record");
    CHECK(result.error().code == Errc::not_found);
    CHECK(result.error().peer_text == "ENOENT");
    CHECK(result.error().where.line() == failed.error().where.line());
}

TEST_CASE("context leaves a value alone", "[common][result]") {
    CHECK(*with_context(Result<int>(7), "anything") == 7);
}

TEST_CASE("the text of a failure quotes the peer and lists what followed", "[common][result]") {
    Failure failure = make_failure(Errc::timed_out, "saving state", "a \"b\"\n");
    add_also(failure, make_failure(Errc::cancelled, "undoing it"));
    CHECK(to_text(failure) == "saving state (\"a \\\"b\\\"\\n\"); then undoing it");
}

TEST_CASE("cancellation and timeouts are known in every layer's words", "[common][result]") {
    CHECK(is_cancelled(make_failure(Errc::cancelled, "")));
    CHECK(is_cancelled(make_failure(boost::asio::error::operation_aborted, "")));
    CHECK(is_timed_out(make_failure(Errc::timed_out, "")));
    CHECK_FALSE(is_timed_out(make_failure(Errc::cancelled, "")));
    CHECK_FALSE(is_cancelled(make_failure(Errc::bug, "")));
}

TEST_CASE("a kernel error keeps the kernel's words apart from ours", "[common][result]") {
    const Failure failure = make_system_failure(ENOENT, "opening the journal");
    CHECK(failure.code == Errc::system_error);
    CHECK(failure.message == "opening the journal");
    CHECK(failure.peer_text == "No such file or directory");
}

TEST_CASE("wire codes of common errors are present and differ", "[common][result]") {
    std::set<std::string> seen;
    for (int value = 1; value <= static_cast<int>(Errc::bug); ++value) {
        const error_code code = static_cast<Errc>(value);
        CHECK(wire_code_of(code) != "internal_error");
        CHECK(seen.insert(wire_code_of(code)).second);
        CHECK(code.message() != "unknown error");
    }
}

TEST_CASE("a code of a foreign category needs an operator", "[common][result]") {
    const error_code foreign(ENOENT, boost::system::system_category());
    CHECK(severity_of(foreign) == Severity::needs_operator);
    CHECK(wire_code_of(foreign) == "internal_error");
    CHECK(severity_of(Errc::not_found) == Severity::refused);
}

TEST_CASE("taking the value of a failed result is a logic error", "[common][result]") {
    const Result<int> failed = make_failure(Errc::bug, "it was never set");
    CHECK_THROWS_AS(failed.value(), std::logic_error);
}
