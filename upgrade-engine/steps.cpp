// SPDX-License-Identifier: GPL-2.0-or-later
#include "upgrade-engine/steps.hpp"

#include "upgrade-engine/kept_binary.hpp"
#include "upgrade-engine/recovery.hpp"
#include "upgrade-engine/warnings.hpp"

#include <algorithm>
#include <array>
#include <string>
#include <utility>

namespace qhup::upgrade {
namespace {

using Presence = Observation::Presence;

// Long enough to count some hundred packets where it matters, short enough for who waits.
constexpr std::chrono::milliseconds kLinkSample{25};

StepResult ok() {
    return {Outcome::ok, std::nullopt};
}

StepResult failed(Failure failure) {
    return {Outcome::failed, std::move(failure)};
}

StepResult declined(Failure failure) {
    return {Outcome::declined, std::move(failure)};
}

StepResult nothing_to_complain_about() {
    return {Outcome::failed, std::nullopt};
}

StepResult unknown(Failure failure) {
    return {Outcome::unknown, std::move(failure)};
}

Failure make_explained(Errc code, std::string peer_text = {}) {
    return make_failure(code, std::string(explain(code)), std::move(peer_text));
}

/// Failed when QEMU answered or was certainly not asked; unknown otherwise.
/// @param what  the command, for the message
StepResult from_failure(Failure failure, const std::string& what) {
    if (is_cancelled(failure)) {
        Failure cancelled = make_failure(
            failure.code,
            "The upgrade was cancelled during the step " + what +
                ", so the VM was asked what is true, and the step was undone; start the upgrade "
                "again when it is wanted."
        );
        add_also(cancelled, std::move(failure));
        return unknown(std::move(cancelled));
    }
    if (is_timed_out(failure) || failure.code == make_error_code(Errc::lost_contact)) {
        Failure no_answer = make_failure(
            failure.code,
            "QEMU did not answer in the step " + what +
                ", so the VM was asked what is true; unless it is upgraded, start the upgrade "
                "again."
        );
        add_also(no_answer, std::move(failure));
        return unknown(std::move(no_answer));
    }
    return failed(std::move(failure));
}

/// Why QEMU gave the upgrade up, in our words, with its own as peer text.
Failure make_given_up(const VmFacts& facts, Errc if_not_said) {
    if (!facts.last_error) {
        return make_explained(if_not_said);
    }
    std::string words = facts.last_error->message;
    if (!facts.last_error->stderr_text.empty()) {
        words +=
            (words.empty() ? "" : "; last words of the new QEMU: ") + facts.last_error->stderr_text;
    }
    return make_explained(facts.last_error->code, std::move(words));
}

/// Why one side did not answer, or the general sentence if it did not say.
Failure make_silent(const Observation& observation, Errc code) {
    Failure failure = observation.why.value_or(make_explained(code));
    if (failure.code != make_error_code(code) && !is_cancelled(failure) &&
        failure.code != make_error_code(Errc::not_patched) &&
        failure.code != make_error_code(Errc::unexpected_answer)) {
        Failure general = make_explained(code);
        add_also(general, std::move(failure));
        return general;
    }
    return failure;
}

/// How often a contradiction must show before it is believed.
constexpr int kMostLooks = 3;

/// Of a look. Never less than one honest look, even when the phase's time is over.
Deadline look_deadline(const StepContext& context) {
    return Deadline::in(context.request.config.ask_timeout);
}

/// Of a command.
Deadline ask_deadline(const StepContext& context) {
    return earlier(context.deadline, Deadline::in(context.request.config.ask_timeout));
}

awaitable<Result<void>> wait_to_look_again(const StepContext& context) {
    const Deadline next_look = Deadline::in(context.request.config.poll_interval);
    co_return co_await sleep_until(earlier(context.deadline, next_look));
}

/// The queue let us go: the batch was stopped, or the caller gave up.
StepResult make_given_up_waiting(Failure failure) {
    if (is_cancelled(failure)) {
        failure.message =
            "The upgrade was cancelled before the guest was paused; it runs on the old "
            "QEMU, so start the upgrade again when it is wanted.";
    }
    return failed(std::move(failure));
}

// -- queued ------------------------------------------------------------------------------------

awaitable<StepResult> forward_queued(StepContext& context) {
    if (context.turn == nullptr) {
        co_return ok();
    }
    const Result<void> turn = co_await context.turn->wait_to_start();
    if (turn.has_error()) {
        co_return make_given_up_waiting(turn.error());
    }
    if (!context.request.may_begin) {
        co_return ok();
    }
    auto asking = context.request.may_begin();
    const Result<void> admitted = co_await std::move(asking);
    co_return admitted.has_value() ? ok() : make_given_up_waiting(admitted.error());
}

// -- preflight ---------------------------------------------------------------------------------

std::string in_ms(std::chrono::nanoseconds time) {
    const auto tenths = time.count() / 100'000;
    return std::to_string(tenths / 10) + "." + std::to_string(tenths % 10) + " ms";
}

Failure make_over_budget(
    const StepContext& context, std::chrono::nanoseconds predicted, const std::string& basis
) {
    return make_failure(
        Errc::budget,
        "The pause would probably be " + in_ms(predicted) + " long, as " + basis + " showed, and " +
            in_ms(context.request.config.switch_limits.budget) +
            " are allowed, so the guest was not moved; rehearse it when the host is less busy, or "
            "allow a longer pause."
    );
}

Verdict make_not_patched_verdict() {
    return {{make_not_patched_blocker()}, {}, false};
}

ArgvPlan make_argv_plan(const StepContext& context, const VmFacts& source) {
    const PinnedBinary& binary = *context.request.binary;
    return plan_argv({
        source.argv,
        source.machine,
        binary.version,
        binary.release.path,
        release_tail(binary.release),
        context.request.known_tails,
        binary.release.name.text(),
    });
}

Verdict make_verdict(const StepContext& context, const VmFacts& source, const ArgvPlan& plan) {
    const PinnedBinary& binary = *context.request.binary;
    const ReleaseFacts release{
        binary.release.name.text(),
        binary.version,
        binary.build_id,
        context.request.binary_facts,
        context.request.source_facts,
    };
    return find_blockers(
        source,
        context.port.source_process(),
        release,
        plan,
        context.request.config.trusted_supervisors
    );
}

/// Waits a little, to see how fast packets come.
awaitable<std::vector<Blocker>>
look_at_links(const StepContext& context, const std::vector<Link>& links) {
    LinkSample sample{.before = context.port.source_links(), .after = {}};
    const auto began = std::chrono::steady_clock::now();
    const Result<void> slept = co_await sleep_until(Deadline::in(kLinkSample));
    ignore(slept, "cancelled: the sample is shorter");
    sample.after = context.port.source_links();
    sample.between = std::chrono::steady_clock::now() - began;
    const RunnerConfig& config = context.request.config;
    const std::optional<PausePrediction>& prediction = context.request.prediction;
    const auto pause = expect_pause(
        prediction ? std::optional(prediction->pause) : std::nullopt, config.switch_limits.budget
    );
    co_return find_warnings(links, sample, pause);
}

awaitable<StepResult> forward_preflight(StepContext& context) {
    const Result<Verdict> verdict = co_await judge(context);
    if (verdict.has_error()) {
        co_return from_failure(verdict.error(), "preflight");
    }
    context.report.is_nothing_to_do = verdict->is_already_there;
    if (verdict->is_already_there) {
        co_return failed(make_explained(Errc::already_on_release));
    }
    context.report.blockers = verdict->blockers;
    if (!verdict->blockers.empty()) {
        co_return failed(make_explained(Errc::blocked, verdict->blockers.front().reason));
    }
    const std::optional<PausePrediction>& prediction = context.request.prediction;
    const bool is_move = context.request.goal == Goal::upgrade;
    if (is_move && prediction && prediction->pause > context.request.config.switch_limits.budget) {
        co_return failed(make_over_budget(context, prediction->pause, prediction->basis));
    }
    if (context.request.is_dry_run) {
        for (const Blocker& warning : verdict->warnings) {
            context.report.warnings.push_back(warning.reason);
        }
        co_return nothing_to_complain_about();
    }
    co_return ok();
}

// -- prepare -----------------------------------------------------------------------------------

awaitable<StepResult> wait_until_prepared(StepContext& context) {
    while (true) {
        const Observation source = co_await context.port.observe_source(look_deadline(context));
        if (source.is(PairState::prepared)) {
            co_return ok();
        }
        if (source.is(PairState::none)) {
            co_return failed(make_given_up(source.facts, Errc::target_died));
        }
        // while it rolls back, the reason is not complete yet
        const bool is_under_way =
            source.is(PairState::preparing) || source.is(PairState::rolling_back);
        if (source.answers() && !is_under_way) {
            co_return failed(make_explained(Errc::wrong_state));
        }
        if (source.presence == Presence::absent) {
            co_return unknown(make_explained(Errc::vm_gone));
        }
        if (context.deadline.is_over()) {
            co_return source.answers() ? failed(make_explained(Errc::target_timeout))
                                       : unknown(make_silent(source, Errc::not_answering));
        }
        const Result<void> waited = co_await wait_to_look_again(context);
        if (waited.has_error()) {
            co_return from_failure(waited.error(), "prepare");
        }
    }
}

PrepareRequest make_prepare_request(const StepContext& context) {
    std::vector<std::string> argv = context.argv;
    // why: a kept binary is started by its own loader, which takes its words away again, so that
    // the process has the command line that was planned.
    const std::vector<std::string> loader = loader_words(context.request.binary->release);
    argv.insert(argv.begin() + (argv.empty() ? 0 : 1), loader.begin(), loader.end());
    return {
        context.request.upgrade,
        context.request.binary->fd.get(),
        std::move(argv),
        context.before.pidfile,
        context.request.config.lease,
    };
}

awaitable<StepResult> forward_prepare(StepContext& context) {
    const Result<void> unchanged = check_unchanged(*context.request.binary);
    if (unchanged.has_error()) {
        co_return failed(unchanged.error());
    }
    PrepareRequest request = make_prepare_request(context);
    const Result<void> begun = co_await context.port.prepare(std::move(request), context.deadline);
    if (begun.has_error() && begun.error().code == make_error_code(Errc::wrong_state)) {
        co_return declined(begun.error()); // what is in progress there is not ours
    }
    if (begun.has_error()) {
        co_return from_failure(begun.error(), "prepare");
    }
    co_return co_await wait_until_prepared(context);
}

// -- await_pause -------------------------------------------------------------------------------

/// A new lease. A pair that is no longer prepared says why.
awaitable<StepResult> renew_lease(StepContext& context) {
    const Result<void> renewed =
        co_await context.port.renew(context.request.config.lease, ask_deadline(context));
    if (renewed.has_value()) {
        co_return ok();
    }
    const Observation source = co_await context.port.observe_source(look_deadline(context));
    if (source.is(PairState::prepared)) {
        co_return ok(); // the next renewal comes before the lease ends
    }
    if (source.is(PairState::none)) {
        co_return failed(make_given_up(source.facts, Errc::lease_expired));
    }
    co_return from_failure(renewed.error(), "await_pause");
}

awaitable<StepResult> forward_await_pause(StepContext& context) {
    const auto renewal = context.request.config.lease / 3;
    bool is_my_turn = context.turn == nullptr;
    while (!is_my_turn) {
        const Result<void> turn = co_await context.turn->wait_to_pause(Deadline::in(renewal));
        if (turn.has_error() && !is_timed_out(turn.error())) {
            co_return make_given_up_waiting(turn.error());
        }
        is_my_turn = turn.has_value();
        const StepResult renewed = co_await renew_lease(context);
        if (renewed.outcome != Outcome::ok) {
            co_return renewed;
        }
    }
    co_return ok();
}

// -- switch_over -------------------------------------------------------------------------------

void note_timings(StepContext& context, const PairView& view) {
    const std::optional<SwitchTimings>& of_target = view.target.facts.timings;
    if (!context.report.timings) {
        context.report.timings = of_target ? of_target : view.source.facts.timings;
    }
}

/// qemu: docs/qmp.md, last-error.phase: what ends in these has never stopped the guest.
bool is_before_pause(const std::string& phase) {
    return phase == "prepare" || phase == "flush";
}

/// qemu: docs/qmp.md, last-error.phase: in these the guest is paused.
bool is_in_pause(const std::string& phase) {
    return phase == "freeze" || phase == "save" || phase == "load" || phase == "takeover";
}

/// The source has the guest back and only waits for a process that will never do anything again.
bool has_guest_back(const Observation& source) {
    return source.is(PairState::rolling_back) && !source.facts.run_state.empty() &&
           source.facts.run_state != "finish-migrate";
}

/// The guest was seen to run on the source again, after a command that may have stopped it.
void note_taken_back(
    StepContext& context, const Observation& source, std::chrono::steady_clock::time_point when
) {
    if (!context.stop_asked) {
        return;
    }
    if (source.is(PairState::prepared) && !source.facts.last_error) {
        context.stop_asked.reset(); // QEMU never saw the command, or is still before the pause
        return;
    }
    std::chrono::nanoseconds pause = when - *std::exchange(context.stop_asked, std::nullopt);
    const std::optional<SwitchTimings>& measured = source.facts.timings;
    if (source.answers() && measured && measured->pause.count() > 0) {
        pause = measured->pause;
    }
    std::optional<std::chrono::nanoseconds>& longest = context.report.pause_taken_back;
    longest = std::max(longest.value_or(pause), pause);
}

/// Whether the source has the guest, and does not stand still with it.
bool has_guest_again(const Observation& source) {
    return source.is(PairState::none) || source.is(PairState::prepared) || has_guest_back(source);
}

/// Declined as long as no try of the switch has stopped the guest, else failed.
StepResult end_switch(StepContext& context, bool was_paused, Failure failure) {
    context.was_paused = context.was_paused || was_paused;
    if (!was_paused) {
        context.stop_asked.reset();
    }
    return context.was_paused ? failed(std::move(failure)) : declined(std::move(failure));
}

/// As end_switch(), of a try that left the guest on the source: its answer said so, or a look.
StepResult end_taken_back(
    StepContext& context,
    const Observation& source,
    std::chrono::steady_clock::time_point when,
    bool was_paused,
    Failure failure
) {
    if (was_paused) {
        note_taken_back(context, source, when);
    }
    return end_switch(context, was_paused, std::move(failure));
}

/// Whether the guest may have been paused by the switch of which this is left: unless the source
/// says that it was not, it may.
bool may_have_paused(const StepContext& context, const Observation& source) {
    const VmFacts& facts = source.facts;
    const bool is_of_another = !facts.upgrade.empty() && facts.upgrade != context.request.upgrade;
    return !source.answers() || is_of_another || !facts.last_error ||
           !is_before_pause(facts.last_error->phase);
}

Failure make_guest_lost(const VmFacts& source) {
    Failure failure = make_given_up(source, Errc::target_died);
    return make_explained(Errc::guest_lost, std::move(failure.peer_text));
}

/// The reply did not come. The pair went through the pause by itself, one way or the other.
awaitable<StepResult> settle_switch(StepContext& context, Failure no_reply) {
    context.deadline = Deadline::in(context.request.config.deadline_of(Phase::switch_over));
    while (true) {
        const PairView view = co_await observe_pair(context);
        const auto now = std::chrono::steady_clock::now();
        const Decision decision = decide(view.source, view.target);
        switch (decision.action) {
        case Action::commit:
        case Action::guest_ended:
        case Action::upgraded: note_timings(context, view); co_return ok();
        case Action::guest_lost: co_return failed(make_guest_lost(view.source.facts));
        case Action::nothing_to_do: {
            Failure given_up = make_given_up(view.source.facts, Errc::rolled_back);
            const bool was_paused = may_have_paused(context, view.source);
            co_return end_taken_back(context, view.source, now, was_paused, std::move(given_up));
        }
        case Action::roll_back: {
            const bool was_paused = may_have_paused(context, view.source);
            co_return end_taken_back(context, view.source, now, was_paused, std::move(no_reply));
        }
        case Action::needs_operator: co_return failed(make_explained(Errc::split, decision.reason));
        case Action::vm_gone: co_return unknown(make_explained(Errc::vm_gone));
        case Action::wait:
        case Action::lost_contact: break;
        }
        if (context.deadline.is_over()) {
            add_also(no_reply, make_failure(Errc::lost_contact, decision.reason));
            co_return view.source.answers() ? failed(std::move(no_reply))
                                            : unknown(make_explained(Errc::lost_contact));
        }
        ignore(co_await wait_to_look_again(context), "looks again in any case");
    }
}

awaitable<StepResult> forward_switch_over(StepContext& context) {
    ++context.report.switch_attempts;
    context.stop_asked = std::chrono::steady_clock::now();
    const Result<SwitchTimings> switched =
        co_await context.port.switch_over(context.request.config.switch_limits, context.deadline);
    const auto answered = std::chrono::steady_clock::now();
    if (switched.has_value()) {
        context.stop_asked.reset();
        context.report.timings = *switched;
        co_return ok();
    }
    StepResult result = from_failure(switched.error(), "switch_over");
    Failure failure = std::move(*result.failure);
    if (result.outcome == Outcome::unknown) {
        co_return co_await settle_switch(context, std::move(failure));
    }
    const Observation source = co_await context.port.observe_source(look_deadline(context));
    const std::optional<LastError>& last = source.facts.last_error;
    if (failure.code == make_error_code(Errc::wrong_state) && source.is(PairState::none)) {
        // The pair was no longer prepared, so this try did nothing; the pair knows why.
        const bool was_paused = last && is_in_pause(last->phase);
        context.stop_asked.reset();
        Failure given_up = make_given_up(source.facts, Errc::lease_expired);
        co_return end_switch(context, was_paused, std::move(given_up));
    }
    const bool is_of_this_try = last && failure.code == make_error_code(last->code);
    const bool was_paused = !is_of_this_try || may_have_paused(context, source);
    co_return end_taken_back(context, source, answered, was_paused, std::move(failure));
}

// -- rehearse ----------------------------------------------------------------------------------

/// What activation and start add, where nobody has measured it yet.
constexpr std::chrono::milliseconds kTypicalTakeover{5};

/// The two halves of a rehearsal. `freeze` and `load` may take as long as the budget together.
awaitable<Result<void>> freeze_and_load(StepContext& context) {
    SwitchLimits limits = context.request.config.switch_limits;
    // why: the single steps have no budget; their lease bounds the pause in the same way.
    limits.frozen_lease = std::min(limits.frozen_lease, limits.budget);
    const Result<void> frozen = co_await context.port.freeze(limits, context.deadline);
    if (frozen.has_error()) {
        co_return frozen;
    }
    Result<void> loaded = co_await context.port.load(context.deadline);
    if (loaded.has_error() && loaded.error().code == make_error_code(Errc::vm_gone)) {
        // why: only the source is known to be gone; with the whole state the target runs the guest.
        Failure alone = make_explained(Errc::lost_contact);
        add_also(alone, loaded.error());
        co_return alone;
    }
    co_return loaded;
}

/// Why a rehearsal did not get to its end, in the words of an upgrade that would have failed so.
Failure explain_rehearsal(Failure failure, const Observation& source) {
    const std::optional<LastError>& last = source.facts.last_error;
    if (last && source.is(PairState::none) &&
        failure.code != make_error_code(Errc::journal_failed)) {
        failure = make_given_up(source.facts, Errc::rolled_back);
    }
    if (failure.code == make_error_code(Errc::lease_expired)) {
        return make_explained(Errc::budget_exceeded, std::move(failure.peer_text));
    }
    return failure;
}

Rehearsal make_rehearsal(
    const StepContext& context, const VmFacts& source, std::chrono::nanoseconds measured
) {
    Rehearsal rehearsal;
    rehearsal.timings = source.timings.value_or(SwitchTimings{});
    const SwitchTimings& parts = rehearsal.timings;
    const std::chrono::nanoseconds known = parts.stop + parts.drain + parts.save + parts.load;
    // why: what the daemon measures has the flush in it, which comes before the pause.
    rehearsal.pause = parts.pause.count() > 0 ? parts.pause : measured;
    const std::chrono::nanoseconds takeover =
        context.request.prediction ? context.request.prediction->takeover : kTypicalTakeover;
    rehearsal.predicted = known.count() > 0 ? known + takeover : measured;
    return rehearsal;
}

/// qemu: docs/qmp.md: the single steps leave the guest paused until the rollback, so nothing that
/// can wait stands between them.
awaitable<StepResult> forward_rehearse(StepContext& context) {
    ++context.report.switch_attempts;
    const auto began = std::chrono::steady_clock::now();
    context.stop_asked = began;
    const Result<void> loaded = co_await freeze_and_load(context);
    const auto answered = std::chrono::steady_clock::now();
    if (loaded.has_value()) {
        context.stop_asked.reset();
        const Result<void> back = co_await context.port.rollback(context.deadline);
        ignore(back, "the next phase looks, and asks again");
        const auto measured = std::chrono::steady_clock::now() - began;
        const Observation source = co_await context.port.observe_source(look_deadline(context));
        context.report.rehearsal = make_rehearsal(context, source.facts, measured);
        const std::chrono::nanoseconds predicted = context.report.rehearsal->predicted;
        if (predicted > context.request.config.switch_limits.budget) {
            co_return failed(make_over_budget(context, predicted, "the rehearsal"));
        }
        co_return ok();
    }
    StepResult result = from_failure(loaded.error(), "rehearse");
    if (result.outcome == Outcome::unknown) {
        co_return result;
    }
    const Observation source = co_await context.port.observe_source(look_deadline(context));
    const bool was_paused = may_have_paused(context, source);
    Failure why = explain_rehearsal(std::move(*result.failure), source);
    co_return end_taken_back(context, source, answered, was_paused, std::move(why));
}

// -- verify ------------------------------------------------------------------------------------

/// Whether this is the QEMU that was asked for, and the guest runs in it as it did.
std::optional<Failure> judge_target(const StepContext& context, const VmFacts& target) {
    const PinnedBinary* const binary = context.request.binary.get();
    if (binary != nullptr) {
        const bool is_same = binary->build_id.empty()
                                 ? !binary->version.is_known() || binary->version == target.version
                                 : binary->build_id == target.build_id;
        if (!is_same) {
            return make_explained(Errc::wrong_target, target.version_text + " " + target.build_id);
        }
    }
    const std::string& was = context.before.run_state;
    const bool is_as_before =
        was.empty() || target.run_state == was || target.run_state == "running";
    if (!is_as_before) {
        return make_explained(Errc::guest_changed, was + " became " + target.run_state);
    }
    return std::nullopt;
}

bool runs_the_guest(const Observation& target) {
    return target.is(PairState::running) || target.is(PairState::none);
}

void note_target(StepContext& context, const VmFacts& target) {
    context.report.to = target.version;
    context.report.to_text = target.version_text;
    context.report.warnings.clear();
    for (const std::string& device : target.takeover_degraded) {
        context.report.warnings.push_back(
            "The guest runs, but a device did not come up after the switch: " + device
        );
    }
}

/// Once: that the guest has powered off by now.
void note_guest_ended(StepContext& context, const PairView& view) {
    if (std::exchange(context.has_guest_ended, true)) {
        return;
    }
    note_timings(context, view);
    context.report.warnings.emplace_back(
        "The guest powered off after the upgrade, or its new QEMU was told to end: the process "
        "ended by itself, without an error."
    );
}

awaitable<StepResult> forward_verify(StepContext& context) {
    std::optional<Deadline> window;
    bool is_probed = !context.request.probe;
    while (true) {
        const PairView view = co_await observe_pair(context);
        if (runs_the_guest(view.target)) {
            note_target(context, view.target.facts);
            note_timings(context, view);
            if (std::optional<Failure> bad = judge_target(context, view.target.facts)) {
                co_return failed(std::move(*bad));
            }
            window = window.value_or(Deadline::in(context.request.config.watch_window));
            if (window->is_over() && is_probed) {
                co_return ok();
            }
            if (window->is_over()) {
                auto probing = context.request.probe();
                const Result<void> well = co_await std::move(probing);
                if (well.has_error()) {
                    co_return failed(well.error());
                }
                is_probed = true;
                continue; // it must run still
            }
        } else {
            window.reset(); // it must run and answer for the whole window
            const Decision decision = decide(view.source, view.target);
            if (decision.action == Action::nothing_to_do) {
                co_return failed(make_given_up(view.source.facts, Errc::target_died));
            }
            if (decision.action == Action::guest_ended) {
                note_guest_ended(context, view);
                co_return ok();
            }
            if (decision.action == Action::guest_lost) {
                co_return failed(make_guest_lost(view.source.facts));
            }
            if (decision.action == Action::vm_gone) {
                co_return unknown(make_explained(Errc::vm_gone));
            }
        }
        if (context.deadline.is_over()) {
            co_return view.target.answers() ? failed(make_explained(Errc::guest_changed))
                                            : unknown(make_silent(view.target, Errc::lost_contact));
        }
        ignore(co_await wait_to_look_again(context), "looks again in any case");
    }
}

// -- commit ------------------------------------------------------------------------------------

/// How often a parked source is told to end, when its answer does not come.
constexpr int kMostTellings = 3;

awaitable<StepResult> forward_commit(StepContext& context) {
    std::optional<Failure> refusal;
    int tellings = 0;
    while (true) {
        const PairView view = co_await observe_pair(context);
        const Decision decision = decide(view.source, view.target);
        if (decision.action == Action::guest_ended) {
            note_guest_ended(context, view);
        }
        const bool is_all_over = decision.action == Action::vm_gone && context.has_guest_ended;
        if (decision.action == Action::upgraded || is_all_over) {
            co_return ok();
        }
        if (decision.action == Action::guest_lost) {
            co_return failed(make_guest_lost(view.source.facts));
        }
        if (decision.action == Action::vm_gone) {
            co_return unknown(make_explained(Errc::vm_gone));
        }
        if (decision.action == Action::needs_operator) {
            co_return failed(make_explained(Errc::split, decision.reason));
        }
        // why: told again only after a look has shown that it is still parked.
        const bool is_parked =
            decision.action == Action::commit || decision.action == Action::guest_ended;
        if (is_parked && tellings < kMostTellings && (tellings == 0 || refusal)) {
            ++tellings;
            const Result<void> told = co_await context.port.commit(ask_deadline(context));
            refusal = told.has_error() ? std::optional(told.error()) : std::nullopt;
            continue;
        }
        if (context.deadline.is_over()) {
            if (!view.target.answers()) {
                co_return unknown(make_silent(view.target, Errc::lost_contact));
            }
            Failure failure = make_explained(Errc::source_remains);
            if (refusal) {
                add_also(failure, std::move(*refusal));
            }
            co_return failed(std::move(failure));
        }
        ignore(co_await wait_to_look_again(context), "looks again in any case");
    }
}

// -- discarding, rolling_back ------------------------------------------------------------------

Failure make_cannot_undo(const StepContext& context, const PairView& view) {
    const std::string child = std::to_string(view.target.facts.claimed_pid);
    const std::string parked = std::to_string(view.source.facts.claimed_pid);
    return make_failure(
        Errc::wrong_target,
        "The guest of VM " + context.request.vm.text() + " runs on the new QEMU (process " + child +
            ") and cannot go back to the old one (process " + parked +
            "); look at the guest, then either keep it and let the old process end, or shut the "
            "guest down and start it again."
    );
}

Failure make_stuck(const StepContext& context, const PairView& view) {
    return make_failure(
        Errc::rollback_stuck,
        "The old QEMU of VM " + context.request.vm.text() + " (process " +
            std::to_string(view.source.facts.claimed_pid) + ", state " +
            std::string(to_string(view.source.facts.state)) +
            ") has not taken the guest back yet and goes on trying; remove what it waits for.",
        view.source.facts.rollback_waits_for
    );
}

Failure make_target_remains(const PairView& view) {
    return make_failure(
        Errc::target_remains,
        "The guest runs on the old QEMU (process " + std::to_string(view.source.facts.claimed_pid) +
            ") again, but the new one was killed and does not end.",
        view.source.facts.rollback_waits_for
    );
}

/// Whether another upgrade is in progress there, so that nothing is left of ours.
bool is_of_another(const StepContext& context, const Observation& source) {
    return source.answers() && source.facts.state != PairState::none &&
           !source.facts.upgrade.empty() && source.facts.upgrade != context.request.upgrade;
}

/// The guest is gone, so there is nothing to take back. Said once.
StepResult make_nothing_to_undo(const StepContext& context, const PairView& view) {
    const std::optional<Failure>& known = context.report.failure;
    return known && known->code == make_error_code(Errc::guest_lost)
               ? nothing_to_complain_about()
               : failed(make_guest_lost(view.source.facts));
}

awaitable<StepResult> undo_pair(StepContext& context) {
    std::optional<Failure> refusal;
    while (true) {
        const PairView view = co_await observe_pair(context);
        if (is_of_another(context, view.source)) {
            co_return ok();
        }
        if (has_guest_again(view.source)) {
            note_taken_back(context, view.source, std::chrono::steady_clock::now());
        }
        const Decision decision = decide(view.source, view.target);
        switch (decision.action) {
        case Action::nothing_to_do: co_return ok();
        case Action::roll_back: {
            const Result<void> asked = co_await context.port.rollback(ask_deadline(context));
            if (asked.has_error()) {
                refusal = asked.error();
            }
            break;
        }
        case Action::commit:
        case Action::upgraded: co_return failed(make_cannot_undo(context, view));
        case Action::guest_ended:
        case Action::guest_lost: co_return make_nothing_to_undo(context, view);
        case Action::needs_operator: co_return failed(make_explained(Errc::split, decision.reason));
        case Action::vm_gone: co_return unknown(make_explained(Errc::vm_gone));
        case Action::wait:
        case Action::lost_contact: break;
        }
        if (context.deadline.is_over() && has_guest_back(view.source)) {
            if (context.report.failure) {
                add_also(*context.report.failure, make_target_remains(view));
            } else if (context.report.phase == Phase::ending_rehearsal) {
                context.report.warnings.push_back(make_target_remains(view).message);
            } else {
                context.report.failure = make_target_remains(view);
            }
            co_return ok();
        }
        if (context.deadline.is_over()) {
            Failure failure = view.source.answers() ? make_stuck(context, view)
                                                    : make_explained(Errc::lost_contact);
            if (refusal) {
                add_also(failure, std::move(*refusal));
            }
            co_return view.source.answers() ? failed(std::move(failure))
                                            : unknown(std::move(failure));
        }
        ignore(co_await wait_to_look_again(context), "looks again in any case");
    }
}

// -- the binding -------------------------------------------------------------------------------

struct Binding {
    Phase phase;
    awaitable<StepResult> (*step)(StepContext&);
};

constexpr std::array kBindings{
    Binding{Phase::queued, forward_queued},
    Binding{Phase::preflight, forward_preflight},
    Binding{Phase::prepare, forward_prepare},
    Binding{Phase::await_pause, forward_await_pause},
    Binding{Phase::switch_over, forward_switch_over},
    Binding{Phase::verify, forward_verify},
    Binding{Phase::commit, forward_commit},
    Binding{Phase::discarding, undo_pair},
    Binding{Phase::rolling_back, undo_pair},
    Binding{Phase::rehearse, forward_rehearse},
    Binding{Phase::ending_rehearsal, undo_pair},
};

constexpr bool every_live_phase_is_bound_once() {
    return std::all_of(kAllPhases.begin(), kAllPhases.end(), [](Phase phase) {
        const auto bound =
            std::count_if(kBindings.begin(), kBindings.end(), [phase](const Binding& b) {
                return b.phase == phase;
            });
        return bound == (is_terminal(phase) ? 0 : 1);
    });
}
static_assert(every_live_phase_is_bound_once(), "a phase has no step, or two");

} // namespace

awaitable<StepResult> run_step(StepContext& context, Phase phase) {
    for (const Binding& binding : kBindings) {
        if (binding.phase == phase) {
            co_return co_await binding.step(context);
        }
    }
    co_return failed(make_failure(qhup::Errc::bug, "running a step of a phase that has none"));
}

awaitable<PairView> observe_pair(StepContext& context) {
    PairView view;
    for (int look = 0; look < kMostLooks; ++look) {
        const Deadline deadline = look_deadline(context);
        // invariant: the source is asked first; decide() relies on it.
        view.source = co_await context.port.observe_source(deadline);
        view.target = co_await context.port.observe_target(deadline);
        // why: the two looks are not at one instant, so a contradiction must show more than once.
        if (decide(view.source, view.target).action != Action::needs_operator) {
            break;
        }
        ignore(
            co_await sleep_until(Deadline::in(context.request.config.poll_interval)),
            "looks again in any case"
        );
    }
    co_return view;
}

awaitable<Result<Verdict>> judge(StepContext& context) {
    Observation source = co_await context.port.observe_source(look_deadline(context));
    if (!source.answers()) {
        if (source.why && source.why->code == make_error_code(Errc::not_patched)) {
            co_return make_not_patched_verdict();
        }
        co_return make_silent(source, Errc::not_answering);
    }
    context.report.from = source.facts.version;
    context.report.from_text = source.facts.version_text;
    context.report.to = context.request.binary->version;
    const ArgvPlan plan = make_argv_plan(context, source.facts);
    Verdict verdict = make_verdict(context, source.facts, plan);
    if (verdict.may_upgrade() && context.request.is_dry_run && !source.facts.links.empty()) {
        verdict.warnings = co_await look_at_links(context, source.facts.links);
    }
    context.before = std::move(source.facts);
    context.argv = plan.argv;
    co_return verdict;
}

} // namespace qhup::upgrade
