// SPDX-License-Identifier: GPL-2.0-or-later
#include "tests/sim/virtual_time.hpp"

#include <sys/epoll.h>
#include <sys/timerfd.h>

#include <cerrno>

namespace qhup::sim {
namespace {

// why: not zero, since some code takes the epoch for "never".
constexpr Time kStart = std::chrono::hours(1);

Time g_now{0};
Idler* g_idler = nullptr;

} // namespace

Time now() noexcept {
    return g_now;
}

void set_now(Time time) noexcept {
    g_now = time;
}

void set_idler(Idler* idler) noexcept {
    g_idler = idler;
}

} // namespace qhup::sim

// What follows takes the place of the functions of libstdc++ and libc in this program.

// why: Deadline, Asio's timers and the marks of a report all ask this clock.
std::chrono::steady_clock::time_point std::chrono::_V2::steady_clock::now() noexcept {
    return time_point(qhup::sim::kStart + qhup::sim::g_now);
}

extern "C" {

// why: without a timerfd Asio tells epoll_wait() how long it may wait.
int timerfd_create(clockid_t /*clock*/, int /*flags*/) noexcept {
    errno = EINVAL;
    return -1;
}

// No descriptor is ever ready: nothing here does real I/O.
int epoll_wait(int /*epoll*/, epoll_event* /*events*/, int /*most*/, int timeout_ms) {
    if (timeout_ms == 0) {
        return 0;
    }
    const auto until = qhup::sim::g_now + std::chrono::milliseconds(timeout_ms);
    if (qhup::sim::g_idler != nullptr) {
        qhup::sim::g_idler->on_idle(until);
    } else {
        qhup::sim::g_now = until;
    }
    return 0;
}
}
