// SPDX-License-Identifier: GPL-2.0-or-later
//
// ReadBudget bounds how fast bytes are taken from one peer, so that a QEMU that floods its monitor
// slows down itself only. Time is an input. Pure: no Asio, clock, files, logging.
#pragma once

#include <chrono>
#include <cstddef>

namespace qhup::qmp {

class ReadBudget {
public:
    using TimePoint = std::chrono::steady_clock::time_point;
    using Duration = std::chrono::steady_clock::duration;

    /// Seconds of budget that may be used at once.
    static constexpr int kBurstSeconds = 2;

    explicit ReadBudget(std::size_t bytes_per_second)
        : bytes_per_second_(bytes_per_second > 0 ? static_cast<double>(bytes_per_second) : 1.0),
          left_(bytes_per_second_ * kBurstSeconds) {}

    /// Bytes were read.
    /// @return how long to pause before the next read; zero most of the time
    [[nodiscard]] Duration on_read(std::size_t bytes, TimePoint now) {
        if (last_ != TimePoint()) {
            left_ += std::chrono::duration<double>(now - last_).count() * bytes_per_second_;
        }
        last_ = now;
        const double most = bytes_per_second_ * kBurstSeconds;
        left_ = (left_ < most ? left_ : most) - static_cast<double>(bytes);
        if (left_ >= 0) {
            return Duration::zero();
        }
        const std::chrono::duration<double> pause(-left_ / bytes_per_second_);
        return std::chrono::duration_cast<Duration>(pause);
    }

private:
    double bytes_per_second_;
    double left_; // may be negative: a debt
    TimePoint last_;
};

} // namespace qhup::qmp
