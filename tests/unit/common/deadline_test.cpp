// SPDX-License-Identifier: GPL-2.0-or-later
#include "common/deadline.hpp"
#include "tests/support/catch.hpp"

using qhup::Deadline;
using std::chrono::seconds;

TEST_CASE("a deadline of zero is over at once, one without end never", "[common][deadline]") {
    CHECK(Deadline::in(seconds(0)).is_over());
    CHECK(Deadline::in(seconds(-1)).time_left() == seconds(0));
    CHECK_FALSE(Deadline::in(seconds(60)).is_over());
    CHECK_FALSE(Deadline::never().is_over());
}

TEST_CASE("a deadline beyond the clock's range is never, not in the past", "[common][deadline]") {
    CHECK(Deadline::in(Deadline::Clock::duration::max()).is_never());
    CHECK(Deadline::never().time_left() == Deadline::Clock::duration::max());
}

TEST_CASE("the earlier of two deadlines bounds both waits", "[common][deadline]") {
    const auto now = Deadline::Clock::now();
    const Deadline soon = Deadline::at(now + seconds(1));
    const Deadline late = Deadline::at(now + seconds(2));
    CHECK(earlier(soon, late).point() == soon.point());
    CHECK(earlier(Deadline::never(), late).point() == late.point());
}
