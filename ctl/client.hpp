// SPDX-License-Identifier: GPL-2.0-or-later
//
// HTTP to the daemon's Unix socket, blocking, one connection per request. Used by the commands
// only.
#pragma once

#include "common/result.hpp"

#include <chrono>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>

namespace qhup::ctl {

/// Errors of the way to the daemon; the daemon's own answers are values.
enum class Errc {
    unreachable = 1, ///< no socket, nobody listens, or the daemon went away before it answered
    not_permitted,   ///< the socket may not be opened by this user
    no_answer,       ///< the daemon did not answer in time
    bad_answer,      ///< what came was no answer of qhupd
    detached,        ///< the user pressed Ctrl-C, or does not want to wait any longer
};

[[nodiscard]] error_code make_error_code(Errc value) noexcept;

/// An answer, whatever its status.
struct Reply {
    int status = 0;   ///< of HTTP
    std::string body; ///< complete
};

/// What a line of an event stream means for the reader.
enum class Reading { go_on, stop };

class Client {
public:
    /// @param read_path  where GET goes if this user may not open `socket_path`; "": nowhere else
    explicit Client(std::string socket_path, std::string read_path = {})
        : path_(std::move(socket_path)), read_path_(std::move(read_path)) {}

    /// Sends a request and waits for the whole answer.
    ///
    /// @param body  "" for none
    /// Errors:        unreachable, not_permitted, no_answer, bad_answer
    /// After failure: the daemon may have acted, unless the code is unreachable before sending or
    ///                not_permitted; ask it
    /// Blocking:      until the answer is there or `patience` is over
    Result<Reply> request(
        std::string_view method,
        std::string_view target,
        std::string_view body = {},
        std::chrono::milliseconds patience = std::chrono::seconds(30)
    ) const;

    /// Reads a stream of lines until it ends, a callback says stop, or Ctrl-C is pressed.
    ///
    /// @param on_line  gets each line without its end, empty ones too
    /// @param on_tick  called ten times a second at least; stop is as Ctrl-C
    /// @param last_event_id  header of server-sent events: where to go on
    /// @return  the answer; its body is empty if the lines went to the callback (status 200), else
    ///          the problem document
    /// Errors:  as request, and detached
    Result<Reply> follow(
        std::string_view target,
        const std::function<Reading(std::string_view line)>& on_line,
        const std::function<Reading()>& on_tick,
        std::optional<std::uint64_t> last_event_id = std::nullopt
    ) const;

private:
    std::string path_;
    std::string read_path_;
};

/// From here on SIGINT and SIGTERM end follow() with Errc::detached instead of the process.
void detach_on_interrupt();

/// Sleeps; SIGINT and SIGTERM end it after detach_on_interrupt().
void wait_interruptibly(std::chrono::milliseconds span);

/// True once SIGINT or SIGTERM came.
bool was_interrupted() noexcept;

} // namespace qhup::ctl

template <>
struct boost::system::is_error_code_enum<qhup::ctl::Errc> : std::true_type {};
