// SPDX-License-Identifier: GPL-2.0-or-later
#include "ctl/commands/commands.hpp"
#include "ctl/render.hpp"
#include "daemon/api_types_read.hpp"

#include <nlohmann/json.hpp>

#include <unistd.h>

#include <chrono>
#include <string>

namespace qhup::ctl {
namespace {

constexpr int kOk = 200;
constexpr int kAccepted = 202;

/// The run was begun, and nobody waits for it.
ExitStatus tell_begun(const Options& options, const nlohmann::json& run) {
    const std::string id = daemon::run_from_json(run).id;
    if (options.json) {
        print_raw(daemon::format_json_pretty(run) + "\n");
    } else {
        print(printable(id) + "\n");
    }
    tell("It goes on by itself. To follow it: qhupd-ctl status " + printable(id) + "\n");
    return ExitStatus::ok;
}

/// "Upgrading vm1 to deb13 …"
std::string beginning_of(const Options& options) {
    const std::string who = options.all               ? "all VMs"
                            : options.vms.size() == 1 ? printable(options.vms.front())
                                                      : std::to_string(options.vms.size()) + " VMs";
    if (options.dry_run) {
        return "Checking " + who + " for release " + printable(options.to) + " …";
    }
    if (options.command == Command::revert) {
        return "Reverting " + who + " …";
    }
    const bool is_rehearsal = options.command == Command::rehearse;
    return (is_rehearsal ? "Rehearsing " + who + " with release " : "Upgrading " + who + " to ") +
           printable(options.to) + " …";
}

} // namespace

Progress make_progress(const Options& options) {
    const Terminal err = observe_terminal(STDERR_FILENO);
    return {choose_progress(options.progress, err, options.json), error_style(options)};
}

ExitStatus run_upgrade(Client& client, const Options& options) {
    if (const auto ended = confirm(client, options)) {
        return *ended;
    }
    Progress progress = make_progress(options);
    const daemon::RunRequest request{
        .kind = options.command == Command::rehearse ? "rehearsal"
                : options.command == Command::revert ? "revert"
                                                     : "upgrade",
        .vms = options.vms,
        .all = options.all,
        .to = options.to,
        .parallel = options.parallel,
        .max_failures = options.max_failures,
        .dry_run = options.dry_run,
        .rehearse = options.rehearse,
        .pause_budget_ms = options.pause_budget_ms,
        .canaries = options.canaries,
        .batch = options.batch,
        .soak_ms =
            static_cast<std::uint64_t>(options.soak.value_or(std::chrono::milliseconds(0)).count()),
        .request_id = options.request_id,
        .allow = options.allow,
        .labels = options.labels,
    };
    const auto reply =
        client.request("POST", "/v1/runs", daemon::format_json(daemon::to_json(request)));
    if (reply.has_error()) {
        return report(options, reply.error());
    }
    if (reply->status != kAccepted && reply->status != kOk) { // 200: begun before
        return report(options, *reply);
    }
    const auto body = json_of(*reply);
    if (body.has_error()) {
        return report(options, body.error());
    }
    const bool is_begun_before = reply->status == kOk && !options.request_id.empty();
    progress.begin(
        is_begun_before ? "Nothing new is begun: request " + printable(options.request_id) +
                              " has started run " + printable(daemon::run_from_json(*body).id) +
                              " before, and this follows it."
                        : beginning_of(options)
    );
    if (const auto run = daemon::run_from_json(*body); !run.warnings.empty()) {
        progress.note(render_warnings(run.warnings));
    }
    if (options.no_wait) {
        return tell_begun(options, *body);
    }
    return follow_run(client, options, *body, progress);
}

ExitStatus run_abort(Client& client, const Options& options) {
    const auto reply =
        client.request("POST", "/v1/runs/" + percent_encoded(options.run) + "/abort");
    if (reply.has_error()) {
        return report(options, reply.error());
    }
    if (reply->status != kAccepted && reply->status != kOk) {
        return report(options, *reply);
    }
    const auto body = json_of(*reply);
    if (body.has_error()) {
        return report(options, body.error());
    }
    if (reply->status == kOk) {
        tell("The run has finished already; this is how it ended.\n");
    } else if (options.no_wait) {
        return tell_begun(options, *body);
    }
    Progress progress = make_progress(options);
    return follow_run(client, options, *body, progress);
}

ExitStatus run_status(Client& client, const Options& options) {
    const bool is_list = options.run.empty();
    const auto answer = get_document(
        client, options, is_list ? "/v1/runs" : "/v1/runs/" + percent_encoded(options.run)
    );
    if (const auto* failed = std::get_if<ExitStatus>(&answer)) {
        return *failed;
    }
    const auto& body = std::get<nlohmann::json>(answer);
    if (is_list) {
        std::vector<daemon::RunView> runs;
        for (const auto& run : daemon::read::elements(body, "runs")) {
            runs.push_back(daemon::run_from_json(run));
        }
        print_document(options, body, [&] { return render_runs(runs); });
        return ExitStatus::ok;
    }
    const daemon::RunView run = daemon::run_from_json(body);
    if (run.state == "running" && !options.once) {
        Progress progress = make_progress(options);
        return follow_run(client, options, body, progress);
    }
    print_document(options, body, [&] { return render_run(run, output_style(options)); });
    return run.state == "running" ? ExitStatus::ok : exit_status_of(run);
}

} // namespace qhup::ctl
