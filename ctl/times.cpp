// SPDX-License-Identifier: GPL-2.0-or-later
#include "ctl/times.hpp"

#include <array>
#include <charconv>
#include <ctime>
#include <string>
#include <utility>

namespace qhup::ctl {
namespace {

using std::chrono::milliseconds;

constexpr milliseconds kMostSpan = std::chrono::hours(24 * 3653);

/// A time that was normalised into another one does not exist, as the 31st of April.
bool is_same(const std::tm& a, const std::tm& b) noexcept {
    return a.tm_year == b.tm_year && a.tm_mon == b.tm_mon && a.tm_mday == b.tm_mday &&
           a.tm_min == b.tm_min && a.tm_sec == b.tm_sec;
}

} // namespace

std::optional<milliseconds> parse_span(std::string_view text) noexcept {
    static constexpr std::array<std::pair<std::string_view, std::int64_t>, 4> kUnits{{
        {"s", 1000},
        {"min", 60'000},
        {"h", 3'600'000},
        {"d", 86'400'000},
    }};
    std::int64_t number = 0;
    const char* end = text.data() + text.size();
    const auto [rest, error] = std::from_chars(text.data(), end, number);
    const std::string_view unit(rest, static_cast<std::size_t>(end - rest));
    for (const auto& [name, factor] : kUnits) {
        if (error == std::errc{} && unit == name && number > 0 &&
            number <= kMostSpan.count() / factor) {
            return milliseconds(number * factor);
        }
    }
    return std::nullopt;
}

std::optional<std::uint32_t> parse_pause(std::string_view text) noexcept {
    constexpr std::uint32_t kMostPause = 30'000;
    std::uint32_t number = 0;
    const char* end = text.data() + text.size();
    const auto [rest, error] = std::from_chars(text.data(), end, number);
    const std::string_view unit(rest, static_cast<std::size_t>(end - rest));
    const bool is_seconds = unit == "s";
    const bool is_known = unit.empty() || unit == "ms" || is_seconds;
    if (error != std::errc{} || !is_known || number == 0 || number > kMostPause) {
        return std::nullopt;
    }
    const std::uint32_t milliseconds_of = number * (is_seconds ? 1000U : 1U);
    return milliseconds_of <= kMostPause ? std::optional(milliseconds_of) : std::nullopt;
}

std::optional<std::int64_t> parse_time(std::string_view text) {
    const bool is_utc = text.ends_with('Z');
    const std::string words(is_utc ? text.substr(0, text.size() - 1) : text);
    for (const char* form :
         {"%Y-%m-%d",
          "%Y-%m-%dT%H:%M",
          "%Y-%m-%d %H:%M",
          "%Y-%m-%dT%H:%M:%S",
          "%Y-%m-%d %H:%M:%S"}) {
        std::tm parts{};
        const char* rest = ::strptime(words.c_str(), form, &parts);
        if (rest == nullptr || *rest != '\0') {
            continue;
        }
        parts.tm_isdst = -1;
        std::tm normalised = parts;
        const std::time_t seconds = is_utc ? ::timegm(&normalised) : std::mktime(&normalised);
        if (seconds <= 0 || !is_same(parts, normalised)) {
            return std::nullopt;
        }
        return std::int64_t{seconds} * 1000;
    }
    return std::nullopt;
}

} // namespace qhup::ctl
