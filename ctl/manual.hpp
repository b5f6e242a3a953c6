// SPDX-License-Identifier: GPL-2.0-or-later
//
// What docs/ says about every code, blocker and outcome: the pages are in the program, and are read
// here. So a page, 'explain' and qhup-codes(7) cannot differ. Pure.
#pragma once

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
};

struct ManualEntry {
    Topic topic = Topic::upgrade;
    std::string name;                 ///< "load_failed", "chardev"
    std::string kind;                 ///< severity, HTTP status, or whose the blocker is
    std::string text;                 ///< what is true and what to do
    std::vector<std::string> details; ///< causes and cases, each one line
    std::vector<std::string> ids;     ///< of blockers: how check shows them
};

/// Everything that the pages say, topic by topic, in their order.
const std::vector<ManualEntry>& manual();

/// The entries of that name: also "chardev/serial0", an id that check shows, for its class.
std::vector<ManualEntry> find_in_manual(std::string_view name);

/// Who runs the guest after that; "" where the entry is not about one.
std::string guest_after(const ManualEntry& entry);

/// The topic as a heading.
std::string_view heading_of(Topic topic) noexcept;

/// All entries of the name, for `explain`.
std::string render_entries(const std::vector<ManualEntry>& entries);

/// All names with the beginning of their text, for `explain` alone.
std::string render_contents(const std::vector<ManualEntry>& entries);

} // namespace qhup::ctl
