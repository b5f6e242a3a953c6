// SPDX-License-Identifier: GPL-2.0-or-later
//
// Before guests are paused: ask what would become of each VM, show it, and ask for a yes.
#include "ctl/plan.hpp"

#include "ctl/commands/commands.hpp"
#include "ctl/render.hpp"

#include <nlohmann/json.hpp>

#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <optional>
#include <set>

namespace qhup::ctl {
namespace {

using nlohmann::json;

constexpr int kNotFound = 404;

const json& member(const json& object, const char* key) {
    static const json kNothing;
    const auto found = object.is_object() ? object.find(key) : object.end();
    return object.is_object() && found != object.end() ? *found : kNothing;
}

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

/// Why a run over all VMs leaves this one out; none: it does not.
std::optional<UnplannedVm> left_out_of_all(const KnownVm& vm) {
    const json& skip = member(member(vm.document, "policy"), "skip");
    if (skip.is_boolean() && skip.get<bool>()) {
        return UnplannedVm{
            vm.view.name,
            "skipped",
            "the configuration leaves it out of runs over all VMs; its name includes it"};
    }
    if (vm.view.hold) {
        return UnplannedVm{vm.view.name, "skipped", render_hold(*vm.view.hold)};
    }
    if (vm.view.stale) {
        return UnplannedVm{vm.view.name, "skipped", vm.view.reason};
    }
    return std::nullopt;
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
    if (options.all) {
        const auto list = get_document(client, options, vms_target(options));
        if (const auto* failed = std::get_if<ExitStatus>(&list)) {
            return *failed;
        }
        for (const KnownVm& vm : vms_of(std::get<json>(list))) {
            if (auto out = left_out_of_all(vm)) {
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
        }
    }
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

std::optional<ExitStatus> confirm(Client& client, const Options& options) {
    if (options.yes || options.dry_run) {
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
