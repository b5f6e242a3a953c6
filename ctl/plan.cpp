// SPDX-License-Identifier: GPL-2.0-or-later
#include "ctl/plan.hpp"

#include "ctl/render.hpp"

#include <algorithm>
#include <cctype>
#include <iterator>
#include <map>
#include <set>

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

/// "a, b and 980 more"
std::string names_text(const std::vector<std::string>& names) {
    std::string text;
    for (std::size_t i = 0; i < std::min(names.size(), kMostRows); ++i) {
        text += (text.empty() ? "" : ", ") + names[i];
    }
    return names.size() <= kMostRows
               ? text
               : text + " and " + std::to_string(names.size() - kMostRows) + " more";
}

/// The longest pause that is allowed, as a number if that is known.
std::string budget_text(const Plan& plan) {
    if (plan.pause_budget_ms) {
        return format_milliseconds(*plan.pause_budget_ms);
    }
    std::optional<double> least;
    std::optional<double> most;
    for (const PlannedVm& vm : plan.work) {
        if (!vm.budget_ms) {
            return "pause_budget of the configuration";
        }
        least = std::min(least.value_or(*vm.budget_ms), *vm.budget_ms);
        most = std::max(most.value_or(*vm.budget_ms), *vm.budget_ms);
    }
    if (!least) {
        return "pause_budget of the configuration";
    }
    return *least == *most ? format_milliseconds(*least)
                           : "its VM's pause_budget (" + format_milliseconds(*least) + " to " +
                                 format_milliseconds(*most) + ")";
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
    text += ". One that would become longer than " + budget_text(plan);
    text += " is given up, and that guest runs on where it is.\n";
    return text + (plan.pause_budget_ms ? render_caps(plan.work, *plan.pause_budget_ms) : "");
}

/// The pauses beside that of the move: rehearsals before it, and of the way back after it.
std::string more_pauses(const Plan& plan) {
    std::vector<std::string> names;
    bool has_back = false;
    bool has_all_back = !plan.work.empty();
    for (const PlannedVm& vm : plan.work) {
        if (vm.is_rehearsed) {
            names.push_back(printable(vm.vm));
        }
        has_back = has_back || vm.rehearse_back == "first" || vm.rehearse_back == "all";
        has_all_back = has_all_back && vm.rehearse_back == "all";
    }
    std::string text;
    if (names.size() == 1) {
        text += names.front() + " is paused once more before, for a rehearsal, about as long.\n";
    } else if (!names.empty()) {
        text += "Each of these is paused once more before, for a rehearsal, about as long: " +
                names_text(names) + ".\n";
    }
    if (has_back && plan.verb == "Upgrade") {
        text += "After the run the way back is rehearsed in the background, if nobody has made it "
                "before: one more pause, about as long, of " +
                std::string(has_all_back ? "each VM" : "one VM of each kind") + ".\n";
    }
    return text;
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

void choose_rehearsed(std::vector<PlannedVm>& work) {
    std::vector<PlannedVm*> order;
    for (PlannedVm& vm : work) {
        order.push_back(&vm);
    }
    std::stable_sort(order.begin(), order.end(), [](const PlannedVm* a, const PlannedVm* b) {
        return a->priority != b->priority ? a->priority > b->priority : a->vm < b->vm;
    });
    std::set<std::string> kinds;
    for (PlannedVm* vm : order) {
        const bool is_first = vm->rehearse == "first" && !vm->kind.empty() && !vm->is_way_known &&
                              kinds.insert(vm->kind).second;
        vm->is_rehearsed = is_first || (vm->rehearse == "all" && !vm->kind.empty());
    }
}

std::string render_caps(const std::vector<PlannedVm>& work, double asked_ms) {
    std::map<double, std::vector<std::string>> capped; // by what is allowed
    for (const PlannedVm& vm : work) {
        if (vm.policy_budget_ms && *vm.policy_budget_ms < asked_ms) {
            capped[*vm.policy_budget_ms].push_back(printable(vm.vm));
        }
    }
    std::string text;
    for (const auto& [most, names] : capped) {
        text += "--pause-budget does not lift what a policy allows: " + format_milliseconds(most) +
                " for " + names_text(names) + ".\n";
    }
    return text;
}

std::string render_pauses_to_come(const std::vector<std::string>& vms, bool is_each) {
    if (vms.empty()) {
        return {};
    }
    std::vector<std::string> names;
    std::transform(vms.begin(), vms.end(), std::back_inserter(names), [](const auto& name) {
        return printable(name);
    });
    const std::string whose = is_each ? "each" : "one VM of each kind";
    return names.size() == 1
               ? "The way back of " + names.front() +
                     " is rehearsed later, in the background: one more pause, about as long.\n"
               : "The ways back of these are rehearsed later, in the background, which is one more "
                 "pause, about as long, of " +
                     whose + ": " + names_text(names) + ".\n";
}

std::string render_plan(const Plan& plan) {
    std::string text = plan.verb + " " + std::to_string(plan.work.size()) +
                       (plan.work.size() == 1 ? " VM" : " VMs");
    if (!plan.to.empty()) {
        text += (plan.verb == "Rehearse" ? " with release " : " to release ") + printable(plan.to);
    }
    text += plan.work.empty()       ? ": there is nothing to do.\n"
            : plan.work.size() == 1 ? ", while it runs:\n\n"
                                    : ", while they run:\n\n";
    text += plan.work.empty() ? "" : work_lines(plan);
    text += plan.left_out.empty() ? "" : (plan.work.empty() ? "" : "\n") + left_out_lines(plan);
    if (!plan.work.empty()) {
        text += "\n" + pause_lines(plan) + more_pauses(plan) + plan.stages;
    }
    return text;
}

ExitStatus exit_status_of_nothing(const Plan& plan) {
    std::vector<daemon::CheckView> checks;
    for (const UnplannedVm& vm : plan.left_out) {
        checks.push_back({});
        checks.back().code = vm.code;
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
