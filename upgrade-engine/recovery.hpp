// SPDX-License-Identifier: GPL-2.0-or-later
//
// What to do about a pair of which only the present is known: after a restart of the daemon, and
// whenever the outcome of a command is unknown. Pure. The pair is the truth.
#pragma once

#include "upgrade-engine/vm_facts.hpp"

#include <cstdint>
#include <string>
#include <string_view>

namespace qhup::upgrade {

/// What follows from one look at both sides.
enum class Action : std::uint8_t {
    nothing_to_do,  ///< the source runs the VM alone
    roll_back,      ///< prepared and nobody works on it: ask the source to roll back
    commit,         ///< the target runs the VM and the source is parked: verify, then commit
    upgraded,       ///< the target runs the VM alone
    guest_ended,    ///< the target ran the VM and ended by itself; the source is parked: commit
    guest_lost,     ///< the target ran the VM and died; the source is parked and cannot resume it
    wait,           ///< the pair is on its way and bounded by its leases: look again
    lost_contact,   ///< nobody answers
    vm_gone,        ///< neither side is there: the VM does not run
    needs_operator, ///< the two sides contradict each other
};

/// An action and why, as a sentence for people.
struct Decision {
    Action action;
    std::string reason;
};

[[nodiscard]] std::string_view to_string(Action action) noexcept;

/// Decides from what both sides show now. Total: every combination has an answer.
[[nodiscard]] Decision decide(const Observation& source, const Observation& target);

} // namespace qhup::upgrade
