// SPDX-License-Identifier: GPL-2.0-or-later
//
// Errors of the QMP layer. Each belongs to one of three kinds that stay apart: could not ask, asked
// and refused, asked and no answer. QMP's `desc` is never looked at; it travels as peer_text.
// Pure: no Asio, clock, files, logging.
#pragma once

#include "common/result.hpp"

#include <optional>
#include <string_view>

namespace qhup::qmp {

/// What a caller knows about its command after a failure.
enum class Answer {
    could_not_ask, ///< QEMU has not seen the command
    refused,       ///< QEMU has answered with an error; the state is as documented for it
    unknown,       ///< the command may or may not have taken effect: observe before acting
};

/// Errors of a session. The comment gives the kind.
enum class Errc {
    connect_failed = 1, ///< could not ask: for another reason than those that follow
    nobody_listens,     ///< could not ask: no socket, or its process has ended
    monitor_busy,       ///< could not ask: the listener took no connection until the deadline
    monitor_forbidden,  ///< could not ask: we may not connect
    peer_rejected,      ///< could not ask: the process that listens is not the one we expect
    greeting_timed_out, ///< could not ask: connected, but no greeting; another client may be served
    negotiation_failed, ///< could not ask: the greeting or the answer to it was not QMP
    not_connected,      ///< could not ask: the session has ended before
    not_sent_timed_out, ///< could not ask: deadline passed before the first byte left
    not_sent_cancelled, ///< could not ask: the caller gave up before the first byte left
    too_many_pending,   ///< could not ask: too many commands without an answer
    command_too_long,   ///< could not ask: the line would be longer than QEMU accepts

    refused,           ///< refused: an error reply without a code that we know
    command_not_found, ///< refused: this QEMU has no such command

    timed_out,       ///< unknown: no answer before the deadline
    cancelled,       ///< unknown: the caller gave up after the command was sent
    connection_lost, ///< unknown: the session ended after the command was sent; `also` says why

    closed_by_peer,    ///< why a session ended: end of file or a socket error
    closed_by_us,      ///< why a session ended: request_stop()
    protocol_error,    ///< why a session ended: a line that is not QMP
    line_too_long,     ///< why a session ended: a line longer than its bound
    too_deep,          ///< why a session ended: JSON nested deeper, or of more values, than allowed
    not_understood,    ///< why a session ended: QEMU sent an error without id: it lost our place
    events_overflowed, ///< why a session ended: a subscriber did not keep up

    bad_reply, ///< refused is not the word: done, but the reply lacks a field or has a wrong type
};

/// The stable codes of docs/qmp.md: what a patched QEMU says in `error.code` and `last-error.code`.
enum class PeerErrc {
    wrong_state = 1,
    blocked,
    bad_argument,
    spawn_failed,
    target_died,
    target_timeout,
    protocol_mismatch,
    shape_differs,
    stale,
    retry,
    drain_timeout,
    budget_exceeded,
    save_failed,
    load_failed,
    takeover_failed,
    lease_expired,
    rolled_back,
    fault_injected,
};

[[nodiscard]] const Category& session_category() noexcept;
[[nodiscard]] const Category& peer_category() noexcept;
[[nodiscard]] error_code make_error_code(Errc value) noexcept;
[[nodiscard]] error_code make_error_code(PeerErrc value) noexcept;

/// "shape-differs" -> PeerErrc::shape_differs; none for a code that we do not know.
[[nodiscard]] std::optional<PeerErrc> parse_peer_code(std::string_view code) noexcept;
/// The word on the wire, with dashes.
[[nodiscard]] std::string_view to_peer_code(PeerErrc value) noexcept;

/// What the caller of execute() knows about its command; unknown for a code of another layer.
[[nodiscard]] Answer answer_of(const Failure& failure) noexcept;

} // namespace qhup::qmp

template <>
struct boost::system::is_error_code_enum<qhup::qmp::Errc> : std::true_type {};
template <>
struct boost::system::is_error_code_enum<qhup::qmp::PeerErrc> : std::true_type {};
