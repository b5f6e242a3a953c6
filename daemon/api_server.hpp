// SPDX-License-Identifier: GPL-2.0-or-later
//
// HTTP/1.1 on a Unix socket: accepts, authorises by the kernel's word before a byte is read, bounds
// bytes and time, and passes complete requests to ApiHandlers.
#pragma once

#include "common/async.hpp"
#include "common/task_group.hpp"
#include "common/unique_fd.hpp"
#include "daemon/api_handlers.hpp"
#include "daemon/authorization.hpp"
#include "daemon/config.hpp"

#include <boost/asio/local/stream_protocol.hpp>

#include <cstddef>
#include <map>
#include <string>

namespace qhup::daemon {

/// Whether the group that [api] names exists. Blocks.
/// Errors: Errc::system_error, Errc::invalid_argument
Result<void> check_group(const std::string& name);

/// Thread: the daemon's home strand.
class ApiServer {
public:
    ApiServer(Strand home, TaskGroup& tasks, ApiHandlers& handlers, const Config& config);

    /// Listens: on the socket that systemd made, if it is among these, else on one that is made
    /// now. A socket that a daemon before us left behind is replaced; one on which somebody answers
    /// is not.
    /// Errors: Errc::system_error, Errc::invalid_argument (the path or the group)
    Result<void> listen(std::map<std::string, UniqueFd> given);

    /// Serves until stopped.
    [[nodiscard]] awaitable<void> run_accept();

    /// Takes no new connection and removes the socket, unless it is systemd's.
    void request_stop();

private:
    using Socket = asio::local::stream_protocol::socket;

    [[nodiscard]] awaitable<void> run_connection(Socket socket);

    Strand home_;
    TaskGroup& tasks_;
    ApiHandlers& handlers_;
    const Config& config_;
    AccessRule rule_;
    asio::local::stream_protocol::acceptor acceptor_;
    std::size_t connections_ = 0;
    bool is_given_ = false; // systemd made the socket and keeps it
};

} // namespace qhup::daemon
