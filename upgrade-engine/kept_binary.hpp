// SPDX-License-Identifier: GPL-2.0-or-later
//
// The way back: the binary that a VM runs, kept as a tree with the libraries that its process has
// really mapped, its modules and its firmware, so that the VM can go back to it when the package
// has replaced them all. A tree has the build id of its binary as name, is made once, and never
// changed.
//
//     <root>/<build id>/bin/qemu, bin/ld.so     the binary, and the loader that starts it
//                      /lib/                    libraries, by the names under which they are looked
//                      for /share/qemu/             firmware, given as -L /release.toml written
//                      last: the tree is complete
//
// What a process says about itself is not believed: only files of root (or ours) that nobody else
// may write are kept, and firmware only if everybody may read it.
#pragma once

#include "common/result.hpp"
#include "upgrade-engine/binary_store.hpp"

#include <sys/types.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace qhup::upgrade {

/// A file that a process has mapped.
struct MappedFile {
    std::string range; ///< "7f01-7f02": its name in /proc/PID/map_files
    std::string path;  ///< where it was when it was mapped
    std::uint64_t inode = 0;
    bool is_deleted = false; ///< the path leads to another file now, or nowhere

    bool operator==(const MappedFile&) const = default;
};

/// The files in /proc/PID/maps, each once, by its first range. Pure.
[[nodiscard]] std::vector<MappedFile> parse_mapped_files(std::string_view maps_text);

/// The DT_SONAME of a shared library; "" if it has none or is not one. Pure.
[[nodiscard]] std::string find_soname(std::string_view elf_bytes);

/// What shall be kept.
struct KeepRequest {
    std::string root;     ///< folder of all trees
    std::string build_id; ///< that QEMU reported, hex: name of the tree
    std::string version;  ///< as QEMU wrote it
    pid_t pid = 0;        ///< a process that runs it, as this process sees it
};

/// Keeps the binary of a process and starts the copy once, with -machine none. Does nothing if it
/// is kept already.
///
/// Errors:        Errc::binary_refused, the message says why it cannot be kept
/// After failure: nothing is left of the tree
/// Blocking:      reads and writes some ten MiB, and waits some seconds for the process
[[nodiscard]] Result<void> keep_binary(const KeepRequest& request);

/// Gives a kept tree to root, where we have a user of our own and may: no program of that user can
/// change then what VMs of others execute.
///
/// After failure: it belongs to us, or partly
/// Blocking:      a walk through some hundred files, unless its folder is root's
void own_kept(const std::string& root, const std::string& build_id);

/// Whether that binary is kept. Blocking: one stat
[[nodiscard]] bool is_kept(const std::string& root, const std::string& build_id);

/// The build ids of all trees.
[[nodiscard]] std::vector<std::string> list_kept(const std::string& root);

/// What comes between the name of the program and its arguments when this release is started: the
/// loader's words for a kept binary, nothing for others. Pure.
[[nodiscard]] std::vector<std::string> loader_words(const Release& release);

/// What a kept release adds to command lines. Pure.
[[nodiscard]] std::vector<std::string>
kept_tail(const std::string& root, const std::string& build_id);

/// Whether a tree that is there may be used, without reading it.
/// Errors:   Errc::binary_refused: what is missing or can be changed by others
/// Blocking: one look at each folder above it
[[nodiscard]] Result<void> check_kept(const std::string& root, const std::string& build_id);

/// Opens and checks a kept binary; `fd` is its loader, which starts it with its own libraries.
/// Errors:   as pin_binary()
[[nodiscard]] Result<std::shared_ptr<const PinnedBinary>>
pin_kept(const std::string& root, const std::string& build_id);

/// Removes a tree. A process that runs from it goes on.
void forget_kept(const std::string& root, const std::string& build_id);

} // namespace qhup::upgrade
