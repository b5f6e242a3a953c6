// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/rehearsal_choice.hpp"

#include <algorithm>
#include <numeric>

namespace qhup::daemon {

bool can_be_rehearsed(const RunVmView& vm) {
    return !vm.shape_class.empty() &&
           (vm.from_build_id.empty() || vm.from_build_id != vm.to_build_id);
}

upgrade::RehearsalOrder choose_rehearsals(
    const RunView& run, const std::vector<std::string>& rehearse, const RunHistory& before
) {
    upgrade::RehearsalOrder rehearsals;
    // why: a VM must not wait for one of its kind that comes in a later stage.
    std::vector<std::size_t> order(run.vms.size());
    std::iota(order.begin(), order.end(), 0U);
    std::stable_sort(order.begin(), order.end(), [&run](std::size_t a, std::size_t b) {
        return run.vms[a].stage < run.vms[b].stage;
    });
    for (const std::size_t i : order) {
        const RunVmView& vm = run.vms[i];
        const bool is_asked =
            rehearse[i] == "first" && vm.outcome.empty() && can_be_rehearsed(vm) &&
            !is_way_proven(before, vm.shape_class, vm.from_build_id, vm.to_build_id);
        if (is_asked) {
            rehearsals.add(i, vm.shape_class + " " + vm.from_build_id);
        }
    }
    return rehearsals;
}

} // namespace qhup::daemon
