// SPDX-License-Identifier: GPL-2.0-or-later
//
// Owner of one file descriptor. The only place that calls close().
#pragma once

#include "common/result.hpp"

#include <utility>

namespace qhup {

class UniqueFd {
public:
    UniqueFd() noexcept = default;
    /// Takes over fd; a negative value means none.
    explicit UniqueFd(int fd) noexcept : fd_(fd) {}
    UniqueFd(UniqueFd&& other) noexcept : fd_(other.release()) {}
    UniqueFd& operator=(UniqueFd&& other) noexcept {
        reset(other.release());
        return *this;
    }
    UniqueFd(const UniqueFd&) = delete;
    UniqueFd& operator=(const UniqueFd&) = delete;
    ~UniqueFd() { reset(); }

    /// The descriptor, or -1. Still owned by this object.
    [[nodiscard]] int get() const noexcept { return fd_; }
    [[nodiscard]] explicit operator bool() const noexcept { return fd_ >= 0; }

    /// Gives the descriptor away; this object owns none afterwards.
    [[nodiscard]] int release() noexcept { return std::exchange(fd_, -1); }

    /// Closes what is owned, then takes over fd. errno is kept.
    void reset(int fd = -1) noexcept;

    /// A second descriptor of the same open file, close-on-exec.
    /// Errors: Errc::system_error.
    [[nodiscard]] Result<UniqueFd> duplicate() const;

private:
    int fd_ = -1;
};

} // namespace qhup
