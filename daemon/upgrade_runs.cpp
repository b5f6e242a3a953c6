// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/upgrade_runs.hpp"

#include "common/log.hpp"
#include "daemon/engine_config.hpp"
#include "daemon/log_events.hpp"
#include "daemon/problems.hpp"
#include "daemon/rehearsal_choice.hpp"
#include "daemon/run_ids.hpp"
#include "daemon/selftest_host.hpp"
#include "daemon/selftest_judge.hpp"
#include "daemon/strand_work.hpp"
#include "daemon/vm_not_found.hpp"
#include "daemon/wall_clock.hpp"

#include <unistd.h>

#include <algorithm>
#include <map>
#include <random>
#include <set>
#include <thread>
#include <utility>

namespace qhup::daemon {
namespace {

using std::chrono::milliseconds;
using upgrade::QmpVmPortConfig;

constexpr milliseconds kJournalRetry{1000}; // until results that could not be written are tried
constexpr milliseconds kJournalOpens{1500}; // READY does not wait longer for a disk
constexpr milliseconds kLastWrite{5000};    // when the daemon stops
constexpr std::size_t kMaxOpenRuns = 32;

/// Counts as long as it lives.
class Counted {
public:
    explicit Counted(std::size_t& count) : count_(count) { ++count_; }
    Counted(const Counted&) = delete;
    Counted& operator=(const Counted&) = delete;
    ~Counted() { --count_; }

private:
    std::size_t& count_;
};

Problem make_stopping() {
    return make_problem(
        ProblemCode::stopping, "qhupd is stopping and starts nothing new.", "Try again soon."
    );
}

} // namespace

UpgradeRuns::UpgradeRuns(
    asio::io_context& context,
    Strand home,
    asio::thread_pool& disk,
    TaskGroup& tasks,
    VmRegistry& registry,
    ReleaseShelf& shelf,
    EventHub& events,
    const Config& config,
    std::string fault
)
    : home_(std::move(home)),
      journal_(
          home_,
          config.state_dir + "/journal.db",
          [this] { put_again(); },
          {.retry = kJournalRetry, .fault = std::move(fault)}
      ),
      gate_(home_, make_scheduler_limits(config, std::thread::hardware_concurrency())),
      services_{context, home_, disk, tasks, registry, shelf, config, gate_, events},
      history_(disk, journal_),
      book_(services_, journal_, history_),
      holds_(services_, journal_),
      kept_(services_),
      ways_back_(services_, book_, kept_),
      upgrades_(services_, book_, holds_, kept_, ways_back_),
      stages_(services_, book_, holds_, kept_, upgrades_),
      recovery_(services_, book_, upgrades_, stages_),
      rehearsals_(services_, book_, holds_, kept_, [this](RunRequest request) {
          return start_way_back(std::move(request));
      }) {
    registry.set_attention(
        [this](const std::string& vm) { return book_.attention().find(vm); },
        [this](const std::string& vm, const VmProbe& probe) { book_.on_look(vm, probe); }
    );
}

UpgradeRuns::~UpgradeRuns() = default;

std::size_t UpgradeRuns::running() const noexcept {
    return book_.running();
}

UpgradeRuns::InProgress UpgradeRuns::in_progress() const noexcept {
    return book_.in_progress();
}

bool UpgradeRuns::is_recovering() const noexcept {
    return book_.is_recovering();
}

std::vector<RunView> UpgradeRuns::list() const {
    return book_.list();
}

std::optional<RunView> UpgradeRuns::find(const std::string& id) const {
    const RunPtr run = book_.find_run(id);
    return run ? std::optional<RunView>(run->view) : std::nullopt;
}

awaitable<UpgradeRuns::Progress>
UpgradeRuns::next_events(std::string id, std::uint64_t after, Deadline deadline) {
    return book_.next_events(std::move(id), after, deadline);
}

awaitable<std::variant<HoldView, Problem>> UpgradeRuns::hold(HoldView hold) {
    return holds_.hold(std::move(hold));
}

awaitable<std::variant<HoldView, Problem>> UpgradeRuns::unhold(std::string vm, uid_t uid) {
    return holds_.unhold(std::move(vm), uid);
}

std::vector<AttentionView> UpgradeRuns::gone() const {
    std::vector<AttentionView> gone = book_.attention().list();
    std::erase_if(gone, [this](const AttentionView& one) {
        return services_.registry.handle_of(one.vm).has_value();
    });
    return gone;
}

std::optional<HoldView> UpgradeRuns::hold_of(const std::string& vm) const {
    return holds_.find(vm);
}

std::vector<HoldView> UpgradeRuns::holds() const {
    return holds_.list();
}

WayBack UpgradeRuns::way_back(const std::string& vm) const {
    return ways_back_.of(vm);
}

std::vector<WayBack> UpgradeRuns::ways_back(const std::vector<VmView>& vms) const {
    return ways_back_.of(vms);
}

void UpgradeRuns::put_again() {
    book_.put_again();
    holds_.put_again();
    history_.put_again();
}

void UpgradeRuns::request_stop() {
    is_stopping_ = true;
    stages_.request_stop();
    for (const RunPtr& run : book_.runs()) {
        // why: a soak needs nobody; the next daemon goes on with it.
        const bool is_soaking = run->view.stage && run->view.stage->state == "soaking";
        if (run->view.state == "running" && run->view.stopped_by.empty() && !is_soaking) {
            book_.stop_run(run, "shutdown");
        }
    }
}

std::variant<RunView, Problem> UpgradeRuns::abort(const std::string& id, uid_t uid) {
    const RunPtr run = book_.find_run(id);
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
    book_.stop_run(run, "abort");
    return run->view;
}

awaitable<void> UpgradeRuns::close_journal() {
    const std::size_t left = co_await journal_.close(Deadline::in(kLastWrite));
    if (left > 0) {
        log().error(
            "{} results could not be written to the journal; the next start looks at the VMs", left
        );
    }
}

std::vector<std::string> UpgradeRuns::select(const RunRequest& request) const {
    std::vector<std::string> names = request.vms;
    std::map<std::string, VmLabels> labels;
    for (VmView& vm : services_.registry.list()) {
        // why: guests of a selftest are nobody's, and its own run upgrades them.
        if (request.all && !is_selftest_guest(vm.name) && has_labels(vm.labels, request.labels)) {
            names.push_back(vm.name);
        }
        labels[vm.name] = std::move(vm.labels);
    }
    return in_order(std::move(names), services_.config.policies, labels);
}

std::optional<Problem> UpgradeRuns::find_problem(const RunRequest& request) const {
    const bool is_one = request.kind == "revert" && request.vms.size() == 1; // it may be a run
    for (const std::string& name : request.vms) {
        if (!services_.registry.handle_of(name)) {
            const std::string_view what = is_one ? "VM or run" : "VM";
            return make_vm_not_found(name, services_.registry.list(), what);
        }
    }
    if (is_stopping_) {
        return make_stopping();
    }
    if (running() >= kMaxOpenRuns) {
        return make_problem(
            ProblemCode::too_many_runs,
            "There are " + std::to_string(kMaxOpenRuns) + " runs already.",
            "Wait until one has finished; 'qhupd-ctl status' shows them."
        );
    }
    return std::nullopt;
}

/// The run that the same request started before, once it is sure that there is one.
awaitable<std::optional<std::variant<UpgradeRuns::Started, Problem>>>
UpgradeRuns::find_same(RunRequest request) {
    for (RunPtr run = book_.run_of_request(request.request_id); run;
         run = book_.run_of_request(request.request_id)) {
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
        const auto follower = std::make_shared<Notifier>(services_.home);
        run->followers.push_back(follower);
        co_await follower->wait_uncancelled();
        run->followers.erase(
            std::remove(run->followers.begin(), run->followers.end(), follower),
            run->followers.end()
        );
    }
    co_return std::nullopt;
}

/// @return  why it was not started; "" if it was
awaitable<std::string> UpgradeRuns::start_way_back(RunRequest request) {
    const auto started = co_await start(std::move(request), ::geteuid());
    const auto* const problem = std::get_if<Problem>(&started);
    co_return problem == nullptr ? std::string() : problem->detail;
}

/// It is known whether the run goes on.
void UpgradeRuns::end_start(const RunPtr& run) {
    run->is_starting = false;
    for (const auto& follower : run->followers) {
        follower->notify();
    }
}

/// What the binaries say of themselves that these VMs run now, by build id.
awaitable<UpgradeRuns::SourceFacts> UpgradeRuns::facts_of_sources(std::vector<std::string> names) {
    SourceFacts facts;
    for (const std::string& name : names) {
        const auto seen = services_.registry.find(name);
        const std::string build_id = seen ? seen->build_id : std::string();
        if (!facts.contains(build_id)) {
            facts[build_id] = co_await kept_.facts_of(build_id);
        }
    }
    co_return facts;
}

/// The next VM of a run that is asked for, as it is now.
/// @param way_back  build id of the binary that it goes back to, if there is no `picked`
void UpgradeRuns::add_vm(
    Run& run,
    const std::string& name,
    const std::optional<ReleaseShelf::Picked>& picked,
    const std::string& way_back
) const {
    add_policy(run, name, services_.registry.labels_of_vm(name), services_.config);
    const std::size_t index = run.view.vms.size();
    RunVmView view;
    view.vm = name;
    if (const auto seen = services_.registry.find(name)) {
        view.from = seen->version;
        view.from_build_id = seen->build_id;
        view.shape_class = seen->shape_class;
        view.run_state = seen->state;
    }
    view.to_build_id = picked ? picked->binary->build_id : way_back;
    view.upgrade = upgrade_id_of(run.view.id, index);
    run.picks.push_back(picked);
    run.view.vms.push_back(std::move(view));
    run.view.vms.back() = make_queued_view(run.facts_of(index));
}

/// The kept binary that each VM of a revert goes back to.
awaitable<void> UpgradeRuns::pick_kept(RunPtr run) {
    std::map<std::string, std::optional<ReleaseShelf::Picked>> picked;
    for (std::size_t i = 0; i < run->picks.size(); ++i) {
        const std::string& build_id = run->view.vms[i].to_build_id;
        if (!build_id.empty() && !picked.contains(build_id)) {
            picked[build_id] = co_await kept_.pick(build_id);
        }
        run->picks[i] = picked[build_id];
    }
}

/// A run whose VMs and binaries are chosen.
awaitable<std::variant<UpgradeRuns::Started, Problem>>
UpgradeRuns::begin(RunPtr run, std::optional<HistoryView> asked) {
    Started started;
    // why: what was asked by whom is written with what it wants, and before what comes of it.
    std::vector<JournalChange> entry;
    if (asked) {
        asked->run = run->view.id;
        entry = history_.add(std::move(*asked));
        started.entry = history_.history().entries().back().id;
    }
    run->rehearsals = choose_rehearsals(run->view, run->rehearse, book_.history());
    run->before.resize(run->view.vms.size());
    run->held.resize(run->view.vms.size());
    run->open = run->view.vms.size();
    if (run->open == 0) {
        run->view.state = "finished";
        run->view.finished_unix_ms = unix_ms_now();
        end_start(run);
        book_.tell(EventType::run_started, run);
        book_.add_event(run, {.sequence = 0, .vm = std::nullopt, .run = run->view});
        journal_.put(std::move(entry));
        started.run = run->view;
        co_return started;
    }
    // why: what was wanted is on disk before anything is done.
    auto writing = book_.write_request(run, std::move(entry));
    const Result<void> written = co_await std::move(writing);
    if (written.has_error()) {
        const bool is_given_up = is_cancelled(written.error());
        if (!is_given_up) {
            log_failure("writing what run " + run->view.id + " shall do", written.error());
        }
        // why: a disk that was merely slow may have it after all, and it must not come back.
        book_.drop_run(run->view.id);
        end_start(run);
        if (started.entry) {
            history_.take_back(*started.entry);
        }
        if (is_given_up) {
            co_return make_stopping();
        }
        const bool is_slow = is_timed_out(written.error());
        co_return make_problem(
            ProblemCode::journal_failed,
            "What the run shall do " + std::string(is_slow ? "was not" : "cannot be") +
                " written to the journal below " + services_.config.state_dir +
                (is_slow ? " in time" : "") + ", so nothing was begun.",
            is_slow ? "Ask again when that disk is less busy."
                    : "Make room on that disk, or see the log of qhupd."
        );
    }
    {
        const LogFields fields(run_fields("run_started", run->view));
        log().info(
            "run {}: {} {} {}, asked for by uid {}",
            run->view.id,
            run->open,
            run->open == 1 ? "VM" : "VMs",
            run->view.to == "kept" ? "back to the binary from before" : "to " + run->view.to,
            run->view.by_uid
        );
    }
    book_.tell(EventType::run_started, run);
    upgrades_.open_batch(run);
    upgrades_.start_vms(run, run->view.stage ? 1 : 0);
    if (run->view.stage) {
        services_.tasks.spawn("stages of run " + run->view.id, stages_.run_stages(run));
    }
    end_start(run);
    started.run = run->view;
    co_return started;
}

awaitable<std::variant<UpgradeRuns::Started, Problem>>
UpgradeRuns::start(RunRequest request, uid_t uid, std::optional<HistoryView> asked_entry) {
    auto before = co_await find_same(request);
    if (before) {
        co_return std::move(*before);
    }
    const bool is_revert = request.kind == "revert" || request.kind == "way_back";
    const bool is_in_background = request.kind == "way_back";
    std::optional<Counted> asked;
    if (!is_in_background) {
        asked.emplace(asked_);
        co_await rehearsals_.give_way();
    }
    ReleaseShelf::Answer answer;
    if (!is_revert) {
        answer = co_await services_.shelf.pick(request.to);
    }
    if (answer.problem) {
        co_return std::move(*answer.problem);
    }
    // why: what its VMs run is asked once for all that follows: a run that has just ended is not
    // in what was known before.
    co_await services_.registry.refresh();
    // why: the ways back of a run are those of its VMs; what was asked for stays as it was asked.
    RunRequest chosen = request;
    const std::map<std::string, CameFrom> ways = ways_back_.choose(chosen);
    auto problem = find_problem(chosen);
    if (problem) {
        co_return std::move(*problem);
    }
    if (is_revert && chosen.vms.empty() && !chosen.all) {
        co_return make_problem(
            ProblemCode::bad_request,
            "Run " + request.vms.front() + " has moved no VM that is there now.",
            "'qhupd-ctl status " + request.vms.front() + "' shows what became of its VMs."
        );
    }
    const std::vector<std::string> names = select(chosen);
    SourceFacts sources = co_await facts_of_sources(names);
    // why: the same request may have come a second time while we looked at the VMs.
    before = co_await find_same(request);
    if (before) {
        co_return std::move(*before);
    }
    if (is_in_background && (asked_ != 0 || book_.running() != 0)) {
        co_return make_problem(ProblemCode::vm_busy, "Something else was asked for.");
    }
    const RunPtr run = book_.make_run(make_run_id(std::random_device{}()), request.kind);
    run->is_starting = true;
    run->goal = request.kind == "rehearsal" || request.kind == "way_back" ? upgrade::Goal::rehearsal
                                                                          : upgrade::Goal::upgrade;
    run->view.request = request;
    run->view.dry_run = request.dry_run;
    run->view.parallel =
        std::min(request.parallel.value_or(services_.config.parallel), services_.config.parallel);
    run->view.by_uid = static_cast<std::int64_t>(uid);
    run->view.to = is_revert ? "kept" : request.to;
    for (const std::string& name : names) {
        const auto way = ways.find(name);
        add_vm(*run, name, answer.picked, way != ways.end() ? way->second.build_id : std::string());
        if (way != ways.end() && !way->second.version.empty()) {
            run->view.vms.back().to = way->second.version;
        }
    }
    if (is_revert) {
        co_await pick_kept(run);
    }
    for (std::size_t i = 0; i < run->picks.size(); ++i) {
        if (run->picks[i]) {
            kept_.add_tails(*run->picks[i]);
            run->picks[i]->source_facts = sources[run->view.vms[i].from_build_id];
        }
    }
    co_await warn_of_untested(run);
    stages_.plan_run(*run);
    auto beginning = begin(run, std::move(asked_entry));
    co_return co_await std::move(beginning);
}

/// A way back must be open in any case.
bool UpgradeRuns::needs_selftest(
    const std::string& vm, const std::string& from, const std::string& to
) const {
    return services_.config.selftest != "off" && find_selftest_ && from != to &&
           !is_selftest_guest(vm);
}

/// What the VM uses now of KVM, huge pages and vhost, and the selftest did not try.
awaitable<std::vector<std::string>>
UpgradeRuns::find_untried(std::string vm, SelftestView selftest) {
    const auto seen = services_.registry.find(vm);
    if (!seen || seen->pid == 0) {
        co_return std::vector<std::string>();
    }
    auto look = [pid = static_cast<pid_t>(seen->pid)] { return observe_host_use(pid); };
    const HostUse use = co_await blocking(services_.disk, std::move(look));
    co_return list_untried(use, selftest);
}

/// Each pair of binaries is named once, and with one that has passed each thing that it did not
/// try.
awaitable<void> UpgradeRuns::warn_of_untested(RunPtr run) {
    run->untested.assign(run->view.vms.size(), false);
    if (run->view.kind != "upgrade") {
        co_return;
    }
    std::set<std::string> named;
    std::map<std::string, SelftestView> passed;
    std::map<std::pair<std::string, std::string>, std::vector<std::string>> users;
    for (std::size_t i = 0; i < run->view.vms.size(); ++i) {
        const RunVmView vm = run->view.vms[i];
        if (!needs_selftest(vm.vm, vm.from_build_id, vm.to_build_id)) {
            continue;
        }
        const auto selftest = find_selftest_(vm.from_build_id, vm.to_build_id);
        run->untested[i] = !selftest;
        if (run->untested[i] && named.insert(vm.from).second) {
            run->view.warnings.push_back(make_untested(vm.from, run->view.to, kernel_release()));
        }
        if (selftest) {
            passed[selftest->id] = *selftest;
            auto finding = find_untried(vm.vm, *selftest);
            const std::vector<std::string> untried = co_await std::move(finding);
            for (const std::string& name : untried) {
                users[{selftest->id, name}].push_back(vm.vm);
            }
        }
    }
    for (const auto& [what, vms] : users) {
        run->view.warnings.push_back(make_partly_tested(what.second, vms, passed[what.first]));
    }
}

UpgradeRuns::Policy UpgradeRuns::policy(const std::string& vm) const {
    Policy said{
        .policy = policy_of(services_.config.policies, vm, services_.registry.labels_of_vm(vm)),
        .is_window_open = true};
    said.is_window_open = is_open(said.policy, time_of_day_now());
    const auto or_usual = [](const std::string& word, const std::string& usual) {
        return word.empty() ? usual : word;
    };
    said.pause_budget =
        choose_pause_budget(std::nullopt, said.policy, services_.config.deadlines.pause_budget);
    said.rehearse = or_usual(said.policy.rehearse, services_.config.rehearse);
    said.rehearse_back = said.policy.skip
                             ? "none"
                             : or_usual(said.policy.rehearse_back, services_.config.rehearse_back);
    return said;
}

awaitable<std::variant<CheckView, Problem>>
UpgradeRuns::check(std::string vm, std::string to, std::string allow) {
    auto answer = co_await services_.shelf.pick(to);
    if (answer.problem) {
        co_return std::move(*answer.problem);
    }
    co_await services_.registry.refresh_vm(vm);
    const auto handle = services_.registry.handle_of(vm);
    const auto seen = services_.registry.find(vm);
    if (!handle || !seen) {
        co_return make_vm_not_found(vm, services_.registry.list());
    }
    CheckView check;
    check.vm = vm;
    check.from = seen->version;
    check.to = to;
    if (const auto hold = holds_.find(vm)) {
        check.code = "held";
        check.message = describe(*hold) + "; " + how_to_unhold(vm);
        co_return check;
    }
    if (!seen->reachable || !seen->run.empty()) {
        check.code = seen->reachable ? "busy" : seen->stale ? "stale_socket" : "not_answering";
        check.message = seen->reachable ? "run " + seen->run + " works on this VM" : seen->reason;
        co_return check;
    }
    if (!handle->unfinished.empty()) {
        // why: while the old process is parked, nobody but the upgrade can ask it.
        check.code = "blocked";
        check.blockers = seen->blockers;
        check.message = seen->blockers.empty() ? std::string() : seen->blockers.back().reason;
        co_return check;
    }
    upgrade::UpgradeRequest request;
    request.vm = upgrade::VmId(vm);
    request.upgrade = upgrade::UpgradeId("check");
    request.binary = answer.picked->binary;
    request.binary_facts = answer.picked->facts;
    request.source_facts = co_await kept_.facts_of(seen->build_id);
    request.known_tails = answer.picked->known_tails;
    request.is_dry_run = true;
    request.prediction = predict_pause(book_.history(), vm);
    request.config = make_runner_config(services_.config);
    QmpVmPortConfig port{
        .main_socket = handle->socket,
        .control_dir = services_.config.control_dir + "/" + control_folder_of(vm),
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
    check.way_known = is_way_proven(
        book_.history(), seen->shape_class, seen->build_id, answer.picked->binary->build_id
    );
    if (judged.verdict->is_already_there) {
        check.code = "already_on_release";
        check.message = "it runs this release already";
        co_return check;
    }
    check.blockers = to_views(judged.verdict->blockers);
    check.warnings = to_views(judged.verdict->warnings);
    const std::string& to_build_id = answer.picked->binary->build_id;
    const bool is_asked = needs_selftest(vm, seen->build_id, to_build_id);
    const auto selftest =
        is_asked ? find_selftest_(seen->build_id, to_build_id) : std::optional<SelftestView>();
    if (selftest) {
        auto finding = find_untried(vm, *selftest);
        const std::vector<std::string> untried = co_await std::move(finding);
        for (const std::string& name : untried) {
            check.warnings.push_back(make_partly_tested(name, {vm}, *selftest));
        }
    } else if (is_asked) {
        check.warnings.push_back(make_untested(seen->version, to, kernel_release()));
        const bool is_refused = services_.config.selftest == "require" && allow != "untested";
        if (is_refused && check.can_upgrade) {
            check.can_upgrade = false;
            check.code = "untested";
            check.message = check.warnings.back().reason;
            check.warnings.pop_back();
        }
    }
    if (!check.blockers.empty()) {
        check.code = "blocked";
        check.message = check.blockers.front().reason;
    }
    const VmPolicy policy =
        policy_of(services_.config.policies, vm, services_.registry.labels_of_vm(vm));
    if (check.can_upgrade && !is_open(policy, time_of_day_now())) {
        check.can_upgrade = false;
        check.code = wire_code_of(make_error_code(upgrade::Errc::outside_window));
        check.message = describe_window(vm, policy, time_of_day_now());
    }
    co_return check;
}

awaitable<void> UpgradeRuns::start_recovery() {
    auto opening = journal_.open(Deadline::in(kJournalOpens));
    auto search = [dir = services_.config.control_dir] { return find_upgrades(dir); };
    auto found = co_await blocking(services_.disk, std::move(search));
    if (found.has_error()) {
        log_failure("looking for unfinished upgrades", found.error());
    }
    co_await kept_.load();
    co_await services_.registry.refresh();
    // why: not those of VMs that are there, whose QEMU may be about to use what it was told.
    std::set<std::string> folders;
    for (const std::string& name : services_.registry.names()) {
        folders.insert(control_folder_of(name));
    }
    auto cleaning = [dir = services_.config.control_dir, kept = std::move(folders)] {
        remove_empty_folders(dir, kept);
        return 0;
    };
    (void)co_await blocking(services_.disk, std::move(cleaning));
    JournalContents contents = co_await std::move(opening);
    holds_.load(std::move(contents.holds));
    history_.load(std::move(contents.history));
    std::vector<FoundUpgrade> pairs =
        found.has_value() ? std::move(*found) : std::vector<FoundUpgrade>();
    auto recovering = recovery_.start(std::move(contents.runs), std::move(pairs));
    co_await std::move(recovering);
    services_.registry.tell_looks();
    services_.tasks.spawn("rehearsals of ways back", rehearsals_.run());
}

} // namespace qhup::daemon
