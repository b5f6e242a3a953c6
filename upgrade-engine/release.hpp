// SPDX-License-Identifier: GPL-2.0-or-later
//
// A release: a QEMU binary that VMs can be upgraded to, as root describes it in a drop-in file.
// Clients name a release, never a path. Pure: text in, values out.
#pragma once

#include "common/result.hpp"
#include "upgrade-engine/errors.hpp"
#include "upgrade-engine/ids.hpp"

#include <array>
#include <string>
#include <string_view>
#include <vector>

namespace qhup::upgrade {

/// A release as its drop-in file describes it.
struct Release {
    ReleaseName name;                  ///< [A-Za-z0-9_.-]{1,64}
    std::string path;                  ///< absolute path of the QEMU binary
    std::string sha256;                ///< 64 lower-case hex digits; "" if the file pins none
    std::string version;               ///< informational; "" if not given
    std::string description;           ///< for people; "" if not given
    std::vector<std::string> firmware; ///< absolute folders, given to the target as -L
    std::vector<std::string> options;  ///< further arguments for the target, after all others
};

/// The keys of a drop-in.
inline constexpr std::array<std::string_view, 7> kReleaseKeys{
    "name", "path", "sha256", "version", "description", "firmware", "options"};

/// Reads one drop-in (TOML), which has some of kReleaseKeys.
///
/// @param default_name  used if the text has no name: the file name without ".toml"
/// Errors: Errc::release_invalid, with what is wrong and in which line
[[nodiscard]] Result<Release> parse_release(std::string_view text, std::string_view default_name);

/// The arguments that a release adds to a command line: -L for each firmware folder, then options.
[[nodiscard]] std::vector<std::string> release_tail(const Release& release);

} // namespace qhup::upgrade
