// SPDX-License-Identifier: GPL-2.0-or-later
//
// Reads a file into a string, also one of /proc, which has no size and whose process may end.
#pragma once

#include "common/result.hpp"

#include <cstddef>
#include <limits>
#include <string>

namespace qhup {

/// Reads a file from its beginning.
///
/// why: not a stream. Where a read fails, std::filebuf throws through an istreambuf_iterator.
///
/// @param most   it stops after so many bytes, or a few more
/// @param flags  for open(), beside O_RDONLY and O_CLOEXEC
/// Errors:   system_error
/// Blocking: as long as the disk takes
[[nodiscard]] Result<std::string> read_file(
    const std::string& path,
    std::size_t most = std::numeric_limits<std::size_t>::max(),
    int flags = 0
);

} // namespace qhup
