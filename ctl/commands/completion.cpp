// SPDX-License-Identifier: GPL-2.0-or-later
//
// completion, and the hidden commands that shells and the build ask.
#include "ctl/completion.hpp"

#include "ctl/commands/commands.hpp"
#include "ctl/man_pages.hpp"
#include "ctl/manual.hpp"
#include "ctl/render.hpp"
#include "daemon/api_types_read.hpp"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <iostream>
#include <iterator>
#include <set>

namespace qhup::ctl {
namespace {

using nlohmann::json;

constexpr int kOk = 200;
constexpr std::chrono::milliseconds kPatience{800}; // of whoever pressed the key

/// Names in a list of the daemon, with something about each; none if it does not answer.
void add_names(
    std::vector<Candidate>& found,
    const Client& client,
    const char* target,
    const char* list,
    const char* name,
    const char* help,
    bool (*is_wanted)(const json& value) = [](const json&) { return true; }
) {
    const auto reply = client.request("GET", target, {}, kPatience);
    const auto body =
        reply.has_value() && reply->status == kOk ? json_of(*reply) : Result<json>(json::object());
    const json document = body.has_value() ? *body : json::object();
    const auto values = document.find(list);
    if (values == document.end() || !values->is_array()) {
        return;
    }
    const auto text = [](const json& value, const char* key) {
        const auto member = value.is_object() ? value.find(key) : value.end();
        return value.is_object() && member != value.end() && member->is_string()
                   ? printable(member->get<std::string>())
                   : std::string();
    };
    for (const json& value : *values) {
        if (is_wanted(value)) {
            found.push_back({text(value, name), text(value, help)});
        }
    }
}

/// A revert of the run would have a VM to work on.
bool has_moved(const json& run) {
    const daemon::RunView view = daemon::run_from_json(run);
    return !view.dry_run && (view.kind == "upgrade" || view.kind == "revert") &&
           std::any_of(view.vms.begin(), view.vms.end(), [](const daemon::RunVmView& vm) {
               return vm.outcome == "upgraded" || vm.outcome == "needs_operator" ||
                      vm.outcome == "lost_contact";
           });
}

/// Labels that VMs have, each once.
void add_labels(std::vector<Candidate>& found, const Client& client) {
    const auto reply = client.request("GET", "/v1/vms", {}, kPatience);
    const auto body =
        reply.has_value() && reply->status == kOk ? json_of(*reply) : Result<json>(json::object());
    const json document = body.has_value() ? *body : json::object();
    std::set<std::string> labels;
    for (const json& vm : daemon::read::elements(document, "vms")) {
        const json& said = daemon::read::member(vm, "labels");
        for (auto label = said.begin(); said.is_object() && label != said.end(); ++label) {
            if (label->is_string()) {
                labels.insert(printable(label.key() + "=" + label->get<std::string>()));
            }
        }
    }
    for (const std::string& label : labels) {
        found.push_back({label, ""});
    }
}

std::vector<Candidate> live_names(const Client& client, LiveNames names) {
    std::vector<Candidate> found;
    if (names == LiveNames::vms || names == LiveNames::vms_or_moves) {
        add_names(found, client, "/v1/vms", "vms", "name", "version");
    }
    if (names == LiveNames::runs) {
        add_names(found, client, "/v1/runs", "runs", "id", "state");
    }
    if (names == LiveNames::vms_or_moves) {
        add_names(found, client, "/v1/runs", "runs", "id", "to", has_moved);
    }
    if (names == LiveNames::labels) {
        add_labels(found, client);
    }
    if (names == LiveNames::releases) {
        add_names(found, client, "/v1/releases", "releases", "name", "description");
    }
    if (names == LiveNames::codes) {
        for (const ManualEntry& entry : get_manual(client)) {
            found.push_back({entry.name, first_clause(entry.text)});
        }
    }
    return found;
}

std::string all_input() {
    return {std::istreambuf_iterator<char>(std::cin), std::istreambuf_iterator<char>()};
}

} // namespace

ExitStatus run_completion(const Options& options) {
    print_raw(std::string(completion_script(options.shell)));
    return ExitStatus::ok;
}

ExitStatus run_complete(Client& client, const Options& options) {
    Completion completion = complete(describe_command_line(), options.rest);
    const std::string typed = options.rest.empty() ? "" : options.rest.back();
    std::vector<Candidate> candidates = std::move(completion.candidates);
    for (Candidate& name : live_names(client, completion.live)) {
        name.word.insert(0, completion.prefix);
        const bool is_given =
            std::find(
                options.rest.begin(), options.rest.end() - (options.rest.empty() ? 0 : 1), name.word
            ) != options.rest.end() - (options.rest.empty() ? 0 : 1);
        if (name.word.starts_with(typed) && !is_given) {
            candidates.push_back(std::move(name));
        }
    }
    std::string text;
    for (const Candidate& candidate : candidates) {
        text += candidate.word + (candidate.help.empty() ? "" : "\t" + candidate.help) + "\n";
    }
    print_raw(text);
    return ExitStatus::ok;
}

ExitStatus run_generate(const Options& options) {
    const std::string page = options.rest.empty() ? "" : options.rest.front();
    if (page == "qhupd-ctl.1") {
        print_raw(make_ctl_page(describe_command_line(), exit_status_help()));
    } else if (page == "qhupd.8") {
        print_raw(make_daemon_page(all_input()));
    } else if (page == "qhupd.toml.5") {
        print_raw(make_config_page(all_input()));
    } else if (page == "qhup-codes.7") {
        print_raw(make_codes_page(manual()));
    } else {
        tell("__generate makes qhupd-ctl.1, qhupd.8, qhupd.toml.5 and qhup-codes.7.\n");
        return ExitStatus::usage;
    }
    return ExitStatus::ok;
}

} // namespace qhup::ctl
