// SPDX-License-Identifier: GPL-2.0-or-later
#include "tests/sim/simulation.hpp"

#include "tests/sim/mutations.hpp"
#include "upgrade-engine/runner.hpp"

#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <exception>
#include <set>
#include <utility>

namespace qhup::sim {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr std::uint64_t kMostSteps = 20'000;
constexpr Time kMostTime = std::chrono::minutes(30);
constexpr std::uint32_t kMaxRecoveries = 5; // as in daemon/run_recovery.cpp
constexpr Time kRowIsWritten = seconds(2);  // likewise
constexpr Time kProbe = seconds(1);         // likewise

/// Longest pause of a guest whose processes nobody kills, stops or delays: budget, frozen lease in
/// the freeze and after it, and the steps between.
constexpr Time kLongestPause = milliseconds(300 + 1000 + 1000 + 250);

/// The daemon that awaits this was killed: its coroutines are unwound.
struct Killed final : std::exception {
    const char* what() const noexcept override { return "the daemon was killed"; }
};

/// What one daemon process has; it ends with it.
struct Life {
    bool is_over = false;
    std::set<Notifier*> waiting;      ///< coroutines that wait for an answer
    std::size_t open = 0;             ///< root coroutines
    asio::cancellation_signal cancel; ///< of the upgrade
    std::shared_ptr<SlotGate> gate;
    std::optional<BatchId> batch;

    void check() const {
        if (is_over) {
            throw Killed();
        }
    }
};
using LifePtr = std::shared_ptr<Life>;

/// Waits until it is notified, or until the deadline; throws when the daemon is killed meanwhile.
class Wait {
public:
    Wait(const asio::any_io_executor& executor, LifePtr life)
        : notifier_(executor), life_(std::move(life)) {
        life_->waiting.insert(&notifier_);
    }
    ~Wait() { life_->waiting.erase(&notifier_); }
    Wait(const Wait&) = delete;
    Wait& operator=(const Wait&) = delete;

    awaitable<Result<void>> until(Deadline deadline) {
        life_->check();
        const Result<void> waited = co_await notifier_.wait(deadline);
        life_->check();
        co_return waited;
    }
    void notify() { notifier_.notify(); }

private:
    Notifier notifier_;
    LifePtr life_;
};

/// The engine's view of the world. Answers as QmpVmPort would.
class SimPort final : public VmPort {
public:
    /// @param has_main  false in a recovery, which has the control sockets only
    SimPort(World& world, LifePtr life, bool has_main)
        : world_(world), life_(std::move(life)), has_main_(has_main) {}
    ~SimPort() override { world_.disconnect(); }

    awaitable<Observation> observe_source(Deadline deadline) override {
        Observation view = co_await look_at_source(deadline);
        is_source_absent_ = view.presence == Presence::absent;
        co_return view;
    }

    awaitable<Observation> observe_target(Deadline deadline) override {
        Observation view = co_await look(Server::target, deadline);
        const bool looks_on = mutation() != Mutation::lone_target_is_overlooked;
        if (looks_on && has_main_ && is_source_absent_ && view.presence == Presence::absent) {
            view = co_await look(Server::main, deadline);
            if (view.answers() && view.facts.claimed_pid == world_.source_facts.claimed_pid) {
                view = Observation{Presence::absent, {}, std::nullopt};
            }
        }
        co_return view;
    }

    ProcessFacts source_process() const override { return {}; }
    LinkCounters source_links() const override { return {}; }

    awaitable<Result<void>> prepare(PrepareRequest request, Deadline deadline) override {
        check_intent(Phase::prepare);
        Call call{.command = Command::prepare, .lease = request.lease};
        co_return co_await command(Server::main, std::move(call), deadline);
    }
    awaitable<Result<void>> renew(std::chrono::nanoseconds lease, Deadline deadline) override {
        Call call{.command = Command::renew, .lease = lease};
        co_return co_await command(Server::source, std::move(call), deadline);
    }
    awaitable<Result<SwitchTimings>> switch_over(SwitchLimits limits, Deadline deadline) override {
        check_intent(Phase::switch_over);
        Call call{.command = Command::switch_over, .limits = limits};
        const Result<void> done = co_await command(Server::source, std::move(call), deadline);
        if (done.has_error()) {
            co_return done.error();
        }
        SwitchTimings timings;
        timings.pause = milliseconds(12);
        co_return timings;
    }
    awaitable<Result<void>> freeze(SwitchLimits limits, Deadline deadline) override {
        check_intent(Phase::rehearse);
        Call call{.command = Command::freeze, .limits = limits};
        co_return co_await command(Server::source, std::move(call), deadline);
    }
    awaitable<Result<void>> load(Deadline deadline) override {
        Call call{.command = Command::load};
        co_return co_await command(Server::source, std::move(call), deadline);
    }
    awaitable<Result<void>> commit(Deadline deadline) override {
        Call call{.command = Command::commit};
        co_return co_await command(Server::source, std::move(call), deadline);
    }
    awaitable<Result<void>> rollback(Deadline deadline) override {
        const bool is_by_main = has_main_ && world_.is_nobody_there(Server::source);
        Call call{.command = Command::rollback};
        const Server server = is_by_main ? Server::main : Server::source;
        co_return co_await command(server, std::move(call), deadline);
    }

    awaitable<Observation> look(Server server, Deadline deadline) {
        const CallPtr call = std::make_shared<Call>();
        const Result<void> asked = co_await ask(server, call, deadline);
        if (asked.has_error()) {
            co_return Observation{Presence::silent, {}, asked.error()};
        }
        co_return std::move(call->view);
    }

    std::string broken; ///< the first effect that came before its intent

private:
    awaitable<Observation> look_at_source(Deadline deadline) {
        life_->check();
        if (!world_.is_nobody_there(Server::source)) {
            co_return co_await look(Server::source, deadline);
        }
        if (!has_main_) {
            co_return Observation{Presence::absent, {}, std::nullopt};
        }
        const Observation other = co_await look(Server::target, deadline);
        if (other.is(PairState::running) || other.is(PairState::none)) {
            co_return Observation{Presence::absent, {}, std::nullopt};
        }
        Observation view = co_await look(Server::main, deadline);
        if (view.answers() && view.facts.claimed_pid != world_.source_facts.claimed_pid) {
            view = Observation{Presence::absent, {}, std::nullopt};
        }
        co_return view;
    }

    awaitable<Result<void>> command(Server server, Call values, Deadline deadline) {
        const CallPtr call = std::make_shared<Call>(std::move(values));
        const Result<void> asked = co_await ask(server, call, deadline);
        if (asked.has_error()) {
            co_return asked.error();
        }
        co_return call->failure ? Result<void>(*call->failure) : Result<void>();
    }

    awaitable<Result<void>> ask(Server server, CallPtr call, Deadline deadline) {
        life_->check();
        const auto executor = co_await asio::this_coro::executor;
        Wait answered(executor, life_);
        call->wake = [wait = &answered] { wait->notify(); };
        world_.submit(server, call);
        Result<void> waited = Result<void>();
        try {
            waited = co_await answered.until(deadline);
        } catch (...) {
            call->wake = {};
            throw;
        }
        call->wake = {};
        co_return call->is_answered ? Result<void>() : waited;
    }

    void check_intent(Phase phase) {
        if (world_.journal().phase != phase && broken.empty()) {
            broken = std::string(to_string(phase)) + " began before its intent was on disk";
        }
    }

    World& world_;
    LifePtr life_;
    bool has_main_;
    bool is_source_absent_ = false; ///< at the last look
};

/// A binary as the store would pin it; nobody reads it.
std::shared_ptr<const PinnedBinary> make_binary() {
    static const std::shared_ptr<const PinnedBinary> binary = [] {
        auto made = std::make_shared<PinnedBinary>();
        made->release.name = ReleaseName("new");
        made->release.path = "/opt/new/qemu";
        made->build_id = "new";
        made->version = {10, 0, 13};
        made->fd = UniqueFd(::open("/proc/self/exe", O_RDONLY | O_CLOEXEC));
        struct stat info {};
        if (::fstat(made->fd.get(), &info) != 0) {
            std::terminate();
        }
        const auto to_ns = [](const timespec& t) { return t.tv_sec * 1'000'000'000 + t.tv_nsec; };
        made->size = info.st_size;
        made->mtime_ns = to_ns(info.st_mtim);
        made->ctime_ns = to_ns(info.st_ctim);
        return made;
    }();
    return binary;
}

Profile make_profile(Random& random) {
    Profile profile;
    const std::uint32_t kind = random.below(40);
    if (kind < 3) {
        return profile; // nothing goes wrong
    }
    if (kind == 3) { // a daemon that dies again and again
        profile.faults[static_cast<std::size_t>(Fault::kill_daemon)] = true;
        profile.faults[static_cast<std::size_t>(Fault::slow_source)] = true;
        profile.budget = 12;
        profile.period = 4;
        return profile;
    }
    if (kind == 4) { // a pair that hangs
        for (const Fault fault : {Fault::hang_target, Fault::slow_source, Fault::stop_run}) {
            profile.faults[static_cast<std::size_t>(fault)] = true;
        }
        profile.budget = 2;
        profile.period = 4;
        return profile;
    }
    // why: a run in which only few kinds of faults happen gets further than one with all of them.
    const std::uint32_t odds = 1 + random.below(6);
    for (bool& is_on : profile.faults) {
        is_on = random.chance(1, odds);
    }
    profile.faults[static_cast<std::size_t>(Fault::foreign_upgrade)] = false;
    profile.budget = 1 + random.below(5);
    constexpr std::array<std::uint32_t, 4> kPeriods{4, 10, 25, 60};
    profile.period = kPeriods[random.below(4)];
    return profile;
}

/// Faults that strike by themselves; the others wait for their occasion.
constexpr std::array kBlows{
    Fault::kill_source,
    Fault::kill_target,
    Fault::stop_source,
    Fault::stop_target,
    Fault::hang_target,
    Fault::slow_source,
    Fault::slow_target,
    Fault::power_off,
    Fault::journal_stalls,
    Fault::kill_daemon,
    Fault::stop_run,
};

Break break_of(Mutation mutation) {
    switch (mutation) {
    case Mutation::source_runs_before_the_word: return Break::source_runs_before_the_word;
    case Mutation::source_ignores_ran: return Break::source_ignores_ran;
    default: return Break::nothing;
    }
}

asio::io_context& context() {
    static asio::io_context io(1);
    return io;
}

class Simulation final : Idler {
public:
    Simulation(std::uint64_t seed, Hits& hits, bool is_told)
        : random_(seed),
          hits_(hits),
          is_told_(is_told),
          world_(random_, make_profile(random_), break_of(mutation())) {
        world_.fault_hits = &hits.faults;
        choose_request();
    }

    Verdict run() {
        set_now(Time(0));
        set_idler(this);
        start_daemon();
        while (!is_over()) {
            if (open_ > 0) {
                context().restart();
                context().run();
            } else {
                on_idle(now() + std::chrono::hours(1));
            }
        }
        if (verdict_.broken.empty()) {
            check_end();
        }
        kill_daemon(); // what is left of its coroutines
        set_idler(nullptr);
        while (open_ > 0) {
            context().restart();
            context().run();
        }
        return std::move(verdict_);
    }

private:
    // -- the scheduler --------------------------------------------------------------------------

    void on_idle(Time until) override {
        if (++verdict_.steps > kMostSteps || now() > kMostTime) {
            fail("the run does not end");
        }
        if (!verdict_.broken.empty()) {
            end_life();
            set_now(until);
            return;
        }
        if (strike()) {
            return;
        }
        World::Menu menu = world_.menu();
        const bool may_start = !life_ && !is_settled_ && now() >= daemon_starts_at_;
        const std::size_t choices = menu.size + (may_start ? 1U : 0U);
        if (choices == 0 || random_.chance(1, 24)) {
            pass_time(until, choices == 0);
            return;
        }
        set_now(std::min(until, now() + random_.between(milliseconds(0), milliseconds(2))));
        const std::size_t choice = random_.below(static_cast<std::uint32_t>(choices));
        if (choice == menu.size) {
            start_daemon();
            return;
        }
        const Act act = menu.acts[choice];
        ++hits_.acts[static_cast<std::size_t>(act)];
        tell(to_string(act));
        world_.act(act);
        if (!world_.broken_rule().empty()) {
            fail(world_.broken_rule());
        }
    }

    void pass_time(Time until, bool is_quiet) {
        Time due = world_.next_due();
        if (!life_ && !is_settled_ && daemon_starts_at_ > now()) {
            due = std::min(due, daemon_starts_at_);
        }
        if (is_quiet && due == kNever && open_ == 0) {
            on_quiet();
            return;
        }
        // why: who could act acts soon; to be slow is a fault.
        const Time longest = is_quiet ? kNever : now() + Time(milliseconds(5));
        set_now(std::max(now(), std::min({until, due, longest})));
    }

    /// True if a fault struck.
    bool strike() {
        if (is_settled_ || !world_.has_budget()) {
            return false;
        }
        const std::uint32_t period = is_burst_ ? 3 : world_.profile().period;
        if (!random_.chance(1, period)) {
            return false;
        }
        const Fault fault = kBlows[random_.below(kBlows.size())];
        if (!world_.profile().faults[static_cast<std::size_t>(fault)]) {
            return false;
        }
        bool is_done = false;
        if (fault == Fault::kill_daemon) {
            is_done = life_ != nullptr;
            if (is_done) {
                kill_daemon();
            }
        } else if (fault == Fault::stop_run) {
            is_done = life_ && life_->batch;
            if (is_done) {
                stop_run();
            }
        } else {
            is_done = world_.disturb(fault);
        }
        if (!is_done) {
            return false;
        }
        if (fault == Fault::kill_daemon || fault == Fault::stop_run) {
            world_.note_fault(fault);
        }
        world_.spend();
        is_burst_ = random_.chance(1, 3);
        tell("fault " + std::string(to_string(fault)));
        return true;
    }

    /// Nothing moves any more and no daemon works.
    void on_quiet() {
        if (!is_settled_) {
            fail("nothing moves any more, and the daemon has not said how it ended");
            return;
        }
        const bool is_open = claim_ == Phase::lost_contact || claim_ == Phase::needs_operator;
        if (is_open && !has_looked_again_) {
            // The next start of the daemon looks at what is left.
            has_looked_again_ = true;
            is_settled_ = false;
            daemon_starts_at_ = now();
            return;
        }
        is_quiet_ = true;
    }

    [[nodiscard]] bool is_over() const {
        return is_quiet_ || (!verdict_.broken.empty() && open_ == 0);
    }

    // -- the daemon -----------------------------------------------------------------------------

    void choose_request() {
        request_.vm = VmId("vm1");
        request_.upgrade = UpgradeId("u1");
        request_.binary = make_binary();
        request_.config.poll_interval = milliseconds(200);
        request_.config.watch_window = seconds(2);
        if (random_.chance(1, 4)) {
            request_.goal = Goal::rehearsal;
        }
        switch (random_.below(60)) {
        case 0: request_.is_dry_run = true; break;
        case 1: world_.source_facts.blockers.push_back({"nic0", "device", "a reason."}); break;
        case 2: world_.source_facts.build_id = "new"; break;
        case 3: request_.prediction = PausePrediction{seconds(1), {}, "its last upgrade"}; break;
        case 4: world_.target_facts.build_id = "strange"; break;
        case 5:
            world_.is_foreign = true;
            world_.note_fault(Fault::foreign_upgrade);
            break;
        default: is_usual_ = true; break;
        }
        if (random_.chance(1, 6)) {
            neighbour_pauses_for_ = random_.between(milliseconds(1), seconds(100));
        }
    }

    void start_daemon() {
        life_ = std::make_shared<Life>();
        life_->gate = std::make_shared<SlotGate>(
            context().get_executor(), SchedulerLimits{.prepare_slots = 1, .pause_slots = 1}
        );
        tell("the daemon starts");
        spawn(run_daemon(this, life_, world_.journal()));
    }

    void spawn(awaitable<void> coroutine) {
        ++open_;
        ++life_->open;
        asio::co_spawn(
            context(),
            std::move(coroutine),
            asio::bind_cancellation_slot(
                life_->cancel.slot(),
                [this, life = life_](std::exception_ptr thrown) {
                    --open_;
                    --life->open;
                    if (thrown && !life->is_over) {
                        fail("an exception left the engine");
                    }
                }
            )
        );
    }

    void end_life() {
        if (!life_) {
            return;
        }
        const LifePtr life = std::exchange(life_, nullptr);
        life->is_over = true;
        for (Notifier* const waiting : life->waiting) {
            waiting->notify();
        }
    }

    void kill_daemon() {
        end_life();
        world_.on_daemon_gone();
        constexpr std::array<Time, 3> kPauses{milliseconds(10), seconds(2), seconds(90)};
        const Time longest = kPauses[random_.below(3)];
        daemon_starts_at_ =
            now() +
            random_.between(
                milliseconds(0), std::chrono::duration_cast<std::chrono::microseconds>(longest)
            );
    }

    void stop_run() {
        if (random_.chance(1, 2)) {
            life_->gate->stop_batch(*life_->batch);
        } else {
            life_->cancel.emit(asio::cancellation_type::terminal);
        }
    }

    /// One daemon, from its start until everything is settled.
    static awaitable<void> run_daemon(Simulation* self, LifePtr life, Record record) {
        co_await asio::this_coro::throw_if_cancelled(false);
        if (!std::exchange(self->has_begun_, true)) {
            co_await self->upgrade(life);
        } else {
            co_await self->recover(life, record);
        }
        life->check();
        self->settle();
    }

    void settle() {
        tell("settled");
        is_settled_ = true;
        world_.calm_down();
        end_life();
        world_.disconnect();
    }

    void put(const Record& record) { world_.write({.record = record}); }

    awaitable<bool> put_and_wait(LifePtr life, Record record, Time patience, bool is_kept) {
        if (mutation() == Mutation::intent_is_not_awaited && !is_kept) {
            put(record);
            co_return true;
        }
        const auto executor = co_await asio::this_coro::executor;
        const auto wait = std::make_shared<Wait>(executor, life);
        const auto is_written = std::make_shared<bool>(false);
        world_.write(
            {.record = std::move(record),
             .is_kept = is_kept,
             .told =
                 [wait, is_written](bool yes) {
                     *is_written = yes;
                     wait->notify();
                 }}
        );
        const Result<void> waited = co_await wait->until(Deadline::in(patience));
        co_return waited.has_value() && *is_written;
    }

    static awaitable<Result<void>>
    write_intent(Simulation* self, LifePtr life, Phase phase, Deadline deadline) {
        life->check();
        Record record;
        record.phase = phase;
        const bool is_written =
            co_await self->put_and_wait(life, record, deadline.time_left(), false);
        if (is_written) {
            co_return Result<void>();
        }
        co_return make_failure(qhup::Errc::timed_out, "writing the journal");
    }

    UpgradeObserver
    make_observer(LifePtr life, std::uint32_t recoveries, Goal goal, bool is_recovery) {
        return [this, life, recoveries, goal, is_recovery](const UpgradeReport& report) {
            life->check();
            note_mark(report, goal);
            tell("phase " + std::string(to_string(report.phase)));
            if (is_terminal(report.phase)) {
                return;
            }
            const bool is_awaited = !is_recovery && row_of(report.phase).intent_first;
            if (!is_awaited) {
                put({report.phase, std::nullopt, "", recoveries});
            }
        };
    }

    void note_mark(const UpgradeReport& report, Goal goal) {
        ++hits_.phases[static_cast<std::size_t>(report.phase)];
        if (report.marks.size() < 2) {
            return;
        }
        const PhaseMark& before = report.marks[report.marks.size() - 2];
        if (!before.ended) {
            fail("a phase has no outcome");
            return;
        }
        hits_.note_transition(before.phase, *before.ended, report.phase, goal);
    }

    static awaitable<void>
    hold_pause_slot(std::shared_ptr<SlotGate::Turn> turn, LifePtr life, Time time) {
        co_await asio::this_coro::throw_if_cancelled(false);
        const Result<void> started = co_await turn->wait_to_start();
        life->check();
        ignore(co_await sleep_until(Deadline::in(time / 4)), "its preparation");
        life->check();
        const Result<void> paused = co_await turn->wait_to_pause(Deadline::never());
        ignore(started, "it is first");
        ignore(paused, "likewise");
        life->check();
        ignore(co_await sleep_until(Deadline::in(time)), "its pause");
        life->check();
        co_await turn->end_pause();
        co_await turn->finish(false);
    }

    awaitable<void> upgrade(LifePtr life) {
        ++hits_.daemons["nothing"];
        if (neighbour_pauses_for_ > Time(0)) {
            const BatchId other = life->gate->add_batch({1, 0});
            spawn(hold_pause_slot(life->gate->add_vm(other), life, neighbour_pauses_for_));
        }
        life->batch = life->gate->add_batch({1, 0});
        SimPort port(world_, life, true);
        IntentWriter write = [this, life](const UpgradeReport& report, Deadline deadline) {
            return write_intent(this, life, report.phase, deadline);
        };
        auto working = run_upgrade(
            port,
            life->gate->add_vm(*life->batch),
            request_,
            make_observer(life, 0, request_.goal, false),
            std::move(write)
        );
        const UpgradeReport report = co_await std::move(working);
        life->check();
        life->batch.reset();
        if (!port.broken.empty()) {
            fail(port.broken);
        }
        co_await end(life, report, 0);
    }

    awaitable<void> end(LifePtr life, UpgradeReport report, std::uint32_t recoveries) {
        const std::string code = report.failure ? wire_code_of(report.failure->code) : "";
        later_codes_.clear();
        if (report.failure) {
            for (const Failure& later : report.failure->also) {
                later_codes_.insert(wire_code_of(later.code));
            }
        }
        co_await end(life, report.phase, code, recoveries, report.is_nothing_to_do);
    }

    awaitable<void>
    end(LifePtr life, Phase phase, std::string code, std::uint32_t recoveries, bool is_nothing_to_do
    ) {
        check_claim(phase, code, is_nothing_to_do);
        const Record record{phase, phase, code, recoveries};
        if (mutation() != Mutation::outcome_is_not_written) {
            const bool is_written = co_await put_and_wait(life, record, kRowIsWritten, true);
            (void)is_written; // kept, and tried again
        }
    }

    /// As RunRecovery::recover_vm() and adopt_orphans().
    awaitable<void> recover(LifePtr life, Record record) {
        SimPort port(world_, life, true);
        const Observation lone = co_await port.look(Server::main, Deadline::in(kProbe));
        const bool has_pair = world_.has_control_names();
        if (record.outcome) {
            claim_ = *record.outcome;
            if (!has_pair) {
                ++hits_.daemons["nothing"];
                co_return;
            }
            ++hits_.daemons["a pair of a finished record"];
            SimPort control(world_, life, false);
            const Action action = co_await look(control, Deadline::in(kProbe));
            const bool is_over = action == Action::upgraded || action == Action::nothing_to_do ||
                                 action == Action::vm_gone;
            if (!is_over && record.recoveries < kMaxRecoveries) {
                co_await finish(life, record);
            }
            co_return;
        }
        if (!has_pair) {
            ++hits_.daemons["an open record without a pair"];
            co_await end_alone(life, record, lone);
            co_return;
        }
        if (record.recoveries >= kMaxRecoveries) {
            ++hits_.daemons["too many recoveries"];
            co_await end(
                life,
                Phase::needs_operator,
                wire_code_of(make_error_code(Errc::recovery_given_up)),
                record.recoveries,
                false
            );
            co_return;
        }
        if (mutation() != Mutation::recovery_is_not_counted) {
            ++record.recoveries;
        }
        const bool is_counted = co_await put_and_wait(life, record, kRowIsWritten, true);
        recoveries_ += is_counted ? 1U : 0U; // a guest that waits matters more than the count
        bool is_gone = false;
        {
            SimPort control(world_, life, false);
            const Action action = co_await look(control, Deadline::in(2 * kProbe));
            is_gone = action == Action::vm_gone;
        }
        if (is_gone) {
            ++hits_.daemons["a pair of which both sides are gone"];
            world_.remove_control_names();
            // why: the first look may be older than the end of the pair.
            const Observation again = co_await port.look(Server::main, Deadline::in(kProbe));
            const bool takes_old = mutation() == Mutation::gone_pair_is_judged_by_old_look;
            co_await end_alone(life, record, takes_old ? lone : again);
            co_return;
        }
        ++hits_.daemons["a pair of an open record"];
        co_await finish(life, record);
    }

    static awaitable<Action> look(SimPort& port, Deadline deadline) {
        const Observation source = co_await port.observe_source(deadline);
        const Observation target = co_await port.observe_target(deadline);
        co_return decide(source, target).action;
    }

    awaitable<void> finish(LifePtr life, Record record) {
        SimPort control(world_, life, false);
        RecoveryRequest request{request_.vm, request_.upgrade, request_.config};
        auto working = run_recovery(
            control, std::move(request), make_observer(life, record.recoveries, Goal::upgrade, true)
        );
        const UpgradeReport report = co_await std::move(working);
        life->check();
        co_await end(life, report, record.recoveries);
    }

    awaitable<void> end_alone(LifePtr life, Record record, Observation lone) {
        const LastRecord last{record.phase, "old", "new"};
        const LoneVm vm{lone.answers(), lone.facts.build_id};
        const Ending ending = end_without_pair(last, vm);
        const std::string code = ending.code ? wire_code_of(make_error_code(*ending.code)) : "";
        co_await end(life, ending.phase, code, record.recoveries, false);
    }

    // -- what must be true ----------------------------------------------------------------------

    void fail(std::string why) {
        if (verdict_.broken.empty()) {
            verdict_.broken = std::move(why) + "; " + world_.describe();
        }
    }

    void require(bool is_true, const std::string& why) {
        if (!is_true) {
            fail(
                "says " + std::string(to_string(claim_)) +
                (code_.empty() ? "" : " (" + code_ + ")") + ", but " + why
            );
        }
    }

    /// A report is made: it must be the truth, as far as it could be seen.
    void check_claim(Phase phase, const std::string& code, bool is_nothing_to_do) {
        claim_ = phase;
        code_ = code;
        tell("says " + std::string(to_string(phase)) + " " + code);
        ++hits_.claims[std::string(to_string(phase)) + (code.empty() ? "" : " (" + code + ")")];
        const bool is_fresh = !world_.changed_since_look();
        const bool source_has_it = !is_fresh || world_.source_runs() || world_.guest_was_ended();
        const bool target_has_it = !is_fresh || world_.target_runs() || world_.guest_was_ended();
        const bool has_pair_left = is_fresh && !world_.source_has_settled();
        switch (phase) {
        case Phase::upgraded:
            require(world_.target_ever_ran(), "the guest never ran on the target");
            require(target_has_it, "the target does not run the guest");
            require(!world_.source_is_there() || !is_fresh, "the source is still there");
            break;
        case Phase::refused:
            require(!world_.was_paused(), "the guest was paused");
            require(source_has_it, "the source does not run the guest");
            require(!has_pair_left, "the pair is still there");
            break;
        case Phase::rolled_back:
            require(!world_.target_ever_ran(), "the guest ran on the target");
            require(source_has_it, "the source does not run the guest");
            require(!has_pair_left, "the pair is still there");
            break;
        case Phase::rehearsed:
            require(world_.was_paused(), "the guest was not paused");
            require(!world_.target_ever_ran(), "the guest ran on the target");
            require(source_has_it, "the source does not run the guest");
            require(!has_pair_left, "the pair is still there");
            break;
        case Phase::lost_contact:
        case Phase::needs_operator: check_bad_end(); break;
        default: require(false, "that is no end");
        }
        const bool is_good = phase == Phase::upgraded || phase == Phase::rehearsed;
        require(!is_good || code.empty(), "something failed");
        const bool is_quiet_run = is_usual_ && world_.faults_done() == 0;
        require(is_good || !is_quiet_run, "nothing went wrong");
        require(!is_nothing_to_do || world_.source_facts.build_id == "new", "there is work to do");
    }

    void check_bad_end() {
        const bool is_strange_binary = world_.target_facts.build_id == "strange";
        require(world_.faults_done() > 0 || is_strange_binary, "nothing went wrong");
        const auto is = [this](Errc code) { return code_ == wire_code_of(make_error_code(code)); };
        const bool is_lost = world_.guest_was_ended() && !world_.changed_since_look();
        const bool names_it =
            claim_ == Phase::lost_contact || is(Errc::guest_lost) || is(Errc::recovery_given_up) ||
            later_codes_.contains(wire_code_of(make_error_code(Errc::guest_lost)));
        require(!is_lost || names_it, "the guest is lost");
        if (is(Errc::split)) {
            require(false, "two processes never ran the guest");
        } else if (is(Errc::guest_lost)) {
            require(world_.target_ever_ran() || world_.guest_was_ended(), "the guest was not lost");
            require(!world_.source_runs() && !world_.target_runs(), "the guest runs");
        } else if (is(Errc::rollback_stuck)) {
            require(!world_.target_ever_ran(), "the guest runs on the target");
        } else if (is(Errc::wrong_target) || is(Errc::source_remains)) {
            require(world_.target_ever_ran(), "the guest never ran on the target");
        } else if (is(Errc::vm_gone)) {
            require(!world_.source_runs() && !world_.target_runs(), "the guest runs");
        } else if (is(Errc::recovery_given_up)) {
            require(world_.journal().recoveries >= kMaxRecoveries, "it was not tried that often");
        }
    }

    /// Nothing moves any more: who runs the guest, and what is left?
    void check_end() {
        const bool source = world_.source_runs();
        const bool target = world_.target_runs();
        require(source || target || world_.guest_was_ended(), "nobody runs the guest");
        require(!source || world_.source_has_settled(), "the source has not settled");
        require(!target || !world_.source_is_there(), "the source is left over");
        require(!source || !world_.target_is_there(), "the target is left over");
        const bool is_nobody = !source && !target;
        require(
            !is_nobody || (!world_.source_is_there() && !world_.target_is_there()),
            "a process is left over that does not run the guest"
        );
        const Record& record = world_.journal();
        require(record.outcome == claim_, "the journal says something else");
        require(recoveries_ <= kMaxRecoveries, "it was tried too often");
        const bool is_source_claim =
            claim_ == Phase::refused || claim_ == Phase::rolled_back || claim_ == Phase::rehearsed;
        require(!is_source_claim || !target, "the target runs the guest");
        require(claim_ != Phase::upgraded || !source, "the source runs the guest");
        require(
            world_.pause_was_disturbed() || world_.longest_pause() <= kLongestPause,
            "the guest was paused for too long"
        );
    }

    void tell(std::string_view what) {
        if (is_told_) {
            verdict_.story += std::to_string(now().count() / 1000) + " us: " + std::string(what) +
                              "; " + world_.describe() + "\n";
        }
    }

    Random random_;
    Hits& hits_;
    bool is_told_;
    World world_;
    UpgradeRequest request_;
    Time neighbour_pauses_for_{0};
    bool is_usual_ = false; ///< nothing speaks against the upgrade
    LifePtr life_;          ///< null: the daemon is dead
    std::size_t open_ = 0;  ///< root coroutines of all daemons
    Time daemon_starts_at_{0};
    bool has_begun_ = false;
    bool is_settled_ = false;
    bool has_looked_again_ = false;
    bool is_quiet_ = false;
    bool is_burst_ = false;
    std::uint32_t recoveries_ = 0;
    Phase claim_ = Phase::queued;
    std::string code_;
    std::set<std::string> later_codes_; ///< of what followed
    Verdict verdict_;
};

} // namespace

Verdict simulate(std::uint64_t seed, Hits& hits, bool is_told) {
    Simulation simulation(seed, hits, is_told);
    return simulation.run();
}

} // namespace qhup::sim
