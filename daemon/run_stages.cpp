// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/run_stages.hpp"

#include <algorithm>
#include <set>
#include <utility>

namespace qhup::daemon {
namespace {

bool is_on_release(const RunVmView& vm) noexcept {
    return vm.outcome == "upgraded" || vm.outcome == "unchanged";
}

/// Indices of the canaries.
std::set<std::size_t>
choose_canaries(const std::vector<StageCandidate>& order, std::uint32_t wanted) {
    std::set<std::size_t> canaries;
    std::set<std::string> kinds;
    for (const bool is_second_of_kind_allowed : {false, true}) {
        for (std::size_t i = 0; i < order.size() && canaries.size() < wanted; ++i) {
            const bool is_new_kind = !kinds.contains(order[i].kind);
            if (order[i].can_be_upgraded && (is_new_kind || is_second_of_kind_allowed)) {
                canaries.insert(i);
                kinds.insert(order[i].kind);
            }
        }
    }
    return canaries;
}

} // namespace

std::vector<std::uint32_t> plan_stages(const std::vector<StageCandidate>& order, StageSizes sizes) {
    const std::set<std::size_t> canaries = choose_canaries(order, sizes.canaries);
    const std::uint32_t first_batch = canaries.empty() ? 1 : 2;
    std::vector<std::uint32_t> stages(order.size(), 1);
    std::uint32_t placed = 0;
    std::uint32_t last = canaries.empty() ? 0 : 1;
    for (std::size_t i = 0; i < order.size(); ++i) {
        if (canaries.contains(i)) {
            continue;
        }
        stages[i] = first_batch + (sizes.batch == 0 ? 0 : placed / sizes.batch);
        last = std::max(last, stages[i]);
        ++placed;
    }
    if (last <= 1 && canaries.empty()) {
        std::fill(stages.begin(), stages.end(), 0U);
    }
    return stages;
}

std::uint32_t last_stage(const RunView& run) noexcept {
    std::uint32_t last = 0;
    for (const RunVmView& vm : run.vms) {
        last = std::max(last, vm.stage);
    }
    return last;
}

StageView make_stage(const RunView& run, std::uint32_t number, bool has_canaries) {
    return {
        .name = has_canaries && number == 1 ? "canaries" : "batch",
        .number = number,
        .of = last_stage(run),
        .state = "working",
        .soak_until_unix_ms = 0,
    };
}

bool is_stage_over(const RunView& run, std::uint32_t stage) noexcept {
    return std::none_of(run.vms.begin(), run.vms.end(), [stage](const RunVmView& vm) {
        return vm.stage == stage && vm.outcome.empty();
    });
}

std::optional<std::string> find_bad_canary(const RunView& run) {
    for (const RunVmView& vm : run.vms) {
        if (vm.stage == 1 && !is_on_release(vm)) {
            std::string outcome = vm.outcome;
            std::replace(outcome.begin(), outcome.end(), '_', ' ');
            return "canary " + vm.vm + " was " + outcome +
                   (vm.code.empty() ? "" : " (" + vm.code + ")");
        }
    }
    return std::nullopt;
}

std::vector<std::size_t> soaking_vms(const RunView& run, std::uint32_t stage) {
    std::vector<std::size_t> indices;
    for (std::size_t i = 0; i < run.vms.size(); ++i) {
        if (run.vms[i].stage == stage && run.vms[i].outcome == "upgraded") {
            indices.push_back(i);
        }
    }
    return indices;
}

std::optional<std::string>
find_unwell(const RunVmView& upgraded, const std::optional<VmView>& now) {
    const std::string vm = "VM " + upgraded.vm;
    if (!now) {
        return vm + " is not there any more";
    }
    if (!now->run.empty()) {
        return std::nullopt; // another run has it, and says how it is
    }
    if (!now->reachable) {
        return vm + " does not answer any more";
    }
    if (now->build_id != upgraded.to_build_id) {
        return vm + " does not run the release any more";
    }
    // why: a guest that was paused before is paused after it.
    if (now->state != "running" && now->state != upgraded.run_state) {
        return "the guest of " + vm + " does not run any more: its state is " + now->state;
    }
    return std::nullopt;
}

} // namespace qhup::daemon
