// SPDX-License-Identifier: GPL-2.0-or-later
//
// The little that we need to know of an ELF file: whether this host could run it, and its build id.
// Pure: bytes in, values out; every offset is checked, since the bytes may be anything.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace qhup::upgrade {

/// Part of a file.
struct ByteRange {
    std::uint64_t offset = 0;
    std::uint64_t size = 0;
};

/// What the start of an ELF executable says.
struct ElfHeader {
    std::vector<ByteRange> notes; ///< where its notes are
};

/// Reads the header of a 64-bit little-endian executable for this kind of machine.
///
/// @param start  the first bytes of the file; some KiB are enough
/// @return nothing if it is not such a file
[[nodiscard]] std::optional<ElfHeader> parse_elf_header(std::string_view start);

/// The hex digits of the note NT_GNU_BUILD_ID among these notes; "" if there is none.
[[nodiscard]] std::string find_build_id(std::string_view notes);

} // namespace qhup::upgrade
