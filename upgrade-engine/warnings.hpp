// SPDX-License-Identifier: GPL-2.0-or-later
//
// What an operator should know before an upgrade, though nothing stands against it: packets that
// will be lost because a tap keeps fewer than arrive in a pause. Pure.
#pragma once

#include "upgrade-engine/vm_facts.hpp"

#include <chrono>
#include <optional>
#include <vector>

namespace qhup::upgrade {

/// Two looks at the counters of a network namespace.
struct LinkSample {
    LinkCounters before;                ///< the first look
    LinkCounters after;                 ///< the second
    std::chrono::nanoseconds between{}; ///< time that passed; zero: nothing is known
};

/// How long the guest may stand still: twice as long as predicted, but never longer than the
/// budget, at which QEMU gives a switch up.
[[nodiscard]] std::chrono::nanoseconds expect_pause(
    std::optional<std::chrono::nanoseconds> predicted, std::chrono::nanoseconds budget
) noexcept;

/// One warning, of the class "packet-loss", for each link whose queue cannot keep what arrives in
/// such a pause. Where there is none, no packet is lost while the rate stays what it is.
[[nodiscard]] std::vector<Blocker> find_warnings(
    const std::vector<Link>& links, const LinkSample& sample, std::chrono::nanoseconds pause
);

} // namespace qhup::upgrade
