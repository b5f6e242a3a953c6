// SPDX-License-Identifier: GPL-2.0-or-later
//
// To be preloaded: the wall clock of a program is as far from the host's as the file in
// QHUP_CLOCK_OFFSET says, in seconds as text; the file may change at any time. Other clocks are
// left alone.
#include <dlfcn.h>
#include <fcntl.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#include <array>
#include <cstdlib>

namespace {

long offset_seconds() {
    const char* const path = ::getenv("QHUP_CLOCK_OFFSET");
    std::array<char, 32> text{};
    const int fd = path == nullptr ? -1 : ::open(path, O_RDONLY | O_CLOEXEC);
    if (fd >= 0) {
        (void)!::read(fd, text.data(), text.size() - 1);
        ::close(fd);
    }
    return ::strtol(text.data(), nullptr, 10);
}

} // namespace

extern "C" {

int clock_gettime(clockid_t clock, timespec* time) noexcept {
    using Function = int (*)(clockid_t, timespec*);
    static const auto original = reinterpret_cast<Function>(::dlsym(RTLD_NEXT, "clock_gettime"));
    const int result = original(clock, time);
    if (result == 0 && clock == CLOCK_REALTIME) {
        time->tv_sec += offset_seconds();
    }
    return result;
}

int gettimeofday(timeval* time, void* /*zone*/) noexcept {
    timespec now{};
    const int result = clock_gettime(CLOCK_REALTIME, &now);
    time->tv_sec = now.tv_sec;
    time->tv_usec = now.tv_nsec / 1000;
    return result;
}
}
