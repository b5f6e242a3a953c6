// SPDX-License-Identifier: GPL-2.0-or-later
//
// Named places at which the daemon can be told to die, for tests: before and after each mark of the
// journal is durable. Pure: the names. `qhupd --list-faults` prints them, `qhupd --fault NAME` arms
// one, tests/crash/ walks the list.
#pragma once

#include "daemon/journal_rows.hpp"

#include <string>
#include <string_view>
#include <vector>

namespace qhup::daemon {

/// "journal.MARK.before" and "journal.MARK.after" for each mark: "run" (a run begins), every phase
/// of the engine's table, "finished" (the run ended).
std::vector<std::string> all_fault_points();

/// Which mark of the journal a row is: "run", "finished", or the phase of an upgrade.
std::string mark_of(const JournalRow& row);

/// Is this where the daemon shall die?
/// @param armed    name of a fault point; "" for none
/// @param changes  what is being written
/// @param moment   "before" or "after"
bool is_fault_point(
    std::string_view armed, const std::vector<JournalChange>& changes, std::string_view moment
);

} // namespace qhup::daemon
