// SPDX-License-Identifier: GPL-2.0-or-later
#include "qmp-client/errors.hpp"

#include <algorithm>
#include <array>

namespace qhup::qmp {
namespace {

/// All that is to be said about an error value, in one row.
struct SessionRow {
    Errc value;
    const char* wire_code;
    Answer answer;
    Severity severity;
    const char* message;
};

constexpr auto kUnsent = Answer::could_not_ask;
constexpr auto kUnknown = Answer::unknown;
// clang-format off
constexpr std::array kSessionRows{
    SessionRow{Errc::connect_failed, "qmp_connect_failed", kUnsent, Severity::transient,
               "cannot connect to the monitor"},
    SessionRow{Errc::nobody_listens, "qmp_nobody_listens", kUnsent, Severity::transient,
               "nobody listens on the monitor's socket"},
    SessionRow{Errc::monitor_busy, "qmp_monitor_busy", kUnsent, Severity::transient,
               "the monitor does not accept connections now"},
    SessionRow{Errc::monitor_forbidden, "qmp_monitor_forbidden", kUnsent, Severity::refused,
               "connecting to the monitor is not permitted"},
    SessionRow{Errc::peer_rejected, "qmp_peer_rejected", kUnsent, Severity::refused,
               "the monitor belongs to another process than expected"},
    SessionRow{Errc::greeting_timed_out, "qmp_greeting_timed_out", kUnsent, Severity::transient,
               "the monitor does not greet; it may be serving another client"},
    SessionRow{Errc::negotiation_failed, "qmp_negotiation_failed", kUnsent, Severity::transient,
               "the monitor does not speak QMP"},
    SessionRow{Errc::not_connected, "qmp_not_connected", kUnsent, Severity::transient,
               "the connection to the monitor has ended"},
    SessionRow{Errc::not_sent_timed_out, "qmp_not_sent_timed_out", kUnsent, Severity::transient,
               "the monitor did not read the command in time"},
    SessionRow{Errc::not_sent_cancelled, "qmp_not_sent_cancelled", kUnsent, Severity::transient,
               "cancelled before the command was sent"},
    SessionRow{Errc::too_many_pending, "qmp_too_many_pending", kUnsent, Severity::transient,
               "too many commands wait for an answer"},
    SessionRow{Errc::command_too_long, "qmp_command_too_long", kUnsent, Severity::refused,
               "the command is longer than QEMU accepts"},
    SessionRow{Errc::refused, "qmp_refused", Answer::refused, Severity::refused,
               "QEMU refused the command"},
    SessionRow{Errc::command_not_found, "qmp_command_not_found", Answer::refused, Severity::refused,
               "this QEMU has no such command"},
    SessionRow{Errc::timed_out, "qmp_timed_out", kUnknown, Severity::needs_operator,
               "QEMU did not answer in time"},
    SessionRow{Errc::cancelled, "qmp_cancelled", kUnknown, Severity::needs_operator,
               "cancelled after the command was sent"},
    SessionRow{Errc::connection_lost, "qmp_connection_lost", kUnknown, Severity::needs_operator,
               "the connection ended before QEMU answered"},
    SessionRow{Errc::closed_by_peer, "qmp_closed_by_peer", kUnknown, Severity::needs_operator,
               "QEMU closed the connection"},
    SessionRow{Errc::closed_by_us, "qmp_closed_by_us", kUnknown, Severity::needs_operator,
               "the connection was closed"},
    SessionRow{Errc::protocol_error, "qmp_protocol_error", kUnknown, Severity::needs_operator,
               "QEMU sent something that is not QMP"},
    SessionRow{Errc::line_too_long, "qmp_line_too_long", kUnknown, Severity::needs_operator,
               "QEMU sent a longer line than allowed"},
    SessionRow{Errc::too_deep, "qmp_too_deep", kUnknown, Severity::needs_operator,
               "QEMU sent a deeper or larger structure than allowed"},
    SessionRow{Errc::not_understood, "qmp_not_understood", kUnknown, Severity::needs_operator,
               "QEMU did not understand what was sent"},
    SessionRow{Errc::events_overflowed, "qmp_events_overflowed", kUnknown, Severity::needs_operator,
               "QEMU sent events faster than they were handled"},
    SessionRow{Errc::bad_reply, "qmp_bad_reply", kUnknown, Severity::needs_operator,
               "QEMU's answer lacks a field or has a wrong type"},
};
// clang-format on

struct PeerRow {
    PeerErrc value;
    std::string_view peer_code;
    const char* wire_code;
    Severity severity;
};

// Severity follows "state after" in docs/qmp.md.
// clang-format off
constexpr std::array kPeerRows{
    PeerRow{PeerErrc::wrong_state, "wrong-state", "wrong_state", Severity::refused},
    PeerRow{PeerErrc::blocked, "blocked", "blocked", Severity::refused},
    PeerRow{PeerErrc::bad_argument, "bad-argument", "bad_argument", Severity::refused},
    PeerRow{PeerErrc::spawn_failed, "spawn-failed", "spawn_failed", Severity::refused},
    PeerRow{PeerErrc::target_died, "target-died", "target_died", Severity::rolled_back},
    PeerRow{PeerErrc::target_timeout, "target-timeout", "target_timeout", Severity::rolled_back},
    PeerRow{PeerErrc::protocol_mismatch, "protocol-mismatch", "protocol_mismatch",
            Severity::refused},
    PeerRow{PeerErrc::shape_differs, "shape-differs", "shape_differs", Severity::refused},
    PeerRow{PeerErrc::stale, "stale", "stale", Severity::transient},
    PeerRow{PeerErrc::retry, "retry", "retry", Severity::transient},
    PeerRow{PeerErrc::drain_timeout, "drain-timeout", "drain_timeout", Severity::rolled_back},
    PeerRow{PeerErrc::budget_exceeded, "budget-exceeded", "budget_exceeded",
            Severity::rolled_back},
    PeerRow{PeerErrc::save_failed, "save-failed", "save_failed", Severity::rolled_back},
    PeerRow{PeerErrc::load_failed, "load-failed", "load_failed", Severity::rolled_back},
    PeerRow{PeerErrc::takeover_failed, "takeover-failed", "takeover_failed",
            Severity::rolled_back},
    PeerRow{PeerErrc::lease_expired, "lease-expired", "lease_expired", Severity::rolled_back},
    PeerRow{PeerErrc::rolled_back, "rolled-back", "rolled_back", Severity::rolled_back},
    PeerRow{PeerErrc::fault_injected, "fault-injected", "fault_injected", Severity::rolled_back},
};
// clang-format on

template <class Rows>
constexpr bool is_in_enum_order(const Rows& rows) {
    for (std::size_t i = 0; i < rows.size(); ++i) {
        if (static_cast<std::size_t>(rows[i].value) != i + 1) {
            return false;
        }
    }
    return true;
}
static_assert(is_in_enum_order(kSessionRows), "row n describes error n + 1");
static_assert(static_cast<std::size_t>(Errc::bad_reply) == kSessionRows.size());
static_assert(is_in_enum_order(kPeerRows), "row n describes error n + 1");
static_assert(static_cast<std::size_t>(PeerErrc::fault_injected) == kPeerRows.size());

template <class Rows>
const typename Rows::value_type* find_row(const Rows& rows, int value) noexcept {
    const auto index = static_cast<std::size_t>(value) - 1;
    return index < rows.size() ? &rows[index] : nullptr;
}

class SessionCategory final : public Category {
public:
    SessionCategory() noexcept : Category(0x9d2c6f0a51b7e402U) {}
    const char* name() const noexcept override { return "qmp"; }
    std::string message(int value) const override {
        const SessionRow* row = find_row(kSessionRows, value);
        return row == nullptr ? "unknown error" : row->message;
    }
    Severity severity(int value) const noexcept override {
        const SessionRow* row = find_row(kSessionRows, value);
        return row == nullptr ? Severity::needs_operator : row->severity;
    }
    const char* wire_code(int value) const noexcept override {
        const SessionRow* row = find_row(kSessionRows, value);
        return row == nullptr ? "internal_error" : row->wire_code;
    }

protected:
    Kind kind(int value) const noexcept override {
        switch (static_cast<Errc>(value)) {
        case Errc::cancelled:
        case Errc::not_sent_cancelled: return Kind::cancelled;
        case Errc::timed_out:
        case Errc::greeting_timed_out:
        case Errc::not_sent_timed_out: return Kind::timed_out;
        default: return Kind::other;
        }
    }
};

class PeerCategory final : public Category {
public:
    PeerCategory() noexcept : Category(0x9d2c6f0a51b7e403U) {}
    const char* name() const noexcept override { return "qemu"; }
    std::string message(int value) const override {
        const PeerRow* row = find_row(kPeerRows, value);
        return row == nullptr ? "unknown error" : "QEMU answered " + std::string(row->peer_code);
    }
    Severity severity(int value) const noexcept override {
        const PeerRow* row = find_row(kPeerRows, value);
        return row == nullptr ? Severity::needs_operator : row->severity;
    }
    const char* wire_code(int value) const noexcept override {
        const PeerRow* row = find_row(kPeerRows, value);
        return row == nullptr ? "internal_error" : row->wire_code;
    }
};

} // namespace

const Category& session_category() noexcept {
    static const SessionCategory category;
    return category;
}

const Category& peer_category() noexcept {
    static const PeerCategory category;
    return category;
}

error_code make_error_code(Errc value) noexcept {
    return {static_cast<int>(value), session_category()};
}

error_code make_error_code(PeerErrc value) noexcept {
    return {static_cast<int>(value), peer_category()};
}

std::optional<PeerErrc> parse_peer_code(std::string_view code) noexcept {
    const auto* const row = std::find_if(kPeerRows.begin(), kPeerRows.end(), [&](const PeerRow& r) {
        return r.peer_code == code;
    });
    return row == kPeerRows.end() ? std::nullopt : std::optional(row->value);
}

std::string_view to_peer_code(PeerErrc value) noexcept {
    const PeerRow* row = find_row(kPeerRows, static_cast<int>(value));
    return row == nullptr ? std::string_view() : row->peer_code;
}

Answer answer_of(const Failure& failure) noexcept {
    if (failure.code.category() == peer_category()) {
        return Answer::refused;
    }
    if (failure.code.category() == session_category()) {
        const SessionRow* row = find_row(kSessionRows, failure.code.value());
        return row == nullptr ? Answer::unknown : row->answer;
    }
    return Answer::unknown;
}

} // namespace qhup::qmp
