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
                ways.try_emplace(view.vm, CameFrom{view.from_build_id, view.from, run->id});
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

WayBack
judge_way_back(const std::optional<CameFrom>& from, bool is_kept, const std::string& why_not_kept) {
    WayBack way;
    if (!from) {
        way.reason = "No run that is remembered brought the VM to the binary that it runs";
        return way;
    }
    way.version = from->version;
    way.build_id = from->build_id;
    way.is_open = is_kept;
    if (!is_kept) {
        way.reason = why_not_kept.empty()
                         ? "The binary that it came from, " + from->version + ", is not kept"
                         : why_not_kept;
    }
    return way;
}

} // namespace qhup::daemon
