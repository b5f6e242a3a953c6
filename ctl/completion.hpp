// SPDX-License-Identifier: GPL-2.0-or-later
//
// What may stand at the end of a command line that is being typed. Pure: which names there are, is
// asked by the command.
#pragma once

#include "ctl/command_line.hpp"

#include <string>
#include <string_view>
#include <vector>

namespace qhup::ctl {

/// A word that may stand there.
struct Candidate {
    std::string word; ///< whole
    std::string help; ///< one sentence; "" if there is none

    bool operator==(const Candidate&) const = default;
};

/// Names that only the daemon, or the manual, knows.
enum class LiveNames {
    none,
    vms,
    runs,
    vms_or_moves, ///< runs that have moved a VM
    releases,
    codes,
    labels, ///< KEY=VALUE
};

struct Completion {
    std::vector<Candidate> candidates; ///< that begin with what was typed
    LiveNames live = LiveNames::none;  ///< these may stand there too
    std::string prefix;                ///< that each name then begins with: "--to="
};

/// @param words  behind the program's name; the last one is being typed, and may be empty
Completion complete(const CommandSpec& program, const std::vector<std::string>& words);

/// The script for that shell: bash, zsh or fish. It asks 'qhupd-ctl __complete'.
std::string_view completion_script(std::string_view shell) noexcept;

} // namespace qhup::ctl
