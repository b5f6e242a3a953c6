// SPDX-License-Identifier: GPL-2.0-or-later
#include "upgrade-engine/phase.hpp"

namespace qhup::upgrade {

std::string_view to_string(Phase phase) noexcept {
    switch (phase) {
    case Phase::queued: return "queued";
    case Phase::preflight: return "preflight";
    case Phase::prepare: return "prepare";
    case Phase::await_pause: return "await_pause";
    case Phase::switch_over: return "switch_over";
    case Phase::verify: return "verify";
    case Phase::commit: return "commit";
    case Phase::discarding: return "discarding";
    case Phase::rolling_back: return "rolling_back";
    case Phase::rehearse: return "rehearse";
    case Phase::ending_rehearsal: return "ending_rehearsal";
    case Phase::upgraded: return "upgraded";
    case Phase::refused: return "refused";
    case Phase::rolled_back: return "rolled_back";
    case Phase::lost_contact: return "lost_contact";
    case Phase::needs_operator: return "needs_operator";
    case Phase::rehearsed: return "rehearsed";
    }
    return "";
}

std::string_view to_string(Outcome outcome) noexcept {
    switch (outcome) {
    case Outcome::ok: return "ok";
    case Outcome::failed: return "failed";
    case Outcome::declined: return "declined";
    case Outcome::unknown: return "unknown";
    }
    return "";
}

std::optional<Phase> parse_phase(std::string_view word) noexcept {
    for (const Phase phase : kAllPhases) {
        if (to_string(phase) == word) {
            return phase;
        }
    }
    return std::nullopt;
}

} // namespace qhup::upgrade
