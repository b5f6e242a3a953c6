// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/stage_runner.hpp"

#include "common/log.hpp"
#include "daemon/rehearsal_choice.hpp"
#include "daemon/run_stages.hpp"
#include "daemon/wall_clock.hpp"

#include <algorithm>
#include <utility>

namespace qhup::daemon {
namespace {

using std::chrono::milliseconds;

constexpr milliseconds kSoakLook{10'000}; // between two looks at the VMs of a soak
constexpr int kSoakLooks = 3;             // so often a VM must be unwell, to be believed

} // namespace

void StageRunner::plan_run(Run& run) const {
    const RunRequest& request = *run.view.request;
    if ((request.canaries == 0 && request.batch == 0) || request.dry_run) {
        return;
    }
    std::vector<StageCandidate> order;
    for (std::size_t i = 0; i < run.view.vms.size(); ++i) {
        const RunVmView& vm = run.view.vms[i];
        const auto seen = services_.registry.find(vm.vm);
        const bool is_left_out = request.all && run.policies[i].skip;
        order.push_back(
            {.kind = vm.shape_class + " " + vm.from_build_id,
             .can_be_upgraded = run.picks[i] && seen && seen->upgradable && !is_left_out &&
                                !holds_.find(vm.vm) && vm.from_build_id != vm.to_build_id &&
                                is_open(run.policies[i], time_of_day_now())}
        );
    }
    const auto stages = plan_stages(order, {.canaries = request.canaries, .batch = request.batch});
    for (std::size_t i = 0; i < stages.size(); ++i) {
        run.view.vms[i].stage = stages[i];
    }
    if (last_stage(run.view) != 0) {
        const bool has_canaries =
            request.canaries != 0 &&
            std::any_of(order.begin(), order.end(), [](const StageCandidate& candidate) {
                return candidate.can_be_upgraded;
            });
        run.view.stage = make_stage(run.view, 1, has_canaries);
    }
}

/// What the VMs of this stage are by now: hours may have gone by.
void StageRunner::look_again(Run& run, std::uint32_t stage) const {
    for (RunVmView& vm : run.view.vms) {
        const auto seen = services_.registry.find(vm.vm);
        if (vm.stage == stage && seen && seen->reachable) {
            vm.from = seen->version;
            vm.from_build_id = seen->build_id;
            vm.shape_class = seen->shape_class;
            vm.run_state = seen->state;
        }
    }
}

/// It is in the journal before what follows from it is.
void StageRunner::set_stage(const RunPtr& run, StageView stage) {
    log().info(
        "run {}: stage {} of {} ({}) is {}",
        run->view.id,
        stage.number,
        stage.of,
        stage.name,
        stage.state
    );
    run->view.stage = std::move(stage);
    book_.put_run(run);
    book_.add_event(
        run, {.sequence = 0, .vm = std::nullopt, .stage = run->view.stage, .run = std::nullopt}
    );
}

awaitable<void> StageRunner::run_stages(RunPtr run) {
    while (run->view.stopped_by.empty()) {
        const std::uint32_t number = run->view.stage->number;
        const bool is_canary_stage = run->view.stage->name == "canaries";
        // why: what was begun ends by itself, whoever is impatient.
        while (!is_stage_over(run->view, number)) {
            co_await run->stage_changed->wait_uncancelled();
        }
        if (number >= last_stage(run->view) || !run->view.stopped_by.empty()) {
            break;
        }
        const auto bad = is_canary_stage ? find_bad_canary(run->view) : std::nullopt;
        if (bad) {
            log().warn("run {}: stopped, since {}", run->view.id, *bad);
            book_.stop_run(run, "canaries", *bad);
            break;
        }
        const bool is_soaked = co_await soak(run);
        if (!is_soaked) {
            co_return; // the daemon is stopping, and the next one goes on
        }
        if (run->view.stopped_by.empty()) {
            co_await services_.registry.refresh();
            if (is_stopping_) {
                co_return;
            }
            look_again(*run, number + 1);
            set_stage(run, make_stage(run->view, number + 1, is_canary_stage));
            upgrades_.start_vms(run, number + 1);
        }
    }
    co_await end_unbegun(run);
}

/// Waits, and looks at the VMs of the stage again and again.
/// @return  false: cancelled; the run is as it was
awaitable<bool> StageRunner::soak(RunPtr run) {
    const milliseconds whole(run->view.request->soak_ms);
    StageView stage = *run->view.stage;
    if (whole.count() == 0 || soaking_vms(run->view, stage.number).empty()) {
        co_return true;
    }
    if (stage.state != "soaking") {
        stage.state = "soaking";
        stage.soak_until_unix_ms = unix_ms_now() + whole.count();
        set_stage(run, stage);
    }
    // why: a clock that was set back must not make it longer than was asked for.
    const milliseconds left(stage.soak_until_unix_ms - unix_ms_now());
    const Deadline end = Deadline::in(std::clamp(left, milliseconds(0), whole));
    while (run->view.stopped_by.empty()) {
        const Deadline look = earlier(end, Deadline::in(kSoakLook));
        const Result<void> waited = co_await run->stage_changed->wait(look);
        if (waited.has_error() && is_cancelled(waited.error())) {
            co_return false;
        }
        const bool is_over = end.is_over();
        if (!run->view.stopped_by.empty()) {
            break;
        }
        auto looking = look_at_soaking(run);
        const std::optional<std::string> unwell = co_await std::move(looking);
        if (unwell && run->view.stopped_by.empty() && !is_stopping_) {
            log().warn("run {}: stopped, since {}", run->view.id, *unwell);
            book_.stop_run(run, "soak", *unwell);
        }
        if (is_over) {
            break;
        }
    }
    co_return !is_stopping_ || !run->view.stopped_by.empty();
}

/// @return  why one of the VMs is not well
awaitable<std::optional<std::string>> StageRunner::look_at_soaking(RunPtr run) {
    for (const std::size_t index : soaking_vms(run->view, run->view.stage->number)) {
        const RunVmView vm = run->view.vms[index];
        std::optional<std::string> unwell;
        for (int look = 0; look < kSoakLooks && (look == 0 || unwell); ++look) {
            if (look > 0) {
                const Deadline next = Deadline::in(services_.config.deadlines.probe);
                ignore(co_await sleep_until(next), "looks again in any case");
            }
            co_await services_.registry.refresh_vm(vm.vm);
            unwell = find_unwell(vm, services_.registry.find(vm.vm));
        }
        const auto probe = unwell ? std::nullopt : probe_of(*run, index, services_.config);
        if (probe) {
            const Result<void> probed = co_await run_probe_command(*probe);
            unwell = probed.has_error() ? std::optional(to_text(probed.error())) : std::nullopt;
        }
        if (unwell) {
            co_return unwell;
        }
    }
    co_return std::nullopt;
}

/// The VMs of stages that were not begun, when none is begun any more.
awaitable<void> StageRunner::end_unbegun(RunPtr run) {
    const std::uint32_t number = run->view.stage->number;
    for (std::size_t i = 0; i < run->view.vms.size(); ++i) {
        if (run->view.vms[i].stage <= number || !run->view.vms[i].outcome.empty()) {
            continue;
        }
        RunVmView refused = make_refused_view(
            run->facts_of(i), wire_code_of(make_error_code(upgrade::Errc::stopped)), "", ""
        );
        co_await book_.end_vm(
            run,
            i,
            say_why_stopped(
                std::move(refused), run->view.id, run->view.stopped_by, run->view.stop_reason
            )
        );
    }
}

awaitable<void> StageRunner::resume_stages(RunPtr run) {
    auto answer = co_await services_.shelf.pick(run->view.to);
    std::string reason = answer.problem ? answer.problem->detail : std::string();
    for (const RunVmView& vm : run->view.vms) {
        const bool is_other = answer.picked && vm.outcome.empty() && !vm.to_build_id.empty() &&
                              vm.to_build_id != answer.picked->binary->build_id;
        reason = is_other ? "release " + run->view.to + " was changed during the run" : reason;
    }
    if (!reason.empty()) {
        log().warn("run {}: stopped, since {}", run->view.id, reason);
        book_.stop_run(run, "release", std::move(reason));
    } else {
        kept_.add_tails(*answer.picked);
        run->picks.assign(run->view.vms.size(), answer.picked);
        run->rehearsals = choose_rehearsals(run->view, run->rehearse, book_.history());
    }
    co_await run_stages(run);
}

} // namespace qhup::daemon
