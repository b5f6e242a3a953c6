// SPDX-License-Identifier: GPL-2.0-or-later
//
// What docs/ says about every code, blocker and outcome: the pages are in the program, and are read
// here, and what a code means is as the catalogue has it: the program's own, or that of the daemon
// that runs. So a page, 'explain' and qhup-codes(7) cannot differ. Pure.
#pragma once

#include "daemon/api_types_codes.hpp"

#include <string>
#include <string_view>
#include <vector>

namespace qhup::ctl {

/// What an operator can look up.
enum class Topic {
    upgrade, ///< code of a VM in a run or a check
    request, ///< code of an error answer
    outcome, ///< how a VM of a run ended
    blocker, ///< class of a reason against an upgrade
    phase,   ///< what is done with a VM in a run just now
};

struct ManualEntry {
    Topic topic = Topic::upgrade;
    std::string name;                 ///< "load_failed", "chardev"
    std::string kind;                 ///< severity, HTTP status, or whose the blocker is
    std::string text;                 ///< what is true and what to do
    std::vector<std::string> details; ///< causes and cases, each one line
    std::vector<std::string> ids;     ///< of blockers: how check shows them
};

/// Everything that the pages and the catalogue of this program say, topic by topic, in their order.
const std::vector<ManualEntry>& manual();

/// The entries with what a daemon says of its codes in place of what they said, and with the codes
/// that they lack at the end of their topic. Causes and cases of the pages stay.
std::vector<ManualEntry>
merge_codes(std::vector<ManualEntry> entries, const std::vector<daemon::CodeView>& codes);

/// The entries of that name: also "chardev/serial0", an id that check shows, for its class.
std::vector<ManualEntry>
find_in_manual(const std::vector<ManualEntry>& entries, std::string_view name);

/// Who runs the guest after that; "" where the entry is not about one.
std::string guest_after(const ManualEntry& entry);

/// What the text says first, up to its first semicolon or stop: for lists.
std::string first_clause(const std::string& text);

/// The topic as a heading.
std::string_view heading_of(Topic topic) noexcept;

/// All entries of the name, for `explain`.
std::string render_entries(const std::vector<ManualEntry>& entries);

/// All names with the beginning of their text, for `explain` alone.
std::string render_contents(const std::vector<ManualEntry>& entries);

} // namespace qhup::ctl
