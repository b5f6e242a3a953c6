// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/run_view.hpp"

#include "daemon/vm_view.hpp"
#include "upgrade-engine/errors.hpp"

#include <algorithm>
#include <utility>

namespace qhup::daemon {
namespace {

using upgrade::Phase;
using Milliseconds = std::chrono::duration<double, std::milli>;

std::string outcome_of(const upgrade::UpgradeReport& report, bool is_dry_run) {
    if (!upgrade::is_terminal(report.phase)) {
        return {};
    }
    if (report.is_nothing_to_do) {
        return "unchanged";
    }
    const bool is_checked =
        is_dry_run && report.phase == Phase::refused && !report.failure && report.blockers.empty();
    return is_checked ? "checked" : std::string(upgrade::to_string(report.phase));
}

/// So that another sentence may follow.
std::string without_stop(std::string text) {
    while (!text.empty() && text.back() == '.') {
        text.pop_back();
    }
    return text;
}

/// The engine's sentences say what to do about the VM; here are the commands that help.
std::string next_step_of(const upgrade::UpgradeReport& report) {
    const bool needs_a_look =
        report.phase == Phase::lost_contact || report.phase == Phase::needs_operator;
    return needs_a_look ? "'qhupd-ctl show " + report.vm.text() + "' shows how it stands now." : "";
}

/// The steps of the try that a daemon before us began: those after the last wait in the queue.
std::vector<StepView> last_try(const std::vector<StepView>& steps) {
    const auto queued = std::find_if(steps.rbegin(), steps.rend(), [](const StepView& step) {
        return step.phase == upgrade::to_string(Phase::queued);
    });
    return {queued.base(), steps.end()};
}

/// When a phase was entered, from the start of the run.
std::optional<std::uint64_t> at_of(const std::vector<StepView>& steps, Phase phase) {
    const auto found = std::find_if(steps.begin(), steps.end(), [phase](const StepView& step) {
        return step.phase == upgrade::to_string(phase);
    });
    return found == steps.end() ? std::nullopt : std::optional(found->at_ms);
}

std::uint64_t
ms_since(std::chrono::steady_clock::time_point start, std::chrono::steady_clock::time_point point) {
    const auto time = std::chrono::duration_cast<std::chrono::milliseconds>(point - start);
    return static_cast<std::uint64_t>(std::max<std::int64_t>(0, time.count()));
}

/// The time that counts: from the end of the wait in the queue until the guest ran on the target,
/// or else until the last mark. After a restart the steps of the daemon before us say more.
Milliseconds total_of(const upgrade::UpgradeReport& report, const RunFacts& run) {
    const auto is_worked_on = [](const upgrade::PhaseMark& mark) {
        return mark.phase != Phase::queued;
    };
    const auto is_verify = [](const upgrade::PhaseMark& mark) {
        return mark.phase == Phase::verify;
    };
    const auto& marks = report.marks;
    const auto first = std::find_if(marks.begin(), marks.end(), is_worked_on);
    const auto verify = std::find_if(marks.begin(), marks.end(), is_verify);
    const bool has_moved = report.phase == Phase::upgraded && verify != marks.end();
    Milliseconds begin = (first == marks.end() ? marks.back().at : first->at) - run.started;
    Milliseconds end = (has_moved ? verify->at : marks.back().at) - run.started;
    if (marks.front().phase != Phase::queued) {
        const std::vector<StepView> before = last_try(run.steps_before);
        begin = std::chrono::milliseconds(before.empty() ? 0 : before.front().at_ms);
        const auto switched = at_of(before, Phase::verify);
        end = has_moved && switched ? std::chrono::milliseconds(*switched) : end;
    }
    return std::max(end - begin, Milliseconds(0));
}

/// What a rehearsal found; nothing before it has ended, or if it did not get to try anything.
std::optional<RehearsalView> make_rehearsal_view(const upgrade::UpgradeReport& report) {
    const bool is_tried =
        std::any_of(report.marks.begin(), report.marks.end(), [](const upgrade::PhaseMark& mark) {
            return mark.phase == Phase::prepare;
        });
    if (!is_tried || !upgrade::is_terminal(report.phase)) {
        return std::nullopt;
    }
    RehearsalView view;
    view.result = report.phase == Phase::rehearsed ? "passed" : "failed";
    if (report.rehearsal) {
        view.pause_ms = Milliseconds(report.rehearsal->pause).count();
        view.predicted_pause_ms = Milliseconds(report.rehearsal->predicted).count();
    } else if (report.pause_taken_back) {
        view.pause_ms = Milliseconds(*report.pause_taken_back).count();
    }
    if (report.failure) {
        view.code = wire_code_of(report.failure->code);
        view.reason = report.failure->peer_text;
        view.section = upgrade::parse_refused_section(view.reason);
    }
    return view;
}

/// Whether this is an undo after the guest was seen to run on the target: that looks, and finds
/// that there is no way back.
bool is_vain_undo(const upgrade::UpgradeReport& report, std::size_t mark) {
    return report.marks[mark].phase == Phase::rolling_back && mark > 0 &&
           report.marks[mark - 1].phase == Phase::verify && !report.to_text.empty() &&
           report.phase != Phase::rolled_back;
}

/// What the operator may do, before what was found.
std::string explain_unwell(const RunVmView& view, const Failure& failure) {
    return "Look at the guest, which runs on the new QEMU; keep it, or take it back with "
           "'qhupd-ctl revert " +
           view.vm + "' if 'qhupd-ctl list' says that its way back is open. " + failure.message;
}

StepView
make_step(const upgrade::PhaseMark& mark, std::chrono::steady_clock::time_point run_started) {
    return {
        .phase = std::string(upgrade::to_string(mark.phase)),
        .at_ms = ms_since(run_started, mark.at),
        .outcome = mark.ended ? std::string(upgrade::to_string(*mark.ended)) : std::string(),
    };
}

} // namespace

RunVmView make_queued_view(const RunFacts& run) {
    RunVmView view;
    view.vm = run.vm;
    view.upgrade = run.upgrade;
    view.to = run.release;
    view.from = run.from;
    view.from_build_id = run.from_build_id;
    view.to_build_id = run.to_build_id;
    view.recoveries = run.recoveries;
    view.shape_class = run.shape_class;
    view.rehearsal = run.rehearsal;
    view.stage = run.stage;
    view.run_state = run.run_state;
    view.steps = run.steps_before;
    view.phase = std::string(upgrade::to_string(Phase::queued));
    return view;
}

RunVmView make_refused_view(
    const RunFacts& run, std::string code, std::string message, std::string next_step
) {
    RunVmView view = make_queued_view(run);
    view.phase = std::string(upgrade::to_string(Phase::refused));
    view.outcome = view.phase;
    view.code = std::move(code);
    view.message = std::move(message);
    view.next_step = std::move(next_step);
    return view;
}

RunVmView make_skipped_view(
    const RunFacts& run, std::string code, std::string message, std::string next_step
) {
    RunVmView view =
        make_refused_view(run, std::move(code), std::move(message), std::move(next_step));
    view.outcome = "skipped";
    return view;
}

RunVmView say_why_stopped(
    RunVmView view, const std::string& run, const std::string& stopped_by, const std::string& reason
) {
    const bool is_given_up = view.code == wire_code_of(make_error_code(qhup::Errc::cancelled)) &&
                             view.outcome == upgrade::to_string(Phase::refused);
    if (is_given_up && stopped_by == "shutdown") {
        // why: who was woken by the end of the daemon, and who by that of the run, is chance.
        view.code = wire_code_of(make_error_code(upgrade::Errc::stopped));
        view.peer_text.clear();
    }
    if (view.code != wire_code_of(make_error_code(upgrade::Errc::stopped))) {
        return view;
    }
    // why: its rehearsal was a pause, too.
    const bool was_rehearsed = view.rehearsal && view.rehearsal->pause_ms;
    const std::string before =
        was_rehearsed
            ? " after this VM was rehearsed and before it was moved; the guest was paused "
              "for the rehearsal only, and runs on the old QEMU"
            : " before this VM was paused";
    if (stopped_by == "abort") {
        view.message = "Run " + run + " was aborted" + before;
        view.next_step = "Upgrade it again when that is wanted.";
    } else if (stopped_by == "failures") {
        view.message = "Run " + run + " was stopped by too many failures" + before;
        view.next_step = "Look at the VMs that failed first.";
    } else if (stopped_by == "canaries" || stopped_by == "soak" || stopped_by == "release") {
        view.message = "Run " + run + " was stopped before this VM was begun: " + reason;
        view.next_step = "Look at that first.";
    } else if (stopped_by == "request") {
        view.message = "The rehearsal of the way back gave way to what somebody asked for";
        view.next_step = "It comes again later.";
    } else if (stopped_by == "shutdown") {
        view.message = "qhupd was stopped" + before;
        view.next_step = "Upgrade it again when qhupd runs.";
    }
    return view;
}

RunVmView make_given_up_view(const RunFacts& run, const std::string& last_phase) {
    RunVmView view = make_queued_view(run);
    view.phase = std::string(upgrade::to_string(Phase::needs_operator));
    view.outcome = view.phase;
    view.code = wire_code_of(make_error_code(upgrade::Errc::recovery_given_up));
    view.message =
        "qhupd ended " + std::to_string(run.recoveries) +
        " times while it finished this upgrade, in phase " + last_phase +
        " the last time, so it does not touch this VM any more; the pair goes on or back "
        "by itself within its leases";
    view.next_step =
        "'qhupd-ctl show " + run.vm +
        "' shows how it stands. Upgrade it again to end what is left; the log of qhupd "
        "says why it ended.";
    return view;
}

RunVmView make_view_without_pair(
    const RunFacts& run, const upgrade::Ending& ending, const std::string& version
) {
    RunVmView view = make_queued_view(run);
    view.phase = std::string(upgrade::to_string(ending.phase));
    view.outcome = view.phase;
    view.code = ending.code ? wire_code_of(make_error_code(*ending.code)) : std::string();
    view.message = ending.sentence;
    if (ending.phase == Phase::upgraded) {
        view.to = version.empty() ? view.to : version;
    } else if (ending.phase == Phase::lost_contact || ending.phase == Phase::needs_operator) {
        view.next_step = "'qhupd-ctl show " + run.vm + "' shows how it stands now.";
    } else {
        view.next_step = "Upgrade it again.";
    }
    return view;
}

bool is_unwell(const RunVmView& view) noexcept {
    return view.outcome == "needs_operator" &&
           (view.code == wire_code_of(make_error_code(upgrade::Errc::probe_failed)) ||
            view.code == wire_code_of(make_error_code(upgrade::Errc::guest_changed)));
}

RunVmView make_taken_back_view(RunVmView unwell, const RunVmView& back) {
    unwell.phase = std::string(upgrade::to_string(Phase::rolled_back));
    unwell.outcome = unwell.phase;
    unwell.message = "The VM was not well after its upgrade (" + unwell.code +
                     "), so it was taken back to the QEMU that it came from, as its policy says";
    unwell.next_step = "Look for the reason before it is upgraded again.";
    unwell.steps.insert(unwell.steps.end(), back.steps.begin(), back.steps.end());
    return unwell;
}

RunVmView make_not_taken_back_view(RunVmView unwell, const std::string& why) {
    unwell.message = without_stop(std::move(unwell.message)) +
                     ". It could not be taken back, as its policy says: " + without_stop(why);
    return unwell;
}

RunVmView say_it_was_rehearsed(RunVmView view) {
    if (!view.message.empty() && view.rehearsal) {
        view.message = "In the rehearsal: " + view.message;
    }
    return view;
}

RunVmView make_run_vm_view(const upgrade::UpgradeReport& report, const RunFacts& run) {
    RunVmView view = make_queued_view(run);
    if (run.goal == upgrade::Goal::rehearsal) {
        view.rehearsal = make_rehearsal_view(report);
        view.pause_ms = view.rehearsal ? view.rehearsal->pause_ms : std::nullopt;
    }
    const bool is_vain = !report.marks.empty() && is_vain_undo(report, report.marks.size() - 1);
    view.phase = std::string(upgrade::to_string(is_vain ? Phase::verify : report.phase));
    view.outcome = outcome_of(report, run.is_dry_run);
    view.from = report.from_text.empty() ? run.from : report.from_text;
    if (report.phase == Phase::upgraded && !report.to_text.empty()) {
        view.to = report.to_text;
    }
    view.blockers = to_views(report.blockers);
    if (report.failure) {
        view.code = wire_code_of(report.failure->code);
        view.message = report.failure->message;
        view.peer_text = report.failure->peer_text;
        if (is_unwell(view)) {
            view.message = explain_unwell(view, *report.failure);
        }
        for (const Failure& later : report.failure->also) {
            if (is_unwell(view) && later.code == make_error_code(upgrade::Errc::wrong_target)) {
                continue; // that the source cannot have the guest back; a revert can
            }
            // why: whoever did not answer in one step does not in the next one.
            if (view.message.find(without_stop(later.message)) != std::string::npos) {
                continue;
            }
            view.message = without_stop(std::move(view.message)) +
                           ". Afterwards this failed too: " + later.message;
        }
    } else if (!report.blockers.empty()) {
        view.code = wire_code_of(make_error_code(upgrade::Errc::blocked));
    }
    for (const std::string& warning : report.warnings) {
        view.message = without_stop(std::move(view.message));
        view.message += (view.message.empty() ? "" : ". ") + warning;
    }
    if (upgrade::is_terminal(report.phase)) {
        view.next_step = next_step_of(report);
    }
    if (report.timings) {
        if (report.timings->pause.count() > 0) { // 0: the target ended before it ran the guest
            view.pause_ms = Milliseconds(report.timings->pause).count();
        }
        view.timings_ns = upgrade::to_map_ns(*report.timings);
    } else if (report.pause_taken_back && !view.pause_ms) {
        view.pause_ms = Milliseconds(*report.pause_taken_back).count();
    }
    if (!report.marks.empty()) {
        view.since_ms = ms_since(run.started, report.marks.back().at);
        for (std::size_t i = 0; i < report.marks.size(); ++i) {
            const upgrade::PhaseMark& mark = report.marks[i];
            if (!upgrade::is_terminal(mark.phase) && !is_vain_undo(report, i)) {
                view.steps.push_back(make_step(mark, run.started));
            }
        }
        if (!view.outcome.empty()) {
            view.total_ms = total_of(report, run).count();
        }
    }
    return view;
}

} // namespace qhup::daemon
