// SPDX-License-Identifier: GPL-2.0-or-later
//
// Runs the operator's own probe of a VM: a program of the configuration, started without a shell as
// a user without rights, bounded in time. It decides nothing; who asks does.
#pragma once

#include "common/async.hpp"

#include <chrono>
#include <string>
#include <vector>

namespace qhup::daemon {

/// What is run.
struct ProbeCommand {
    std::vector<std::string> argv;     ///< the first is an absolute path; {vm} stands for the name
    std::string vm;                    ///< also in the environment, as QHUP_VM
    std::string user;                  ///< that it runs as, where we may choose: "nobody"
    std::chrono::milliseconds limit{}; ///< it is killed after so long
};

/// The program with its arguments, as it is started for that VM.
std::vector<std::string> probe_argv(const ProbeCommand& command);

/// Runs the probe and waits for its end.
///
/// It gets the environment variables PATH and QHUP_VM, an empty standard input, the folder "/", and
/// no descriptor of ours. Whatever it started is killed with it.
///
/// Errors:        upgrade::Errc::probe_failed: it ended with another status than 0, by a signal, or
///                not in time, or it could not be started; peer_text has what it said
/// Cancellation:  the probe is killed, and has failed
[[nodiscard]] awaitable<Result<void>> run_probe_command(ProbeCommand command);

} // namespace qhup::daemon
