// SPDX-License-Identifier: GPL-2.0-or-later
//
// What to do about a pair of which only the present is known: after a restart of the daemon, and
// whenever the outcome of a command is unknown. Pure. The pair is the truth; where no pair is left,
// the VM is, and the journal's record says what it may be.
#pragma once

#include "upgrade-engine/errors.hpp"
#include "upgrade-engine/phase.hpp"
#include "upgrade-engine/vm_facts.hpp"

#include <cstdint>
#include <optional>
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

/// What the journal says about an upgrade that nobody finished.
struct LastRecord {
    Phase phase = Phase::queued; ///< the one that was entered last; its intent was durable if due
    std::string from_build_id;   ///< of the binary before; "" if unknown
    std::string to_build_id;     ///< of the release's binary; "" if unknown
};

/// The VM itself, when no control socket of the upgrade is left.
struct LoneVm {
    bool answers = false;
    std::string build_id; ///< of the binary that it runs; "" if unknown
};

/// How the upgrade ended.
struct Ending {
    Phase phase;              ///< terminal
    std::optional<Errc> code; ///< why; none if it was upgraded
    std::string sentence;     ///< what is true
};

/// How an upgrade ended of which only a record and the VM are left.
[[nodiscard]] Ending end_without_pair(const LastRecord& record, const LoneVm& vm);

} // namespace qhup::upgrade
