// SPDX-License-Identifier: GPL-2.0-or-later
//
// Session decides what happens on one QMP connection; a driver (client.cpp) obeys. Inputs are
// lines, ends and timeouts; outputs are actions. Every submitted command is completed exactly once.
// Pure: no Asio, clock, files, logging.
//
//   awaiting_greeting ──greeting──► negotiating ──reply──► ready
//          │                            │                    │
//          └──── timeout, bad line, closed ─► closed ◄───────┘
#pragma once

#include "common/unique_fd.hpp"
#include "qmp-client/message.hpp"

#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace qhup::qmp {

/// What to ask.
struct Command {
    std::string name;                            ///< "query-hot-upgrade"
    Json arguments = {};                         ///< an object, or null for none
    UniqueFd descriptor = {};                    ///< sent with the line (`getfd`); none if invalid
    std::size_t max_reply_bytes = kMaxLineBytes; ///< more only where the reply is known to be long
};

/// Names a command on any connection of this process: "q-<connection>-<number>".
struct CommandId {
    std::uint64_t connection = 0; ///< given by the driver, different for each connection
    std::uint64_t number = 0;     ///< counts from 1

    friend bool operator==(const CommandId&, const CommandId&) = default;
    friend auto operator<=>(const CommandId&, const CommandId&) = default;
};
[[nodiscard]] std::string format_id(CommandId id);
[[nodiscard]] std::optional<CommandId> parse_id(std::string_view text);

/// The peer is ready for commands. Once per session.
struct BecomeReady {
    Greeting greeting;
};
/// A command has its result. Once per submitted command.
struct CompleteCommand {
    CommandId id;
    Result<Json> result;
};
struct DeliverEvent {
    Event event;
};
/// Close the socket. The last action of a session.
struct EndSession {
    Failure reason;
};
/// For the log: something a healthy QEMU does not do. At most kMaxNotes per session.
struct Note {
    std::string text;      ///< our words
    std::string peer_text; ///< QEMU's
};
using Action = std::variant<BecomeReady, CompleteCommand, DeliverEvent, EndSession, Note>;
using Actions = std::vector<Action>;

/// One line to write.
struct Outgoing {
    CommandId id;
    std::string line;
    UniqueFd descriptor; ///< goes with the first byte
};

class Session {
public:
    enum class State { awaiting_greeting, negotiating, ready, closed };

    static constexpr std::size_t kMaxPending = 64; ///< with and without a waiting caller
    static constexpr std::size_t kMaxNotes = 10;

    /// @param connection  different for each connection of the process
    explicit Session(std::uint64_t connection) : connection_(connection) {}

    /// Queues a command for writing.
    ///
    /// Errors:        Errc::not_connected, Errc::too_many_pending, Errc::command_too_long
    /// After failure: nothing was queued; the descriptor is closed
    [[nodiscard]] Result<CommandId> submit(Command command);

    /// The next line to write, if any. From here on the outcome of its command is unknown until it
    /// is answered.
    [[nodiscard]] std::optional<Outgoing> take_outgoing();
    [[nodiscard]] bool has_outgoing() const noexcept { return !outgoing_.empty(); }

    /// A line arrived.
    [[nodiscard]] Actions on_line(std::string_view line);
    /// The connection ended, or cannot go on, for this reason. Completes every pending command.
    [[nodiscard]] Actions on_closed(Failure reason);
    /// The greeting's own deadline passed. Nothing if it has arrived.
    [[nodiscard]] Actions on_greeting_timeout();

    enum class Why { timed_out, cancelled };
    /// The caller stopped waiting. A command that was not written is withdrawn; one that was stays
    /// known, and its late reply is swallowed. Nothing if it was completed before.
    [[nodiscard]] Actions abandon(CommandId id, Why why);

    [[nodiscard]] State state() const noexcept { return state_; }
    /// Limit of the next line: the largest that a command in flight allows.
    [[nodiscard]] std::size_t max_line_bytes() const noexcept;
    /// Commands that have no answer yet, abandoned ones included.
    [[nodiscard]] std::size_t pending() const noexcept { return pending_.size(); }

private:
    struct Pending {
        std::string name;
        std::size_t max_reply_bytes = 0;
        bool is_written = false;
        bool is_abandoned = false;
    };

    void on_message(Greeting greeting, Actions& out);
    void on_message(Reply reply, Actions& out);
    void on_message(ErrorReply error, Actions& out);
    void on_message(Event event, Actions& out);
    using PendingMap = std::map<CommandId, Pending>;

    [[nodiscard]] Result<CommandId> enqueue(Command command);
    [[nodiscard]] PendingMap::iterator find_written(std::string_view id_text);
    void complete(PendingMap::iterator pending, Result<Json> result, Actions& out);
    void on_negotiated(const Result<Json>& result, Actions& out);
    void end(Failure reason, Actions& out);
    void note(std::string text, std::string peer_text, Actions& out);

    std::uint64_t connection_;
    std::uint64_t last_number_ = 0;
    State state_ = State::awaiting_greeting;
    Greeting greeting_;
    CommandId negotiation_;
    PendingMap pending_;
    std::deque<Outgoing> outgoing_;
    std::size_t notes_ = 0;
};

} // namespace qhup::qmp
