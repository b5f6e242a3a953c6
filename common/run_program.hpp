// SPDX-License-Identifier: GPL-2.0-or-later
//
// Runs another program to its end and keeps what it said.
#pragma once

#include "common/result.hpp"

#include <string>
#include <vector>

namespace qhup {

struct ProgramEnd {
    int status = -1; ///< exit status; 128 + n after signal n
    std::string out; ///< standard output, 1 MiB at most
    std::string err; ///< standard error, 1 MiB at most
};

/// Runs it without a shell, with nothing on its standard input and no other descriptor of ours.
///
/// Errors:   system_error (it cannot be started)
/// Blocking: until it ends
Result<ProgramEnd> run_program(const std::vector<std::string>& words);

} // namespace qhup
