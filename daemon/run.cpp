// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/run.hpp"

#include "common/text.hpp"
#include "daemon/rehearsal_choice.hpp"
#include "daemon/selftest_judge.hpp"

#include <utility>

namespace qhup::daemon {

bool Run::is_rehearsal(std::size_t index) const {
    const auto now = is_rehearsing.find(index);
    return goal == upgrade::Goal::rehearsal || (now != is_rehearsing.end() && now->second);
}

bool Run::is_rehearsed(std::size_t index) const {
    return rehearsals.contains(index) ||
           (rehearse[index] == "all" && can_be_rehearsed(view.vms[index]));
}

RunFacts Run::facts_of(std::size_t index) const {
    // why: the VMs of a revert go to no release; each has the version that it came from.
    const bool goes_back = view.kind == "revert" || view.kind == "way_back";
    const std::string& version = view.vms[index].to;
    return {
        .vm = view.vms[index].vm,
        .upgrade = view.vms[index].upgrade,
        .release = goes_back && !version.empty() ? version : view.to,
        .from = view.vms[index].from,
        .from_build_id = view.vms[index].from_build_id,
        .to_build_id = view.vms[index].to_build_id,
        .is_dry_run = view.dry_run,
        .recoveries = view.vms[index].recoveries,
        .steps_before = index < before.size() ? before[index] : std::vector<StepView>(),
        .goal = is_rehearsal(index) ? upgrade::Goal::rehearsal : upgrade::Goal::upgrade,
        .shape_class = view.vms[index].shape_class,
        .rehearsal = view.vms[index].rehearsal,
        .stage = view.vms[index].stage,
        .run_state = view.vms[index].run_state,
        .started = started,
    };
}

void add_policy(Run& run, const std::string& vm, const VmLabels& labels, const Config& config) {
    // why: what is written for "*" is meant for VMs of people.
    VmPolicy policy = is_selftest_guest(vm) ? VmPolicy() : policy_of(config.policies, vm, labels);
    const auto& request = run.view.request;
    const bool is_alone = !request || run.goal == upgrade::Goal::rehearsal || request->dry_run;
    run.rehearse.push_back(
        is_alone                     ? "none"
        : !request->rehearse.empty() ? request->rehearse
        : !policy.rehearse.empty()   ? policy.rehearse
                                     : config.rehearse
    );
    run.policies.push_back(std::move(policy));
}

std::optional<ProbeCommand> probe_of(const Run& run, std::size_t index, const Config& config) {
    const VmPolicy& policy = run.policies[index];
    if (policy.probe.empty()) {
        return std::nullopt;
    }
    return ProbeCommand{
        .argv = policy.probe,
        .vm = run.view.vms[index].vm,
        .user = config.probe_user,
        .limit = policy.probe_limit};
}

upgrade::GuestProbe make_probe(const Run& run, std::size_t index, const Config& config) {
    std::optional<ProbeCommand> command = probe_of(run, index, config);
    if (!command) {
        return {};
    }
    return [command = std::move(*command)] { return run_probe_command(command); };
}

std::string reason_for_log(const RunVmView& view) {
    std::string text = view.message;
    for (const BlockerView& blocker : view.blockers) {
        text += " " + blocker.id + ": " + quote_peer_text(blocker.reason);
    }
    const bool has_words = view.blockers.empty() && !view.peer_text.empty();
    return has_words ? text + " " + quote_peer_text(view.peer_text) : text;
}

} // namespace qhup::daemon
