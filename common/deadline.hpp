// SPDX-License-Identifier: GPL-2.0-or-later
//
// Deadline: an absolute point of the steady clock that is handed down, so that several waits share
// one budget. Needs no Asio.
#pragma once

#include <algorithm>
#include <chrono>

namespace qhup {

class Deadline {
public:
    using Clock = std::chrono::steady_clock;

    /// A deadline so far from now; a duration of zero or less is over at once.
    [[nodiscard]] static Deadline in(Clock::duration time) {
        const Clock::time_point now = Clock::now();
        return time >= Clock::time_point::max() - now ? never() : Deadline(now + time);
    }
    [[nodiscard]] static Deadline at(Clock::time_point point) { return Deadline(point); }
    [[nodiscard]] static Deadline never() { return Deadline(Clock::time_point::max()); }

    [[nodiscard]] Clock::time_point point() const noexcept { return point_; }
    [[nodiscard]] bool is_never() const noexcept { return point_ == Clock::time_point::max(); }
    [[nodiscard]] bool is_over() const { return !is_never() && Clock::now() >= point_; }

    /// Time until the deadline, never negative.
    [[nodiscard]] Clock::duration time_left() const {
        if (is_never()) {
            return Clock::duration::max();
        }
        return std::max(point_ - Clock::now(), Clock::duration::zero());
    }

    [[nodiscard]] friend Deadline earlier(Deadline a, Deadline b) noexcept {
        return a.point_ < b.point_ ? a : b;
    }

private:
    explicit Deadline(Clock::time_point point) : point_(point) {}

    Clock::time_point point_;
};

} // namespace qhup
