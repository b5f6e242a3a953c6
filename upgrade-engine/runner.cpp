// SPDX-License-Identifier: GPL-2.0-or-later
#include "upgrade-engine/runner.hpp"

#include "upgrade-engine/recovery.hpp"
#include "upgrade-engine/steps.hpp"

#include <algorithm>
#include <utility>

namespace qhup::upgrade {
namespace {

/// Until here a cancellation is obeyed; later, stopping half-way would help nobody.
bool is_cancellable(Phase phase) {
    return phase == Phase::queued || phase == Phase::preflight || phase == Phase::prepare ||
           phase == Phase::await_pause;
}

/// The phases that stop the guest.
bool is_the_pause(Phase phase) {
    return phase == Phase::switch_over || phase == Phase::rehearse;
}

/// Walks one VM through the table. Lives in the frame of run_upgrade() or run_recovery().
class Runner {
public:
    Runner(
        VmPort& port,
        SlotGate::Turn* turn,
        UpgradeRequest request,
        UpgradeObserver observer,
        IntentWriter write_intent
    )
        : request_(std::move(request)),
          observer_(std::move(observer)),
          write_intent_(std::move(write_intent)),
          context_{port, request_, report_, turn, Deadline::never(), {}, {}} {
        report_.vm = request_.vm;
        report_.upgrade = request_.upgrade;
        report_.to = request_.binary ? request_.binary->version : QemuVersion{};
    }
    Runner(const Runner&) = delete;
    Runner& operator=(const Runner&) = delete;

    awaitable<UpgradeReport> run(Phase first) {
        enter(first);
        while (!is_terminal(report_.phase)) {
            const Phase phase = report_.phase;
            const StepResult result = co_await run_phase(phase);
            report_.marks.back().ended = result.outcome;
            if (result.failure) {
                note(*result.failure);
            }
            const Phase following = next(phase, result.outcome, request_.goal);
            const bool may_be_paused = !is_terminal(following) && row_of(following).vm_paused;
            if (phase != Phase::await_pause && !may_be_paused) {
                co_await release_pause_slot();
            }
            has_pause_slot_ = has_pause_slot_ || is_the_pause(following);
            enter(following);
        }
        if (context_.turn != nullptr) {
            co_await context_.turn->finish(is_failure());
        }
        co_return std::move(report_);
    }

    /// The first phase of a recovery: what the pair shows, once it shows more than "wait".
    awaitable<Phase> find_first_phase() {
        context_.deadline = Deadline::in(request_.config.deadline_of(Phase::rolling_back));
        while (true) {
            const PairView view = co_await observe_pair(context_);
            const Decision decision = decide(view.source, view.target);
            const bool is_settled =
                decision.action != Action::wait && decision.action != Action::lost_contact;
            if (is_settled || context_.deadline.is_over()) {
                const bool is_over_there = decision.action == Action::commit ||
                                           decision.action == Action::upgraded ||
                                           decision.action == Action::guest_ended;
                co_return is_over_there ? Phase::verify : Phase::rolling_back;
            }
            ignore(
                co_await sleep_until(Deadline::in(request_.config.poll_interval)),
                "looks again in any case"
            );
        }
    }

private:
    void enter(Phase phase) {
        report_.phase = phase;
        report_.marks.push_back({phase, std::chrono::steady_clock::now(), std::nullopt});
        if (observer_) {
            observer_(report_);
        }
    }

    void note(Failure failure) {
        if (report_.failure) {
            add_also(*report_.failure, std::move(failure));
        } else {
            report_.failure = std::move(failure);
        }
    }

    [[nodiscard]] bool is_failure() const {
        const bool is_good = report_.phase == Phase::upgraded || report_.phase == Phase::rehearsed;
        const bool was_tried = report_.marks.size() > 2; // more than queued and the end
        return !is_good && was_tried && !report_.is_nothing_to_do && report_.failure.has_value() &&
               !is_cancelled(*report_.failure);
    }

    awaitable<void> release_pause_slot() {
        if (std::exchange(has_pause_slot_, false) && context_.turn != nullptr) {
            co_await context_.turn->end_pause();
        }
    }

    awaitable<StepResult> run_phase(Phase phase) {
        if (!is_cancellable(phase)) {
            // why: from the switch on, and in every undo, an impatient caller must not stop us.
            co_await asio::this_coro::reset_cancellation_state(asio::disable_cancellation());
        }
        bool is_given_up = co_await was_cancelled();
        if (is_given_up) {
            co_return make_cancelled();
        }
        if (row_of(phase).intent_first && write_intent_) {
            const Result<void> written = co_await write_intent(phase);
            if (written.has_error()) {
                co_return make_not_begun(written.error());
            }
        }
        const std::chrono::milliseconds time = request_.config.deadline_of(phase);
        context_.deadline = time.count() == 0 ? Deadline::never() : Deadline::in(time);
        StepResult result = co_await run_step(context_, phase);
        while (is_the_pause(phase) && is_worth_repeating(result)) {
            co_await wait_before_retry();
            const auto lease = request_.config.lease;
            const Result<void> renewed = co_await context_.port.renew(lease, context_.deadline);
            if (renewed.has_error()) {
                break; // the first reason is the better one
            }
            result = co_await run_step(context_, phase);
        }
        is_given_up = co_await was_cancelled();
        if (is_given_up && result.outcome == Outcome::ok) {
            co_return make_cancelled();
        }
        co_return result;
    }

    /// Bounded also by the lease: while we wait for a disk, nobody renews it.
    awaitable<Result<void>> write_intent(Phase phase) {
        const auto half_lease =
            std::chrono::duration_cast<std::chrono::milliseconds>(request_.config.lease / 2);
        const auto patience = std::min(request_.config.intent_timeout, half_lease);
        const std::string doing = "writing the intent of " + std::string(to_string(phase));
        auto writing = write_intent_(report_, Deadline::in(patience));
        const Result<void> written = co_await std::move(writing);
        co_return with_context(written, doing);
    }

    static StepResult make_not_begun(const Failure& why) {
        if (is_cancelled(why)) {
            return make_cancelled();
        }
        return {
            Outcome::declined,
            make_failure(
                Errc::journal_failed, std::string(explain(Errc::journal_failed)), to_text(why)
            )};
    }

    static StepResult make_cancelled() {
        return {
            Outcome::failed,
            make_failure(
                qhup::Errc::cancelled,
                "The upgrade was cancelled before the guest was paused; it runs on the old QEMU, "
                "so "
                "start the upgrade again when it is wanted."
            )};
    }

    /// Only these codes leave the pair prepared with the guest running on the source.
    [[nodiscard]] bool is_worth_repeating(const StepResult& result) const {
        const bool is_known =
            result.outcome == Outcome::failed || result.outcome == Outcome::declined;
        return is_known && result.failure &&
               (result.failure->code == make_error_code(Errc::retry) ||
                result.failure->code == make_error_code(Errc::drain_timeout)) &&
               report_.switch_attempts < request_.config.switch_attempts &&
               !context_.deadline.is_over();
    }

    awaitable<void> wait_before_retry() {
        const Deadline wake = Deadline::in(request_.config.retry_delay);
        ignore(co_await sleep_until(earlier(wake, context_.deadline)), "the pause is bounded");
    }

    UpgradeRequest request_;
    UpgradeObserver observer_;
    IntentWriter write_intent_;
    UpgradeReport report_;
    StepContext context_;
    bool has_pause_slot_ = false;
};

} // namespace

std::chrono::milliseconds RunnerConfig::deadline_of(Phase phase) const {
    if (const auto found = deadlines.find(phase); found != deadlines.end()) {
        return found->second;
    }
    const std::chrono::milliseconds usual = row_of(phase).deadline;
    return phase == Phase::verify ? std::max(usual, watch_window + probe_limit + kVerifySlack)
                                  : usual;
}

std::chrono::nanoseconds UpgradeReport::elapsed() const {
    return marks.empty() ? std::chrono::nanoseconds{0} : marks.back().at - marks.front().at;
}

awaitable<UpgradeReport> run_upgrade(
    VmPort& port,
    std::shared_ptr<SlotGate::Turn> turn,
    UpgradeRequest request,
    UpgradeObserver observer,
    IntentWriter write_intent
) {
    Runner runner(
        port, turn.get(), std::move(request), std::move(observer), std::move(write_intent)
    );
    UpgradeReport report = co_await runner.run(Phase::queued);
    co_await asio::this_coro::reset_cancellation_state(asio::enable_terminal_cancellation());
    co_return report;
}

awaitable<UpgradeReport>
run_recovery(VmPort& port, RecoveryRequest request, UpgradeObserver observer) {
    co_await asio::this_coro::reset_cancellation_state(asio::disable_cancellation());
    UpgradeRequest as_upgrade;
    as_upgrade.vm = std::move(request.vm);
    as_upgrade.upgrade = std::move(request.upgrade);
    as_upgrade.probe = std::move(request.probe);
    as_upgrade.config = std::move(request.config);
    Runner runner(port, nullptr, std::move(as_upgrade), std::move(observer), {});
    const Phase first = co_await runner.find_first_phase();
    UpgradeReport report = co_await runner.run(first);
    co_await asio::this_coro::reset_cancellation_state(asio::enable_terminal_cancellation());
    if (report.phase == Phase::rolled_back && !report.failure) {
        report.failure = make_failure(
            Errc::rolled_back,
            "qhupd ended in the middle of this upgrade, and the next one undid it. The guest runs "
            "on the old QEMU; start the upgrade again."
        );
    }
    co_return report;
}

awaitable<Result<Verdict>> check_upgrade(VmPort& port, UpgradeRequest request) {
    UpgradeReport report;
    StepContext context{port, request, report, nullptr, Deadline::never(), {}, {}};
    context.deadline = Deadline::in(request.config.deadline_of(Phase::preflight));
    co_return co_await judge(context);
}

} // namespace qhup::upgrade
