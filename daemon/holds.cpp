// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/holds.hpp"

#include <array>
#include <ctime>
#include <utility>

namespace qhup::daemon {
namespace {

bool has_expired(const HoldView& hold, std::int64_t now_unix_ms) noexcept {
    return hold.until_unix_ms != 0 && hold.until_unix_ms <= now_unix_ms;
}

std::string format_utc(std::int64_t unix_ms) {
    const auto seconds = static_cast<std::time_t>(unix_ms / 1000);
    std::tm parts{};
    std::array<char, 64> text{};
    if (::gmtime_r(&seconds, &parts) == nullptr) {
        return "the end of time";
    }
    return {text.data(), std::strftime(text.data(), text.size(), "%Y-%m-%d %H:%M:%SZ", &parts)};
}

} // namespace

Holds::Holds(std::vector<HoldView> holds, std::int64_t now_unix_ms) {
    for (HoldView& hold : holds) {
        if (!has_expired(hold, now_unix_ms)) {
            put(std::move(hold));
        }
    }
}

void Holds::put(HoldView hold) {
    std::string vm = hold.vm;
    holds_.insert_or_assign(std::move(vm), std::move(hold));
}

bool Holds::remove(std::string_view vm) {
    const auto found = holds_.find(vm);
    if (found == holds_.end()) {
        return false;
    }
    holds_.erase(found);
    return true;
}

std::optional<HoldView> Holds::find(std::string_view vm, std::int64_t now_unix_ms) const {
    const auto found = holds_.find(vm);
    const bool is_held = found != holds_.end() && !has_expired(found->second, now_unix_ms);
    return is_held ? std::optional(found->second) : std::nullopt;
}

std::vector<std::string> Holds::drop_expired(std::int64_t now_unix_ms) {
    std::vector<std::string> names;
    for (const auto& [vm, hold] : holds_) {
        if (has_expired(hold, now_unix_ms)) {
            names.push_back(vm);
        }
    }
    for (const std::string& vm : names) {
        holds_.erase(vm);
    }
    return names;
}

std::vector<HoldView> Holds::list(std::int64_t now_unix_ms) const {
    std::vector<HoldView> holds;
    for (const auto& [vm, hold] : holds_) {
        if (!has_expired(hold, now_unix_ms)) {
            holds.push_back(hold);
        }
    }
    return holds;
}

std::string describe(const HoldView& hold) {
    const std::string until =
        hold.until_unix_ms == 0 ? std::string() : " until " + format_utc(hold.until_unix_ms);
    return "VM " + hold.vm + " is held" + until + ": " + hold.reason;
}

std::string how_to_unhold(const std::string& vm) {
    return "'qhupd-ctl unhold " + vm + "' takes the hold off.";
}

} // namespace qhup::daemon
