// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/run_book.hpp"

#include "common/log.hpp"
#include "daemon/log_events.hpp"
#include "daemon/wall_clock.hpp"

#include <algorithm>
#include <iterator>
#include <optional>
#include <utility>

namespace qhup::daemon {
namespace {

using std::chrono::milliseconds;
using upgrade::UpgradeReport;

constexpr milliseconds kRequestIsWritten{5000}; // whoever asks for a run does not wait longer
constexpr milliseconds kEndIsWritten{2000}; // an outcome that is told is on disk, if that is quick

JournalChange put_upgrade(const std::string& run, std::size_t index, const RunVmView& view) {
    const auto number = static_cast<std::uint32_t>(index);
    return {JournalChange::Kind::put, make_upgrade_row(run, number, view)};
}

} // namespace

RunPtr RunBook::make_run(std::string id, std::string kind) {
    auto run = std::make_shared<Run>();
    run->view.id = std::move(id);
    run->view.kind = std::move(kind);
    run->view.state = "running";
    run->view.started_unix_ms = unix_ms_now();
    run->stage_changed = std::make_shared<Notifier>(services_.home);
    run->number = next_number_++;
    run->started = std::chrono::steady_clock::now();
    runs_[run->view.id] = run;
    order_.push_back(run->view.id);
    forget_old();
    return run;
}

void RunBook::drop_run(const std::string& id) {
    runs_.erase(id);
    order_.erase(std::remove(order_.begin(), order_.end(), id), order_.end());
    attention_.forget(id);
    journal_.put({{JournalChange::Kind::forget_run, {.run = id, .number = {}, .record = {}}}});
}

void RunBook::forget_old() {
    std::vector<RunView> views;
    for (const std::string& id : order_) {
        views.push_back(runs_.find(id)->second->view);
    }
    for (const std::string& id : outdated_runs(views, {})) {
        if (!is_needed(id)) {
            drop_run(id);
        }
    }
}

/// A VM that is there needs an operator because of it.
bool RunBook::is_needed(const std::string& id) const {
    const std::vector<AttentionView> open = attention_.list();
    return std::any_of(open.begin(), open.end(), [this, &id](const AttentionView& one) {
        return one.run == id && services_.registry.handle_of(one.vm);
    });
}

std::vector<JournalChange> RunBook::settle(const std::optional<RunRow>& row) {
    const RunPtr run = row ? find_run(row->run) : nullptr;
    if (!run || row->number >= run->view.vms.size()) {
        return {};
    }
    RunVmView& vm = run->view.vms[row->number];
    vm.settled = true;
    return {put_upgrade(run->view.id, row->number, vm)};
}

void RunBook::on_look(const std::string& vm, const VmProbe& probe) {
    // qemu: docs/qmp.md, `upgrade`: it crosses; a process that was started anew has none.
    const bool is_untouched = !probe.is_patched || probe.facts.upgrade.empty();
    const auto settled = attention_.on_look(vm, is_untouched);
    if (settled) {
        log().info("{} was started again, so what run {} left is over", vm, settled->run);
        journal_.put(settle(settled));
    }
}

void RunBook::note_end(const Run& run, std::size_t index) {
    journal_.put(settle(attention_.on_end(run.view, index)));
}

std::size_t RunBook::running() const noexcept {
    return static_cast<std::size_t>(std::count_if(runs_.begin(), runs_.end(), [](const auto& run) {
        return run.second->view.state == "running";
    }));
}

RunBook::InProgress RunBook::in_progress() const noexcept {
    InProgress progress;
    for (const auto& [id, run] : runs_) {
        if (run->view.state == "running") {
            ++progress.runs;
            for (const RunVmView& vm : run->view.vms) {
                ++progress.vms;
                progress.done += vm.outcome.empty() ? 0U : 1U;
            }
        }
    }
    return progress;
}

bool RunBook::is_recovering() const noexcept {
    return std::any_of(runs_.begin(), runs_.end(), [](const auto& run) {
        return run.second->view.state == "running" && run.second->view.kind == "recovery";
    });
}

std::vector<RunView> RunBook::list() const {
    std::vector<RunView> views;
    for (auto id = order_.rbegin(); id != order_.rend(); ++id) {
        views.push_back(runs_.find(*id)->second->view);
    }
    return views;
}

RunPtr RunBook::find_run(const std::string& id) const {
    const auto run = runs_.find(id);
    return run == runs_.end() ? nullptr : run->second;
}

RunPtr RunBook::run_of_request(const std::string& request_id) const {
    const auto found = std::find_if(runs_.begin(), runs_.end(), [&request_id](const auto& entry) {
        const auto& request = entry.second->view.request;
        return request && request->request_id == request_id;
    });
    return request_id.empty() || found == runs_.end() ? nullptr : found->second;
}

std::vector<RunPtr> RunBook::runs() const {
    std::vector<RunPtr> runs;
    for (const std::string& id : order_) {
        runs.push_back(find_run(id));
    }
    return runs;
}

RunHistory RunBook::history() const {
    RunHistory runs;
    for (auto id = order_.rbegin(); id != order_.rend(); ++id) {
        runs.push_back(&runs_.find(*id)->second->view);
    }
    return runs;
}

void RunBook::stop_run(const RunPtr& run, std::string by, std::string reason) {
    run->view.stopped_by = std::move(by);
    run->view.stop_reason = std::move(reason);
    put_run(run);
    tell(EventType::run_stopping, run);
    if (run->batch) {
        services_.gate.stop_batch(*run->batch);
    }
    for (const auto& waiting : run->waiting) {
        waiting->notify();
    }
    run->stage_changed->notify();
}

void RunBook::tell(EventType type, const RunPtr& run) {
    services_.events.publish(make_run_event(type, run->view));
}

void RunBook::tell_when_finished(std::shared_ptr<Notifier> who) {
    waiting_.push_back(std::move(who));
}

void RunBook::forget_who_waits(const std::shared_ptr<Notifier>& who) {
    waiting_.erase(std::remove(waiting_.begin(), waiting_.end(), who), waiting_.end());
}

void RunBook::add_event(const RunPtr& run, RunEvent event) {
    if (event.vm) {
        services_.events.publish(make_upgrade_event(run->view.id, *event.vm));
    } else {
        tell(event.run ? EventType::run_finished : EventType::run_stage, run);
    }
    remember_event(run, std::move(event));
}

void RunBook::remember_event(const RunPtr& run, RunEvent event) {
    event.sequence = run->events.size() + 1;
    run->events.push_back(std::move(event));
    for (const auto& follower : run->followers) {
        follower->notify();
    }
}

awaitable<RunBook::Progress>
RunBook::next_events(std::string id, std::uint64_t after, Deadline deadline) {
    Progress progress;
    const auto found = runs_.find(id);
    if (found == runs_.end()) {
        progress.is_known = false;
        co_return progress;
    }
    const RunPtr run = found->second;
    const auto follower = std::make_shared<Notifier>(services_.home);
    run->followers.push_back(follower);
    bool is_over = false;
    while (run->events.size() <= after && !is_over) {
        const auto waited = co_await follower->wait(deadline);
        is_over = waited.has_error();
    }
    run->followers.erase(
        std::remove(run->followers.begin(), run->followers.end(), follower), run->followers.end()
    );
    for (std::size_t i = after; i < run->events.size(); ++i) {
        progress.events.push_back(run->events[i]);
    }
    co_return progress;
}

upgrade::UpgradeObserver RunBook::make_observer(const RunPtr& run, std::size_t index) {
    // why: called on the VM's strand; everything here belongs to the home strand.
    return [this, run, index, facts = run->facts_of(index)](const UpgradeReport& report) {
        if (upgrade::is_terminal(report.phase)) {
            return; // run_vm tells the end, when the VM is free again
        }
        RunVmView view = make_run_vm_view(report, facts);
        asio::post(services_.home, [this, run, index, view = std::move(view)]() mutable {
            on_view(run, index, std::move(view));
        });
    };
}

void RunBook::on_view(const RunPtr& run, std::size_t index, RunVmView view) {
    RunVmView& now = run->view.vms[index];
    if (!now.outcome.empty()) {
        return;
    }
    const bool is_news = view.phase != now.phase || view.steps.size() != now.steps.size();
    if (!is_news) {
        now = std::move(view); // an undo that is not shown, see is_vain_undo()
        return;
    }
    {
        const LogFields fields(outcome_fields(run->view.id, view));
        log().debug("run {}: {} enters {}", run->view.id, view.vm, view.phase);
    }
    now = std::move(view);
    // why: where the intent must come first, write_intent() writes, and the upgrade waits for it.
    const auto phase = upgrade::parse_phase(now.phase);
    const bool is_awaited = phase && !upgrade::is_terminal(*phase) &&
                            upgrade::row_of(*phase).intent_first && run->batch.has_value();
    if (!is_awaited) {
        journal_.put({put_upgrade(run->view.id, index, now)});
    }
    add_event(run, {.sequence = 0, .vm = now, .run = std::nullopt});
}

upgrade::IntentWriter RunBook::make_intent_writer(const RunPtr& run, std::size_t index) {
    return [this, run, index, facts = run->facts_of(index)](
               const UpgradeReport& report, Deadline deadline
           ) { return write_intent(run, index, make_run_vm_view(report, facts), deadline); };
}

awaitable<Result<void>>
RunBook::write_intent(RunPtr run, std::size_t index, RunVmView view, Deadline deadline) {
    std::vector<JournalChange> changes;
    changes.push_back(put_upgrade(run->view.id, index, view));
    auto writing = journal_.write(std::move(changes), Journal::IfNotWritten::drop, deadline);
    const Result<void> written = co_await on_executor(services_.home, std::move(writing));
    if (written.has_error() && !is_cancelled(written.error())) { // cancelled: it is not begun
        log_failure("writing what run " + run->view.id + " is about to do", written.error());
    }
    co_return written;
}

void RunBook::put_run(const RunPtr& run) {
    journal_.put({{JournalChange::Kind::put, make_run_row(run->view)}});
}

void RunBook::put_whole_run(const RunPtr& run) {
    journal_.put(put_whole(run->view));
}

awaitable<Result<void>> RunBook::write_vm(RunPtr run, std::size_t index) {
    std::vector<JournalChange> changes;
    changes.push_back(put_upgrade(run->view.id, index, run->view.vms[index]));
    const Deadline patience = Deadline::in(kEndIsWritten);
    auto writing = journal_.write(std::move(changes), Journal::IfNotWritten::keep, patience);
    co_return co_await std::move(writing);
}

awaitable<Result<void>> RunBook::write_request(RunPtr run, std::vector<JournalChange> asked) {
    const Deadline patience = Deadline::in(kRequestIsWritten);
    std::vector<JournalChange> changes = put_whole(run->view);
    std::move(asked.begin(), asked.end(), std::back_inserter(changes));
    auto writing = journal_.write(std::move(changes), Journal::IfNotWritten::drop, patience);
    co_return co_await std::move(writing);
}

void RunBook::put_again() {
    for (const std::string& id : order_) {
        journal_.put(put_whole(runs_.find(id)->second->view));
    }
}

awaitable<void> RunBook::end_vm(RunPtr run, std::size_t index, RunVmView view) {
    {
        const LogFields fields(outcome_fields(run->view.id, view));
        log().info(
            "run {}: {} {}{}{}",
            run->view.id,
            view.vm,
            view.outcome,
            view.code.empty() ? "" : " because of " + view.code + ": ",
            reason_for_log(view)
        );
    }
    RunVmView& now = run->view.vms[index];
    now = std::move(view);
    if (!run->held[index].empty()) {
        services_.registry.release(run->held[index]);
        run->held[index].clear();
    }
    std::vector<JournalChange> changes;
    changes.push_back(put_upgrade(run->view.id, index, now));
    for (JournalChange& change : settle(attention_.on_end(run->view, index))) {
        changes.push_back(std::move(change));
    }
    for (JournalChange& change : history_.add(make_history_entry(run->view, now))) {
        changes.push_back(std::move(change));
    }
    add_event(run, {.sequence = 0, .vm = now, .run = std::nullopt});
    --run->open;
    run->stage_changed->notify();
    const bool is_last = run->open == 0;
    if (is_last) {
        run->view.finished_unix_ms = unix_ms_now();
        run->view.state = "finished";
        // why: a binary that was replaced since keeps its disk space while somebody has it open.
        std::fill(run->picks.begin(), run->picks.end(), std::nullopt);
        changes.push_back({JournalChange::Kind::put, make_run_row(run->view)});
    }
    const Deadline patience = Deadline::in(kEndIsWritten);
    auto writing = journal_.write(std::move(changes), Journal::IfNotWritten::keep, patience);
    const Result<void> written = co_await std::move(writing);
    // why: when the daemon stops, close_journal() writes it, and says so if it cannot.
    if (written.has_error() && !is_cancelled(written.error())) {
        log_failure("writing how run " + run->view.id + " went", written.error());
    }
    if (is_last) {
        add_event(run, {.sequence = 0, .vm = std::nullopt, .run = run->view});
        for (const auto& who : waiting_) {
            who->notify();
        }
    }
}

} // namespace qhup::daemon
