// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/systemd_notify.hpp"

#include "common/unique_fd.hpp"

#include <sys/socket.h>
#include <sys/un.h>

#include <cerrno>
#include <cstddef>
#include <cstdlib>
#include <cstring>

namespace qhup::daemon {

Result<void> notify_systemd(std::string_view assignments) {
    const char* path = std::getenv("NOTIFY_SOCKET");
    if (path == nullptr || *path == '\0') {
        return {};
    }
    const std::size_t length = std::strlen(path);
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    if ((path[0] != '/' && path[0] != '@') || length >= sizeof(address.sun_path)) {
        return make_failure(Errc::invalid_argument, "NOTIFY_SOCKET is not a socket's name");
    }
    std::memcpy(static_cast<char*>(address.sun_path), path, length);
    if (path[0] == '@') {
        address.sun_path[0] = '\0';
    }
    const UniqueFd fd(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    const auto* generic = reinterpret_cast<const sockaddr*>(&address);
    const auto size = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + length);
    const ssize_t sent =
        fd ? ::sendto(fd.get(), assignments.data(), assignments.size(), MSG_NOSIGNAL, generic, size)
           : -1;
    if (sent < 0) {
        return make_system_failure(errno, "telling systemd how the service stands");
    }
    return {};
}

} // namespace qhup::daemon
