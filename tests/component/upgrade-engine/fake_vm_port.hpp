// SPDX-License-Identifier: GPL-2.0-or-later
//
// FakeVmPort is a little VM with two processes, a state for each, and the truth of where the guest
// runs. It can be told to refuse a command, to lose it before or after it took effect, and to go
// silent. Tests compare what the engine says with the truth.
#pragma once

#include "upgrade-engine/vm_port.hpp"

#include <deque>
#include <functional>
#include <map>
#include <string>
#include <utility>
#include <vector>

namespace qhup::test {

using namespace qhup::upgrade;

/// What goes wrong with one command.
struct Fault {
    enum class Kind {
        none,
        refuse,      ///< QEMU answers with `code`; what docs/qmp.md says about the state holds
        lost_before, ///< no answer, and QEMU never saw it
        lost_after,  ///< no answer, but it took effect
    };
    Kind kind = Kind::none;
    upgrade::Errc code = upgrade::Errc::load_failed;
    std::string phase = "load"; ///< that last-error names
};

class FakeVmPort final : public VmPort {
public:
    struct Side {
        bool is_there = true;
        bool is_silent = false;
        VmFacts facts;
    };

    FakeVmPort() {
        source.facts.protocol = kProtocol;
        source.facts.version = {7, 2, 22};
        source.facts.version_text = "7.2.22";
        source.facts.build_id = "old";
        source.facts.machine = "pc-i440fx-7.2";
        source.facts.run_state = "running";
        source.facts.argv = {"qemu", "-machine", "pc"};
        source.facts.claimed_pid = 100;
        target.is_there = false;
        target.facts = source.facts;
        target.facts.role = Role::target;
        target.facts.version = {10, 0, 13};
        target.facts.version_text = "10.0.13";
        target.facts.build_id = "new";
        target.facts.claimed_pid = 200;
    }

    awaitable<Observation> observe_source(Deadline /*deadline*/) override {
        co_await give_way();
        on_look();
        co_return look_at(source);
    }

    awaitable<Observation> observe_target(Deadline /*deadline*/) override {
        co_await give_way();
        co_return look_at(target);
    }

    ProcessFacts source_process() const override { return process; }

    LinkCounters source_links() const override {
        links_now["tap0"] += packets_per_look;
        return links_now;
    }

    awaitable<Result<void>> prepare(PrepareRequest request, Deadline /*deadline*/) override {
        prepared_with = std::move(request);
        if (source.facts.state == PairState::none) {
            source.facts.upgrade = prepared_with.upgrade;
        }
        return act("prepare", &FakeVmPort::do_prepare);
    }

    awaitable<Result<void>> renew(std::chrono::nanoseconds /*lease*/, Deadline) override {
        return act("renew", &FakeVmPort::do_nothing);
    }

    awaitable<Result<SwitchTimings>> switch_over(SwitchLimits /*limits*/, Deadline) override {
        ++pauses_now;
        most_pauses = std::max(most_pauses, ++*shared_pauses);
        const Result<void> rest = co_await sleep_until(Deadline::in(switch_time));
        ignore(rest, "a cancelled switch goes on");
        --*shared_pauses;
        --pauses_now;
        const Result<void> done = co_await act("switch_over", &FakeVmPort::do_switch);
        if (done.has_error()) {
            co_return done.error();
        }
        co_return *target.facts.timings;
    }

    awaitable<Result<void>> freeze(SwitchLimits limits, Deadline) override {
        frozen_with = limits;
        return act("freeze", &FakeVmPort::do_freeze);
    }

    awaitable<Result<void>> load(Deadline /*deadline*/) override {
        return act("load", &FakeVmPort::do_load);
    }

    awaitable<Result<void>> commit(Deadline /*deadline*/) override {
        return act("commit", &FakeVmPort::do_commit);
    }

    awaitable<Result<void>> rollback(Deadline /*deadline*/) override {
        return act("rollback", &FakeVmPort::do_rollback);
    }

    /// Where the guest runs: "source", "target", or "" if nowhere.
    [[nodiscard]] std::string guest() const {
        const bool on_source = source.is_there && source.facts.state != PairState::ceded;
        const bool on_target = target.is_there && (target.facts.state == PairState::running ||
                                                   target.facts.state == PairState::none);
        return on_source && on_target ? "both" : on_source ? "source" : on_target ? "target" : "";
    }

    /// The target ends after it ran the guest: by itself, or by a signal. The source says so.
    void end_target(std::optional<int> status) {
        target.is_there = false;
        source.facts.last_error =
            LastError{upgrade::Errc::target_died, "takeover", "the fake's end", "", status};
    }

    Side source;
    Side target;
    ProcessFacts process;
    std::uint64_t packets_per_look = 0; // what tap0 counts from one look to the next
    mutable LinkCounters links_now{{"tap0", 1}};
    PrepareRequest prepared_with;
    SwitchLimits frozen_with;
    SwitchTimings rehearsal_timings; ///< that the source tells after a freeze was taken back
    std::vector<std::string> calls;  ///< commands in order; looks are not among them
    std::map<std::string, std::deque<Fault>> faults; ///< by command, for its first calls
    std::function<void()> on_look = [] {};           ///< before each look at the source
    PairState after_prepare = PairState::prepared;   ///< what the source is in then
    PairState after_rollback = PairState::none;      ///< likewise
    std::chrono::milliseconds switch_time{0};
    int pauses_now = 0;
    int most_pauses = 0;
    std::shared_ptr<int> shared_pauses = std::make_shared<int>(0); ///< of all VMs of a test

private:
    /// A real peer always makes us wait.
    static awaitable<void> give_way() {
        const auto executor = co_await asio::this_coro::executor;
        co_await asio::post(executor, asio::use_awaitable);
    }

    static Observation look_at(const Side& side) {
        if (!side.is_there) {
            return {Observation::Presence::absent, {}, std::nullopt};
        }
        if (side.is_silent) {
            return {Observation::Presence::silent, {}, std::nullopt};
        }
        return {Observation::Presence::answers, side.facts, std::nullopt};
    }

    awaitable<Result<void>> act(std::string name, Result<void> (FakeVmPort::*effect)()) {
        co_await give_way();
        calls.push_back(name);
        Fault fault;
        if (auto& planned = faults[name]; !planned.empty()) {
            fault = planned.front();
            planned.pop_front();
        }
        if (fault.kind == Fault::Kind::refuse) {
            on_refused(fault);
            co_return make_failure(fault.code, std::string(explain(fault.code)));
        }
        const Result<void> done =
            fault.kind == Fault::Kind::lost_before ? Result<void>() : (this->*effect)();
        if (fault.kind != Fault::Kind::none) {
            co_return make_failure(qhup::Errc::timed_out, "the fake did not answer in time");
        }
        co_return done;
    }

    /// docs/qmp.md: the state after each code.
    void on_refused(const Fault& fault) {
        if (fault.code == upgrade::Errc::wrong_state) {
            return;
        }
        source.facts.last_error = LastError{fault.code, fault.phase, "the fake refused", ""};
        if (!is_worth_another_try(fault.code)) {
            source.facts.state = PairState::none;
            target.is_there = false;
        }
    }

    Result<void> wrong_state() {
        return make_failure(upgrade::Errc::wrong_state, "the fake is in another state");
    }

    Result<void> do_nothing() { return {}; }

    Result<void> do_prepare() {
        source.facts.state = after_prepare;
        target.is_there = after_prepare == PairState::prepared;
        target.facts.state = PairState::standby;
        return {};
    }

    Result<void> do_switch() {
        if (source.facts.state != PairState::prepared) {
            return wrong_state();
        }
        source.facts.state = PairState::ceded;
        target.facts.state = PairState::running;
        target.facts.timings = SwitchTimings{};
        target.facts.timings->pause = std::chrono::milliseconds(40);
        return {};
    }

    Result<void> do_freeze() {
        if (source.facts.state != PairState::prepared) {
            return wrong_state();
        }
        source.facts.state = PairState::frozen;
        return {};
    }

    Result<void> do_load() {
        if (source.facts.state != PairState::frozen) {
            return wrong_state();
        }
        target.facts.state = PairState::loaded;
        source.facts.timings = rehearsal_timings;
        return {};
    }

    Result<void> do_commit() {
        if (source.facts.state != PairState::ceded) {
            return wrong_state();
        }
        source.is_there = false;
        target.facts.role = Role::source;
        target.facts.state = PairState::none;
        return {};
    }

    Result<void> do_rollback() {
        if (source.facts.state == PairState::ceded) {
            return wrong_state();
        }
        source.facts.state = after_rollback;
        target.is_there = false;
        return {};
    }
};

} // namespace qhup::test
