// SPDX-License-Identifier: GPL-2.0-or-later
#include "common/read_file.hpp"

#include "common/unique_fd.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <cerrno>

namespace qhup {

Result<std::string> read_file(const std::string& path, std::size_t most, int flags) {
    const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | flags));
    if (!fd) {
        return make_system_failure(errno, "opening " + path);
    }
    std::array<char, 16'384> buffer{};
    std::string text;
    while (text.size() < most) {
        const ssize_t count = ::read(fd.get(), buffer.data(), buffer.size());
        if (count < 0 && errno == EINTR) {
            continue;
        }
        if (count < 0) {
            return make_system_failure(errno, "reading " + path);
        }
        if (count == 0) {
            break;
        }
        text.append(buffer.data(), static_cast<std::size_t>(count));
    }
    return text;
}

} // namespace qhup
