// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/ways_back.hpp"

#include <optional>

namespace qhup::daemon {

WayBack WaysBack::of(const std::string& vm) const {
    const auto seen = services_.registry.find(vm);
    return seen ? of(std::vector<VmView>{*seen}).front()
                : judge_way_back(std::nullopt, false, std::string());
}

std::vector<WayBack> WaysBack::of(const std::vector<VmView>& vms) const {
    const auto all = find_all(vms);
    const WayTrials trials(book_.history());
    std::vector<WayBack> ways;
    ways.reserve(vms.size());
    for (const VmView& vm : vms) {
        const auto found = all.find(vm.name);
        const auto from = found == all.end() ? std::nullopt : std::optional(found->second);
        const bool is_kept = from && kept_.is_kept(from->build_id);
        const std::string why = from ? kept_.why_not_kept(from->build_id) : std::string();
        const WayTrial trial =
            from ? trials.find(vm.shape_class, vm.build_id, from->build_id) : WayTrial();
        ways.push_back(judge_way_back(from, is_kept, why, trial));
    }
    return ways;
}

std::unordered_map<std::string, CameFrom> WaysBack::find_all(const std::vector<VmView>& vms) const {
    std::unordered_map<std::string, std::string> build_ids;
    for (const VmView& vm : vms) {
        build_ids.emplace(vm.name, vm.build_id);
    }
    return find_ways_back(book_.history(), build_ids);
}

std::map<std::string, CameFrom> WaysBack::choose(RunRequest& request) const {
    std::map<std::string, CameFrom> ways;
    if (request.kind != "revert" && request.kind != "way_back") {
        return ways;
    }
    const bool is_one =
        request.vms.size() == 1 && !services_.registry.handle_of(request.vms.front());
    const RunPtr run = is_one ? book_.find_run(request.vms.front()) : nullptr;
    if (run) {
        request.vms.clear();
        std::unordered_map<std::string, std::string> build_ids;
        for (const VmView& vm : services_.registry.list()) {
            build_ids.emplace(vm.name, vm.build_id);
        }
        for (const RunVmView& vm : choose_moved(run->view, build_ids)) {
            request.vms.push_back(vm.vm);
            ways[vm.vm] = {vm.from_build_id, vm.from, run->view.id};
        }
        return ways;
    }
    const auto all = find_all(services_.registry.list());
    std::vector<std::string> names = request.vms;
    for (const VmView& vm : services_.registry.list()) {
        if (request.all && has_labels(vm.labels, request.labels)) {
            names.push_back(vm.name);
        }
    }
    for (const std::string& name : names) {
        if (const auto from = all.find(name); from != all.end()) {
            ways[name] = from->second;
        }
    }
    return ways;
}

std::set<std::string> WaysBack::needed_binaries() const {
    std::set<std::string> needed{std::string()};
    const std::vector<VmView> vms = services_.registry.list();
    for (const VmView& vm : vms) {
        needed.insert(vm.build_id);
    }
    for (const auto& [vm, from] : find_all(vms)) {
        needed.insert(from.build_id);
    }
    return needed;
}

} // namespace qhup::daemon
