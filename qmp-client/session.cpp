// SPDX-License-Identifier: GPL-2.0-or-later
#include "qmp-client/session.hpp"

#include <algorithm>
#include <charconv>

namespace qhup::qmp {
namespace {

constexpr std::string_view kIdPrefix = "q-";

/// Reads a whole text as a number written the way format_id() writes it.
std::optional<std::uint64_t> parse_number(std::string_view text) {
    std::uint64_t value = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    const bool is_whole = error == std::errc() && end == text.data() + text.size();
    return is_whole ? std::optional(value) : std::nullopt;
}

} // namespace

std::string format_id(CommandId id) {
    return std::string(kIdPrefix) + std::to_string(id.connection) + "-" + std::to_string(id.number);
}

std::optional<CommandId> parse_id(std::string_view text) {
    if (text.substr(0, kIdPrefix.size()) != kIdPrefix) {
        return std::nullopt;
    }
    text.remove_prefix(kIdPrefix.size());
    const std::size_t dash = text.find('-');
    if (dash == std::string_view::npos) {
        return std::nullopt;
    }
    const auto connection = parse_number(text.substr(0, dash));
    const auto number = parse_number(text.substr(dash + 1));
    if (!connection.has_value() || !number.has_value()) {
        return std::nullopt;
    }
    return CommandId{*connection, *number};
}

Result<CommandId> Session::submit(Command command) {
    if (state_ != State::ready) {
        return make_failure(
            Errc::not_connected, "sending " + command.name + ": the connection has ended"
        );
    }
    return enqueue(std::move(command));
}

Result<CommandId> Session::enqueue(Command command) {
    if (pending_.size() >= kMaxPending) {
        return make_failure(
            Errc::too_many_pending,
            "sending " + command.name + ": too many commands wait for an answer already"
        );
    }
    const CommandId id{connection_, last_number_ + 1};
    Result<std::string> line = format_command(command.name, command.arguments, format_id(id));
    if (line.has_error()) {
        return line.error();
    }
    last_number_ = id.number;
    pending_.emplace(id, Pending{std::move(command.name), command.max_reply_bytes, false, false});
    outgoing_.push_back(Outgoing{id, std::move(*line), std::move(command.descriptor)});
    return id;
}

std::optional<Outgoing> Session::take_outgoing() {
    if (outgoing_.empty()) {
        return std::nullopt;
    }
    Outgoing next = std::move(outgoing_.front());
    outgoing_.pop_front();
    // invariant: a command in outgoing_ is in pending_.
    pending_.find(next.id)->second.is_written = true;
    return next;
}

Actions Session::on_line(std::string_view line) {
    Actions out;
    if (state_ == State::closed) {
        return out;
    }
    Result<Message> message = parse_message(line);
    if (message.has_error()) {
        end(message.error(), out);
        return out;
    }
    std::visit([&](auto& each) { on_message(std::move(each), out); }, *message);
    return out;
}

void Session::on_message(Greeting greeting, Actions& out) {
    if (state_ != State::awaiting_greeting) {
        end(make_failure(Errc::protocol_error, "QEMU greeted twice on one connection"), out);
        return;
    }
    greeting_ = std::move(greeting);
    state_ = State::negotiating;
    Result<CommandId> id = enqueue(Command{"qmp_capabilities"});
    if (id.has_error()) {
        end(id.error(), out);
        return;
    }
    negotiation_ = *id;
}

void Session::on_message(Reply reply, Actions& out) {
    const auto pending = find_written(reply.id);
    if (pending == pending_.end()) {
        note("dropped a reply to a command that is not in flight", std::move(reply.id), out);
        return;
    }
    complete(pending, std::move(reply.value), out);
}

void Session::on_message(ErrorReply error, Actions& out) {
    if (!error.id.has_value()) {
        // why: QEMU could not read our input, so it may also have lost the commands before it.
        end(make_failure(Errc::not_understood, "QEMU did not understand what was sent", error.desc),
            out);
        return;
    }
    const auto pending = find_written(*error.id);
    if (pending == pending_.end()) {
        note("dropped an error for a command that is not in flight", std::move(*error.id), out);
        return;
    }
    complete(pending, to_failure(error, pending->second.name), out);
}

void Session::on_message(Event event, Actions& out) {
    out.emplace_back(DeliverEvent{std::move(event)});
}

Session::PendingMap::iterator Session::find_written(std::string_view id_text) {
    const std::optional<CommandId> id = parse_id(id_text);
    const auto pending = id.has_value() ? pending_.find(*id) : pending_.end();
    const bool is_in_flight = pending != pending_.end() && pending->second.is_written;
    return is_in_flight ? pending : pending_.end();
}

void Session::complete(PendingMap::iterator pending, Result<Json> result, Actions& out) {
    const CommandId id = pending->first;
    const bool is_abandoned = pending->second.is_abandoned;
    pending_.erase(pending);
    if (id == negotiation_) {
        on_negotiated(result, out);
    } else if (!is_abandoned) {
        out.emplace_back(CompleteCommand{id, std::move(result)});
    }
}

void Session::on_negotiated(const Result<Json>& result, Actions& out) {
    if (result.has_error()) {
        end(result.error(), out);
        return;
    }
    state_ = State::ready;
    out.emplace_back(BecomeReady{greeting_});
}

Actions Session::on_closed(Failure reason) {
    Actions out;
    if (state_ != State::closed) {
        end(std::move(reason), out);
    }
    return out;
}

Actions Session::on_greeting_timeout() {
    Actions out;
    if (state_ == State::awaiting_greeting || state_ == State::negotiating) {
        end(make_failure(
                Errc::greeting_timed_out,
                "the monitor did not greet in time; it may be serving another client"
            ),
            out);
    }
    return out;
}

Actions Session::abandon(CommandId id, Why why) {
    Actions out;
    const auto pending = pending_.find(id);
    if (pending == pending_.end() || pending->second.is_abandoned || id == negotiation_) {
        return out;
    }
    const bool is_cancel = why == Why::cancelled;
    const std::string& name = pending->second.name;
    if (pending->second.is_written) {
        pending->second.is_abandoned = true;
        out.emplace_back(CompleteCommand{
            id,
            is_cancel ? make_failure(Errc::cancelled, "waiting for " + name + " was cancelled")
                      : make_failure(Errc::timed_out, "QEMU did not answer " + name + " in time"),
        });
        return out;
    }
    out.emplace_back(CompleteCommand{
        id,
        is_cancel
            ? make_failure(Errc::not_sent_cancelled, name + " was cancelled before it was sent")
            : make_failure(Errc::not_sent_timed_out, name + " could not be sent in time"),
    });
    std::erase_if(outgoing_, [&](const Outgoing& each) { return each.id == id; });
    pending_.erase(pending);
    return out;
}

void Session::end(Failure reason, Actions& out) {
    const bool was_ready = state_ == State::ready;
    if (!was_ready && reason.code.category() == session_category() &&
        reason.code != Errc::greeting_timed_out && !is_cancelled(reason)) {
        // why: before the first command there is one answer to all of it: could not ask.
        Failure wrapped = make_failure(
            Errc::negotiation_failed,
            "the monitor could not be made ready: " + reason.message,
            reason.peer_text
        );
        add_also(wrapped, std::move(reason));
        reason = std::move(wrapped);
    }
    state_ = State::closed;
    for (auto& [id, pending] : pending_) {
        if (pending.is_abandoned || id == negotiation_) {
            continue;
        }
        Failure failure = pending.is_written
                              ? make_failure(
                                    Errc::connection_lost,
                                    "the connection ended before QEMU answered " + pending.name
                                )
                              : make_failure(
                                    Errc::not_connected,
                                    "the connection ended before " + pending.name + " was sent"
                                );
        add_also(failure, reason);
        out.emplace_back(CompleteCommand{id, std::move(failure)});
    }
    pending_.clear();
    outgoing_.clear();
    out.emplace_back(EndSession{std::move(reason)});
}

void Session::note(std::string text, std::string peer_text, Actions& out) {
    if (notes_ < kMaxNotes) {
        ++notes_;
        out.emplace_back(Note{std::move(text), std::move(peer_text)});
    }
}

std::size_t Session::max_line_bytes() const noexcept {
    std::size_t limit = kMaxLineBytes;
    for (const auto& [id, pending] : pending_) {
        limit = std::max(limit, pending.is_written ? pending.max_reply_bytes : 0);
    }
    return limit;
}

} // namespace qhup::qmp
