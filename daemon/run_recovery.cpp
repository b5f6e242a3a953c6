// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/run_recovery.hpp"

#include "common/log.hpp"
#include "daemon/engine_config.hpp"
#include "daemon/run_ids.hpp"
#include "daemon/strand_work.hpp"
#include "daemon/wall_clock.hpp"

#include <algorithm>
#include <random>
#include <utility>

namespace qhup::daemon {
namespace {

using std::chrono::milliseconds;
using upgrade::QmpVmPortConfig;
using upgrade::UpgradeReport;

constexpr std::uint32_t kMaxRecoveries = 5; // of one upgrade, by daemons that did not end it

} // namespace

/// Looks at several pairs at once.
struct RunRecovery::OrphanLooks {
    explicit OrphanLooks(const asio::any_io_executor& executor) : changed(executor) {}

    std::vector<FoundUpgrade> unfinished; // pairs that need somebody
    std::size_t open = 0;                 // looks under way
    Notifier changed;
};

std::string RunRecovery::vm_of_folder(const std::string& folder) const {
    for (const std::string& name : services_.registry.names()) {
        if (control_folder_of(name) == folder) {
            return name;
        }
    }
    return folder;
}

/// What became of a VM whose upgrade left no control sockets.
RunVmView RunRecovery::view_without_pair(const Run& run, std::size_t index) const {
    const RunFacts facts = run.facts_of(index);
    const auto seen = services_.registry.find(facts.vm);
    const upgrade::LastRecord record{
        .phase = upgrade::parse_phase(run.view.vms[index].phase).value_or(upgrade::Phase::queued),
        .from_build_id = facts.from_build_id,
        .to_build_id = facts.to_build_id,
    };
    const upgrade::LoneVm vm{
        .answers = seen && seen->reachable,
        .build_id = seen ? seen->build_id : std::string(),
    };
    return make_view_without_pair(
        facts, upgrade::end_without_pair(record, vm), seen ? seen->version : std::string()
    );
}

/// Before the VM is touched: a daemon that dies of it shall not die of it for ever.
awaitable<void> RunRecovery::count_recovery(RunPtr run, std::size_t index) {
    RunVmView& vm = run->view.vms[index];
    ++vm.recoveries;
    auto writing = book_.write_vm(run, index);
    const Result<void> written = co_await std::move(writing);
    // why: a guest that waits for us matters more than the count.
    if (written.has_error() && !is_cancelled(written.error())) {
        log_failure("counting the recovery of " + vm.vm, written.error());
    }
}

/// How often daemons before us began to finish the upgrade with this id.
std::uint32_t RunRecovery::recoveries_of(const std::string& upgrade) const {
    std::uint32_t most = 0;
    for (const RunPtr& run : book_.runs()) {
        for (const RunVmView& vm : run->view.vms) {
            most = vm.upgrade == upgrade ? std::max(most, vm.recoveries) : most;
        }
    }
    return most;
}

awaitable<void>
RunRecovery::recover_vm(RunPtr run, std::size_t index, std::optional<FoundUpgrade> found) {
    if (!found) {
        // why: not all of many VMs have answered when the daemon takes stock.
        co_await services_.registry.look_at_acquired(run->view.vms[index].vm);
        RunVmView view = view_without_pair(*run, index);
        co_await book_.end_vm(run, index, std::move(view));
        co_return;
    }
    if (run->view.vms[index].recoveries >= kMaxRecoveries) {
        RunVmView given_up = make_given_up_view(run->facts_of(index), run->view.vms[index].phase);
        co_await book_.end_vm(run, index, std::move(given_up));
        co_return;
    }
    co_await count_recovery(run, index);
    const Strand strand = asio::make_strand(services_.context);
    const upgrade::UpgradeId id(found->upgrade);
    const QmpVmPortConfig port{.main_socket = "", .control_dir = found->path, .upgrade = id};
    auto look_work = look_on_strand(strand, port, 2 * services_.config.deadlines.probe);
    const FirstLook look = co_await on_executor(strand, std::move(look_work));
    if (look.action == upgrade::Action::vm_gone) {
        auto cleaning = [found = *found] {
            remove_control_sockets(found);
            return 0;
        };
        (void)co_await blocking(services_.disk, std::move(cleaning));
        // why: what is known of the VM may be older than the end of the pair.
        co_await services_.registry.look_at_acquired(run->view.vms[index].vm);
        RunVmView gone = view_without_pair(*run, index);
        co_await book_.end_vm(run, index, std::move(gone));
        co_return;
    }
    upgrade::RecoveryRequest request;
    request.vm = upgrade::VmId(run->view.vms[index].vm);
    request.upgrade = id;
    request.config = make_runner_config(services_.config);
    // why: a VM that is on its way back already is not judged a second time.
    if (found->upgrade == upgrade_id_of(run->view.id, index) || run->view.kind == "recovery") {
        request.probe = make_probe(*run, index, services_.config);
        request.config.probe_limit = run->policies[index].probe_limit;
    }
    const bool is_judged = static_cast<bool>(request.probe);
    auto work =
        recover_on_strand(strand, port, std::move(request), book_.make_observer(run, index));
    const UpgradeReport report = co_await on_executor(strand, std::move(work));
    RunVmView view = make_run_vm_view(report, run->facts_of(index));
    const auto vm = services_.registry.handle_of(view.vm);
    if (vm && is_judged) {
        auto settling = upgrades_.settle(run, index, *vm, found->path, std::move(view));
        view = co_await std::move(settling);
    }
    co_await book_.end_vm(run, index, std::move(view));
}

/// A run that a daemon before us did not finish goes on under its old name.
void RunRecovery::resume_run(RunView record, std::vector<FoundUpgrade>& found) {
    const RunPtr run = book_.make_run(record.id, record.kind);
    const auto age =
        milliseconds(std::max<std::int64_t>(0, unix_ms_now() - record.started_unix_ms));
    run->started = std::chrono::steady_clock::now() - age;
    run->view = std::move(record);
    run->held.resize(run->view.vms.size());
    for (const RunVmView& vm : run->view.vms) {
        run->before.push_back(vm.steps);
    }
    for (std::size_t i = 0; i < run->view.vms.size(); ++i) {
        if (!run->view.vms[i].outcome.empty()) {
            book_.note_end(*run, i);
        }
    }
    if (run->view.state == "finished") {
        RunBook::remember_event(run, {.sequence = 0, .vm = std::nullopt, .run = run->view});
        return;
    }
    run->view.state = "running";
    const bool is_in_soak = run->view.stage && run->view.stage->state == "soaking" &&
                            run->view.request && run->view.stopped_by.empty();
    for (std::size_t i = 0; i < run->view.vms.size(); ++i) {
        RunVmView& vm = run->view.vms[i];
        run->open += vm.outcome.empty() ? 1U : 0U;
    }
    if (run->open == 0) {
        run->view.state = "finished";
        book_.add_event(run, {.sequence = 0, .vm = std::nullopt, .run = run->view});
        return;
    }
    log().info(
        "run {} goes on: {} of its {} VMs have no outcome yet",
        run->view.id,
        run->open,
        run->view.vms.size()
    );
    book_.tell(EventType::run_resumed, run);
    for (const RunVmView& vm : run->view.vms) {
        add_policy(*run, vm.vm, services_.registry.labels_of_vm(vm.vm), services_.config);
    }
    if (is_in_soak) {
        upgrades_.open_batch(run);
        services_.tasks.spawn("stages of run " + run->view.id, stages_.resume_stages(run));
        return;
    }
    for (std::size_t i = 0; i < run->view.vms.size(); ++i) {
        if (!run->view.vms[i].outcome.empty()) {
            continue;
        }
        const std::string name = run->view.vms[i].vm;
        if (services_.registry.acquire(name, run->view.id)) {
            run->held[i] = name;
        }
        const std::string id = run->view.vms[i].upgrade;
        const auto mine = std::find_if(found.begin(), found.end(), [&id](const auto& entry) {
            return entry.upgrade == id;
        });
        std::optional<FoundUpgrade> pair;
        if (mine != found.end()) {
            pair = std::move(*mine);
            found.erase(mine);
        }
        services_.tasks.spawn("recovery of " + name, recover_vm(run, i, std::move(pair)));
    }
}

/// Looks at one pair and removes what is left of it if both sides are gone.
awaitable<void>
RunRecovery::look_at_orphan(FoundUpgrade entry, std::shared_ptr<OrphanLooks> looks) {
    const Strand strand = asio::make_strand(services_.context);
    QmpVmPortConfig port{
        .main_socket = "",
        .control_dir = entry.path,
        .upgrade = upgrade::UpgradeId(entry.upgrade),
    };
    auto work = look_on_strand(strand, std::move(port), services_.config.deadlines.probe);
    const FirstLook look = co_await on_executor(strand, std::move(work));
    const bool is_over =
        look.action == upgrade::Action::upgraded || look.action == upgrade::Action::nothing_to_do;
    if (look.action == upgrade::Action::vm_gone) {
        auto cleaning = [entry] {
            remove_control_sockets(entry);
            return 0;
        };
        (void)co_await blocking(services_.disk, std::move(cleaning));
    } else if (!is_over && look.is_of_this_upgrade) {
        looks->unfinished.push_back(std::move(entry));
    }
    --looks->open;
    looks->changed.notify();
}

/// Pairs that no record tells of.
awaitable<void> RunRecovery::adopt_orphans(std::vector<FoundUpgrade> found) {
    const auto looks = std::make_shared<OrphanLooks>(services_.home);
    looks->open = found.size();
    for (FoundUpgrade& entry : found) {
        const std::string name = "look at " + entry.folder;
        services_.tasks.spawn(name, look_at_orphan(std::move(entry), looks));
    }
    while (looks->open > 0) {
        co_await looks->changed.wait_uncancelled();
    }
    std::vector<FoundUpgrade>& unfinished = looks->unfinished;
    const auto is_given_up = [this](const FoundUpgrade& entry) {
        const bool is_too_often = recoveries_of(entry.upgrade) >= kMaxRecoveries;
        if (is_too_often) {
            log().error(
                "the unfinished upgrade {} in {} is not touched any more: qhupd ended {} times "
                "while it finished it",
                entry.upgrade,
                entry.path,
                kMaxRecoveries
            );
        }
        return is_too_often;
    };
    unfinished.erase(
        std::remove_if(unfinished.begin(), unfinished.end(), is_given_up), unfinished.end()
    );
    if (unfinished.empty()) {
        co_return;
    }
    const RunPtr run = book_.make_run(make_run_id(std::random_device{}()), "recovery");
    for (const FoundUpgrade& entry : unfinished) {
        run->view.vms.push_back({});
        run->view.vms.back().vm = vm_of_folder(entry.folder);
        run->view.vms.back().upgrade = entry.upgrade;
        run->view.vms.back().recoveries = recoveries_of(entry.upgrade);
        run->view.vms.back() = make_queued_view(run->facts_of(run->view.vms.size() - 1));
        const std::string name = run->view.vms.back().vm;
        add_policy(*run, name, services_.registry.labels_of_vm(name), services_.config);
    }
    run->held.resize(run->view.vms.size());
    run->open = run->view.vms.size();
    book_.put_whole_run(run);
    book_.tell(EventType::run_started, run);
    for (std::size_t i = 0; i < unfinished.size(); ++i) {
        const std::string name = run->view.vms[i].vm;
        if (services_.registry.acquire(name, run->view.id)) {
            run->held[i] = name;
        }
        services_.tasks.spawn("recovery of " + name, recover_vm(run, i, std::move(unfinished[i])));
    }
}

awaitable<void> RunRecovery::start(std::vector<RunView> runs, std::vector<FoundUpgrade> pairs) {
    for (RunView& record : runs) {
        resume_run(std::move(record), pairs);
    }
    co_await adopt_orphans(std::move(pairs));
}

} // namespace qhup::daemon
