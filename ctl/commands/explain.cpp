// SPDX-License-Identifier: GPL-2.0-or-later
//
// explain: what a code, an outcome or a blocker means, who runs the guest, what to do. The daemon
// that runs is asked for its codes, since it may be a newer one.
#include "ctl/commands/commands.hpp"
#include "ctl/manual.hpp"
#include "ctl/render.hpp"
#include "daemon/nearest_name.hpp"

#include <nlohmann/json.hpp>

#include <chrono>

namespace qhup::ctl {
namespace {

const char* word_of(Topic topic) noexcept {
    switch (topic) {
    case Topic::upgrade: return "upgrade";
    case Topic::request: return "request";
    case Topic::outcome: return "outcome";
    case Topic::blocker: return "blocker";
    case Topic::phase: return "phase";
    }
    return "";
}

nlohmann::json to_json(const std::vector<ManualEntry>& entries) {
    nlohmann::json list = nlohmann::json::array();
    for (const ManualEntry& entry : entries) {
        list.push_back(
            {{"topic", word_of(entry.topic)},
             {"name", entry.name},
             {"kind", entry.kind},
             {"text", entry.text},
             {"guest", guest_after(entry)},
             {"details", entry.details}}
        );
    }
    return {{"entries", list}};
}

} // namespace

std::vector<ManualEntry> get_manual(const Client& client) {
    // why: what a code means can be asked when nothing runs, and must not wait for a daemon that
    // hangs; an older one has no such call.
    constexpr int kOk = 200;
    constexpr std::chrono::seconds kPatience{2};
    const auto reply = client.request("GET", "/v1/codes", {}, kPatience);
    if (reply.has_error() || reply->status != kOk) {
        return manual();
    }
    const auto body = json_of(*reply);
    return body.has_error() ? manual() : merge_codes(manual(), daemon::codes_from_json(*body));
}

ExitStatus run_explain(const Client& client, const Options& options) {
    const bool is_all = options.code.empty();
    const std::vector<ManualEntry> known = get_manual(client);
    const std::vector<ManualEntry> entries = is_all ? known : find_in_manual(known, options.code);
    if (entries.empty()) {
        std::vector<std::string> names;
        for (const ManualEntry& entry : known) {
            names.push_back(entry.name);
        }
        daemon::Problem problem;
        problem.status = 404;
        problem.code = "code_not_found";
        problem.detail = "There is no code, outcome, blocker or phase '" + options.code + "'.";
        problem.next_step =
            daemon::did_you_mean(options.code, names) + "'qhupd-ctl explain' shows all.";
        return report_problem(options, problem);
    }
    if (options.json) {
        print_raw(daemon::format_json_pretty(to_json(entries)) + "\n");
    } else {
        print(is_all ? render_contents(entries) : render_entries(entries));
    }
    return ExitStatus::ok;
}

} // namespace qhup::ctl
