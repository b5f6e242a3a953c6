// SPDX-License-Identifier: GPL-2.0-or-later
//
// The host's clock, for what people and the next daemon read. Nothing waits by it: it can jump.
#pragma once

#include <chrono>
#include <cstdint>

namespace qhup::daemon {

/// Milliseconds since 1970.
std::int64_t unix_ms_now();

/// From midnight, in the host's time zone.
std::chrono::minutes time_of_day_now();

} // namespace qhup::daemon
