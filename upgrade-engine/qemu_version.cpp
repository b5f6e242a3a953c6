// SPDX-License-Identifier: GPL-2.0-or-later
#include "upgrade-engine/qemu_version.hpp"

#include <array>
#include <charconv>
#include <system_error>

namespace qhup::upgrade {

std::optional<QemuVersion> parse_qemu_version(std::string_view text) noexcept {
    std::array<int, 3> numbers{};
    const char* at = text.data();
    const char* const end = text.data() + text.size();
    std::size_t count = 0;
    while (count < numbers.size()) {
        const auto [stop, error] = std::from_chars(at, end, numbers[count]);
        if (error != std::errc{} || numbers[count] < 0) {
            break;
        }
        ++count;
        at = stop;
        if (at == end || *at != '.') {
            break;
        }
        ++at;
    }
    if (count < 2 || numbers[0] == 0) {
        return std::nullopt;
    }
    return QemuVersion{numbers[0], numbers[1], numbers[2]};
}

std::string to_string(const QemuVersion& version) {
    return std::to_string(version.major) + "." + std::to_string(version.minor) + "." +
           std::to_string(version.micro);
}

} // namespace qhup::upgrade
