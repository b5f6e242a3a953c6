// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/systemd_notify.hpp"

#include "common/unique_fd.hpp"

#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <ctime>

namespace qhup::daemon {
namespace {

/// A variable of the environment as a number; 0 if it is none.
std::uint64_t number_in_environment(const char* name) {
    const char* text = std::getenv(name);
    std::uint64_t number = 0;
    if (text != nullptr) {
        std::from_chars(text, text + std::strlen(text), number);
    }
    return number;
}

} // namespace

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

std::optional<std::chrono::milliseconds> watchdog_interval() {
    const auto limit = std::chrono::microseconds(number_in_environment("WATCHDOG_USEC"));
    const auto pid = number_in_environment("WATCHDOG_PID");
    const auto interval = std::chrono::duration_cast<std::chrono::milliseconds>(limit) / 3;
    const bool is_ours = pid == 0 || pid == static_cast<std::uint64_t>(::getpid());
    return is_ours && interval.count() > 0 ? std::optional(interval) : std::nullopt;
}

std::string reloading_line() {
    timespec now{};
    ::clock_gettime(CLOCK_MONOTONIC, &now);
    const std::int64_t us = std::int64_t{now.tv_sec} * 1'000'000 + now.tv_nsec / 1000;
    return "RELOADING=1\nMONOTONIC_USEC=" + std::to_string(us) +
           "\nSTATUS=Reading the configuration again";
}

} // namespace qhup::daemon
