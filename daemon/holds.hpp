// SPDX-License-Identifier: GPL-2.0-or-later
//
// Which VMs are held: nobody upgrades, rehearses or reverts them until the hold is taken off or has
// expired. Pure: the time is an input; the journal keeps them.
#pragma once

#include "daemon/api_types.hpp"

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace qhup::daemon {

class Holds {
public:
    Holds() = default;
    /// @param holds  as the journal has them; those that have expired are left out
    Holds(std::vector<HoldView> holds, std::int64_t now_unix_ms);

    /// Holds the VM, in place of a hold that it had.
    void put(HoldView hold);

    /// @return  false: it was not held
    bool remove(std::string_view vm);

    /// The hold of the VM; none if it has none, or it has expired.
    [[nodiscard]] std::optional<HoldView> find(std::string_view vm, std::int64_t now_unix_ms) const;

    /// Removes those that have expired.
    /// @return  names of their VMs
    std::vector<std::string> drop_expired(std::int64_t now_unix_ms);

    /// All that have not expired, by VM.
    [[nodiscard]] std::vector<HoldView> list(std::int64_t now_unix_ms) const;

private:
    std::map<std::string, HoldView, std::less<>> holds_;
};

/// "VM vm1 is held until 2026-01-31 12:00:00Z: the reason": a sentence without its full stop.
std::string describe(const HoldView& hold);

/// What to do about it, as a sentence.
std::string how_to_unhold(const std::string& vm);

} // namespace qhup::daemon
