// SPDX-License-Identifier: GPL-2.0-or-later
//
// Random numbers that are the same for a seed on every host (splitmix64).
#pragma once

#include <chrono>
#include <cstdint>

namespace qhup::sim {

class Random {
public:
    explicit Random(std::uint64_t seed) noexcept : state_(seed) {}

    std::uint64_t next() noexcept {
        state_ += 0x9e3779b97f4a7c15U;
        std::uint64_t z = state_;
        z = (z ^ (z >> 30U)) * 0xbf58476d1ce4e5b9U;
        z = (z ^ (z >> 27U)) * 0x94d049bb133111ebU;
        return z ^ (z >> 31U);
    }

    /// Less than `bound`, which is not zero.
    std::uint32_t below(std::uint32_t bound) noexcept {
        return static_cast<std::uint32_t>(((next() >> 32U) * bound) >> 32U);
    }

    /// True in `numerator` of `denominator` cases.
    bool chance(std::uint32_t numerator, std::uint32_t denominator) noexcept {
        return below(denominator) < numerator;
    }

    std::chrono::nanoseconds
    between(std::chrono::microseconds least, std::chrono::microseconds most) noexcept {
        const auto span = static_cast<std::uint32_t>((most - least).count() + 1);
        return least + std::chrono::microseconds(below(span));
    }

private:
    std::uint64_t state_;
};

} // namespace qhup::sim
