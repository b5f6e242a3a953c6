// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/way_back.hpp"

namespace qhup::daemon {

std::optional<CameFrom>
find_way_back(const RunHistory& newest_first, const std::string& vm, const std::string& build_id) {
    for (const RunView* run : newest_first) {
        for (const RunVmView& view : run->vms) {
            const bool is_it = view.vm == vm && view.outcome == "upgraded" && !build_id.empty() &&
                               view.to_build_id == build_id && !view.from_build_id.empty();
            if (is_it) {
                return CameFrom{view.from_build_id, view.from, run->id};
            }
        }
    }
    return std::nullopt;
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
