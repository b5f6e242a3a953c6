// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/wall_clock.hpp"

#include <ctime>

namespace qhup::daemon {

std::int64_t unix_ms_now() {
    const auto now = std::chrono::system_clock::now().time_since_epoch();
    return std::chrono::duration_cast<std::chrono::milliseconds>(now).count();
}

std::chrono::minutes time_of_day_now() {
    const std::time_t now = std::time(nullptr);
    std::tm local{};
    ::localtime_r(&now, &local);
    return std::chrono::hours(local.tm_hour) + std::chrono::minutes(local.tm_min);
}

} // namespace qhup::daemon
