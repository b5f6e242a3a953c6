// SPDX-License-Identifier: GPL-2.0-or-later
//
// Opens and checks the binaries that VMs may be upgraded to. A client names a release, never a
// path; a release is a file of root's. What is returned is a descriptor: a path resolved again
// would undo the check. Nothing here runs a binary.
#pragma once

#include "common/result.hpp"
#include "common/unique_fd.hpp"
#include "upgrade-engine/errors.hpp"
#include "upgrade-engine/qemu_version.hpp"
#include "upgrade-engine/release.hpp"

#include <sys/types.h>

#include <cstdint>
#include <memory>
#include <string>

namespace qhup::upgrade {

/// A binary that was opened, checked, and stays open.
struct PinnedBinary {
    Release release;           ///< as it was when it was checked
    UniqueFd fd;               ///< open for reading, close-on-exec
    std::string sha256;        ///< of its bytes, hex
    std::string build_id;      ///< hex; "" if it has none
    QemuVersion version;       ///< found in the binary, else from the release; may be not known
    bool is_qemu = false;      ///< it has the words of a QEMU that is asked for its version
    dev_t device = 0;          ///< identity of the file that was checked
    ino_t inode = 0;           ///< identity of the file that was checked
    std::int64_t size = 0;     ///< bytes
    std::int64_t mtime_ns = 0; ///< last change of its bytes, ns since the epoch
    std::int64_t ctime_ns = 0; ///< last change of anything about it, ns since the epoch
};

/// Opens and checks the binary of a release.
///
/// Every element of the path must belong to root or to us, and must not be writable for group or
/// others; none may be a symbolic link. The file must be a regular executable ELF file, and match
/// the release's hash if it has one.
///
/// Errors:   Errc::binary_refused (the message says what to do), Errc::binary_changed (while it was
///           read)
/// Thread:   any
/// Blocking: reads the whole file (some tens of MiB)
[[nodiscard]] Result<std::shared_ptr<const PinnedBinary>> pin_binary(const Release& release);

/// Whether nobody but root and we can change what is at this path: every element of it belongs to
/// one of us, is not writable for group or others, and is no symbolic link. What is not there yet
/// is trusted.
///
/// Errors:   Errc::binary_refused: which element, and what to do about it
/// Blocking: one look at each element
[[nodiscard]] Result<void> check_trusted(const std::string& path);

/// Whether the pinned file is still what was checked: same bytes by size and times, same mode.
/// Errors:   Errc::binary_changed
/// Blocking: one fstat
[[nodiscard]] Result<void> check_unchanged(const PinnedBinary& binary);

} // namespace qhup::upgrade
