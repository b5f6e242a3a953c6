// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/vm_not_found.hpp"

#include "daemon/nearest_name.hpp"
#include "daemon/problems.hpp"

#include <cstddef>

namespace qhup::daemon {

Problem
make_vm_not_found(const std::string& name, const std::vector<VmView>& vms, std::string_view what) {
    std::vector<std::string> names;
    std::size_t silent = 0;
    for (const VmView& vm : vms) {
        names.push_back(vm.name);
        silent += !vm.reachable && !vm.stale ? 1U : 0U;
    }
    std::string detail = "There is no " + std::string(what) + " '" + name + "'";
    if (silent > 0) {
        detail += " among those that have answered; " + std::to_string(silent) +
                  (silent == 1 ? " monitor has" : " monitors have") +
                  " not, so the name may be one of theirs";
    }
    return make_problem(
        ProblemCode::vm_not_found,
        detail + ".",
        did_you_mean(name, names) + "'qhupd-ctl list' shows all" +
            (silent > 0 ? ", and why they do not answer." : ".")
    );
}

} // namespace qhup::daemon
