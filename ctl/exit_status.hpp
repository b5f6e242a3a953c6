// SPDX-License-Identifier: GPL-2.0-or-later
//
// The exit statuses of qhupd-ctl: scripts branch on them, so they never change. Pure.
#pragma once

#include "daemon/api_types.hpp"

#include <vector>

namespace qhup::ctl {

enum class ExitStatus : int {
    ok = 0,                 ///< all selected VMs are on the release
    failure = 1,            ///< anything that has no status of its own
    nothing_to_do = 2,      ///< no VM selected, or all were on the release already
    not_found = 3,          ///< no VM, release or run of that name
    rolled_back = 4,        ///< some were rolled back; every guest runs
    needs_operator = 5,     ///< a guest was lost or needs a person
    refused = 6,            ///< refused before anything was paused; the same again is refused again
    aborted = 7,            ///< somebody aborted the run before it was done with all VMs
    usage = 64,             ///< the command line is wrong
    unreachable = 69,       ///< no daemon answers on the socket
    try_later = 75,         ///< nothing was touched, and the same may succeed later
    not_permitted = 77,     ///< the daemon does not take orders from this user
    bad_configuration = 78, ///< the daemon refuses its configuration
    detached = 130,         ///< this command went away (Ctrl-C, --timeout), the run goes on
};

/// What a finished run means. The worst outcome wins, in this order: needs operator or lost
/// contact; an outcome of tomorrow; rolled back; aborted; refused; try later; upgraded; unchanged.
ExitStatus exit_status_of(const daemon::RunView& run);

/// What checks mean: refused if one VM cannot be upgraded, try later if only because it could not
/// be asked or another run has it; else ok, or nothing to do if there is no VM or all are on the
/// release already.
ExitStatus exit_status_of(const std::vector<daemon::CheckView>& checks);

/// What an error answer of the daemon means.
ExitStatus exit_status_of(const daemon::Problem& problem);

} // namespace qhup::ctl
