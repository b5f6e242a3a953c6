// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/vm_upgrades.hpp"

#include "common/log.hpp"
#include "daemon/control_folders.hpp"
#include "daemon/engine_config.hpp"
#include "daemon/holds.hpp"
#include "daemon/pause_history.hpp"
#include "daemon/run_ids.hpp"
#include "daemon/selftest_host.hpp"
#include "daemon/selftest_judge.hpp"
#include "daemon/strand_work.hpp"
#include "upgrade-engine/process_facts.hpp"

#include <algorithm>
#include <utility>

namespace qhup::daemon {
namespace {

using std::chrono::milliseconds;
using upgrade::QmpVmPortConfig;
using upgrade::UpgradeReport;

} // namespace

VmUpgrades::VmUpgrades(
    RunServices services,
    RunBook& book,
    const HoldStore& holds,
    KeptBinaries& kept,
    const WaysBack& ways_back
)
    : services_(services),
      book_(book),
      holds_(holds),
      kept_(kept),
      ways_back_(ways_back),
      admission_(std::move(services), holds) {}

/// The run takes the VM, so that no other one works on it.
/// @return  why it is not begun at all; none: the run has it
std::optional<RunVmView> VmUpgrades::take_vm(const Run& run, std::size_t index, bool has_pick) {
    const std::string name = run.view.vms[index].vm;
    if (run.view.request->all && run.policies[index].skip) {
        return make_skipped_view(
            run.facts_of(index),
            "skipped",
            "The configuration leaves the VM out of runs over all VMs",
            "Name it, and it is not left out."
        );
    }
    const auto seen = services_.registry.find(name);
    if (seen && seen->stale) {
        auto make_view = run.view.request->all ? make_skipped_view : make_refused_view;
        return make_view(
            run.facts_of(index),
            "stale_socket",
            "Nobody listens on its socket: the QEMU that made it has ended",
            "Remove it if no VM comes back there: rm " + seen->socket
        );
    }
    if (const auto hold = holds_.find(name)) {
        auto make_view = run.view.request->all ? make_skipped_view : make_refused_view;
        return make_view(run.facts_of(index), "held", describe(*hold), how_to_unhold(name));
    }
    const bool is_untested = index < run.untested.size() && run.untested[index];
    if (is_untested && services_.config.selftest == "require" &&
        !allows(*run.view.request, "untested")) {
        return make_refused_view(
            run.facts_of(index),
            "untested",
            make_untested(run.view.vms[index].from, run.view.to, kernel_release()).reason,
            "Make the selftest, or say --allow-untested."
        );
    }
    if (!has_pick) {
        const std::string show = "'qhupd-ctl show " + name + "' shows it.";
        return make_refused_view(
            run.facts_of(index), "no_way_back", ways_back_.of(name).reason, show
        );
    }
    if (services_.registry.handle_of(name) && services_.registry.acquire(name, run.view.id)) {
        return std::nullopt;
    }
    const std::string other = services_.registry.run_of(name);
    return make_refused_view(
        run.facts_of(index),
        "busy",
        other.empty() ? "the VM has just gone away" : "run " + other + " works on this VM",
        other.empty() ? "'qhupd-ctl list' shows what is there."
                      : "Wait until it has finished: qhupd-ctl status " + other + "."
    );
}

void VmUpgrades::open_batch(const RunPtr& run) {
    run->batch = services_.gate.add_batch(
        {.parallel = run->view.parallel, .stop_after_failures = run->view.request->max_failures}
    );
    if (!run->view.stopped_by.empty()) {
        services_.gate.stop_batch(*run->batch); // why: it was aborted while it was written down
    }
}

void VmUpgrades::start_vms(const RunPtr& run, std::uint32_t stage) {
    for (std::size_t i = 0; i < run->view.vms.size(); ++i) {
        const std::string name = run->view.vms[i].vm;
        if (run->view.vms[i].stage != stage || !run->view.vms[i].outcome.empty()) {
            continue;
        }
        if (auto refused = take_vm(*run, i, run->picks[i].has_value())) {
            leave_rehearsals(run, i);
            services_.tasks.spawn("end of " + name, book_.end_vm(run, i, std::move(*refused)));
            continue;
        }
        const auto vm = services_.registry.handle_of(name);
        run->held[i] = name;
        // why: whoever waits for a rehearsal joins the queue after it, and keeps nobody waiting.
        auto turn = run->is_rehearsed(i) ? nullptr : services_.gate.add_vm(*run->batch);
        services_.tasks.spawn(
            "upgrade of " + name, run_vm(run, i, *vm, *run->picks[i], std::move(turn))
        );
    }
}

/// Ends an upgrade of ours that nobody works on: a command of a daemon that was killed can take
/// effect after the next daemon has looked. Left alone it would end with its lease.
awaitable<void> VmUpgrades::end_stray(VmHandle vm, std::string folder) {
    const upgrade::UpgradeId id(vm.unfinished);
    log().info("{}: ends its unfinished upgrade {} first", vm.name, vm.unfinished);
    QmpVmPortConfig port{.main_socket = "", .control_dir = std::move(folder), .upgrade = id};
    upgrade::RecoveryRequest request;
    request.vm = upgrade::VmId(vm.name);
    request.upgrade = id;
    request.config = make_runner_config(services_.config);
    auto work = recover_on_strand(vm.strand, std::move(port), std::move(request), {});
    const UpgradeReport report = co_await on_executor(vm.strand, std::move(work));
    log().info("{}: its unfinished upgrade is {}", vm.name, upgrade::to_string(report.phase));
}

awaitable<void> VmUpgrades::run_vm(
    RunPtr run,
    std::size_t index,
    VmHandle vm,
    ReleaseShelf::Picked picked,
    std::shared_ptr<upgrade::SlotGate::Turn> turn
) {
    co_await services_.registry.wait_quiet(vm.name);
    auto work = [dir = services_.config.control_dir, folder = control_folder_of(vm.name), vm] {
        const uid_t user = upgrade::observe_user(vm.listener_pid, vm.listener_uid, vm.claimed_pid);
        return make_control_folder(dir, folder, user);
    };
    const auto folder = co_await blocking(services_.disk, std::move(work));
    if (folder.has_error()) {
        if (turn) {
            co_await turn->finish(true);
        }
        leave_rehearsals(run, index);
        RunVmView refused = make_refused_view(
            run->facts_of(index),
            wire_code_of(folder.error().code),
            to_text(folder.error()),
            "Look at control_dir in qhupd.toml."
        );
        co_await book_.end_vm(run, index, std::move(refused));
        co_return;
    }
    if (is_our_upgrade_id(vm.unfinished)) {
        co_await end_stray(vm, *folder);
    }
    if (run->is_rehearsed(index)) {
        Move rehearsed{run, index, vm, picked, *folder};
        auto rehearsing = rehearse_first(std::move(rehearsed));
        std::optional<RunVmView> end = co_await std::move(rehearsing);
        if (end) {
            co_await book_.end_vm(run, index, std::move(*end));
            co_return;
        }
    }
    const upgrade::Goal goal = run->goal;
    if (goal == upgrade::Goal::upgrade && !run->view.dry_run) {
        const auto seen = services_.registry.find(vm.name);
        if (seen) {
            auto keeping =
                kept_.keep(*seen, run->view.vms[index].from_build_id, ways_back_.needed_binaries());
            co_await std::move(keeping);
        }
    }
    if (!turn) {
        turn = services_.gate.add_vm(*run->batch);
    }
    Move move{run, index, vm, std::move(picked), *folder};
    auto work_on_it = run_engine(std::move(move), std::move(turn), goal);
    const UpgradeReport report = co_await std::move(work_on_it);
    RunVmView view = say_why_stopped(
        make_run_vm_view(report, run->facts_of(index)),
        run->view.id,
        run->view.stopped_by,
        run->view.stop_reason
    );
    auto settling = settle(run, index, vm, *folder, std::move(view));
    view = co_await std::move(settling);
    co_await book_.end_vm(run, index, std::move(view));
}

awaitable<RunVmView>
VmUpgrades::settle(RunPtr run, std::size_t index, VmHandle vm, std::string folder, RunVmView view) {
    const bool is_to_go_back =
        is_unwell(view) && run->policies[index].after_failed_verify == "revert";
    if (!is_to_go_back) {
        co_return view;
    }
    auto taking_back = take_back(run, index, std::move(vm), std::move(folder), std::move(view));
    co_return co_await std::move(taking_back);
}

/// The guest runs on the new QEMU and is not well. The upgrade is finished first, since the way
/// back is an upgrade too.
/// @return  how the VM ended
awaitable<RunVmView> VmUpgrades::take_back(
    RunPtr run, std::size_t index, VmHandle vm, std::string folder, RunVmView unwell
) {
    log().warn("run {}: {} is not well: {}", run->view.id, vm.name, reason_for_log(unwell));
    upgrade::RecoveryRequest request;
    request.vm = upgrade::VmId(vm.name);
    request.upgrade = upgrade::UpgradeId(run->view.vms[index].upgrade);
    request.config = make_runner_config(services_.config);
    const QmpVmPortConfig port{
        .main_socket = "", .control_dir = folder, .upgrade = request.upgrade};
    auto finishing = recover_on_strand(vm.strand, port, std::move(request), {});
    const UpgradeReport finished = co_await on_executor(vm.strand, std::move(finishing));
    if (finished.phase != upgrade::Phase::upgraded) {
        co_return make_not_taken_back_view(
            std::move(unwell), finished.failure ? finished.failure->message : "it does not answer."
        );
    }
    // why: from here on the row tells of the way back, for a daemon that finds it unfinished.
    RunVmView& row = run->view.vms[index];
    const RunVmView before = row;
    std::swap(row.from_build_id, row.to_build_id);
    row.from = finished.to_text;
    row.upgrade = upgrade_id_of(run->view.id, 2 * run->view.vms.size() + index);
    run->taken_back.insert(index);
    auto reverting = revert_vm(run, index, vm, std::move(folder));
    const std::optional<RunVmView> back = co_await std::move(reverting);
    run->view.vms[index] = before;
    if (!back) {
        co_return make_not_taken_back_view(
            std::move(unwell), "the binary that it came from is not kept."
        );
    }
    co_return back->outcome == "upgraded"
        ? make_taken_back_view(std::move(unwell), *back)
        : make_not_taken_back_view(std::move(unwell), reason_for_log(*back));
}

/// @return  how the way back went; none: there is none
awaitable<std::optional<RunVmView>>
VmUpgrades::revert_vm(RunPtr run, std::size_t index, VmHandle vm, std::string folder) {
    auto opening = kept_.open(run->view.vms[index].to_build_id);
    std::optional<ReleaseShelf::Picked> picked = co_await std::move(opening);
    if (!picked) {
        co_return std::nullopt;
    }
    kept_.add_tails(*picked);
    // why: a queue of its own, since a run that was stopped begins nothing any more.
    auto turn =
        services_.gate.add_vm(services_.gate.add_batch({.parallel = 1, .stop_after_failures = 0}));
    Move move{run, index, std::move(vm), std::move(*picked), std::move(folder)};
    auto work = run_engine(std::move(move), std::move(turn), upgrade::Goal::upgrade);
    const UpgradeReport report = co_await std::move(work);
    co_return make_run_vm_view(report, run->facts_of(index));
}

/// One walk of a VM through the engine's table.
awaitable<UpgradeReport> VmUpgrades::run_engine(
    Move move, std::shared_ptr<upgrade::SlotGate::Turn> turn, upgrade::Goal goal
) {
    const auto& [run, index, vm, picked, folder] = move;
    const upgrade::UpgradeId id(run->view.vms[index].upgrade);
    QmpVmPortConfig port{.main_socket = vm.socket, .control_dir = folder, .upgrade = id};
    upgrade::UpgradeRequest request;
    request.vm = upgrade::VmId(vm.name);
    request.upgrade = id;
    request.binary = picked.binary;
    request.binary_facts = picked.facts;
    request.source_facts = picked.source_facts;
    request.known_tails = picked.known_tails;
    request.is_dry_run = run->view.dry_run;
    request.goal = goal;
    // why: what was just rehearsed was measured and judged then.
    if (goal == upgrade::Goal::rehearsal || !run->view.vms[index].rehearsal) {
        request.prediction = predict_pause(book_.history(), vm.name);
    }
    request.config = make_runner_config(services_.config);
    const auto asked = run->view.request ? run->view.request->pause_budget_ms : std::nullopt;
    request.config.switch_limits.budget = choose_pause_budget(
        asked ? std::optional(milliseconds(*asked)) : std::nullopt,
        run->policies[index],
        services_.config.deadlines.pause_budget
    );
    if (!run->taken_back.contains(index)) {
        request.may_begin = admission_.make_admission(run, index);
        request.probe = make_probe(*run, index, services_.config);
        request.config.probe_limit = run->policies[index].probe_limit;
    }
    auto upgrade = upgrade_on_strand(
        vm.strand,
        std::move(port),
        std::move(turn),
        std::move(request),
        book_.make_observer(run, index),
        book_.make_intent_writer(run, index)
    );
    UpgradeReport report = co_await on_executor(vm.strand, std::move(upgrade));
    admission_.release_memory(*run, index);
    if (run->batch && run->view.stopped_by.empty() && services_.gate.is_stopped(*run->batch)) {
        log().warn(
            "run {}: stopped after {} failures", run->view.id, run->view.request->max_failures
        );
        book_.stop_run(run, "failures");
    }
    co_return report;
}

/// A rehearsal has ended: those that wait for it go on, each in its way.
void VmUpgrades::end_rehearsal(const RunPtr& run, std::size_t index, const RunVmView& view) {
    using Finding = upgrade::RehearsalFinding;
    const bool has_passed = view.rehearsal && view.rehearsal->result == "passed";
    run->rehearsals.on_rehearsed(
        index,
        has_passed                     ? Finding::passed
        : is_about_the_kind(view.code) ? Finding::failed
                                       : Finding::nothing
    );
    log().info(
        "run {}: the rehearsal of {} {}",
        run->view.id,
        view.vm,
        has_passed       ? "passed"
        : view.rehearsal ? "failed because of " + view.code
                         : "was not made because of " + view.code
    );
    for (const auto& waiting : run->waiting) {
        waiting->notify();
    }
}

/// The VM ends without its rehearsal: the next one of its kind is asked in its place.
void VmUpgrades::leave_rehearsals(const RunPtr& run, std::size_t index) {
    run->rehearsals.on_gone(index);
    for (const auto& waiting : run->waiting) {
        waiting->notify();
    }
}

/// Waits for those of its kind that come before it in the order of the run.
/// @return  go_on also if the run was stopped: the engine says why it goes no further
awaitable<upgrade::RehearsalTurn> VmUpgrades::wait_to_rehearse(RunPtr run, std::size_t index) {
    using Turn = upgrade::RehearsalTurn;
    const auto waiting = std::make_shared<Notifier>(services_.home);
    run->waiting.push_back(waiting);
    bool is_given_up = !run->view.stopped_by.empty();
    while (!is_given_up && run->rehearsals.turn_of(index) == Turn::wait) {
        const Result<void> waited = co_await waiting->wait();
        is_given_up = waited.has_error() || !run->view.stopped_by.empty();
    }
    run->waiting.erase(
        std::remove(run->waiting.begin(), run->waiting.end(), waiting), run->waiting.end()
    );
    co_return is_given_up ? Turn::go_on : run->rehearsals.turn_of(index);
}

/// Rehearses the VM, or waits for the rehearsal of another one of its kind.
/// @return  how the VM ended; nothing if it may be upgraded now
awaitable<std::optional<RunVmView>> VmUpgrades::rehearse_first(Move move) {
    const RunPtr run = move.run;
    const std::size_t index = move.index;
    using Turn = upgrade::RehearsalTurn;
    Turn rehearsal = Turn::rehearse;
    if (run->rehearsals.contains(index)) {
        rehearsal = co_await wait_to_rehearse(run, index);
    }
    if (rehearsal == Turn::give_up) {
        const std::string other = run->view.vms[*run->rehearsals.decided_by(index)].vm;
        co_return make_refused_view(
            run->facts_of(index),
            wire_code_of(make_error_code(upgrade::Errc::rehearsal_failed)),
            "VM " + other +
                ", which is of the same kind, was rehearsed, and that failed, so "
                "this one was not touched",
            "Look at the entry of " + other + "; with --no-rehearse it would be tried all the same."
        );
    }
    if (rehearsal != Turn::rehearse) {
        co_return std::nullopt;
    }
    // why: each try has an id of its own, since the control sockets of the one before may linger.
    const std::string id = run->view.vms[index].upgrade;
    run->view.vms[index].upgrade = upgrade_id_of(run->view.id, run->view.vms.size() + index);
    run->is_rehearsing[index] = true;
    auto turn = services_.gate.add_vm(*run->batch);
    auto work = run_engine(std::move(move), std::move(turn), upgrade::Goal::rehearsal);
    const UpgradeReport report = co_await std::move(work);
    RunVmView view = say_it_was_rehearsed(say_why_stopped(
        make_run_vm_view(report, run->facts_of(index)),
        run->view.id,
        run->view.stopped_by,
        run->view.stop_reason
    ));
    run->is_rehearsing[index] = false;
    end_rehearsal(run, index, view);
    if (report.phase != upgrade::Phase::rehearsed) {
        co_return view;
    }
    run->before[index] = view.steps;
    run->view.vms[index].steps = view.steps;
    run->view.vms[index].rehearsal = view.rehearsal;
    run->view.vms[index].upgrade = id;
    co_return std::nullopt;
}

} // namespace qhup::daemon
