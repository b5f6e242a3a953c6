// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/ways_back.hpp"

#include <optional>

namespace qhup::daemon {

WayBack WaysBack::of(const std::string& vm) const {
    const auto seen = services_.registry.find(vm);
    const auto from = seen ? find_way_back(book_.history(), vm, seen->build_id) : std::nullopt;
    const bool is_kept = from && kept_.is_kept(from->build_id);
    return judge_way_back(from, is_kept, from ? kept_.why_not_kept(from->build_id) : std::string());
}

std::map<std::string, CameFrom> WaysBack::choose(RunRequest& request) const {
    std::map<std::string, CameFrom> ways;
    if (request.kind != "revert") {
        return ways;
    }
    const bool is_one =
        request.vms.size() == 1 && !services_.registry.handle_of(request.vms.front());
    const RunPtr run = is_one ? book_.find_run(request.vms.front()) : nullptr;
    if (run) {
        request.vms.clear();
        for (const RunVmView& vm : run->view.vms) {
            if (vm.outcome == "upgraded" && services_.registry.handle_of(vm.vm)) {
                request.vms.push_back(vm.vm);
                ways[vm.vm] = {vm.from_build_id, vm.from, run->view.id};
            }
        }
        return ways;
    }
    for (const std::string& name : (request.all ? services_.registry.names() : request.vms)) {
        const auto seen = services_.registry.find(name);
        const auto from =
            seen ? find_way_back(book_.history(), name, seen->build_id) : std::nullopt;
        if (from) {
            ways[name] = *from;
        }
    }
    return ways;
}

std::set<std::string> WaysBack::needed_binaries() const {
    std::set<std::string> needed;
    for (const VmView& vm : services_.registry.list()) {
        needed.insert(vm.build_id);
        const auto from = find_way_back(book_.history(), vm.name, vm.build_id);
        needed.insert(from ? from->build_id : std::string());
    }
    return needed;
}

} // namespace qhup::daemon
