// SPDX-License-Identifier: GPL-2.0-or-later
#include "ctl/plan.hpp"

#include "ctl/render.hpp"

#include <algorithm>
#include <cctype>

namespace qhup::ctl {
namespace {

constexpr std::size_t kMostRows = 20; // of each list; a thousand VMs would hide the question

std::string more_line(std::size_t count) {
    return count <= kMostRows ? "" : "  … and " + std::to_string(count - kMostRows) + " more\n";
}

std::string without_stop(std::string text) {
    while (!text.empty() && (text.back() == '.' || text.back() == ' ')) {
        text.pop_back();
    }
    return text;
}

std::string blocker_lines(const std::vector<daemon::BlockerView>& blockers, const char* indent) {
    std::string text;
    for (const daemon::BlockerView& blocker : blockers) {
        text +=
            indent + printable(blocker.id) + ": " + without_stop(printable(blocker.reason)) + ".\n";
    }
    return text;
}

std::string work_lines(const Plan& plan) {
    std::vector<std::vector<std::string>> rows{{"  VM", "FROM", "TO", "PAUSE TO EXPECT"}};
    std::string warnings;
    for (const PlannedVm& vm : plan.work) {
        if (rows.size() <= kMostRows) {
            rows.push_back(
                {"  " + printable(vm.vm),
                 vm.from.empty() ? "-" : printable(vm.from),
                 plan.verb == "Rehearse" ? "stays" : printable(vm.to),
                 vm.pause_ms ? "about " + format_milliseconds(*vm.pause_ms) : "not measured yet"}
            );
        }
        if (!vm.warnings.empty()) {
            warnings += "Warning for " + printable(vm.vm) + "\n" + blocker_lines(vm.warnings, "  ");
        }
    }
    return render_table(rows) + more_line(plan.work.size()) + warnings;
}

std::string left_out_lines(const Plan& plan) {
    std::string text = "Not touched\n";
    for (std::size_t i = 0; i < std::min(plan.left_out.size(), kMostRows); ++i) {
        const UnplannedVm& vm = plan.left_out[i];
        const bool is_listed = vm.reason.empty() || !vm.blockers.empty();
        text += "  " + printable(vm.vm) +
                (is_listed ? ":\n" : ": " + without_stop(printable(vm.reason)) + ".\n") +
                blocker_lines(vm.blockers, "    ");
    }
    return text + more_line(plan.left_out.size());
}

/// The longest pause to expect, and what holds it down.
std::string pause_lines(const Plan& plan) {
    std::optional<double> longest;
    std::size_t unknown = 0;
    for (const PlannedVm& vm : plan.work) {
        unknown += vm.pause_ms ? 0 : 1;
        longest = vm.pause_ms ? std::max(longest.value_or(0.0), *vm.pause_ms) : longest;
    }
    std::string text = "Longest pause to expect: ";
    if (!longest) {
        text += "not known, no VM of these was upgraded or rehearsed before";
    } else {
        text += "about " + format_milliseconds(*longest);
        text += unknown == 0 ? ""
                             : "; " + std::to_string(unknown) + " of " +
                                   std::to_string(plan.work.size()) + " VMs were never measured";
    }
    text += ". One that would become longer than ";
    text += plan.pause_budget_ms ? format_milliseconds(*plan.pause_budget_ms)
                                 : std::string("pause_budget of the configuration");
    return text + " is given up, and that guest runs on where it is.\n";
}

} // namespace

std::optional<double>
expected_pause(const std::vector<daemon::RunView>& newest_first, std::string_view vm) {
    for (const daemon::RunView& run : newest_first) {
        for (const daemon::RunVmView& entry : run.vms) {
            if (entry.vm != vm) {
                continue;
            }
            if (entry.pause_ms && entry.outcome == "upgraded") {
                return entry.pause_ms;
            }
            if (entry.rehearsal && entry.rehearsal->predicted_pause_ms) {
                return entry.rehearsal->predicted_pause_ms;
            }
        }
    }
    return std::nullopt;
}

std::string render_plan(const Plan& plan) {
    std::string text = plan.verb + " " + std::to_string(plan.work.size()) +
                       (plan.work.size() == 1 ? " VM" : " VMs");
    if (!plan.to.empty()) {
        text += (plan.verb == "Rehearse" ? " with release " : " to release ") + printable(plan.to);
    }
    text += plan.work.empty() ? ": there is nothing to do.\n" : ", while they run:\n\n";
    text += plan.work.empty() ? "" : work_lines(plan);
    text += plan.left_out.empty() ? "" : (plan.work.empty() ? "" : "\n") + left_out_lines(plan);
    if (!plan.work.empty()) {
        text += "\n" + pause_lines(plan) + plan.stages;
    }
    return text;
}

ExitStatus exit_status_of_nothing(const Plan& plan) {
    std::vector<daemon::CheckView> checks;
    for (const UnplannedVm& vm : plan.left_out) {
        // why: who is left out of --all is no failure, as in a run.
        if (vm.code != "skipped") {
            checks.push_back({});
            checks.back().code = vm.code;
        }
    }
    return exit_status_of(checks);
}

std::string shell_quoted(std::string_view word) {
    const bool is_plain =
        !word.empty() && std::all_of(word.begin(), word.end(), [](unsigned char c) {
            return std::isalnum(c) != 0 ||
                   std::string_view("-_./=:,@%+").find(static_cast<char>(c)) !=
                       std::string_view::npos;
        });
    if (is_plain) {
        return std::string(word);
    }
    std::string quoted = "'";
    for (const char c : word) {
        quoted += c == '\'' ? std::string("'\\''") : std::string(1, c);
    }
    return quoted + "'";
}

} // namespace qhup::ctl
