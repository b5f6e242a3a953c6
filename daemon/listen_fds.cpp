// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/listen_fds.hpp"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <systemd/sd-daemon.h>

#include <cstddef>
#include <utility>

namespace qhup::daemon {
namespace {

/// The path of a listening Unix stream socket; "" for anything else.
std::string path_of_listener(int fd) {
    if (::sd_is_socket_unix(fd, SOCK_STREAM, 1, nullptr, 0) <= 0) {
        return {};
    }
    sockaddr_un address{};
    socklen_t size = sizeof(address);
    if (::getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size) != 0 ||
        size <= offsetof(sockaddr_un, sun_path) || address.sun_path[0] != '/') {
        return {};
    }
    const std::size_t length = size - offsetof(sockaddr_un, sun_path);
    const std::string path(static_cast<const char*>(address.sun_path), length);
    return path.substr(0, path.find('\0'));
}

} // namespace

std::map<std::string, UniqueFd> take_listen_fds() {
    std::map<std::string, UniqueFd> sockets;
    const int count = ::sd_listen_fds(1);
    for (int i = 0; i < count; ++i) {
        UniqueFd fd(SD_LISTEN_FDS_START + i);
        std::string path = path_of_listener(fd.get());
        if (!path.empty()) {
            ::fcntl(fd.get(), F_SETFL, ::fcntl(fd.get(), F_GETFL) | O_NONBLOCK);
            sockets[std::move(path)] = std::move(fd);
        }
    }
    return sockets;
}

} // namespace qhup::daemon
