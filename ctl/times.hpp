// SPDX-License-Identifier: GPL-2.0-or-later
//
// Points of time and durations as people write them. Pure: now is an input.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string_view>

namespace qhup::ctl {

/// "90s", "30min", "8h", "7d": more than nothing, up to ten years.
std::optional<std::chrono::milliseconds> parse_span(std::string_view text) noexcept;

/// "50ms", "2s", or "50", which is milliseconds too: 1 ms to 30 s.
std::optional<std::uint32_t> parse_pause(std::string_view text) noexcept;

/// "2026-01-31", "2026-01-31T18:00", "2026-01-31 18:00:30", in the time zone of the host, or with a
/// Z at the end in UTC. Without a time of day, the beginning of that day.
///
/// @return  milliseconds since 1970; none if it is no such text or no such time
std::optional<std::int64_t> parse_time(std::string_view text);

} // namespace qhup::ctl
