// SPDX-License-Identifier: GPL-2.0-or-later
//
// Version of this build, set by the build system.
#pragma once

#include <string_view>

namespace qhup {

inline constexpr std::string_view kVersion = QHUP_VERSION;

} // namespace qhup
