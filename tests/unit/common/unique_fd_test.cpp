// SPDX-License-Identifier: GPL-2.0-or-later
#include "common/unique_fd.hpp"
#include "tests/support/catch.hpp"

#include <fcntl.h>

#include <cerrno>

using qhup::UniqueFd;

namespace {

UniqueFd open_null() {
    return UniqueFd(::open("/dev/null", O_RDONLY | O_CLOEXEC));
}

bool is_open(int fd) {
    return ::fcntl(fd, F_GETFD) >= 0;
}

} // namespace

TEST_CASE("a descriptor is closed when its owner goes, and only then", "[common][unique_fd]") {
    int number = -1;
    {
        UniqueFd first = open_null();
        number = first.get();
        const UniqueFd second = std::move(first);
        CHECK(is_open(number));
        CHECK(second.get() == number);
    }
    CHECK_FALSE(is_open(number));
}

TEST_CASE("assigning closes what was owned before", "[common][unique_fd]") {
    UniqueFd fd = open_null();
    const int old = fd.get();
    UniqueFd other = open_null();
    const int kept = other.get();
    fd = std::move(other);
    CHECK_FALSE(is_open(old));
    CHECK(fd.get() == kept);
}

TEST_CASE("a released descriptor belongs to the caller", "[common][unique_fd]") {
    UniqueFd fd = open_null();
    const UniqueFd caller(fd.release());
    CHECK_FALSE(static_cast<bool>(fd));
    CHECK(is_open(caller.get()));
}

TEST_CASE("a duplicate is another number that programs do not inherit", "[common][unique_fd]") {
    const UniqueFd fd = open_null();
    const auto copy = fd.duplicate();
    REQUIRE(copy.has_value());
    CHECK(copy->get() != fd.get());
    CHECK((::fcntl(copy->get(), F_GETFD) & FD_CLOEXEC) != 0);
    CHECK(UniqueFd().duplicate().has_error());
}

TEST_CASE("closing keeps errno for whoever reports it", "[common][unique_fd]") {
    UniqueFd fd = open_null();
    errno = ENOSPC;
    fd.reset();
    CHECK(errno == ENOSPC);
}
