// SPDX-License-Identifier: GPL-2.0-or-later
#include "common/unique_fd.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>

namespace qhup {

void UniqueFd::reset(int fd) noexcept {
    const int old = std::exchange(fd_, fd);
    if (old >= 0 && old != fd) {
        const int kept_errno = errno;
        // why: close() is not repeated after EINTR; Linux has released the number already.
        ::close(old);
        errno = kept_errno;
    }
}

Result<UniqueFd> UniqueFd::duplicate() const {
    const int copy = ::fcntl(fd_, F_DUPFD_CLOEXEC, 0);
    if (copy < 0) {
        return make_system_failure(errno, "duplicating a file descriptor");
    }
    return UniqueFd(copy);
}

} // namespace qhup
