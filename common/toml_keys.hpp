// SPDX-License-Identifier: GPL-2.0-or-later
//
// What toml++ 3.3 does not look at before it reads a text.
#pragma once

#include <cstddef>
#include <string_view>

namespace qhup {

/// The first line with a key of more parts than anybody writes, from 1; 0 if there is none.
///
/// why: a table is made within a table for each part of "a.b.c", and they are destroyed in one
/// another: a key of some thousand parts takes the stack. toml++ bounds nested values only.
[[nodiscard]] std::size_t line_of_too_deep_key(std::string_view toml) noexcept;

} // namespace qhup
