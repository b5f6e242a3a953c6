// SPDX-License-Identifier: GPL-2.0-or-later
//
// What was and what is: history, watch, events.
#include "ctl/commands/commands.hpp"
#include "ctl/render.hpp"
#include "daemon/api_types_read.hpp"

#include <nlohmann/json.hpp>

#include <algorithm>

namespace qhup::ctl {
namespace {

using nlohmann::json;

constexpr int kNotFound = 404;

std::string text_of(const json& object, const char* key) {
    const auto found = object.is_object() ? object.find(key) : object.end();
    return object.is_object() && found != object.end() && found->is_string()
               ? found->get<std::string>()
               : std::string();
}

std::variant<std::vector<daemon::RunView>, ExitStatus>
get_runs(Client& client, const Options& options) {
    const auto answer = get_document(client, options, "/v1/runs");
    if (const auto* failed = std::get_if<ExitStatus>(&answer)) {
        return *failed;
    }
    std::vector<daemon::RunView> runs;
    const auto& body = std::get<json>(answer);
    const auto found = body.find("runs");
    for (const auto& run : found != body.end() && found->is_array() ? *found : json::array()) {
        runs.push_back(daemon::run_from_json(run));
    }
    return runs;
}

/// "&vm=a&vm=b"
void add_filters(std::string& target, const char* key, const std::vector<std::string>& values) {
    for (const std::string& value : values) {
        target += std::string(target.find('?') == std::string::npos ? "?" : "&") + key + "=" +
                  percent_encoded(value);
    }
}

std::string render_event(const json& event) {
    const auto time = event.find("time_unix_ms");
    const std::int64_t when =
        time != event.end() && time->is_number_integer() ? time->get<std::int64_t>() : 0;
    std::string line = format_time(when) + "  " + printable(text_of(event, "type"));
    for (const char* key : {"run", "vm", "message"}) {
        const std::string text = printable(text_of(event, key));
        line += text.empty() ? "" : "  " + text;
    }
    return line + "\n";
}

} // namespace

ExitStatus run_history(Client& client, const Options& options) {
    // why: all that the daemon remembers; who asked for a run may be far before what became of it.
    const auto answer = get_document(
        client, options, "/v1/history?limit=" + std::to_string(daemon::History::kMaxEntries)
    );
    if (const auto* failed = std::get_if<ExitStatus>(&answer)) {
        return *failed;
    }
    const auto& body = std::get<json>(answer);
    std::vector<daemon::HistoryView> all;
    for (const auto& entry : daemon::read::elements(body, "history")) {
        all.push_back(daemon::history_from_json(entry));
    }
    const auto chosen = choose_history(std::move(all), options.vms, options.limit);
    if (chosen.empty() && !options.vms.empty()) {
        // why: a VM of which nothing is remembered may be there; a name that is none is a mistake.
        for (const std::string& vm : options.vms) {
            const auto known = get_document(client, options, "/v1/vms/" + percent_encoded(vm));
            if (const auto* failed = std::get_if<ExitStatus>(&known)) {
                return *failed;
            }
        }
    }
    json document = {{"history", json::array()}};
    for (const daemon::HistoryView& entry : chosen) {
        document["history"].push_back(daemon::to_json(entry));
    }
    print_document(options, document, [&] {
        return render_history(chosen, output_style(options));
    });
    return ExitStatus::ok;
}

ExitStatus run_watch(Client& client, const Options& options) {
    std::string id = options.run;
    if (id.empty()) {
        const auto runs = get_runs(client, options);
        if (const auto* failed = std::get_if<ExitStatus>(&runs)) {
            return *failed;
        }
        for (const daemon::RunView& run : std::get<std::vector<daemon::RunView>>(runs)) {
            if (id.empty() && run.state == "running") {
                id = run.id;
            }
        }
    }
    if (id.empty()) {
        print_document(options, {{"run", nullptr}}, [] {
            return std::string("No run goes on. 'qhupd-ctl history' shows what was.\n");
        });
        return ExitStatus::nothing_to_do;
    }
    const auto answer = get_document(client, options, "/v1/runs/" + percent_encoded(id));
    if (const auto* failed = std::get_if<ExitStatus>(&answer)) {
        return *failed;
    }
    Progress progress = make_progress(options);
    return follow_run(client, options, std::get<json>(answer), progress);
}

ExitStatus run_events(Client& client, const Options& options) {
    std::string target = "/v1/events";
    if (options.after_event) {
        add_filters(target, "after", {std::to_string(*options.after_event)});
    }
    add_filters(target, "vm", options.vms);
    add_filters(target, "type", options.types);
    if (!options.run.empty()) {
        add_filters(target, "run", {options.run});
    }
    for (const std::string& vm : options.vms) {
        // why: it may be started later, so this is no failure.
        const auto known = client.request("GET", "/v1/vms/" + percent_encoded(vm));
        if (known.has_value() && known->status == kNotFound) {
            tell(
                "There is no VM '" + printable(vm) + "' now; its events come when there is one.\n"
            );
        }
    }
    const auto on_event = [&options](const json& event) {
        print_raw(options.json ? daemon::format_json(event) + "\n" : render_event(event));
        return is_output_lost() ? Reading::stop : Reading::go_on;
    };
    const ExitStatus ended = follow_events(client, options, target, on_event);
    return is_output_lost() ? ExitStatus::failure : ended;
}

} // namespace qhup::ctl
