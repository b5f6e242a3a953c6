// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/way_back.hpp"

namespace qhup::daemon {
namespace {

/// It may be on the binary that it was to get. Whether it is, the VM itself says.
bool has_moved(const RunVmView& view) {
    return view.outcome == "upgraded" || view.outcome == "needs_operator" ||
           view.outcome == "lost_contact";
}

} // namespace

std::optional<CameFrom>
find_way_back(const RunHistory& newest_first, const std::string& vm, const std::string& build_id) {
    const auto ways = find_ways_back(newest_first, {{vm, build_id}});
    return ways.empty() ? std::nullopt : std::optional(ways.begin()->second);
}

std::unordered_map<std::string, CameFrom> find_ways_back(
    const RunHistory& newest_first, const std::unordered_map<std::string, std::string>& build_ids
) {
    std::unordered_map<std::string, CameFrom> ways;
    for (const RunView* run : newest_first) {
        if (ways.size() == build_ids.size()) {
            break;
        }
        for (const RunVmView& view : run->vms) {
            // why: cheap questions first; there are up to 10,000 rows.
            if (view.from_build_id.empty() || !has_moved(view)) {
                continue;
            }
            const auto now = build_ids.find(view.vm);
            if (now != build_ids.end() && !now->second.empty() && now->second == view.to_build_id) {
                ways.try_emplace(
                    view.vm, CameFrom{view.from_build_id, view.from, run->id, run->finished_unix_ms}
                );
            }
        }
    }
    return ways;
}

std::vector<RunVmView>
choose_moved(const RunView& run, const std::unordered_map<std::string, std::string>& build_ids) {
    std::vector<RunVmView> moved;
    for (const RunVmView& view : run.vms) {
        const auto now = build_ids.find(view.vm);
        const bool is_there = now != build_ids.end();
        const bool is_on_it = is_there && !now->second.empty() && now->second == view.to_build_id;
        if (is_there && !view.from_build_id.empty() &&
            (view.outcome == "upgraded" || (has_moved(view) && is_on_it))) {
            moved.push_back(view);
        }
    }
    return moved;
}

WayTrials::WayTrials(const RunHistory& newest_first) {
    for (const RunView* run : newest_first) {
        for (const RunVmView& view : run->vms) {
            const bool has_passed = view.outcome == "upgraded" || view.outcome == "rehearsed";
            const bool has_failed =
                !has_passed && !view.outcome.empty() && is_about_the_kind(view.code);
            if ((!has_passed && !has_failed) || view.shape_class.empty()) {
                continue;
            }
            const WayTrial trial =
                has_passed ? WayTrial{WayTrial::Result::passed, view.vm, "", ""}
                           : WayTrial{WayTrial::Result::failed, view.vm, view.code, view.message};
            trials_.try_emplace(
                key_of(view.shape_class, view.from_build_id, view.to_build_id), trial
            );
        }
    }
}

WayTrial WayTrials::find(
    const std::string& shape_class, const std::string& from, const std::string& to
) const {
    const auto found = trials_.find(key_of(shape_class, from, to));
    return found == trials_.end() ? WayTrial() : found->second;
}

std::string
WayTrials::key_of(const std::string& shape_class, const std::string& from, const std::string& to) {
    return shape_class + " " + from + " " + to;
}

WayBack judge_way_back(
    const std::optional<CameFrom>& from,
    bool is_kept,
    const std::string& why_not_kept,
    const WayTrial& trial
) {
    WayBack way;
    if (!from) {
        way.reason = "No run that is remembered brought the VM to the binary that it runs";
        return way;
    }
    const bool has_failed = trial.result == WayTrial::Result::failed;
    way.version = from->version;
    way.build_id = from->build_id;
    way.is_open = is_kept && !has_failed;
    way.rehearsed = has_failed                                 ? "failed"
                    : trial.result == WayTrial::Result::passed ? "passed"
                                                               : "";
    if (!is_kept) {
        way.reason = why_not_kept.empty()
                         ? "The binary that it came from, " + from->version + ", is not kept"
                         : why_not_kept;
    } else if (has_failed) {
        way.reason = "VM " + trial.vm + " has tried it, and " + from->version +
                     " could not take it (" + trial.code + "): " + trial.message;
    }
    return way;
}

} // namespace qhup::daemon
