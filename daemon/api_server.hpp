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

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace qhup::daemon {

/// Whether the group that [api] names exists. Blocks.
/// Errors: Errc::system_error, Errc::invalid_argument
Result<void> check_group(const std::string& name);

/// Thread: the daemon's home strand.
class ApiServer {
public:
    ApiServer(Strand home, TaskGroup& tasks, ApiHandlers& handlers, const Config& config);

    /// Listens: on the sockets that systemd made, as far as they are among these, else on those
    /// that are made now. A socket that a daemon before us left behind is replaced; one on which
    /// somebody answers is not. Errors: Errc::system_error, Errc::invalid_argument (the path or the
    /// group)
    Result<void> listen(std::map<std::string, UniqueFd> given);

    /// Serves until stopped. Call after listen().
    void start();

    /// Takes no new connection and removes the sockets, but for those of systemd.
    void request_stop();

private:
    using Protocol = asio::local::stream_protocol;
    using Socket = Protocol::socket;

    /// One of the sockets.
    struct Door {
        Protocol::acceptor acceptor;
        std::string path;          ///< "" if it is systemd's, which keeps it
        Access most = Access::act; ///< what can be done through it
    };

    Result<void> open_door(
        const std::string& path,
        Access most,
        std::optional<gid_t> group,
        std::map<std::string, UniqueFd>& given
    );
    Result<void> make_door(const std::string& path, Access most, std::optional<gid_t> group);
    [[nodiscard]] awaitable<void> run_accept(Door& door);
    [[nodiscard]] awaitable<void> run_connection(Socket socket, Access most);
    [[nodiscard]] awaitable<void> refuse_connection(Socket socket);
    bool has_room_for(std::uint32_t uid) const;

    Strand home_;
    TaskGroup& tasks_;
    ApiHandlers& handlers_;
    const Config& config_;
    AccessRule rule_;
    std::vector<std::unique_ptr<Door>> doors_;
    std::size_t connections_ = 0;
    std::map<std::uint32_t, std::size_t> connections_of_; // by uid
};

} // namespace qhup::daemon
