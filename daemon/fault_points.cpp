// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/fault_points.hpp"

#include "upgrade-engine/phase.hpp"

#include <nlohmann/json.hpp>

#include <algorithm>

namespace qhup::daemon {
namespace {

std::string name_of(std::string_view mark, std::string_view moment) {
    return "journal." + std::string(mark) + "." + std::string(moment);
}

} // namespace

std::vector<std::string> all_fault_points() {
    std::vector<std::string> names;
    const auto add = [&names](std::string_view mark) {
        names.push_back(name_of(mark, "before"));
        names.push_back(name_of(mark, "after"));
    };
    add("run");
    for (const upgrade::Phase phase : upgrade::kAllPhases) {
        add(upgrade::to_string(phase));
    }
    add("finished");
    add("hold");
    return names;
}

std::string mark_of(const JournalRow& row) {
    if (!row.hold.empty()) {
        return "hold";
    }
    const auto record = parse_json(row.record);
    if (record.has_error()) {
        return {};
    }
    if (row.number) {
        return run_vm_from_json(*record).phase;
    }
    return run_from_json(*record).state == "finished" ? "finished" : "run";
}

bool is_fault_point(
    std::string_view armed, const std::vector<JournalChange>& changes, std::string_view moment
) {
    if (armed.empty()) {
        return false;
    }
    return std::any_of(changes.begin(), changes.end(), [&](const JournalChange& change) {
        return change.kind == JournalChange::Kind::put &&
               name_of(mark_of(change.row), moment) == armed;
    });
}

} // namespace qhup::daemon
