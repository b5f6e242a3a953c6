// SPDX-License-Identifier: GPL-2.0-or-later
#include "tests/sim/world.hpp"

#include <algorithm>
#include <utility>

namespace qhup::sim {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

// qemu: docs/qmp.md, States.
constexpr Time kPreparingLease = seconds(20);
constexpr Time kCededLease = seconds(30);
constexpr Time kControlStays = seconds(5);
constexpr Time kChildDies = milliseconds(50);
constexpr Time kLoadedWaits = milliseconds(50);

constexpr std::array<std::string_view, kFaults> kFaultNames{
    "kill_source",
    "kill_target",
    "stop_source",
    "stop_target",
    "hang_target",
    "slow_source",
    "slow_target",
    "qemu_fails",
    "power_off",
    "lose_request",
    "lose_answer",
    "refuse_connection",
    "garble",
    "foreign_upgrade",
    "journal_fails",
    "journal_stalls",
    "kill_daemon",
    "stop_run",
};

constexpr std::array<std::string_view, kActs> kActNames{
    "source_serves",
    "source_hears_standby",
    "source_switches",
    "source_lease",
    "source_sees_child",
    "source_undoes",
    "source_closes",
    "target_serves",
    "target_goes_on",
    "target_closes",
    "kernel_ends_source",
    "kernel_ends_target",
    "source_continues",
    "target_continues",
    "journal_writes",
};

Failure refuse(Errc code) {
    return make_failure(code, std::string(explain(code)));
}

} // namespace

std::string_view to_string(Fault fault) noexcept {
    return kFaultNames[static_cast<std::size_t>(fault)];
}

std::string_view to_string(Act act) noexcept {
    return kActNames[static_cast<std::size_t>(act)];
}

World::World(Random& random, Profile profile, Break broken)
    : random_(random), profile_(profile), broken_(broken) {
    source_.is_alive = true;
    source_.vcpus = true;
    source_facts.protocol = kProtocol;
    source_facts.is_enabled = true;
    source_facts.version = {7, 2, 22};
    source_facts.version_text = "7.2.22";
    source_facts.build_id = "old";
    source_facts.machine = "pc-i440fx-7.2";
    source_facts.argv = {"qemu", "-machine", "pc"};
    source_facts.claimed_pid = 100;
    target_facts = source_facts;
    target_facts.role = Role::target;
    target_facts.version = {10, 0, 13};
    target_facts.version_text = "10.0.13";
    target_facts.build_id = "new";
    target_facts.claimed_pid = 200;
}

// -- what may happen ---------------------------------------------------------------------------

bool World::can_act(const Process& process) {
    return process.is_alive && !process.is_killed && !process.is_stopped &&
           now() >= process.hangs_until && now() >= process.busy_until;
}

bool World::serves(const Process& process) const {
    return can_act(process) && !process.inbox.empty();
}

bool World::may_switch() const {
    switch (source_.sub) {
    case Sub::idle: return false;
    case Sub::flushing:
    case Sub::stopped:
    case Sub::drained: return true;
    case Sub::saved: return !source_.is_one_by_one;
    case Sub::sent:
        return (source_.state == PairState::frozen && owner_ == Owner::target) ||
               (target_.has_said_loaded && source_.loading) ||
               (source_.state == PairState::ceded && target_.has_said_running && source_.switching);
    }
    return false;
}

bool World::may_undo() const {
    switch (source_.undo) {
    case Undo::none: return false;
    case Undo::word:
    case Undo::kill:
    case Undo::reset: return true;
    case Undo::reap:
        return !target_.is_alive || (!source_.vcpus && owner_ == Owner::rolling_back &&
                                     now() >= source_.killed_at + kChildDies);
    }
    return false;
}

bool World::sees_child_gone() const {
    if (!target_.is_spawned || target_.is_alive || source_.undo != Undo::none) {
        return false;
    }
    switch (source_.state) {
    case PairState::preparing:
    case PairState::prepared:
    case PairState::frozen: return true;
    case PairState::ceded: return ran_ != Ran::yes || !source_.has_told_end;
    default: return false;
    }
}

bool World::may_go_on() const {
    if (now() < target_.ready_at) {
        return false;
    }
    switch (target_.step) {
    case Step::standby: return is_load_sent_ || !source_.is_alive;
    case Step::loaded: return !source_.is_one_by_one || !source_.is_alive;
    case Step::running: return !source_.is_alive && target_.closes_at == kNever;
    default: return true;
    }
}

World::Menu World::menu() const {
    Menu menu;
    if (can_act(source_)) {
        if (!source_.inbox.empty()) {
            menu.add(Act::source_serves);
        }
        if (source_.state == PairState::preparing && target_.has_said_standby &&
            source_.undo == Undo::none) {
            menu.add(Act::source_hears_standby);
        }
        if (source_.undo == Undo::none && may_switch()) {
            menu.add(Act::source_switches);
        }
        if (source_.undo == Undo::none && now() >= source_.lease_ends) {
            menu.add(Act::source_lease);
        }
        if (sees_child_gone()) {
            menu.add(Act::source_sees_child);
        }
        if (may_undo()) {
            menu.add(Act::source_undoes);
        }
        if (source_.listens && now() >= source_.closes_at && !source_.is_connected) {
            menu.add(Act::source_closes);
        }
    }
    if (can_act(target_)) {
        if (!target_.inbox.empty() && (target_.listens || target_.vcpus)) {
            menu.add(Act::target_serves);
        }
        if (may_go_on()) {
            menu.add(Act::target_goes_on);
        }
        if (target_.listens && now() >= target_.closes_at && !target_.is_connected) {
            menu.add(Act::target_closes);
        }
    }
    if (source_.is_alive && source_.is_killed) {
        menu.add(Act::kernel_ends_source);
    }
    if (target_.is_alive && target_.is_killed && now() >= target_.hangs_until) {
        menu.add(Act::kernel_ends_target);
    }
    if (source_.is_alive && source_.is_stopped && now() >= source_.goes_on_at) {
        menu.add(Act::source_continues);
    }
    if (target_.is_alive && target_.is_stopped && now() >= target_.goes_on_at) {
        menu.add(Act::target_continues);
    }
    if (!writes_.empty() && now() >= disk_busy_until_) {
        menu.add(Act::journal_writes);
    }
    return menu;
}

Time World::next_due() const {
    Time due = kNever;
    const auto at = [&due](Time time) {
        if (time > now()) {
            due = std::min(due, time);
        }
    };
    for (const Process* process :
         {static_cast<const Process*>(&source_), static_cast<const Process*>(&target_)}) {
        if (!process->is_alive) {
            continue;
        }
        at(process->hangs_until);
        at(process->busy_until);
        if (process->is_stopped) {
            at(process->goes_on_at);
        }
        if (process->listens && !process->is_connected) {
            at(process->closes_at);
        }
    }
    if (source_.is_alive) {
        at(source_.lease_ends);
        if (source_.undo == Undo::reap) {
            at(source_.killed_at + kChildDies);
        }
    }
    if (target_.is_alive) {
        at(target_.ready_at);
    }
    if (!writes_.empty()) {
        at(disk_busy_until_);
    }
    return due;
}

void World::act(Act act) {
    switch (act) {
    case Act::source_serves: serve(source_, true); break;
    case Act::source_hears_standby:
        if (strikes(Fault::qemu_fails, 6)) {
            begin_undo(Errc::shape_differs, "prepare");
        } else {
            source_.state = PairState::prepared;
            set_lease(source_.lease);
        }
        target_.has_said_standby = false;
        break;
    case Act::source_switches: switch_one_step(); break;
    case Act::source_lease: on_lease(); break;
    case Act::source_sees_child: on_child_gone(); break;
    case Act::source_undoes: undo_one_step(); break;
    case Act::source_closes: source_.listens = source_.has_name = false; break;
    case Act::target_serves: serve(target_, false); break;
    case Act::target_goes_on: target_step(); break;
    case Act::target_closes: target_.listens = target_.has_name = false; break;
    case Act::kernel_ends_source: end_process(source_, false); break;
    case Act::kernel_ends_target: end_process(target_, false); break;
    case Act::source_continues: source_.is_stopped = false; break;
    case Act::target_continues: target_.is_stopped = false; break;
    case Act::journal_writes: {
        if (strikes(Fault::journal_fails, 8)) {
            if (writes_.front().is_kept) {
                disk_busy_until_ = now() + seconds(1); // qhupd tries again
                break;
            }
            const Write failed = std::move(writes_.front());
            writes_.pop_front();
            if (failed.told) {
                failed.told(false);
            }
            break;
        }
        const Write done = std::move(writes_.front());
        writes_.pop_front();
        durable_ = done.record;
        if (done.told) {
            done.told(true);
        }
        break;
    }
    }
    check();
}

// -- requests ----------------------------------------------------------------------------------

bool World::is_nobody_there(Server server) const {
    switch (server) {
    case Server::main: return !source_.is_alive && !(target_.is_alive && target_.vcpus);
    case Server::source: return !source_.is_alive || !source_.listens;
    case Server::target: return !target_.is_alive || !target_.listens;
    }
    return true;
}

void World::remove_control_names() {
    source_.has_name = source_.has_name && source_.listens && source_.is_alive;
    target_.has_name = target_.has_name && target_.listens && target_.is_alive;
}

void World::submit(Server server, const CallPtr& call) {
    const bool is_look = call->command == Command::look;
    if (is_nobody_there(server)) {
        if (is_look) {
            answer_look(call, {Presence::absent, {}, std::nullopt});
        } else {
            answer(call, refuse(Errc::vm_gone));
        }
        return;
    }
    const bool is_refused = strikes(Fault::refuse_connection, 40);
    if (is_refused || strikes(Fault::lose_request, 40)) {
        // Both look alike to who sent it, but for the code: one is known not to be taken.
        const Errc code = is_refused ? Errc::not_answering : Errc::lost_contact;
        if (is_look) {
            answer_look(call, {Presence::silent, {}, refuse(code)});
        } else {
            answer(call, refuse(code));
        }
        return;
    }
    Request request{call->command, call};
    request.is_answer_lost = strikes(Fault::lose_answer, 40);
    request.is_garbled = strikes(Fault::garble, 40);
    const bool is_of_target = server == Server::target ||
                              (server == Server::main && (target_.vcpus || !source_.is_alive));
    Process& process = is_of_target ? static_cast<Process&>(target_) : source_;
    process.is_connected = process.is_connected || server != Server::main;
    const bool is_inert = !is_of_target && !source_.vcpus;
    if (server == Server::main && is_inert) {
        return; // qemu: the monitors of a process that does not run the guest are not read
    }
    process.inbox.push_back(std::move(request));
}

void World::answer(const CallPtr& call, std::optional<Failure> failure) {
    if (!call || call->is_answered) {
        return;
    }
    call->failure = std::move(failure);
    call->is_answered = true;
    if (call->wake) {
        call->wake();
    }
}

void World::answer_look(const CallPtr& call, Observation view) {
    call->view = std::move(view);
    last_look_ = ++clock_;
    answer(call, std::nullopt);
}

void World::serve(Process& process, bool is_source) {
    const Request request = std::move(process.inbox.front());
    process.inbox.pop_front();
    if (request.is_answer_lost) {
        request.call->wake = {}; // its sender waits until the deadline
    }
    if (request.command == Command::look) {
        if (request.is_answer_lost) {
            return;
        }
        if (request.is_garbled) {
            answer_look(request.call, {Presence::silent, {}, refuse(Errc::unexpected_answer)});
            return;
        }
        VmFacts facts = is_source ? describe_source() : describe_target();
        answer_look(request.call, {Presence::answers, std::move(facts), std::nullopt});
        return;
    }
    if (request.is_garbled) {
        // It takes effect, and what comes back ends the session.
        const auto unheard = std::make_shared<Call>(*request.call);
        unheard->wake = {};
        if (is_source) {
            obey({request.command, unheard});
        }
        answer(request.call, refuse(Errc::lost_contact));
        return;
    }
    if (!is_source) {
        answer(request.call, refuse(Errc::wrong_state));
        return;
    }
    obey(request);
}

VmFacts World::describe_source() const {
    VmFacts facts = source_facts;
    facts.state = source_.state;
    facts.upgrade = UpgradeId(is_foreign ? "other" : source_.upgrade);
    if (is_foreign) {
        facts.state = PairState::prepared;
    }
    facts.run_state = source_.vcpus ? "running" : "finish-migrate";
    facts.last_error = source_.last_error;
    facts.timings = source_.timings;
    facts.claimed_child_pid = target_.is_alive ? target_facts.claimed_pid : 0;
    return facts;
}

VmFacts World::describe_target() const {
    VmFacts facts = target_facts;
    facts.upgrade = UpgradeId(source_.upgrade);
    facts.run_state = target_.vcpus ? "running" : "inmigrate";
    switch (target_.step) {
    case Step::starting: facts.state = PairState::starting; break;
    case Step::standby: facts.state = PairState::standby; break;
    case Step::loading: facts.state = PairState::loading; break;
    case Step::loaded:
    case Step::activate:
    case Step::word:
    case Step::ran:
    case Step::start: facts.state = PairState::loaded; break;
    case Step::running:
        facts.state = PairState::running;
        if (target_.closes_at != kNever) {
            facts.state = PairState::none;
            facts.role = Role::source;
        }
        break;
    }
    return facts;
}

/// qemu: docs/qmp.md, the errors of each command.
void World::obey(const Request& request) {
    const CallPtr& call = request.call;
    switch (request.command) {
    case Command::look: break;
    case Command::prepare:
        if (source_.state != PairState::none || is_foreign) {
            answer(call, refuse(Errc::wrong_state));
        } else if (strikes(Fault::qemu_fails, 8)) {
            source_.upgrade = "u1";
            source_.last_error = LastError{Errc::spawn_failed, "prepare", "", ""};
            answer(call, refuse(Errc::spawn_failed));
        } else {
            source_.lease = call->lease;
            prepare();
            answer(call, std::nullopt);
        }
        break;
    case Command::renew:
        if ((source_.state != PairState::preparing && source_.state != PairState::prepared) ||
            source_.undo != Undo::none) {
            answer(call, refuse(Errc::wrong_state));
        } else {
            source_.lease = call->lease;
            if (source_.state == PairState::prepared) {
                set_lease(source_.lease);
            }
            answer(call, std::nullopt);
        }
        break;
    case Command::switch_over:
    case Command::freeze:
        if (source_.state != PairState::prepared || source_.sub != Sub::idle ||
            source_.undo != Undo::none) {
            answer(call, refuse(Errc::wrong_state));
        } else {
            source_.is_one_by_one = request.command == Command::freeze;
            (source_.is_one_by_one ? source_.freezing : source_.switching) = call;
            source_.sub = Sub::flushing;
            source_.budget = call->limits.budget;
            source_.frozen_lease = call->limits.frozen_lease;
            source_.last_error.reset();
        }
        break;
    case Command::load:
        if (source_.state != PairState::frozen || source_.sub != Sub::saved ||
            !source_.is_one_by_one || source_.undo != Undo::none) {
            answer(call, refuse(Errc::wrong_state));
        } else {
            source_.loading = call;
            is_load_sent_ = true;
            source_.sub = Sub::sent;
        }
        break;
    case Command::commit:
        if (source_.state != PairState::ceded || ran_ != Ran::yes) {
            answer(call, refuse(Errc::wrong_state));
        } else {
            answer(call, std::nullopt);
            end_process(source_, true);
        }
        break;
    case Command::rollback:
        if (is_foreign || source_.state == PairState::ceded || source_.undoing) {
            answer(call, refuse(Errc::wrong_state));
        } else if (source_.state == PairState::none) {
            answer(call, std::nullopt);
        } else {
            source_.undoing = call;
            if (source_.undo == Undo::none) {
                begin_undo(Errc::rolled_back, "rollback");
            }
        }
        break;
    }
}

// -- the source --------------------------------------------------------------------------------

void World::set_lease(std::chrono::nanoseconds time) {
    source_.lease_ends = now() + time;
}

void World::prepare() {
    source_.upgrade = "u1";
    source_.last_error.reset();
    source_.state = PairState::preparing;
    source_.listens = source_.has_name = true;
    source_.closes_at = kNever;
    set_lease(kPreparingLease);
    owner_ = Owner::source;
    ran_ = Ran::no;
    is_sealed_ = is_load_sent_ = false;
    target_ = Target{};
    target_.is_alive = target_.is_spawned = true;
    target_.ready_at = now() + random_.between(milliseconds(20), milliseconds(900));
}

const char* World::phase_now() const {
    switch (source_.sub) {
    case Sub::idle: return "prepare";
    case Sub::flushing: return "flush";
    case Sub::stopped: return "freeze";
    case Sub::drained: return "save";
    case Sub::saved: return "save";
    case Sub::sent: return target_.has_said_loaded ? "takeover" : "load";
    }
    return "";
}

void World::switch_one_step() {
    const auto give_up_for_now = [this](Errc code) {
        source_.last_error = LastError{code, phase_now(), "", ""};
        if (source_.state == PairState::frozen) {
            source_.vcpus = true;
            end_pause();
        }
        source_.state = PairState::prepared;
        source_.sub = Sub::idle;
        set_lease(source_.lease);
        answer(std::exchange(source_.switching, nullptr), refuse(code));
        answer(std::exchange(source_.freezing, nullptr), refuse(code));
    };
    switch (source_.sub) {
    case Sub::idle: break;
    case Sub::flushing:
        if (strikes(Fault::qemu_fails, 6)) {
            const std::uint32_t which = random_.below(3);
            if (which == 0) {
                begin_undo(Errc::stale, "flush");
            } else {
                give_up_for_now(which == 1 ? Errc::retry : Errc::drain_timeout);
            }
            break;
        }
        source_.vcpus = false;
        was_paused_ = true;
        paused_at_ = now();
        source_.stopped_at = now();
        source_.state = PairState::frozen;
        source_.sub = Sub::stopped;
        set_lease(source_.is_one_by_one ? source_.frozen_lease : source_.budget);
        break;
    case Sub::stopped:
        if (strikes(Fault::qemu_fails, 6)) {
            give_up_for_now(Errc::drain_timeout);
        } else {
            source_.sub = Sub::drained;
        }
        break;
    case Sub::drained:
        if (strikes(Fault::qemu_fails, 6)) {
            begin_undo(Errc::save_failed, "save");
            break;
        }
        is_sealed_ = true;
        source_.sub = Sub::saved;
        answer(std::exchange(source_.freezing, nullptr), std::nullopt);
        break;
    case Sub::saved:
        is_load_sent_ = true;
        source_.sub = Sub::sent;
        break;
    case Sub::sent:
        if (source_.state == PairState::frozen && owner_ == Owner::target) {
            cede();
        } else if (source_.state == PairState::ceded) {
            source_.timings = SwitchTimings{};
            source_.timings->pause = milliseconds(12);
            answer(std::exchange(source_.switching, nullptr), std::nullopt);
        } else {
            answer(std::exchange(source_.loading, nullptr), std::nullopt);
        }
        break;
    }
}

void World::cede() {
    source_.state = PairState::ceded;
    source_.undo = Undo::none;
    source_.sub = Sub::sent;
    set_lease(ran_ == Ran::yes ? kCededLease : Time(source_.frozen_lease));
}

void World::on_lease() {
    switch (source_.state) {
    case PairState::preparing: begin_undo(Errc::target_timeout, "prepare"); break;
    case PairState::prepared: begin_undo(Errc::lease_expired, "lease"); break;
    case PairState::frozen:
        if (source_.is_one_by_one) {
            begin_undo(Errc::lease_expired, "lease");
        } else {
            begin_undo(Errc::budget_exceeded, phase_now());
        }
        break;
    case PairState::ceded:
        if (ran_ == Ran::no || broken_ == Break::source_ignores_ran) {
            ran_ = Ran::revoked;
            source_.state = PairState::rolling_back;
            source_.why_undone = LastError{Errc::target_timeout, "takeover", "", ""};
            source_.undo = Undo::kill;
            source_.lease_ends = kNever;
        } else {
            end_process(source_, true);
        }
        break;
    default: source_.lease_ends = kNever; break;
    }
}

void World::on_child_gone() {
    if (source_.state == PairState::frozen && ran_ == Ran::yes) {
        cede(); // it ran before we heard of it
        answer(std::exchange(source_.switching, nullptr), std::nullopt);
    }
    if (source_.state != PairState::ceded) {
        owner_ = Owner::source; // nobody else has the words any more
        begin_undo(target_.why, phase_now());
        return;
    }
    if (ran_ == Ran::yes) {
        source_.has_told_end = true;
        source_.last_error = LastError{Errc::target_died, "takeover", "", "", target_.exit_status};
        set_lease(kControlStays);
        return;
    }
    source_.why_undone = LastError{Errc::target_died, "takeover", "", ""};
    source_.undo = Undo::reset;
}

void World::begin_undo(Errc code, const char* phase) {
    source_.why_undone = LastError{code, phase, "", ""};
    source_.lease_ends = kNever;
    source_.undo = Undo::word;
    if (broken_ == Break::source_runs_before_the_word && source_.state == PairState::frozen) {
        source_.vcpus = true;
    }
}

void World::undo_one_step() {
    switch (source_.undo) {
    case Undo::none: break;
    case Undo::word:
        if (owner_ == Owner::source) {
            owner_ = Owner::rolling_back;
            source_.state = PairState::rolling_back;
            source_.undo = Undo::kill;
        } else {
            answer(std::exchange(source_.undoing, nullptr), refuse(Errc::wrong_state));
            cede();
        }
        break;
    case Undo::kill:
        target_.is_killed = target_.is_alive;
        source_.killed_at = now();
        source_.undo = Undo::reap;
        break;
    case Undo::reap:
        if (!target_.is_alive) {
            source_.undo = Undo::reset;
        } else {
            source_.vcpus = true; // it has the word: the child never runs
            end_pause();
            answer(std::exchange(source_.switching, nullptr), refuse(source_.why_undone->code));
            source_.last_error = source_.why_undone;
        }
        break;
    case Undo::reset: take_back(); break;
    }
}

void World::take_back() {
    owner_ = Owner::source;
    source_.vcpus = true;
    end_pause();
    source_.state = PairState::none;
    source_.sub = Sub::idle;
    source_.undo = Undo::none;
    source_.lease_ends = kNever;
    source_.last_error = source_.why_undone;
    source_.closes_at = now() + kControlStays;
    const Errc code = source_.why_undone->code;
    answer(std::exchange(source_.switching, nullptr), refuse(code));
    answer(std::exchange(source_.freezing, nullptr), refuse(code));
    answer(std::exchange(source_.loading, nullptr), refuse(code));
    answer(std::exchange(source_.undoing, nullptr), std::nullopt);
}

bool World::source_has_settled() const {
    const bool is_child_hanging = source_.undo == Undo::reap && source_.vcpus;
    return is_foreign || source_.state == PairState::none || is_child_hanging;
}

// -- the target --------------------------------------------------------------------------------

void World::target_step() {
    target_.ready_at = now();
    switch (target_.step) {
    case Step::starting:
        if (strikes(Fault::qemu_fails, 6)) {
            end_target(Errc::target_died);
            break;
        }
        target_.step = Step::standby;
        target_.listens = target_.has_name = true;
        target_.has_said_standby = true;
        break;
    case Step::standby:
        if (is_load_sent_ || is_sealed_) {
            target_.step = Step::loading;
            target_.ready_at = now() + random_.between(milliseconds(0), milliseconds(8));
        } else {
            end_target(Errc::target_died); // the source is gone
        }
        break;
    case Step::loading:
        if (strikes(Fault::qemu_fails, 6)) {
            guest_was_ended_ = guest_was_ended_ || !source_.is_alive || source_.is_killed;
            end_target(Errc::load_failed);
            break;
        }
        target_.step = Step::loaded;
        target_.has_said_loaded = true;
        target_.ready_at = now() + (source_.is_one_by_one ? kLoadedWaits : Time(0));
        break;
    case Step::loaded: target_.step = Step::activate; break;
    case Step::activate:
        if (source_.is_alive && !source_.is_killed && strikes(Fault::qemu_fails, 6)) {
            end_target(Errc::takeover_failed);
            break;
        }
        target_.step = Step::word;
        break;
    case Step::word:
        if (owner_ == Owner::source) {
            owner_ = Owner::target;
            target_.step = Step::ran;
        } else {
            end_target(Errc::target_died);
        }
        break;
    case Step::ran:
        if (ran_ == Ran::no) {
            ran_ = Ran::yes;
            target_.step = Step::start;
        } else {
            end_target(Errc::target_died);
        }
        break;
    case Step::start:
        target_.vcpus = true;
        target_.has_said_running = true;
        target_ever_ran_ = true;
        target_.step = Step::running;
        end_pause();
        if (source_.state == PairState::ceded) {
            set_lease(kCededLease);
        }
        break;
    case Step::running: target_.closes_at = now() + kControlStays; break;
    }
}

/// It ends by itself, because something failed.
void World::end_target(Errc why) {
    target_.why = why;
    target_.exit_status = 1;
    end_process(target_, true);
}

void World::end_process(Process& process, bool closes_name) {
    process.is_alive = false;
    process.vcpus = false;
    process.listens = false;
    process.has_name = process.has_name && !closes_name;
    fail_open_calls(process);
}

void World::fail_open_calls(Process& process) {
    const std::deque<Request> open = std::exchange(process.inbox, {});
    for (const Request& request : open) {
        if (request.command == Command::look) {
            answer_look(request.call, {Presence::absent, {}, std::nullopt});
        } else {
            answer(request.call, refuse(Errc::lost_contact));
        }
    }
    if (&process == &source_) {
        for (CallPtr* call :
             {&source_.switching, &source_.freezing, &source_.loading, &source_.undoing}) {
            answer(std::exchange(*call, nullptr), refuse(Errc::lost_contact));
        }
    }
}

void World::on_daemon_gone() {
    disconnect();
    for (Process* process : {static_cast<Process*>(&source_), static_cast<Process*>(&target_)}) {
        for (Request& request : process->inbox) {
            request.call->wake = {};
        }
    }
    for (const CallPtr& call :
         {source_.switching, source_.freezing, source_.loading, source_.undoing}) {
        if (call) {
            call->wake = {};
        }
    }
    // What was handed to the disk may be written or not, but in order.
    while (!writes_.empty() && random_.chance(1, 2)) {
        durable_ = writes_.front().record;
        writes_.pop_front();
    }
    writes_.clear();
}

void World::disconnect() {
    source_.is_connected = target_.is_connected = false;
}

void World::write(Write write) {
    writes_.push_back(std::move(write));
}

// -- faults ------------------------------------------------------------------------------------

void World::note_fault(Fault fault) {
    ++faults_done_;
    if (fault_hits != nullptr) {
        ++(*fault_hits)[static_cast<std::size_t>(fault)];
    }
}

bool World::strikes(Fault fault, std::uint32_t odds) {
    if (is_calm_ || profile_.budget == 0 || !profile_.faults[static_cast<std::size_t>(fault)] ||
        !random_.chance(1, odds)) {
        return false;
    }
    --profile_.budget;
    note_fault(fault);
    return true;
}

bool World::disturb(Fault fault) {
    constexpr std::array<Time, 4> kLeast{
        milliseconds(1), milliseconds(1), milliseconds(500), seconds(25)};
    constexpr std::array<Time, 4> kMost{
        milliseconds(50), milliseconds(900), seconds(45), seconds(70)};
    const std::uint32_t length = random_.below(4);
    const Time some_time = random_.between(
        std::chrono::duration_cast<std::chrono::microseconds>(kLeast[length]),
        std::chrono::duration_cast<std::chrono::microseconds>(kMost[length])
    );
    const bool has_target = target_.is_alive && !target_.is_killed;
    const bool has_source = source_.is_alive && !source_.is_killed;
    const bool can_finish_alone =
        has_target && is_sealed_ && owner_ != Owner::rolling_back && ran_ != Ran::revoked;
    bool is_done = false;
    switch (fault) {
    case Fault::kill_source:
        is_done = has_source;
        if (is_done) {
            const bool is_needed = !(target_.vcpus && has_target) && !can_finish_alone;
            guest_was_ended_ = guest_was_ended_ || is_needed;
            source_.is_killed = true;
            source_.vcpus = false;
        }
        break;
    case Fault::kill_target:
        is_done = has_target;
        if (is_done) {
            guest_was_ended_ = guest_was_ended_ || ran_ == Ran::yes || !has_source;
            target_.is_killed = true;
            target_.vcpus = false;
        }
        break;
    case Fault::stop_source:
        is_done = has_source && !source_.is_stopped;
        source_.is_stopped = source_.is_stopped || is_done;
        source_.goes_on_at = is_done ? now() + some_time : source_.goes_on_at;
        break;
    case Fault::stop_target:
        is_done = has_target && !target_.is_stopped;
        target_.is_stopped = target_.is_stopped || is_done;
        target_.goes_on_at = is_done ? now() + some_time : target_.goes_on_at;
        break;
    case Fault::hang_target:
        is_done = has_target;
        target_.hangs_until = is_done ? now() + some_time : target_.hangs_until;
        break;
    case Fault::slow_source:
        is_done = has_source;
        source_.busy_until = is_done ? now() + some_time : source_.busy_until;
        break;
    case Fault::slow_target:
        is_done = has_target;
        target_.busy_until = is_done ? now() + some_time : target_.busy_until;
        break;
    case Fault::power_off:
        is_done = can_act(target_) && target_.step == Step::running;
        if (is_done) {
            guest_was_ended_ = true;
            target_.exit_status = 0;
            end_process(target_, true);
        }
        break;
    case Fault::journal_stalls:
        is_done = true;
        disk_busy_until_ = now() + some_time;
        break;
    default: break;
    }
    if (is_done) {
        if (fault != Fault::journal_stalls) {
            last_blow_ = ++clock_;
            pause_was_disturbed_ = true;
        }
        note_fault(fault);
        check();
    }
    return is_done;
}

void World::calm_down() {
    is_calm_ = true;
    for (Process* process : {static_cast<Process*>(&source_), static_cast<Process*>(&target_)}) {
        process->is_stopped = false;
        process->hangs_until = process->busy_until = Time(0);
    }
    disk_busy_until_ = Time(0);
}

// -- the truth ---------------------------------------------------------------------------------

void World::end_pause() {
    if (paused_at_) {
        longest_pause_ = std::max(longest_pause_, now() - *paused_at_);
        paused_at_.reset();
    }
}

void World::check() {
    if (source_runs() && target_runs() && broken_rule_.empty()) {
        broken_rule_ = "both processes run the guest";
    }
    if (source_runs() && target_ever_ran_ && broken_rule_.empty()) {
        broken_rule_ = "the source runs the guest from a state that it has left behind";
    }
}

std::string World::describe() const {
    const auto word = [](const Process& process) {
        return std::string(process.is_alive ? "alive" : "gone") +
               (process.is_killed ? " killed" : "") + (process.is_stopped ? " stopped" : "") +
               (process.vcpus ? " runs" : "") + (process.listens ? " listens" : "");
    };
    return "source " + word(source_) + " " + std::string(upgrade::to_string(source_.state)) +
           " sub " + std::to_string(static_cast<int>(source_.sub)) + " undo " +
           std::to_string(static_cast<int>(source_.undo)) + ", target " + word(target_) + " step " +
           std::to_string(static_cast<int>(target_.step)) + ", owner " +
           std::to_string(static_cast<int>(owner_)) + ", ran " +
           std::to_string(static_cast<int>(ran_)) + ", journal " +
           std::string(upgrade::to_string(durable_.phase)) + "/" +
           (durable_.outcome ? std::string(upgrade::to_string(*durable_.outcome)) : "open");
}

} // namespace qhup::sim
