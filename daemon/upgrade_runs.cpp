// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/upgrade_runs.hpp"

#include "common/log.hpp"
#include "common/text.hpp"
#include "daemon/journal_rows.hpp"
#include "daemon/nearest_name.hpp"
#include "daemon/problems.hpp"
#include "daemon/run_stages.hpp"
#include "daemon/run_view.hpp"
#include "upgrade-engine/binary_probe.hpp"
#include "upgrade-engine/kept_binary.hpp"
#include "upgrade-engine/process_facts.hpp"

#include <algorithm>
#include <ctime>
#include <numeric>
#include <random>
#include <set>
#include <thread>
#include <utility>

namespace qhup::daemon {
namespace {

using std::chrono::milliseconds;
using upgrade::QmpVmPort;
using upgrade::QmpVmPortConfig;
using upgrade::UpgradeReport;

constexpr milliseconds kJournalRetry{1000}; // until results that could not be written are tried
constexpr milliseconds kJournalOpens{1500}; // READY does not wait longer for a disk
constexpr milliseconds kRunIsWritten{5000}; // whoever asks for a run does not wait longer
constexpr milliseconds kEndIsWritten{2000}; // an outcome that is told is on disk, if that is quick
constexpr milliseconds kLastWrite{5000};    // when the daemon stops
constexpr milliseconds kSoakLook{10'000};   // between two looks at the VMs of a soak
constexpr int kSoakLooks = 3;               // so often a VM must be unwell, to be believed
constexpr std::size_t kMaxOpenRuns = 32;
constexpr std::uint32_t kMaxRecoveries = 5; // of one upgrade, by daemons that did not end it

std::int64_t unix_ms_now() {
    const auto now = std::chrono::system_clock::now().time_since_epoch();
    return std::chrono::duration_cast<milliseconds>(now).count();
}

/// "r" and eight hex digits: short enough to type.
std::string make_run_id() {
    static constexpr std::string_view kDigits = "0123456789abcdef";
    std::random_device random;
    std::string id = "r";
    for (int i = 0; i < 8; ++i) {
        id += kDigits[random() % kDigits.size()];
    }
    return id;
}

/// The upgrade of one VM of a run. With it a daemon that starts again finds the run.
std::string upgrade_id_of(const std::string& run, std::size_t index) {
    return run + "." + std::to_string(index);
}

JournalChange put_upgrade(const std::string& run, std::size_t index, const RunVmView& view) {
    const auto number = static_cast<std::uint32_t>(index);
    return {JournalChange::Kind::put, make_upgrade_row(run, number, view)};
}

/// True for what upgrade_id_of() makes: nobody else's upgrade is ours to undo.
bool is_our_upgrade_id(std::string_view id) {
    const auto is_hex = [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); };
    const auto is_digit = [](char c) { return c >= '0' && c <= '9'; };
    return id.size() > 10 && id[0] == 'r' && id[9] == '.' &&
           std::all_of(id.begin() + 1, id.begin() + 9, is_hex) &&
           std::all_of(id.begin() + 10, id.end(), is_digit);
}

std::string how_to_unhold(const std::string& vm) {
    return "'qhupd-ctl unhold " + vm + "' takes the hold off.";
}

/// It is known what kind it is of, and it is not on the binary already.
bool can_be_rehearsed(const RunVmView& vm) {
    return !vm.shape_class.empty() &&
           (vm.from_build_id.empty() || vm.from_build_id != vm.to_build_id);
}

/// By the host's clock and time zone.
std::chrono::minutes time_of_day_now() {
    const std::time_t now = std::time(nullptr);
    std::tm local{};
    ::localtime_r(&now, &local);
    return std::chrono::hours(local.tm_hour) + std::chrono::minutes(local.tm_min);
}

/// The sentence of an outcome, with what QEMU said or what blocks.
std::string reason_for_log(const RunVmView& view) {
    std::string text = view.message;
    for (const BlockerView& blocker : view.blockers) {
        text += " " + blocker.id + ": " + quote_peer_text(blocker.reason);
    }
    const bool has_words = view.blockers.empty() && !view.peer_text.empty();
    return has_words ? text + " " + quote_peer_text(view.peer_text) : text;
}

awaitable<UpgradeReport> upgrade_on_strand(
    Strand strand,
    QmpVmPortConfig port_config,
    std::shared_ptr<upgrade::SlotGate::Turn> turn,
    upgrade::UpgradeRequest request,
    upgrade::UpgradeObserver observer,
    upgrade::IntentWriter write_intent
) {
    QmpVmPort port(strand, std::move(port_config));
    UpgradeReport report = co_await upgrade::run_upgrade(
        port, std::move(turn), std::move(request), std::move(observer), std::move(write_intent)
    );
    co_await port.close();
    co_return report;
}

awaitable<UpgradeReport> recover_on_strand(
    Strand strand,
    QmpVmPortConfig port_config,
    upgrade::RecoveryRequest request,
    upgrade::UpgradeObserver observer
) {
    QmpVmPort port(strand, std::move(port_config));
    UpgradeReport report =
        co_await upgrade::run_recovery(port, std::move(request), std::move(observer));
    co_await port.close();
    co_return report;
}

/// What a control folder shows at a first look.
struct FirstLook {
    upgrade::Action action = upgrade::Action::nothing_to_do;
    bool is_of_this_upgrade = true; ///< false: a side is busy with a later upgrade
};

awaitable<FirstLook> look_on_strand(Strand strand, QmpVmPortConfig config, milliseconds patience) {
    const std::string id = config.upgrade.text();
    QmpVmPort port(strand, std::move(config));
    const auto source = co_await port.observe_source(Deadline::in(patience));
    const auto target = co_await port.observe_target(Deadline::in(patience));
    co_await port.close();
    FirstLook look;
    look.action = upgrade::decide(source, target).action;
    for (const auto* side : {&source, &target}) {
        const std::string other = side->answers() ? side->facts.upgrade.text() : std::string();
        look.is_of_this_upgrade = look.is_of_this_upgrade && (other.empty() || other == id);
    }
    co_return look;
}

struct Judged {
    Result<upgrade::Verdict> verdict;
};

awaitable<Judged>
check_on_strand(Strand strand, QmpVmPortConfig config, upgrade::UpgradeRequest request) {
    QmpVmPort port(strand, std::move(config));
    auto verdict = co_await upgrade::check_upgrade(port, std::move(request));
    co_await port.close();
    co_return Judged{std::move(verdict)};
}

} // namespace

/// A run and those who follow it.
struct UpgradeRuns::Run {
    RunView view;
    std::chrono::steady_clock::time_point started;
    std::vector<RunEvent> events;
    std::vector<std::shared_ptr<Notifier>> followers;
    std::vector<std::string> held; // VMs that this run has acquired, by index; "" if none
    std::vector<std::vector<StepView>> before; // steps of daemons before us, by index
    std::size_t open = 0;                      // VMs without an outcome
    std::optional<upgrade::BatchId> batch;
    bool is_starting = false;           // it is not in the journal yet, and may never be
    std::vector<VmPolicy> policies;     // by index; none if the run is only recovered
    std::vector<std::string> rehearse;  // none, first, all; by index
    upgrade::RehearsalOrder rehearsals; // of the VMs that are, or that wait for another one
    std::vector<std::shared_ptr<Notifier>> waiting; // for what becomes of a rehearsal
    Picks picks;                                    // by index; empty until it is known
    std::shared_ptr<Notifier> stage_changed;        // a VM ended, or the run was stopped
    upgrade::Goal goal = upgrade::Goal::upgrade;
    std::map<std::size_t, bool> is_rehearsing; // by index: before its upgrade, right now
    std::set<std::size_t> taken_back;          // by index: on its way back, as its policy says
    std::uint64_t number = 0;                  // of this run, in this process

    upgrade::MemoryLedger::Id memory_id(std::size_t index) const { return (number << 32U) + index; }

    bool is_rehearsal(std::size_t index) const {
        const auto now = is_rehearsing.find(index);
        return goal == upgrade::Goal::rehearsal || (now != is_rehearsing.end() && now->second);
    }

    RunFacts facts_of(std::size_t index) const {
        return {
            .vm = view.vms[index].vm,
            .upgrade = view.vms[index].upgrade,
            .release = view.to,
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
};

/// Looks at several pairs at once.
struct UpgradeRuns::OrphanLooks {
    explicit OrphanLooks(const asio::any_io_executor& executor) : changed(executor) {}

    std::vector<FoundUpgrade> unfinished; // pairs that need somebody
    std::size_t open = 0;                 // looks under way
    Notifier changed;
};

UpgradeRuns::UpgradeRuns(
    asio::io_context& context,
    Strand home,
    asio::thread_pool& disk,
    TaskGroup& tasks,
    VmRegistry& registry,
    ReleaseShelf& shelf,
    const Config& config,
    std::string fault
)
    : context_(context),
      home_(std::move(home)),
      disk_(disk),
      tasks_(tasks),
      registry_(registry),
      shelf_(shelf),
      config_(config),
      journal_(
          home_,
          config.state_dir + "/journal.db",
          [this] { put_again(); },
          {.retry = kJournalRetry, .fault = std::move(fault)}
      ),
      pause_slots_(pause_slots_for(config, std::thread::hardware_concurrency())),
      gate_(home_, {.prepare_slots = config.parallel, .pause_slots = pause_slots_}),
      memory_(std::uint64_t{config.memory_reserve_mib} << 20U),
      kept_root_(config.state_dir + "/kept") {}

UpgradeRuns::~UpgradeRuns() = default;

upgrade::RunnerConfig UpgradeRuns::runner_config() const {
    upgrade::RunnerConfig config;
    config.deadlines[upgrade::Phase::prepare] = config_.deadlines.prepare;
    config.watch_window = config_.deadlines.verify;
    config.lease = config_.leases.prepared;
    config.switch_limits.drain_deadline = config_.deadlines.drain;
    config.switch_limits.budget = config_.deadlines.pause_budget;
    config.switch_limits.frozen_lease = config_.leases.frozen;
    config.trusted_supervisors = config_.trusted_supervisors;
    return config;
}

UpgradeRuns::RunPtr UpgradeRuns::make_run(std::string id, std::string kind) {
    auto run = std::make_shared<Run>();
    run->view.id = std::move(id);
    run->view.kind = std::move(kind);
    run->view.state = "running";
    run->view.started_unix_ms = unix_ms_now();
    run->stage_changed = std::make_shared<Notifier>(home_);
    run->number = next_number_++;
    run->started = std::chrono::steady_clock::now();
    runs_[run->view.id] = run;
    order_.push_back(run->view.id);
    forget_old();
    return run;
}

void UpgradeRuns::forget_old() {
    std::vector<RunView> views;
    for (const std::string& id : order_) {
        views.push_back(runs_.find(id)->second->view);
    }
    for (const std::string& id : outdated_runs(views, {})) {
        runs_.erase(id);
        order_.erase(std::remove(order_.begin(), order_.end(), id), order_.end());
        journal_.put({{JournalChange::Kind::forget_run, {.run = id, .number = {}, .record = {}}}});
    }
}

std::size_t UpgradeRuns::running() const noexcept {
    return static_cast<std::size_t>(std::count_if(runs_.begin(), runs_.end(), [](const auto& run) {
        return run.second->view.state == "running";
    }));
}

bool UpgradeRuns::is_recovering() const noexcept {
    return std::any_of(runs_.begin(), runs_.end(), [](const auto& run) {
        return run.second->view.state == "running" && run.second->view.kind == "recovery";
    });
}

std::vector<RunView> UpgradeRuns::list() const {
    std::vector<RunView> views;
    for (auto id = order_.rbegin(); id != order_.rend(); ++id) {
        views.push_back(runs_.find(*id)->second->view);
    }
    return views;
}

std::optional<RunView> UpgradeRuns::find(const std::string& id) const {
    const auto run = runs_.find(id);
    return run == runs_.end() ? std::nullopt : std::optional<RunView>(run->second->view);
}

void UpgradeRuns::request_stop() {
    is_stopping_ = true;
    for (const auto& [id, run] : runs_) {
        // why: a soak needs nobody; the next daemon goes on with it.
        const bool is_soaking = run->view.stage && run->view.stage->state == "soaking";
        if (run->view.state == "running" && run->view.stopped_by.empty() && !is_soaking) {
            stop_run(run, "shutdown");
        }
    }
}

/// It is in the journal before the VMs' ends are, since changes are written in order.
void UpgradeRuns::stop_run(const RunPtr& run, std::string by, std::string reason) {
    run->view.stopped_by = std::move(by);
    run->view.stop_reason = std::move(reason);
    journal_.put({{JournalChange::Kind::put, make_run_row(run->view)}});
    if (run->batch) {
        gate_.stop_batch(*run->batch);
    }
    for (const auto& waiting : run->waiting) {
        waiting->notify();
    }
    run->stage_changed->notify();
}

std::variant<RunView, Problem> UpgradeRuns::abort(const std::string& id, uid_t uid) {
    const RunPtr run = runs_.find(id)->second;
    const bool is_over = run->view.state == "finished" || !run->view.stopped_by.empty();
    if (is_over) {
        return run->view;
    }
    if (!run->batch && !run->is_starting) {
        return make_problem(
            ProblemCode::not_abortable,
            "Run " + id + " only finishes or undoes what was begun before qhupd was started.",
            "'qhupd-ctl status " + id + "' shows how far it is."
        );
    }
    log().info("run {}: aborted by uid {}", id, uid);
    stop_run(run, "abort");
    return run->view;
}

// --- events -----------------------------------------------------------------------------------

void UpgradeRuns::add_event(const RunPtr& run, RunEvent event) {
    event.sequence = run->events.size() + 1;
    run->events.push_back(std::move(event));
    for (const auto& follower : run->followers) {
        follower->notify();
    }
}

awaitable<UpgradeRuns::Progress>
UpgradeRuns::next_events(std::string id, std::uint64_t after, Deadline deadline) {
    Progress progress;
    const auto found = runs_.find(id);
    if (found == runs_.end()) {
        progress.is_known = false;
        co_return progress;
    }
    const RunPtr run = found->second;
    const auto follower = std::make_shared<Notifier>(home_);
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

// --- what becomes of a VM ---------------------------------------------------------------------

upgrade::UpgradeObserver UpgradeRuns::make_observer(const RunPtr& run, std::size_t index) {
    // why: called on the VM's strand; everything here belongs to the home strand.
    return [this, run, index, facts = run->facts_of(index)](const UpgradeReport& report) {
        if (upgrade::is_terminal(report.phase)) {
            return; // run_vm tells the end, when the VM is free again
        }
        RunVmView view = make_run_vm_view(report, facts);
        asio::post(home_, [this, run, index, view = std::move(view)]() mutable {
            on_view(run, index, std::move(view));
        });
    };
}

void UpgradeRuns::on_view(const RunPtr& run, std::size_t index, RunVmView view) {
    RunVmView& now = run->view.vms[index];
    if (!now.outcome.empty()) {
        return;
    }
    log().debug("run {}: {} enters {}", run->view.id, view.vm, view.phase);
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

upgrade::Admission UpgradeRuns::make_admission(const RunPtr& run, std::size_t index) {
    // why: called on the VM's strand; everything that is looked at belongs to the home strand.
    return [this, run, index] { return on_executor(home_, admit(run, index)); };
}

/// May this VM be begun now? Asked when its turn has come, which can be long after the request.
awaitable<Result<void>> UpgradeRuns::admit(RunPtr run, std::size_t index) {
    if (const auto hold = hold_of(run->view.vms[index].vm)) {
        co_return make_failure(
            upgrade::Errc::held, describe(*hold) + "; " + how_to_unhold(hold->vm)
        );
    }
    const VmPolicy& policy = run->policies[index];
    const std::chrono::minutes now = time_of_day_now();
    // why: a way back must be open at every hour.
    if (run->view.kind != "revert" && !is_open(policy, now)) {
        std::string windows;
        for (const DayWindow& window : policy.window) {
            windows += (windows.empty() ? "" : ", ") + format_day_window(window);
        }
        co_return make_failure(
            upgrade::Errc::outside_window,
            "The policy of VM " + run->view.vms[index].vm + " lets upgrades begin at " + windows +
                " only, and it is " + format_time_of_day(now) +
                ", so it was not touched; start the upgrade again then."
        );
    }
    const auto seen = registry_.find(run->view.vms[index].vm);
    if (run->view.dry_run || !seen || seen->pid <= 0) {
        co_return Result<void>(); // there will be no second process, or preflight says why
    }
    auto waiting = wait_for_memory(run, index, static_cast<pid_t>(seen->pid));
    co_return co_await std::move(waiting);
}

/// Waits until the second process of the VM has room beside those of the others in work.
awaitable<Result<void>> UpgradeRuns::wait_for_memory(RunPtr run, std::size_t index, pid_t source) {
    const auto changed = std::make_shared<Notifier>(home_);
    waiting_for_memory_.push_back(changed);
    run->waiting.push_back(changed);
    Result<void> result;
    bool is_told = false;
    memory_.enqueue(run->memory_id(index));
    while (result.has_value()) {
        auto look = [source] { return upgrade::observe_process(source); };
        const auto facts = co_await blocking(disk_, std::move(look));
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

/// The VM has one process again, or will not have two.
void UpgradeRuns::release_memory(const Run& run, std::size_t index) {
    memory_.on_gone(run.memory_id(index));
    for (const auto& waiting : waiting_for_memory_) {
        waiting->notify();
    }
}

std::optional<ProbeCommand> UpgradeRuns::probe_of(const Run& run, std::size_t index) const {
    const VmPolicy& policy = run.policies[index];
    if (policy.probe.empty()) {
        return std::nullopt;
    }
    return ProbeCommand{
        .argv = policy.probe,
        .vm = run.view.vms[index].vm,
        .user = config_.probe_user,
        .limit = policy.probe_limit};
}

upgrade::GuestProbe UpgradeRuns::make_probe(const Run& run, std::size_t index) const {
    std::optional<ProbeCommand> command = probe_of(run, index);
    if (!command) {
        return {};
    }
    return [command = std::move(*command)] { return run_probe_command(command); };
}

upgrade::IntentWriter UpgradeRuns::make_intent_writer(const RunPtr& run, std::size_t index) {
    return [this, run, index, facts = run->facts_of(index)](
               const UpgradeReport& report, Deadline deadline
           ) { return write_intent(run, index, make_run_vm_view(report, facts), deadline); };
}

awaitable<Result<void>>
UpgradeRuns::write_intent(RunPtr run, std::size_t index, RunVmView view, Deadline deadline) {
    std::vector<JournalChange> changes;
    changes.push_back(put_upgrade(run->view.id, index, view));
    auto writing = journal_.write(std::move(changes), Journal::IfNotWritten::drop, deadline);
    const Result<void> written = co_await on_executor(home_, std::move(writing));
    if (written.has_error()) {
        log_failure("writing what run " + run->view.id + " is about to do", written.error());
    }
    co_return written;
}

/// The journal was damaged and is empty now: what we know goes into it again.
void UpgradeRuns::put_again() {
    for (const std::string& id : order_) {
        journal_.put(put_whole(runs_.find(id)->second->view));
    }
    for (const HoldView& hold : holds()) {
        journal_.put({{JournalChange::Kind::put, make_hold_row(hold)}});
    }
}

awaitable<void> UpgradeRuns::end_vm(RunPtr run, std::size_t index, RunVmView view) {
    log().info(
        "run {}: {} {}{}{}",
        run->view.id,
        view.vm,
        view.outcome,
        view.code.empty() ? "" : " because of " + view.code + ": ",
        reason_for_log(view)
    );
    RunVmView& now = run->view.vms[index];
    now = std::move(view);
    if (!run->held[index].empty()) {
        registry_.release(run->held[index]);
        run->held[index].clear();
    }
    std::vector<JournalChange> changes;
    changes.push_back(put_upgrade(run->view.id, index, now));
    add_event(run, {.sequence = 0, .vm = now, .run = std::nullopt});
    --run->open;
    run->stage_changed->notify();
    const bool is_last = run->open == 0;
    if (is_last) {
        run->view.finished_unix_ms = unix_ms_now();
        run->view.state = "finished";
        changes.push_back({JournalChange::Kind::put, make_run_row(run->view)});
    }
    const Deadline patience = Deadline::in(kEndIsWritten);
    auto writing = journal_.write(std::move(changes), Journal::IfNotWritten::keep, patience);
    const Result<void> written = co_await std::move(writing);
    if (written.has_error()) {
        log_failure("writing how run " + run->view.id + " went", written.error());
    }
    if (is_last) {
        add_event(run, {.sequence = 0, .vm = std::nullopt, .run = run->view});
    }
}

awaitable<void> UpgradeRuns::close_journal() {
    const std::size_t left = co_await journal_.close(Deadline::in(kLastWrite));
    if (left > 0) {
        log().error(
            "{} results could not be written to the journal; the next start looks at the VMs", left
        );
    }
}

// --- upgrade ----------------------------------------------------------------------------------

std::vector<std::string> UpgradeRuns::select(const RunRequest& request) const {
    return in_order(request.all ? registry_.names() : request.vms, config_.policies);
}

awaitable<std::optional<Problem>> UpgradeRuns::find_problem(const RunRequest& request) {
    co_await registry_.refresh();
    const std::vector<std::string> known = registry_.names();
    for (const std::string& name : request.vms) {
        if (!registry_.handle_of(name)) {
            co_return make_problem(
                ProblemCode::vm_not_found,
                "There is no VM '" + name + "'.",
                did_you_mean(name, known) + "'qhupd-ctl list' shows all."
            );
        }
    }
    if (is_stopping_) {
        co_return make_problem(
            ProblemCode::stopping, "qhupd is stopping and starts nothing new.", "Try again soon."
        );
    }
    if (running() >= kMaxOpenRuns) {
        co_return make_problem(
            ProblemCode::too_many_runs,
            "There are " + std::to_string(kMaxOpenRuns) + " runs already.",
            "Wait until one has finished; 'qhupd-ctl status' shows them."
        );
    }
    co_return std::nullopt;
}

UpgradeRuns::RunPtr UpgradeRuns::run_of_request(const std::string& request_id) const {
    const auto found = std::find_if(runs_.begin(), runs_.end(), [&request_id](const auto& entry) {
        const auto& request = entry.second->view.request;
        return request && request->request_id == request_id;
    });
    return request_id.empty() || found == runs_.end() ? nullptr : found->second;
}

/// The run that the same request started before, once it is sure that there is one.
awaitable<std::optional<std::variant<UpgradeRuns::Started, Problem>>>
UpgradeRuns::find_same(RunRequest request) {
    for (RunPtr run = run_of_request(request.request_id); run;
         run = run_of_request(request.request_id)) {
        if (*run->view.request != request) {
            co_return make_problem(
                ProblemCode::request_id_reused,
                "The id '" + request.request_id + "' belongs to run " + run->view.id +
                    ", which was asked for something else.",
                "Take a new id for a new request."
            );
        }
        if (!run->is_starting) {
            co_return Started{run->view, false};
        }
        const auto follower = std::make_shared<Notifier>(home_);
        run->followers.push_back(follower);
        co_await follower->wait_uncancelled();
        run->followers.erase(
            std::remove(run->followers.begin(), run->followers.end(), follower),
            run->followers.end()
        );
    }
    co_return std::nullopt;
}

/// It is known whether the run goes on.
void UpgradeRuns::end_start(const RunPtr& run) {
    run->is_starting = false;
    for (const auto& follower : run->followers) {
        follower->notify();
    }
}

/// What the configuration says about the next VM of the run.
void UpgradeRuns::add_policy(Run& run, const std::string& vm) const {
    const RunRequest& request = *run.view.request;
    VmPolicy policy = policy_of(config_.policies, vm);
    const bool is_alone = run.goal == upgrade::Goal::rehearsal || request.dry_run;
    run.rehearse.push_back(
        is_alone                    ? "none"
        : !request.rehearse.empty() ? request.rehearse
        : !policy.rehearse.empty()  ? policy.rehearse
                                    : config_.rehearse
    );
    run.policies.push_back(std::move(policy));
}

awaitable<std::variant<UpgradeRuns::Started, Problem>>
UpgradeRuns::start(RunRequest request, uid_t uid) {
    auto before = co_await find_same(request);
    if (before) {
        co_return std::move(*before);
    }
    const bool is_revert = request.kind == "revert";
    ReleaseShelf::Answer answer;
    if (!is_revert) {
        answer = co_await shelf_.pick(request.to);
    }
    if (answer.problem) {
        co_return std::move(*answer.problem);
    }
    // why: the ways back of a run are those of its VMs; what was asked for stays as it was asked.
    RunRequest chosen = request;
    const std::map<std::string, CameFrom> ways = choose_ways_back(chosen);
    auto problem = co_await find_problem(chosen);
    if (problem) {
        co_return std::move(*problem);
    }
    std::map<std::string, BinaryCatalog::Facts> sources;
    for (const std::string& name : select(chosen)) {
        const auto seen = registry_.find(name);
        const std::string build_id = seen ? seen->build_id : std::string();
        if (!sources.contains(build_id)) {
            sources[build_id] = co_await source_facts(build_id);
        }
    }
    // why: the same request may have come a second time while we looked at the VMs.
    before = co_await find_same(request);
    if (before) {
        co_return std::move(*before);
    }
    const RunPtr run = make_run(make_run_id(), request.kind);
    run->is_starting = true;
    run->goal = request.kind == "rehearsal" ? upgrade::Goal::rehearsal : upgrade::Goal::upgrade;
    run->view.request = request;
    run->view.dry_run = request.dry_run;
    run->view.parallel = std::min(request.parallel.value_or(config_.parallel), config_.parallel);
    run->view.by_uid = static_cast<std::int64_t>(uid);
    run->view.to = is_revert ? "kept" : request.to;
    for (const std::string& name : select(chosen)) {
        run->picks.push_back(answer.picked);
        add_policy(*run, name);
        const auto way = ways.find(name);
        run->view.vms.push_back({});
        run->view.vms.back().vm = name;
        const auto seen = registry_.find(name);
        run->view.vms.back().from = seen ? seen->version : std::string();
        run->view.vms.back().from_build_id = seen ? seen->build_id : std::string();
        run->view.vms.back().shape_class = seen ? seen->shape_class : std::string();
        run->view.vms.back().run_state = seen ? seen->state : std::string();
        run->view.vms.back().to_build_id = answer.picked       ? answer.picked->binary->build_id
                                           : way != ways.end() ? way->second.build_id
                                                               : std::string();
        run->view.vms.back().upgrade = upgrade_id_of(run->view.id, run->view.vms.size() - 1);
        run->view.vms.back() = make_queued_view(run->facts_of(run->view.vms.size() - 1));
    }
    std::set<std::string> wanted;
    for (const RunVmView& vm : run->view.vms) {
        wanted.insert(is_revert ? vm.to_build_id : std::string());
    }
    wanted.erase("");
    for (const std::string& build_id : wanted) {
        co_await pick_kept(build_id, *run);
    }
    for (std::size_t i = 0; i < run->picks.size(); ++i) {
        if (run->picks[i]) {
            add_kept_tails(*run->picks[i]);
            run->picks[i]->source_facts = sources[run->view.vms[i].from_build_id];
        }
    }
    plan_run(*run);
    choose_kinds(*run);
    run->before.resize(run->view.vms.size());
    run->held.resize(run->view.vms.size());
    run->open = run->view.vms.size();
    if (run->open == 0) {
        run->view.state = "finished";
        run->view.finished_unix_ms = unix_ms_now();
        end_start(run);
        add_event(run, {.sequence = 0, .vm = std::nullopt, .run = run->view});
        co_return Started{run->view, true};
    }
    // why: what was wanted is on disk before anything is done.
    const Deadline patience = Deadline::in(kRunIsWritten);
    auto writing = journal_.write(put_whole(run->view), Journal::IfNotWritten::drop, patience);
    const Result<void> written = co_await std::move(writing);
    if (written.has_error()) {
        log_failure("writing what run " + run->view.id + " shall do", written.error());
        const std::string id = run->view.id;
        runs_.erase(id);
        order_.erase(std::remove(order_.begin(), order_.end(), id), order_.end());
        // why: a disk that was merely slow may have it after all, and it must not come back.
        journal_.put({{JournalChange::Kind::forget_run, {.run = id, .number = {}, .record = {}}}});
        end_start(run);
        co_return make_problem(
            ProblemCode::journal_failed,
            "What the run shall do cannot be written to the journal below " + config_.state_dir +
                ", so nothing was begun.",
            "Make room on that disk, or see the log of qhupd."
        );
    }
    log().info(
        "run {}: {} VMs to {}, asked for by uid {}", run->view.id, run->open, run->view.to, uid
    );
    open_batch(run);
    start_vms(run, run->view.stage ? 1 : 0);
    if (run->view.stage) {
        tasks_.spawn("stages of run " + run->view.id, run_stages(run));
    }
    end_start(run);
    co_return Started{run->view, true};
}

/// The run takes the VM, so that no other one works on it.
/// @return  why it is not begun at all; none: the run has it
std::optional<RunVmView> UpgradeRuns::take_vm(const Run& run, std::size_t index, bool has_pick) {
    const std::string name = run.view.vms[index].vm;
    if (run.view.request->all && run.policies[index].skip) {
        return make_skipped_view(
            run.facts_of(index),
            "skipped",
            "The configuration leaves the VM out of runs over all VMs",
            "Name it, and it is not left out."
        );
    }
    if (const auto hold = hold_of(name)) {
        auto make_view = run.view.request->all ? make_skipped_view : make_refused_view;
        return make_view(run.facts_of(index), "held", describe(*hold), how_to_unhold(name));
    }
    if (!has_pick) {
        const std::string show = "'qhupd-ctl show " + name + "' shows it.";
        return make_refused_view(run.facts_of(index), "no_way_back", way_back(name).reason, show);
    }
    if (registry_.handle_of(name) && registry_.acquire(name, run.view.id)) {
        return std::nullopt;
    }
    const std::string other = registry_.run_of(name);
    return make_refused_view(
        run.facts_of(index),
        "busy",
        other.empty() ? "the VM has just gone away" : "run " + other + " works on this VM",
        other.empty() ? "'qhupd-ctl list' shows what is there."
                      : "Wait until it has finished: qhupd-ctl status " + other + "."
    );
}

void UpgradeRuns::open_batch(const RunPtr& run) {
    run->batch = gate_.add_batch(
        {.parallel = run->view.parallel, .stop_after_failures = run->view.request->max_failures}
    );
    if (!run->view.stopped_by.empty()) {
        gate_.stop_batch(*run->batch); // why: it was aborted while it was written down
    }
}

/// Begins with the VMs of this stage.
void UpgradeRuns::start_vms(const RunPtr& run, std::uint32_t stage) {
    for (std::size_t i = 0; i < run->view.vms.size(); ++i) {
        const std::string name = run->view.vms[i].vm;
        if (run->view.vms[i].stage != stage || !run->view.vms[i].outcome.empty()) {
            continue;
        }
        if (auto refused = take_vm(*run, i, run->picks[i].has_value())) {
            leave_rehearsals(run, i);
            tasks_.spawn("end of " + name, end_vm(run, i, std::move(*refused)));
            continue;
        }
        const auto vm = registry_.handle_of(name);
        run->held[i] = name;
        // why: whoever waits for a rehearsal joins the queue after it, and keeps nobody waiting.
        auto turn = is_rehearsed(*run, i) ? nullptr : gate_.add_vm(*run->batch);
        tasks_.spawn("upgrade of " + name, run_vm(run, i, *vm, *run->picks[i], std::move(turn)));
    }
}

// --- stages -----------------------------------------------------------------------------------

/// Which VM is of which stage, as far as it is known now.
void UpgradeRuns::plan_run(Run& run) const {
    const RunRequest& request = *run.view.request;
    if ((request.canaries == 0 && request.batch == 0) || request.dry_run) {
        return;
    }
    std::vector<StageCandidate> order;
    for (std::size_t i = 0; i < run.view.vms.size(); ++i) {
        const RunVmView& vm = run.view.vms[i];
        const auto seen = registry_.find(vm.vm);
        const bool is_left_out = request.all && run.policies[i].skip;
        order.push_back(
            {.kind = vm.shape_class + " " + vm.from_build_id,
             .can_be_upgraded = run.picks[i] && seen && seen->upgradable && !is_left_out &&
                                !hold_of(vm.vm) && vm.from_build_id != vm.to_build_id &&
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
void UpgradeRuns::look_again(Run& run, std::uint32_t stage) const {
    for (RunVmView& vm : run.view.vms) {
        const auto seen = registry_.find(vm.vm);
        if (vm.stage == stage && seen && seen->reachable) {
            vm.from = seen->version;
            vm.from_build_id = seen->build_id;
            vm.shape_class = seen->shape_class;
            vm.run_state = seen->state;
        }
    }
}

/// It is in the journal before what follows from it is.
void UpgradeRuns::set_stage(const RunPtr& run, StageView stage) {
    log().info(
        "run {}: stage {} of {} ({}) is {}",
        run->view.id,
        stage.number,
        stage.of,
        stage.name,
        stage.state
    );
    run->view.stage = std::move(stage);
    journal_.put({{JournalChange::Kind::put, make_run_row(run->view)}});
    add_event(
        run, {.sequence = 0, .vm = std::nullopt, .stage = run->view.stage, .run = std::nullopt}
    );
}

/// Goes on from stage to stage. Those VMs of the present one that shall be begun have been.
awaitable<void> UpgradeRuns::run_stages(RunPtr run) {
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
            stop_run(run, "canaries", *bad);
            break;
        }
        const bool is_soaked = co_await soak(run);
        if (!is_soaked) {
            co_return; // the daemon is stopping, and the next one goes on
        }
        if (run->view.stopped_by.empty()) {
            co_await registry_.refresh();
            if (is_stopping_) {
                co_return;
            }
            look_again(*run, number + 1);
            set_stage(run, make_stage(run->view, number + 1, is_canary_stage));
            start_vms(run, number + 1);
        }
    }
    co_await end_unbegun(run);
}

/// Waits, and looks at the VMs of the stage again and again.
/// @return  false: cancelled; the run is as it was
awaitable<bool> UpgradeRuns::soak(RunPtr run) {
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
            stop_run(run, "soak", *unwell);
        }
        if (is_over) {
            break;
        }
    }
    co_return !is_stopping_ || !run->view.stopped_by.empty();
}

/// @return  why one of the VMs is not well
awaitable<std::optional<std::string>> UpgradeRuns::look_at_soaking(RunPtr run) {
    for (const std::size_t index : soaking_vms(run->view, run->view.stage->number)) {
        const RunVmView vm = run->view.vms[index];
        std::optional<std::string> unwell;
        for (int look = 0; look < kSoakLooks && (look == 0 || unwell); ++look) {
            if (look > 0) {
                const Deadline next = Deadline::in(config_.deadlines.probe);
                ignore(co_await sleep_until(next), "looks again in any case");
            }
            co_await registry_.refresh_vm(vm.vm);
            unwell = find_unwell(vm, registry_.find(vm.vm));
        }
        const auto probe = unwell ? std::nullopt : probe_of(*run, index);
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
awaitable<void> UpgradeRuns::end_unbegun(RunPtr run) {
    const std::uint32_t number = run->view.stage->number;
    for (std::size_t i = 0; i < run->view.vms.size(); ++i) {
        if (run->view.vms[i].stage <= number || !run->view.vms[i].outcome.empty()) {
            continue;
        }
        RunVmView refused = make_refused_view(
            run->facts_of(i), wire_code_of(make_error_code(upgrade::Errc::stopped)), "", ""
        );
        co_await end_vm(
            run,
            i,
            say_why_stopped(
                std::move(refused), run->view.id, run->view.stopped_by, run->view.stop_reason
            )
        );
    }
}

/// A daemon before us was stopped, or died, in a soak.
awaitable<void> UpgradeRuns::resume_stages(RunPtr run) {
    auto answer = co_await shelf_.pick(run->view.to);
    std::string reason = answer.problem ? answer.problem->detail : std::string();
    for (const RunVmView& vm : run->view.vms) {
        const bool is_other = answer.picked && vm.outcome.empty() && !vm.to_build_id.empty() &&
                              vm.to_build_id != answer.picked->binary->build_id;
        reason = is_other ? "release " + run->view.to + " was changed during the run" : reason;
    }
    if (!reason.empty()) {
        log().warn("run {}: stopped, since {}", run->view.id, reason);
        stop_run(run, "release", std::move(reason));
    } else {
        add_kept_tails(*answer.picked);
        run->picks.assign(run->view.vms.size(), answer.picked);
        choose_kinds(*run);
    }
    co_await run_stages(run);
}

/// Ends an upgrade of ours that nobody works on: a command of a daemon that was killed can take
/// effect after the next daemon has looked. Left alone it would end with its lease.
awaitable<void> UpgradeRuns::end_stray(VmHandle vm, std::string folder) {
    const upgrade::UpgradeId id(vm.unfinished);
    log().info("{}: ends its unfinished upgrade {} first", vm.name, vm.unfinished);
    QmpVmPortConfig port{.main_socket = "", .control_dir = std::move(folder), .upgrade = id};
    upgrade::RecoveryRequest request;
    request.vm = upgrade::VmId(vm.name);
    request.upgrade = id;
    request.config = runner_config();
    auto work = recover_on_strand(vm.strand, std::move(port), std::move(request), {});
    const UpgradeReport report = co_await on_executor(vm.strand, std::move(work));
    log().info("{}: its unfinished upgrade is {}", vm.name, upgrade::to_string(report.phase));
}

awaitable<void> UpgradeRuns::run_vm(
    RunPtr run,
    std::size_t index,
    VmHandle vm,
    ReleaseShelf::Picked picked,
    std::shared_ptr<upgrade::SlotGate::Turn> turn
) {
    co_await registry_.wait_quiet(vm.name);
    auto work = [dir = config_.control_dir, folder = control_folder_of(vm.name), vm] {
        const uid_t user = upgrade::observe_user(vm.listener_pid, vm.listener_uid, vm.claimed_pid);
        return make_control_folder(dir, folder, user);
    };
    const auto folder = co_await blocking(disk_, std::move(work));
    if (folder.has_error()) {
        if (turn) {
            co_await turn->finish(true);
        }
        leave_rehearsals(run, index);
        RunVmView refused = make_refused_view(
            run->facts_of(index),
            wire_code_of(folder.error().code),
            to_text(folder.error()),
            "Look at control_dir in qhupd.conf."
        );
        co_await end_vm(run, index, std::move(refused));
        co_return;
    }
    if (is_our_upgrade_id(vm.unfinished)) {
        co_await end_stray(vm, *folder);
    }
    if (is_rehearsed(*run, index)) {
        auto rehearsing = rehearse_first(run, index, vm, picked, *folder);
        std::optional<RunVmView> end = co_await std::move(rehearsing);
        if (end) {
            co_await end_vm(run, index, std::move(*end));
            co_return;
        }
    }
    const upgrade::Goal goal = run->goal;
    if (goal == upgrade::Goal::upgrade && !run->view.dry_run) {
        co_await keep_source(run, index);
    }
    if (!turn) {
        turn = gate_.add_vm(*run->batch);
    }
    auto work_on_it = run_engine(run, index, vm, picked, *folder, std::move(turn), goal);
    const UpgradeReport report = co_await std::move(work_on_it);
    RunVmView view = say_why_stopped(
        make_run_vm_view(report, run->facts_of(index)),
        run->view.id,
        run->view.stopped_by,
        run->view.stop_reason
    );
    if (is_unwell(view) && run->policies[index].after_failed_verify == "revert") {
        auto taking_back = take_back(run, index, vm, *folder, std::move(view));
        view = co_await std::move(taking_back);
    }
    co_await end_vm(run, index, std::move(view));
}

/// The guest runs on the new QEMU and is not well. The upgrade is finished first, since the way
/// back is an upgrade too.
/// @return  how the VM ended
awaitable<RunVmView> UpgradeRuns::take_back(
    RunPtr run, std::size_t index, VmHandle vm, std::string folder, RunVmView unwell
) {
    log().warn("run {}: {} is not well: {}", run->view.id, vm.name, reason_for_log(unwell));
    upgrade::RecoveryRequest request;
    request.vm = upgrade::VmId(vm.name);
    request.upgrade = upgrade::UpgradeId(run->view.vms[index].upgrade);
    request.config = runner_config();
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
UpgradeRuns::revert_vm(RunPtr run, std::size_t index, VmHandle vm, std::string folder) {
    auto opening = open_kept(run->view.vms[index].to_build_id);
    std::optional<ReleaseShelf::Picked> picked = co_await std::move(opening);
    if (!picked) {
        co_return std::nullopt;
    }
    add_kept_tails(*picked);
    // why: a queue of its own, since a run that was stopped begins nothing any more.
    auto turn = gate_.add_vm(gate_.add_batch({.parallel = 1, .stop_after_failures = 0}));
    auto work = run_engine(
        run,
        index,
        std::move(vm),
        std::move(*picked),
        std::move(folder),
        std::move(turn),
        upgrade::Goal::upgrade
    );
    const UpgradeReport report = co_await std::move(work);
    co_return make_run_vm_view(report, run->facts_of(index));
}

/// One walk of a VM through the engine's table.
awaitable<UpgradeReport> UpgradeRuns::run_engine(
    RunPtr run,
    std::size_t index,
    VmHandle vm,
    ReleaseShelf::Picked picked,
    std::string folder,
    std::shared_ptr<upgrade::SlotGate::Turn> turn,
    upgrade::Goal goal
) {
    const upgrade::UpgradeId id(run->view.vms[index].upgrade);
    QmpVmPortConfig port{.main_socket = vm.socket, .control_dir = std::move(folder), .upgrade = id};
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
        request.prediction = predict_pause(history(), vm.name);
    }
    request.config = runner_config();
    const auto& asked = run->view.request->pause_budget_ms;
    request.config.switch_limits.budget = choose_pause_budget(
        asked ? std::optional(milliseconds(*asked)) : std::nullopt,
        run->policies[index],
        config_.deadlines.pause_budget
    );
    if (!run->taken_back.contains(index)) {
        request.may_begin = make_admission(run, index);
        request.probe = make_probe(*run, index);
        request.config.probe_limit = run->policies[index].probe_limit;
    }
    auto upgrade = upgrade_on_strand(
        vm.strand,
        std::move(port),
        std::move(turn),
        std::move(request),
        make_observer(run, index),
        make_intent_writer(run, index)
    );
    UpgradeReport report = co_await on_executor(vm.strand, std::move(upgrade));
    release_memory(*run, index);
    if (run->view.stopped_by.empty() && gate_.is_stopped(*run->batch)) {
        log().warn(
            "run {}: stopped after {} failures", run->view.id, run->view.request->max_failures
        );
        stop_run(run, "failures");
    }
    co_return report;
}

UpgradeRuns::Policy UpgradeRuns::policy(const std::string& vm) const {
    Policy said{.policy = policy_of(config_.policies, vm), .is_window_open = true};
    said.is_window_open = is_open(said.policy, time_of_day_now());
    return said;
}

// --- holds ------------------------------------------------------------------------------------

std::optional<HoldView> UpgradeRuns::hold_of(const std::string& vm) const {
    return holds_.find(vm, unix_ms_now());
}

std::vector<HoldView> UpgradeRuns::holds() const {
    return holds_.list(unix_ms_now());
}

/// It is on disk before anybody is told of it, and before it holds.
awaitable<std::optional<Problem>> UpgradeRuns::write_hold(JournalChange change, std::string doing) {
    std::vector<JournalChange> changes;
    for (const std::string& vm : holds_.drop_expired(unix_ms_now())) {
        log().info("{}: its hold has expired", vm);
        changes.push_back(forget_hold(vm));
    }
    changes.push_back(std::move(change));
    const Deadline patience = Deadline::in(kRunIsWritten);
    auto writing = journal_.write(std::move(changes), Journal::IfNotWritten::drop, patience);
    const Result<void> written = co_await std::move(writing);
    if (written.has_error()) {
        log_failure(doing, written.error());
        co_return make_problem(
            ProblemCode::journal_failed,
            "The hold cannot be written to the journal below " + config_.state_dir +
                ", so nothing was changed.",
            "Make room on that disk, or see the log of qhupd."
        );
    }
    co_return std::nullopt;
}

awaitable<std::variant<HoldView, Problem>> UpgradeRuns::hold(HoldView hold) {
    co_await registry_.refresh_vm(hold.vm);
    if (!registry_.handle_of(hold.vm)) {
        co_return make_problem(
            ProblemCode::vm_not_found,
            "There is no VM '" + hold.vm + "'.",
            did_you_mean(hold.vm, registry_.names()) + "'qhupd-ctl list' shows all."
        );
    }
    hold.since_unix_ms = unix_ms_now();
    if (hold.until_unix_ms != 0 && hold.until_unix_ms <= hold.since_unix_ms) {
        co_return make_problem(
            ProblemCode::bad_request, "The end of the hold is over.", "Name a time that is to come."
        );
    }
    auto writing =
        write_hold({JournalChange::Kind::put, make_hold_row(hold)}, "holding VM " + hold.vm);
    auto problem = co_await std::move(writing);
    if (problem) {
        co_return std::move(*problem);
    }
    log().info("{} by uid {}", quote_peer_text(describe(hold)), hold.by_uid);
    holds_.put(hold);
    co_return hold;
}

awaitable<std::variant<HoldView, Problem>> UpgradeRuns::unhold(std::string vm, uid_t uid) {
    const std::optional<HoldView> hold = hold_of(vm);
    if (!hold) {
        co_return make_problem(
            ProblemCode::hold_not_found,
            "VM '" + vm + "' is not held.",
            "'qhupd-ctl list' shows which VMs are."
        );
    }
    auto writing = write_hold(forget_hold(vm), "taking the hold off VM " + vm);
    auto problem = co_await std::move(writing);
    if (problem) {
        co_return std::move(*problem);
    }
    log().info("VM {} is not held any longer, as uid {} asked", vm, uid);
    (void)holds_.remove(vm);
    co_return *hold;
}

// --- the way back -----------------------------------------------------------------------------

UpgradeRuns::WayBack UpgradeRuns::way_back(const std::string& vm) const {
    WayBack way;
    const auto seen = registry_.find(vm);
    const auto from = seen ? find_way_back(history(), vm, seen->build_id) : std::nullopt;
    if (!from) {
        way.reason = "No run that is remembered brought the VM to the binary that it runs";
        return way;
    }
    way.version = from->version;
    way.build_id = from->build_id;
    way.is_open = kept_.contains(from->build_id);
    if (way.is_open) {
        return way;
    }
    const auto failed = keeping_.find(from->build_id);
    way.reason = failed != keeping_.end() && !failed->second.empty()
                     ? failed->second
                     : "The binary that it came from, " + from->version + ", is not kept";
    return way;
}

/// Where the VMs of a revert go. A run in place of VMs stands for those that it has upgraded.
std::map<std::string, CameFrom> UpgradeRuns::choose_ways_back(RunRequest& request) const {
    std::map<std::string, CameFrom> ways;
    if (request.kind != "revert") {
        return ways;
    }
    const bool is_one = request.vms.size() == 1 && !registry_.handle_of(request.vms.front());
    const auto run = is_one ? runs_.find(request.vms.front()) : runs_.end();
    if (run != runs_.end()) {
        request.vms.clear();
        for (const RunVmView& vm : run->second->view.vms) {
            if (vm.outcome == "upgraded" && registry_.handle_of(vm.vm)) {
                request.vms.push_back(vm.vm);
                ways[vm.vm] = {vm.from_build_id, vm.from, run->first};
            }
        }
        return ways;
    }
    for (const std::string& name : select(request)) {
        const auto seen = registry_.find(name);
        const auto from = seen ? find_way_back(history(), name, seen->build_id) : std::nullopt;
        if (from) {
            ways[name] = *from;
        }
    }
    return ways;
}

awaitable<BinaryCatalog::Facts>
UpgradeRuns::ask_kept(std::string build_id, std::shared_ptr<const upgrade::PinnedBinary> binary) {
    BinaryCatalog::Facts known = shelf_.catalog().find(build_id);
    if (!known) {
        auto work = [binary] { return upgrade::probe_key(*binary); };
        std::string key = co_await blocking(disk_, std::move(work));
        known = co_await shelf_.catalog().ask(binary, std::move(key));
    }
    co_return known;
}

/// What the binary says of itself that a VM runs, if it is one that we have.
awaitable<BinaryCatalog::Facts> UpgradeRuns::source_facts(std::string build_id) {
    BinaryCatalog::Facts known = co_await shelf_.facts_of(build_id);
    if (known || !kept_.contains(build_id)) {
        co_return known;
    }
    auto work = [root = kept_root_, build_id] { return upgrade::pin_kept(root, build_id); };
    const auto binary = co_await blocking(disk_, std::move(work));
    if (binary.has_value()) {
        known = co_await ask_kept(build_id, *binary);
    }
    co_return known;
}

/// Opens a kept binary.
awaitable<std::optional<ReleaseShelf::Picked>> UpgradeRuns::open_kept(std::string build_id) {
    auto work = [root = kept_root_, build_id] { return upgrade::pin_kept(root, build_id); };
    const auto binary = co_await blocking(disk_, std::move(work));
    if (binary.has_error()) {
        log_failure("opening the kept binary " + build_id, binary.error());
        kept_.erase(build_id);
        co_return std::nullopt;
    }
    ReleaseShelf::Picked picked;
    picked.binary = *binary;
    picked.known_tails = co_await shelf_.tails();
    co_return picked;
}

/// Opens a kept binary for all VMs of the run that go back to it.
awaitable<void> UpgradeRuns::pick_kept(std::string build_id, Run& run) {
    std::optional<ReleaseShelf::Picked> picked = co_await open_kept(build_id);
    if (picked) {
        picked->facts = co_await ask_kept(build_id, picked->binary);
    }
    for (std::size_t i = 0; i < run.picks.size(); ++i) {
        if (run.view.vms[i].to_build_id == build_id) {
            run.picks[i] = picked;
        }
    }
}

void UpgradeRuns::add_kept_tails(ReleaseShelf::Picked& picked) const {
    for (const std::string& build_id : kept_) {
        picked.known_tails.push_back(upgrade::kept_tail(kept_root_, build_id));
    }
}

/// Binaries that a VM runs, or came from.
std::set<std::string> UpgradeRuns::needed_binaries() const {
    std::set<std::string> needed;
    for (const VmView& vm : registry_.list()) {
        needed.insert(vm.build_id);
        const auto from = find_way_back(history(), vm.name, vm.build_id);
        needed.insert(from ? from->build_id : std::string());
    }
    return needed;
}

/// Removes binaries that nobody needs until there is room for one more.
awaitable<bool> UpgradeRuns::make_room_for_kept() {
    const std::set<std::string> needed = needed_binaries();
    for (const std::string& build_id : std::set<std::string>(kept_)) {
        if (kept_.size() < config_.kept_binaries || needed.contains(build_id)) {
            continue;
        }
        kept_.erase(build_id);
        auto work = [root = kept_root_, build_id] {
            upgrade::forget_kept(root, build_id);
            return 0;
        };
        (void)co_await blocking(disk_, std::move(work));
        log().info("the binary {} is not kept any longer, since no VM needs it", build_id);
    }
    co_return kept_.size() < config_.kept_binaries;
}

/// Keeps what the VM runs now, before it leaves it. An upgrade does not fail for that.
awaitable<void> UpgradeRuns::keep_source(RunPtr run, std::size_t index) {
    const std::string build_id = run->view.vms[index].from_build_id;
    const auto seen = registry_.find(run->view.vms[index].vm);
    const bool is_under_way = keeping_.contains(build_id) && keeping_[build_id].empty();
    if (build_id.empty() || !seen || kept_.contains(build_id) || is_under_way ||
        config_.kept_binaries == 0) {
        co_return;
    }
    keeping_[build_id] = "";
    const bool has_room = co_await make_room_for_kept();
    if (!has_room) {
        keeping_[build_id] = "The binary that it came from is not kept, since kept_binaries in "
                             "qhupd.conf allows no more of them";
        co_return;
    }
    upgrade::KeepRequest request{
        .root = kept_root_,
        .build_id = build_id,
        .version = seen->version,
        .pid = static_cast<pid_t>(seen->pid),
    };
    auto work = [request] { return upgrade::keep_binary(request); };
    const Result<void> kept = co_await blocking(disk_, std::move(work));
    if (kept.has_error()) {
        log_failure("keeping the way back of " + seen->name, kept.error());
        keeping_[build_id] = kept.error().message;
        co_return;
    }
    log().info("QEMU {} ({}) is kept for the way back", seen->version, build_id);
    kept_.insert(build_id);
    keeping_.erase(build_id);
}

// --- rehearsal before an upgrade --------------------------------------------------------------

RunHistory UpgradeRuns::history() const {
    RunHistory runs;
    for (auto id = order_.rbegin(); id != order_.rend(); ++id) {
        runs.push_back(&runs_.find(*id)->second->view);
    }
    return runs;
}

/// Which VMs of this run wait for the first of their kind, or are the first.
void UpgradeRuns::choose_kinds(Run& run) const {
    const RunHistory before = history();
    // why: a VM must not wait for one of its kind that comes in a later stage.
    std::vector<std::size_t> order(run.view.vms.size());
    std::iota(order.begin(), order.end(), 0U);
    std::stable_sort(order.begin(), order.end(), [&run](std::size_t a, std::size_t b) {
        return run.view.vms[a].stage < run.view.vms[b].stage;
    });
    for (const std::size_t i : order) {
        const RunVmView& vm = run.view.vms[i];
        const bool is_asked =
            run.rehearse[i] == "first" && vm.outcome.empty() && can_be_rehearsed(vm) &&
            !is_way_proven(before, vm.shape_class, vm.from_build_id, vm.to_build_id);
        if (is_asked) {
            run.rehearsals.add(i, vm.shape_class + " " + vm.from_build_id);
        }
    }
}

/// Before its upgrade, or another one of its kind is.
bool UpgradeRuns::is_rehearsed(const Run& run, std::size_t index) const {
    return run.rehearsals.contains(index) ||
           (run.rehearse[index] == "all" && can_be_rehearsed(run.view.vms[index]));
}

/// A rehearsal has ended: those that wait for it go on, each in its way.
void UpgradeRuns::end_rehearsal(const RunPtr& run, std::size_t index, const RunVmView& view) {
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
        has_passed ? "passed" : "failed because of " + view.code
    );
    for (const auto& waiting : run->waiting) {
        waiting->notify();
    }
}

/// The VM ends without its rehearsal: the next one of its kind is asked in its place.
void UpgradeRuns::leave_rehearsals(const RunPtr& run, std::size_t index) {
    run->rehearsals.on_gone(index);
    for (const auto& waiting : run->waiting) {
        waiting->notify();
    }
}

/// Waits for those of its kind that come before it in the order of the run.
/// @return  go_on also if the run was stopped: the engine says why it goes no further
awaitable<upgrade::RehearsalTurn> UpgradeRuns::wait_to_rehearse(RunPtr run, std::size_t index) {
    using Turn = upgrade::RehearsalTurn;
    const auto waiting = std::make_shared<Notifier>(home_);
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
awaitable<std::optional<RunVmView>> UpgradeRuns::rehearse_first(
    RunPtr run, std::size_t index, VmHandle vm, ReleaseShelf::Picked picked, std::string folder
) {
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
    auto turn = gate_.add_vm(*run->batch);
    const upgrade::Goal goal = upgrade::Goal::rehearsal;
    auto work =
        run_engine(run, index, vm, std::move(picked), std::move(folder), std::move(turn), goal);
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

awaitable<std::variant<CheckView, Problem>> UpgradeRuns::check(std::string vm, std::string to) {
    auto answer = co_await shelf_.pick(to);
    if (answer.problem) {
        co_return std::move(*answer.problem);
    }
    co_await registry_.refresh_vm(vm);
    const auto handle = registry_.handle_of(vm);
    const auto seen = registry_.find(vm);
    if (!handle || !seen) {
        co_return make_problem(
            ProblemCode::vm_not_found,
            "There is no VM '" + vm + "'.",
            did_you_mean(vm, registry_.names()) + "'qhupd-ctl list' shows all."
        );
    }
    CheckView check;
    check.vm = vm;
    check.from = seen->version;
    check.to = to;
    if (const auto hold = hold_of(vm)) {
        check.code = "held";
        check.message = describe(*hold) + "; " + how_to_unhold(vm);
        co_return check;
    }
    if (!seen->reachable || !seen->run.empty()) {
        check.code = seen->reachable ? "busy" : "not_answering";
        check.message = seen->reachable ? "run " + seen->run + " works on this VM" : seen->reason;
        co_return check;
    }
    upgrade::UpgradeRequest request;
    request.vm = upgrade::VmId(vm);
    request.upgrade = upgrade::UpgradeId("check");
    request.binary = answer.picked->binary;
    request.binary_facts = answer.picked->facts;
    request.source_facts = co_await source_facts(seen->build_id);
    request.known_tails = answer.picked->known_tails;
    request.is_dry_run = true;
    request.prediction = predict_pause(history(), vm);
    request.config = runner_config();
    QmpVmPortConfig port{
        .main_socket = handle->socket,
        .control_dir = config_.control_dir + "/" + control_folder_of(vm),
        .upgrade = request.upgrade,
    };
    auto work = check_on_strand(handle->strand, std::move(port), std::move(request));
    const Judged judged = co_await on_executor(handle->strand, std::move(work));
    if (judged.verdict.has_error()) {
        check.code = wire_code_of(judged.verdict.error().code);
        check.message = to_text(judged.verdict.error());
        co_return check;
    }
    check.can_upgrade = judged.verdict->may_upgrade();
    if (judged.verdict->is_already_there) {
        check.code = "already_on_release";
        check.message = "it runs this release already";
        co_return check;
    }
    check.blockers = to_views(judged.verdict->blockers);
    check.warnings = to_views(judged.verdict->warnings);
    if (!check.blockers.empty()) {
        check.code = "blocked";
        check.message = check.blockers.front().reason;
    }
    co_return check;
}

// --- recovery ---------------------------------------------------------------------------------

std::string UpgradeRuns::vm_of_folder(const std::string& folder) const {
    for (const std::string& name : registry_.names()) {
        if (control_folder_of(name) == folder) {
            return name;
        }
    }
    return folder;
}

/// What became of a VM whose upgrade left no control sockets.
RunVmView UpgradeRuns::view_without_pair(const Run& run, std::size_t index) const {
    const RunFacts facts = run.facts_of(index);
    const auto seen = registry_.find(facts.vm);
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
awaitable<void> UpgradeRuns::count_recovery(RunPtr run, std::size_t index) {
    RunVmView& vm = run->view.vms[index];
    ++vm.recoveries;
    std::vector<JournalChange> changes;
    changes.push_back(put_upgrade(run->view.id, index, vm));
    const Deadline patience = Deadline::in(kEndIsWritten);
    auto writing = journal_.write(std::move(changes), Journal::IfNotWritten::keep, patience);
    const Result<void> written = co_await std::move(writing);
    // why: a guest that waits for us matters more than the count.
    if (written.has_error()) {
        log_failure("counting the recovery of " + vm.vm, written.error());
    }
}

/// How often daemons before us began to finish the upgrade with this id.
std::uint32_t UpgradeRuns::recoveries_of(const std::string& upgrade) const {
    std::uint32_t most = 0;
    for (const auto& [id, run] : runs_) {
        for (const RunVmView& vm : run->view.vms) {
            most = vm.upgrade == upgrade ? std::max(most, vm.recoveries) : most;
        }
    }
    return most;
}

awaitable<void>
UpgradeRuns::recover_vm(RunPtr run, std::size_t index, std::optional<FoundUpgrade> found) {
    if (!found) {
        // why: not all of many VMs have answered when the daemon takes stock.
        co_await registry_.look_at_acquired(run->view.vms[index].vm);
        RunVmView view = view_without_pair(*run, index);
        co_await end_vm(run, index, std::move(view));
        co_return;
    }
    if (run->view.vms[index].recoveries >= kMaxRecoveries) {
        RunVmView given_up = make_given_up_view(run->facts_of(index), run->view.vms[index].phase);
        co_await end_vm(run, index, std::move(given_up));
        co_return;
    }
    co_await count_recovery(run, index);
    const Strand strand = asio::make_strand(context_);
    const upgrade::UpgradeId id(found->upgrade);
    const QmpVmPortConfig port{.main_socket = "", .control_dir = found->path, .upgrade = id};
    auto look_work = look_on_strand(strand, port, 2 * config_.deadlines.probe);
    const FirstLook look = co_await on_executor(strand, std::move(look_work));
    if (look.action == upgrade::Action::vm_gone) {
        auto cleaning = [found = *found] {
            remove_control_sockets(found);
            return 0;
        };
        (void)co_await blocking(disk_, std::move(cleaning));
        // why: what is known of the VM may be older than the end of the pair.
        co_await registry_.look_at_acquired(run->view.vms[index].vm);
        RunVmView gone = view_without_pair(*run, index);
        co_await end_vm(run, index, std::move(gone));
        co_return;
    }
    upgrade::RecoveryRequest request;
    request.vm = upgrade::VmId(run->view.vms[index].vm);
    request.upgrade = id;
    request.config = runner_config();
    auto work = recover_on_strand(strand, port, std::move(request), make_observer(run, index));
    const UpgradeReport report = co_await on_executor(strand, std::move(work));
    RunVmView view = make_run_vm_view(report, run->facts_of(index));
    co_await end_vm(run, index, std::move(view));
}

/// A run that a daemon before us did not finish goes on under its old name.
void UpgradeRuns::resume_run(RunView record, std::vector<FoundUpgrade>& found) {
    const RunPtr run = make_run(record.id, record.kind);
    const auto age =
        milliseconds(std::max<std::int64_t>(0, unix_ms_now() - record.started_unix_ms));
    run->started = std::chrono::steady_clock::now() - age;
    run->view = std::move(record);
    run->held.resize(run->view.vms.size());
    for (const RunVmView& vm : run->view.vms) {
        run->before.push_back(vm.steps);
    }
    if (run->view.state == "finished") {
        add_event(run, {.sequence = 0, .vm = std::nullopt, .run = run->view});
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
        add_event(run, {.sequence = 0, .vm = std::nullopt, .run = run->view});
        return;
    }
    if (is_in_soak) {
        for (const RunVmView& vm : run->view.vms) {
            add_policy(*run, vm.vm);
        }
        open_batch(run);
        tasks_.spawn("stages of run " + run->view.id, resume_stages(run));
        return;
    }
    for (std::size_t i = 0; i < run->view.vms.size(); ++i) {
        if (!run->view.vms[i].outcome.empty()) {
            continue;
        }
        const std::string name = run->view.vms[i].vm;
        if (registry_.acquire(name, run->view.id)) {
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
        tasks_.spawn("recovery of " + name, recover_vm(run, i, std::move(pair)));
    }
}

/// Looks at one pair and removes what is left of it if both sides are gone.
awaitable<void>
UpgradeRuns::look_at_orphan(FoundUpgrade entry, std::shared_ptr<OrphanLooks> looks) {
    const Strand strand = asio::make_strand(context_);
    QmpVmPortConfig port{
        .main_socket = "",
        .control_dir = entry.path,
        .upgrade = upgrade::UpgradeId(entry.upgrade),
    };
    auto work = look_on_strand(strand, std::move(port), config_.deadlines.probe);
    const FirstLook look = co_await on_executor(strand, std::move(work));
    const bool is_over =
        look.action == upgrade::Action::upgraded || look.action == upgrade::Action::nothing_to_do;
    if (look.action == upgrade::Action::vm_gone) {
        auto cleaning = [entry] {
            remove_control_sockets(entry);
            return 0;
        };
        (void)co_await blocking(disk_, std::move(cleaning));
    } else if (!is_over && look.is_of_this_upgrade) {
        looks->unfinished.push_back(std::move(entry));
    }
    --looks->open;
    looks->changed.notify();
}

/// Pairs that no record tells of.
awaitable<void> UpgradeRuns::adopt_orphans(std::vector<FoundUpgrade> found) {
    const auto looks = std::make_shared<OrphanLooks>(home_);
    looks->open = found.size();
    for (FoundUpgrade& entry : found) {
        const std::string name = "look at " + entry.folder;
        tasks_.spawn(name, look_at_orphan(std::move(entry), looks));
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
    const RunPtr run = make_run(make_run_id(), "recovery");
    for (const FoundUpgrade& entry : unfinished) {
        run->view.vms.push_back({});
        run->view.vms.back().vm = vm_of_folder(entry.folder);
        run->view.vms.back().upgrade = entry.upgrade;
        run->view.vms.back().recoveries = recoveries_of(entry.upgrade);
        run->view.vms.back() = make_queued_view(run->facts_of(run->view.vms.size() - 1));
    }
    run->held.resize(run->view.vms.size());
    run->open = run->view.vms.size();
    journal_.put(put_whole(run->view));
    for (std::size_t i = 0; i < unfinished.size(); ++i) {
        const std::string name = run->view.vms[i].vm;
        if (registry_.acquire(name, run->view.id)) {
            run->held[i] = name;
        }
        tasks_.spawn("recovery of " + name, recover_vm(run, i, std::move(unfinished[i])));
    }
}

awaitable<void> UpgradeRuns::start_recovery() {
    auto opening = journal_.open(Deadline::in(kJournalOpens));
    auto search = [dir = config_.control_dir] { return find_upgrades(dir); };
    auto found = co_await blocking(disk_, std::move(search));
    if (found.has_error()) {
        log_failure("looking for unfinished upgrades", found.error());
    }
    auto kept = [root = kept_root_] { return upgrade::list_kept(root); };
    const std::vector<std::string> trees = co_await blocking(disk_, std::move(kept));
    kept_.insert(trees.begin(), trees.end());
    co_await registry_.refresh();
    // why: not those of VMs that are there, whose QEMU may be about to use what it was told.
    std::set<std::string> folders;
    for (const std::string& name : registry_.names()) {
        folders.insert(control_folder_of(name));
    }
    auto cleaning = [dir = config_.control_dir, kept = std::move(folders)] {
        remove_empty_folders(dir, kept);
        return 0;
    };
    (void)co_await blocking(disk_, std::move(cleaning));
    JournalContents contents = co_await std::move(opening);
    holds_ = Holds(std::move(contents.holds), unix_ms_now());
    std::vector<FoundUpgrade> pairs =
        found.has_value() ? std::move(*found) : std::vector<FoundUpgrade>();
    for (RunView& record : contents.runs) {
        resume_run(std::move(record), pairs);
    }
    co_await adopt_orphans(std::move(pairs));
}

} // namespace qhup::daemon
