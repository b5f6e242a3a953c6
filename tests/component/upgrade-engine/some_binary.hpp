// SPDX-License-Identifier: GPL-2.0-or-later
//
// A pinned binary for tests that start no QEMU.
#pragma once

#include "tests/support/catch.hpp"
#include "upgrade-engine/binary_store.hpp"

#include <fcntl.h>
#include <sys/stat.h>

#include <memory>
#include <string>

namespace qhup::test {

/// A binary as the store would pin it; its bytes do not matter here.
inline std::shared_ptr<const upgrade::PinnedBinary> make_some_binary(const std::string& build_id) {
    auto binary = std::make_shared<upgrade::PinnedBinary>();
    binary->release.name = upgrade::ReleaseName("new");
    binary->release.path = "/opt/new/qemu";
    binary->build_id = build_id;
    binary->version = {10, 0, 13};
    binary->fd = UniqueFd(::open("/proc/self/exe", O_RDONLY | O_CLOEXEC));
    struct stat info {};
    REQUIRE(::fstat(binary->fd.get(), &info) == 0);
    const auto to_ns = [](const timespec& t) { return t.tv_sec * 1'000'000'000 + t.tv_nsec; };
    binary->size = info.st_size;
    binary->mtime_ns = to_ns(info.st_mtim);
    binary->ctime_ns = to_ns(info.st_ctim);
    return binary;
}

} // namespace qhup::test
