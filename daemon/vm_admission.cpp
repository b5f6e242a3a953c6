// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/vm_admission.hpp"

#include "common/log.hpp"
#include "daemon/wall_clock.hpp"
#include "upgrade-engine/process_facts.hpp"

#include <algorithm>
#include <utility>

namespace qhup::daemon {

VmAdmission::VmAdmission(RunServices services, const HoldStore& holds)
    : services_(std::move(services)),
      holds_(holds),
      memory_(std::uint64_t{services_.config.memory_reserve_mib} << 20U) {}

upgrade::Admission VmAdmission::make_admission(const RunPtr& run, std::size_t index) {
    // why: called on the VM's strand; everything that is looked at belongs to the home strand.
    return [this, run, index] { return on_executor(services_.home, admit(run, index)); };
}

awaitable<Result<void>> VmAdmission::admit(RunPtr run, std::size_t index) {
    if (const auto hold = holds_.find(run->view.vms[index].vm)) {
        co_return make_failure(
            upgrade::Errc::held, describe(*hold) + "; " + how_to_unhold(hold->vm)
        );
    }
    const VmPolicy& policy = run->policies[index];
    const std::chrono::minutes now = time_of_day_now();
    // why: a way back must be open at every hour.
    const bool is_in_time = run->view.kind == "revert" || is_open(policy, now);
    if (!is_in_time && run->view.request && allows(*run->view.request, "outside_window")) {
        log().warn(
            "run {}: {} is begun outside the window of its policy, as the request allows",
            run->view.id,
            run->view.vms[index].vm
        );
    } else if (!is_in_time) {
        co_return make_failure(
            upgrade::Errc::outside_window,
            describe_window(run->view.vms[index].vm, policy, now) +
                ", so it was not touched; start the upgrade again then, or say "
                "--allow-outside-window."
        );
    }
    const auto seen = services_.registry.find(run->view.vms[index].vm);
    if (run->view.dry_run || !seen || seen->pid <= 0) {
        co_return Result<void>(); // there will be no second process, or preflight says why
    }
    auto waiting = wait_for_memory(run, index, static_cast<pid_t>(seen->pid));
    co_return co_await std::move(waiting);
}

/// Waits until the second process of the VM has room beside those of the others in work.
awaitable<Result<void>> VmAdmission::wait_for_memory(RunPtr run, std::size_t index, pid_t source) {
    const auto changed = std::make_shared<Notifier>(services_.home);
    waiting_for_memory_.push_back(changed);
    run->waiting.push_back(changed);
    Result<void> result;
    bool is_told = false;
    memory_.enqueue(run->memory_id(index));
    while (result.has_value()) {
        auto look = [source] { return upgrade::observe_process(source); };
        const auto facts = co_await blocking(services_.disk, std::move(look));
        const bool is_known = facts.has_value() && facts->headroom.host_bytes;
        const std::uint64_t need = is_known ? facts->private_bytes : 0;
        const std::uint64_t available = is_known ? *facts->headroom.host_bytes : 0;
        if (!run->view.stopped_by.empty()) {
            result = make_failure(
                upgrade::Errc::stopped, std::string(upgrade::explain(upgrade::Errc::stopped))
            );
        } else if (!is_known || memory_.ask(run->memory_id(index), need, available)) {
            break; // what cannot be asked is said in preflight
        } else {
            if (!std::exchange(is_told, true)) {
                log().info(
                    "run {}: {} waits for the memory of others in work",
                    run->view.id,
                    run->view.vms[index].vm
                );
            }
            result = co_await changed->wait();
        }
    }
    for (auto* list : {&waiting_for_memory_, &run->waiting}) {
        list->erase(std::remove(list->begin(), list->end(), changed), list->end());
    }
    if (result.has_error()) {
        release_memory(*run, index);
    }
    for (const auto& waiting : waiting_for_memory_) {
        waiting->notify(); // why: it is the turn of the next one
    }
    co_return result;
}

void VmAdmission::release_memory(const Run& run, std::size_t index) {
    memory_.on_gone(run.memory_id(index));
    for (const auto& waiting : waiting_for_memory_) {
        waiting->notify();
    }
}

} // namespace qhup::daemon
