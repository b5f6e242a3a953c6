// SPDX-License-Identifier: GPL-2.0-or-later
#include "common/log.hpp"
#include "tests/support/capture_log.hpp"
#include "tests/support/catch.hpp"

using namespace qhup;

TEST_CASE("an unknown log level is refused with the words that would do", "[common][log]") {
    const Result<void> result = setup_log("loud");
    REQUIRE(result.has_error());
    CHECK(result.error().code == Errc::invalid_argument);
    CHECK(result.error().message.find("debug") != std::string::npos);
}

TEST_CASE("a failure is logged at the level of its severity", "[common][log]") {
    const test::CaptureLog captured;
    log_failure("listing", make_failure(Errc::not_found, "no such vm"));
    log_failure("stopping", make_failure(Errc::bug, "it broke", "evil\ntext"));
    CHECK(
        captured.text() == "info: listing: no such vm [not_found]\n"
                           "error: stopping: it broke (\"evil\\ntext\") [bug]\n"
    );
}
