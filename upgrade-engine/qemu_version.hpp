// SPDX-License-Identifier: GPL-2.0-or-later
//
// A QEMU release number. Pure.
#pragma once

#include <compare>
#include <optional>
#include <string>
#include <string_view>

namespace qhup::upgrade {

/// "10.0.13" as three numbers. A default one means: not known.
struct QemuVersion {
    int major = 0; ///< 7 in 7.2.22; 0: version not known
    int minor = 0; ///< 2 in 7.2.22
    int micro = 0; ///< 22 in 7.2.22

    [[nodiscard]] constexpr bool is_known() const noexcept { return major > 0; }
    constexpr auto operator<=>(const QemuVersion&) const noexcept = default;
};

/// The number at the start of `text` ("7.2", "10.0.13", "10.0.13 (Debian ...)"), or nothing.
[[nodiscard]] std::optional<QemuVersion> parse_qemu_version(std::string_view text) noexcept;

/// "10.0.13".
[[nodiscard]] std::string to_string(const QemuVersion& version);

} // namespace qhup::upgrade
