// SPDX-License-Identifier: GPL-2.0-or-later
//
// Finds and reads the drop-in files of releases, in all folders that may hold them. Opening their
// binaries is the binary store's business.
#pragma once

#include "common/result.hpp"
#include "upgrade-engine/binary_store.hpp"
#include "upgrade-engine/release.hpp"

#include <string>
#include <vector>

namespace qhup::daemon {

/// A drop-in, and the release that it describes or why it cannot be used.
struct ReleaseFile {
    std::string path; ///< of the drop-in
    std::string name; ///< of the file, without ".toml"
    Result<upgrade::Release> release;
};

/// The drop-ins *.toml of these folders, by name. Of two with one name the one in the later folder
/// counts; a link to /dev/null there takes the release away. A folder that is missing holds none.
/// Blocking: reads them
[[nodiscard]] std::vector<ReleaseFile> read_release_files(const std::vector<std::string>& folders);

/// Whether it is the binary of a QEMU system emulator, whatever it can do.
/// Errors:   upgrade::Errc::binary_refused
[[nodiscard]] Result<void> check_is_qemu(const upgrade::PinnedBinary& binary);

/// Whether the folders are there that the release names as firmware.
/// Errors:   upgrade::Errc::release_invalid, with what is missing
/// Blocking: looks at them
[[nodiscard]] Result<void> check_firmware(const upgrade::Release& release);

} // namespace qhup::daemon
