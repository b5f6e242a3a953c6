// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/attention.hpp"

#include <utility>

namespace qhup::daemon {
namespace {

bool needs_somebody(const RunVmView& vm) {
    return vm.outcome == "needs_operator" || vm.outcome == "lost_contact";
}

/// The VM is where it was to go, or known to be where it was.
/// @param upgrade  id of the upgrade that left something
bool is_well_again(const RunView& run, const RunVmView& vm, const std::string& upgrade) {
    // why: whoever names a VM, and finds it on the release that he wants, has looked at it; one
    // that was found by a run over all VMs, nobody has.
    const bool is_wanted_there = run.kind == "upgrade" && vm.outcome == "unchanged" &&
                                 !run.dry_run && run.request && !run.request->all &&
                                 !run.request->vms.empty();
    // why: a recovery may also be that of a rehearsal, or of a way back that did not come about.
    const bool is_undone =
        run.kind == "recovery" && vm.outcome == "rolled_back" && vm.upgrade == upgrade;
    return vm.outcome == "upgraded" || is_wanted_there || is_undone;
}

AttentionView make_attention(const RunView& run, const RunVmView& vm) {
    return {
        .vm = vm.vm,
        .run = run.id,
        .code = vm.code,
        .message = vm.message,
        .next_step =
            "'qhupd-ctl status " + run.id +
            "' says more. To keep the VM as it is, upgrade it, by its name, to the release "
            "that it runs already. That, an upgrade or revert that succeeds, and a new "
            "start of the VM end this.",
        .since_unix_ms = run.started_unix_ms + static_cast<std::int64_t>(vm.since_ms),
    };
}

} // namespace

std::optional<RunRow> Attention::remove(std::string_view vm) {
    const auto found = entries_.find(vm);
    if (found == entries_.end()) {
        return std::nullopt;
    }
    RunRow row{found->second.view.run, found->second.number};
    entries_.erase(found);
    return row;
}

std::optional<RunRow> Attention::on_end(const RunView& run, std::size_t number) {
    const RunVmView& vm = run.vms[number];
    const auto known = entries_.find(vm.vm);
    if (!needs_somebody(vm) || vm.settled) {
        const bool is_over =
            known != entries_.end() && is_well_again(run, vm, known->second.upgrade);
        return is_over ? remove(vm.vm) : std::nullopt;
    }
    RunRow row{run.id, number};
    // why: a new start tells all rows again, and finishes what is left of an upgrade. What that
    // finds once more has been true since the upgrade.
    const bool is_told_again = known != entries_.end() && known->second.view.code == vm.code &&
                               !vm.upgrade.empty() && known->second.upgrade == vm.upgrade;
    if (is_told_again) {
        const bool is_same = known->second.view.run == row.run && known->second.number == number;
        return is_same ? std::nullopt : std::optional(std::move(row));
    }
    std::optional<RunRow> settled = remove(vm.vm);
    entries_.emplace(vm.vm, Entry{make_attention(run, vm), number, vm.upgrade});
    return settled;
}

std::optional<RunRow> Attention::on_look(std::string_view vm, bool is_untouched) {
    return is_untouched ? remove(vm) : std::nullopt;
}

void Attention::forget(std::string_view run) {
    std::erase_if(entries_, [run](const auto& entry) { return entry.second.view.run == run; });
}

std::optional<AttentionView> Attention::find(std::string_view vm) const {
    const auto found = entries_.find(vm);
    return found == entries_.end() ? std::nullopt : std::optional(found->second.view);
}

std::vector<AttentionView> Attention::list() const {
    std::vector<AttentionView> all;
    for (const auto& [vm, entry] : entries_) {
        all.push_back(entry.view);
    }
    return all;
}

} // namespace qhup::daemon
