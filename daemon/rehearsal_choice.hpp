// SPDX-License-Identifier: GPL-2.0-or-later
//
// Which VMs of a run are rehearsed before their upgrade: all, or the first of each kind whose way
// nobody has made before. Pure.
#pragma once

#include "daemon/api_types.hpp"
#include "daemon/pause_history.hpp"
#include "upgrade-engine/rehearsal_order.hpp"

#include <string>
#include <vector>

namespace qhup::daemon {

/// It is known what kind it is of, and it is not on the binary already.
bool can_be_rehearsed(const RunVmView& vm);

/// The VMs that wait for the first of their kind, or are the first.
/// @param rehearse  none, first or all; by index of the run's VMs
upgrade::RehearsalOrder choose_rehearsals(
    const RunView& run, const std::vector<std::string>& rehearse, const RunHistory& before
);

} // namespace qhup::daemon
