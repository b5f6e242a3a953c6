// SPDX-License-Identifier: GPL-2.0-or-later
//
// Before guests are paused: ask what would become of each VM, show it, and ask for a yes.
#include "ctl/plan.hpp"

#include "ctl/commands/commands.hpp"
#include "ctl/render.hpp"
#include "daemon/api_types_read.hpp"

#include <nlohmann/json.hpp>

#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <optional>
#include <set>

namespace qhup::ctl {
namespace {

using daemon::read::member;
using nlohmann::json;

constexpr int kNotFound = 404;

std::string text_of(const json& value) {
    return value.is_string() ? value.get<std::string>() : std::string();
}

/// A VM as the daemon lists it, with what the list says beside it.
struct KnownVm {
    daemon::VmView view;
    json document;
};

std::vector<KnownVm> vms_of(const json& body) {
    std::vector<KnownVm> vms;
    const json& list = member(body, "vms");
    for (const json& vm : list.is_array() ? list : json::array()) {
        vms.push_back({daemon::vm_from_json(vm), vm});
    }
    return vms;
}

std::vector<daemon::RunView> runs_of(const json& body) {
    std::vector<daemon::RunView> runs;
    const json& list = member(body, "runs");
    for (const json& run : list.is_array() ? list : json::array()) {
        runs.push_back(daemon::run_from_json(run));
    }
    return runs;
}

std::optional<double> number_of(const json& value) {
    return value.is_number() ? std::optional(value.get<double>()) : std::nullopt;
}

/// What the daemon's list says of how often, and how long, the VM is paused.
void add_known(PlannedVm& planned, const KnownVm& vm, const Options& options) {
    const json& policy = member(vm.document, "policy");
    const json& effective = member(policy, "effective"); // an older daemon has none
    const json& priority = member(policy, "priority");
    planned.priority = priority.is_number_integer() ? priority.get<std::int64_t>() : 0;
    planned.kind = vm.view.shape_class.empty() ? "" : vm.view.shape_class + " " + vm.view.build_id;
    planned.rehearse =
        options.rehearse.empty() ? text_of(member(effective, "rehearse")) : options.rehearse;
    planned.rehearse_back = text_of(member(effective, "rehearse_back"));
    planned.budget_ms = number_of(member(effective, "pause_budget_ms"));
    planned.policy_budget_ms = number_of(member(policy, "pause_budget_ms"));
}

std::string stages_of(const Options& options) {
    std::string text;
    if (options.canaries > 0) {
        text += "The first " + std::to_string(options.canaries) + " are canaries";
    }
    if (options.batch > 0) {
        text += (text.empty() ? "They go " : "; the others go ") + std::to_string(options.batch) +
                " at a time";
    }
    if (options.soak) {
        const auto minutes = std::chrono::duration_cast<std::chrono::seconds>(*options.soak);
        text += "; each stage is watched for " + std::to_string(minutes.count()) + " s";
    }
    return text.empty() ? text : text + ".\n";
}

Plan make_plan(const Options& options) {
    Plan plan;
    plan.verb = options.command == Command::rehearse ? "Rehearse"
                : options.command == Command::revert ? "Revert"
                                                     : "Upgrade";
    plan.to = options.to;
    if (options.pause_budget_ms) {
        plan.pause_budget_ms = static_cast<double>(*options.pause_budget_ms);
    }
    plan.stages = stages_of(options);
    return plan;
}

void add_check(Plan& plan, const daemon::CheckView& check) {
    if (check.can_upgrade && check.code.empty()) {
        plan.work.push_back({check.vm, check.from, check.to, std::nullopt, check.warnings});
        plan.work.back().is_way_known = check.way_known;
    } else if (check.code == "already_on_release") {
        plan.left_out.push_back({check.vm, check.code, "it runs this release already"});
    } else {
        plan.left_out.push_back({check.vm, check.code, check.message, check.blockers});
    }
}

/// What an upgrade or a rehearsal would do.
std::variant<Plan, ExitStatus> plan_move(Client& client, const Options& options) {
    Plan plan = make_plan(options);
    std::vector<std::string> names = options.vms;
    const auto list = get_document(client, options, vms_target(options));
    if (const auto* failed = std::get_if<ExitStatus>(&list)) {
        return *failed;
    }
    const std::vector<KnownVm> known = vms_of(std::get<json>(list));
    if (options.all) {
        for (const KnownVm& vm : known) {
            if (auto out = left_out_of_all(vm.view, vm.document)) {
                plan.left_out.push_back(std::move(*out));
            } else {
                names.push_back(vm.view.name);
            }
        }
    }
    const auto checks = get_checks(client, options, names);
    if (const auto* failed = std::get_if<ExitStatus>(&checks)) {
        return *failed;
    }
    for (const json& check : std::get<json>(checks)) {
        add_check(plan, daemon::check_from_json(check));
    }
    for (PlannedVm& planned : plan.work) {
        const auto vm = std::find_if(known.begin(), known.end(), [&planned](const KnownVm& one) {
            return one.view.name == planned.vm;
        });
        if (vm != known.end()) {
            add_known(planned, *vm, options);
        }
    }
    if (options.command == Command::upgrade) {
        choose_rehearsed(plan.work);
    }
    return plan;
}

/// The VMs that a revert names: themselves, or by one run that upgraded them.
std::variant<std::set<std::string>, ExitStatus>
reverted_names(Client& client, const Options& options, const std::vector<KnownVm>& known) {
    std::set<std::string> names(options.vms.begin(), options.vms.end());
    const bool is_vm = std::any_of(known.begin(), known.end(), [&options](const KnownVm& vm) {
        return vm.view.name == options.vms.front();
    });
    if (options.vms.size() != 1 || is_vm) {
        return names;
    }
    const auto reply = client.request("GET", "/v1/runs/" + percent_encoded(options.vms.front()));
    if (reply.has_error()) {
        return report(options, reply.error());
    }
    if (reply->status == kNotFound) {
        return names; // why: the daemon says best what there is instead
    }
    const auto body = json_of(*reply);
    if (body.has_error()) {
        return report(options, body.error());
    }
    names.clear();
    for (const daemon::RunVmView& vm : daemon::run_from_json(*body).vms) {
        const auto is_on_it = [&vm](const KnownVm& now) {
            return now.view.name == vm.vm && !vm.to_build_id.empty() &&
                   now.view.build_id == vm.to_build_id;
        };
        // why: one that was not well afterwards has moved, too.
        const bool may_have_moved = vm.outcome == "needs_operator" || vm.outcome == "lost_contact";
        if (vm.outcome == "upgraded" ||
            (may_have_moved && std::any_of(known.begin(), known.end(), is_on_it))) {
            names.insert(vm.vm);
        }
    }
    return names;
}

std::variant<Plan, ExitStatus> plan_revert(Client& client, const Options& options) {
    Plan plan = make_plan(options);
    const auto list = get_document(client, options, vms_target(options));
    if (const auto* failed = std::get_if<ExitStatus>(&list)) {
        return *failed;
    }
    const std::vector<KnownVm> known = vms_of(std::get<json>(list));
    auto wanted = reverted_names(client, options, known);
    if (const auto* failed = std::get_if<ExitStatus>(&wanted)) {
        return *failed;
    }
    std::set<std::string>& names = std::get<std::set<std::string>>(wanted);
    for (const KnownVm& vm : known) {
        if (names.erase(vm.view.name) == 0) {
            continue;
        }
        const json& way = member(vm.document, "way_back");
        const json& is_open = member(way, "open");
        if (vm.view.hold) {
            plan.left_out.push_back({vm.view.name, "held", render_hold(*vm.view.hold)});
        } else if (is_open.is_boolean() && is_open.get<bool>()) {
            plan.work.push_back(
                {vm.view.name, vm.view.version, text_of(member(way, "version")), std::nullopt}
            );
        } else if (text_of(member(way, "rehearsed")) == "failed") {
            // why: it is tried all the same, and rolled back if it fails again.
            plan.work.push_back(
                {vm.view.name,
                 vm.view.version,
                 text_of(member(way, "version")),
                 std::nullopt,
                 {{.id = "way_back",
                   .klass = "rehearsal",
                   .reason = text_of(member(way, "reason"))}}}
            );
        } else {
            plan.left_out.push_back({vm.view.name, "no_way_back", text_of(member(way, "reason"))});
            continue;
        }
        if (!vm.view.hold) {
            add_known(plan.work.back(), vm, options);
            plan.work.back().kind += " " + text_of(member(way, "build_id"));
            plan.work.back().is_way_known = text_of(member(way, "rehearsed")) == "passed";
        }
    }
    choose_rehearsed(plan.work);
    for (const std::string& name : names) {
        // why: let the daemon say what it has, with the nearest name.
        const auto answer = get_document(client, options, "/v1/vms/" + percent_encoded(name));
        if (const auto* failed = std::get_if<ExitStatus>(&answer)) {
            return *failed;
        }
    }
    return plan;
}

void tell_confirmation_needed(const Options& options) {
    std::string command;
    for (const std::string& word : options.words) {
        command += (command.empty() ? "qhupd-ctl" : " " + shell_quoted(word));
    }
    command += " --yes";
    const std::string what =
        "This pauses guests for a moment, and nobody can be asked here, so nothing was done.";
    if (options.json) {
        print_raw(
            daemon::format_json(
                {{"code", "confirmation_needed"},
                 {"detail", what},
                 {"next_step", "To go on: " + command}}
            ) +
            "\n"
        );
    }
    tell(what + " To go on:\n\n    " + printable(command) + "\n\n");
    if (options.command == Command::upgrade) {
        tell("'qhupd-ctl check' with the same VMs and release says before what would be refused.\n"
        );
    }
}

/// Whoever is not asked hears of it all the same: a policy allows less than the command line.
void tell_caps(Client& client, const Options& options) {
    if (!options.pause_budget_ms) {
        return;
    }
    const auto reply = client.request("GET", vms_target(options));
    const auto body = reply.has_value() ? json_of(*reply) : Result<json>(json::object());
    std::vector<PlannedVm> work;
    for (const KnownVm& vm : vms_of(body.has_value() ? *body : json::object())) {
        const bool is_wanted =
            options.all ||
            std::find(options.vms.begin(), options.vms.end(), vm.view.name) != options.vms.end();
        if (is_wanted) {
            work.push_back({vm.view.name, {}, {}, std::nullopt});
            add_known(work.back(), vm, options);
        }
    }
    tell(render_caps(work, static_cast<double>(*options.pause_budget_ms)));
}

bool is_yes_said() {
    tell("\nGo on? [y/N] ");
    std::array<char, 16> answer{};
    const bool is_read = std::fgets(answer.data(), answer.size(), stdin) != nullptr;
    if (!is_read) {
        tell("\n"); // the end of the input leaves the cursor behind the question
    }
    return is_read && (answer[0] == 'y' || answer[0] == 'Y');
}

} // namespace

std::optional<UnplannedVm> left_out_of_all(const daemon::VmView& vm, const json& document) {
    const json& skip = member(member(document, "policy"), "skip");
    if (skip.is_boolean() && skip.get<bool>()) {
        return UnplannedVm{
            vm.name,
            "skipped",
            "the configuration leaves it out of runs over all VMs; its name includes it"};
    }
    if (vm.hold) {
        return UnplannedVm{vm.name, "skipped", render_hold(*vm.hold)};
    }
    if (vm.stale) {
        return UnplannedVm{vm.name, "skipped", vm.reason};
    }
    return std::nullopt;
}

std::optional<ExitStatus> confirm(Client& client, const Options& options) {
    if (options.yes || options.dry_run) {
        tell_caps(client, options);
        return std::nullopt;
    }
    if (::isatty(STDIN_FILENO) != 1 || ::isatty(STDERR_FILENO) != 1) {
        tell_confirmation_needed(options);
        return ExitStatus::usage;
    }
    tell("Looking at the VMs, touching nothing …\n");
    auto made = options.command == Command::revert ? plan_revert(client, options)
                                                   : plan_move(client, options);
    if (const auto* failed = std::get_if<ExitStatus>(&made)) {
        return *failed;
    }
    Plan& plan = std::get<Plan>(made);
    const auto history = get_document(client, options, "/v1/runs");
    if (const auto* failed = std::get_if<ExitStatus>(&history)) {
        return *failed;
    }
    const std::vector<daemon::RunView> runs = runs_of(std::get<json>(history));
    for (PlannedVm& vm : plan.work) {
        vm.pause_ms = expected_pause(runs, vm.vm);
    }
    tell(render_plan(plan));
    if (plan.work.empty()) {
        return exit_status_of_nothing(plan);
    }
    if (!is_yes_said()) {
        tell("Nothing was done.\n");
        return ExitStatus::nothing_to_do;
    }
    return std::nullopt;
}

} // namespace qhup::ctl
