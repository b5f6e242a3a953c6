// SPDX-License-Identifier: GPL-2.0-or-later
#include "ctl/commands/commands.hpp"
#include "ctl/render.hpp"

#include <nlohmann/json.hpp>

#include <unistd.h>

#include <chrono>
#include <ctime>
#include <optional>
#include <string>

namespace qhup::ctl {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int kOk = 200;
constexpr int kAccepted = 202;
constexpr int kNotFound = 404;
constexpr int kReconnectSeconds = 30;

/// Waits a second; a signal ends it.
void pause_briefly() {
    const timespec second{1, 0};
    ::nanosleep(&second, nullptr);
}

void tell_how_to_attach(const std::string& run) {
    tell(
        "Detached: the run goes on without this command.\n  To attach again:  qhupd-ctl status " +
        run + "\n  To stop it:       qhupd-ctl abort " + run + "\n"
    );
}

std::optional<Clock::time_point> end_of_waiting(const Options& options) {
    return options.timeout ? std::optional(Clock::now() + *options.timeout) : std::nullopt;
}

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

/// How following a stream ended.
struct Followed {
    std::optional<daemon::RunView> run; ///< it finished so
    std::optional<nlohmann::json> body; ///< the same as the daemon wrote it
    std::optional<ExitStatus> status;   ///< it cannot be followed
    bool is_lost = false;               ///< the daemon went away
};

Followed follow_once(
    Client& client,
    const Options& options,
    const std::string& run,
    Progress& progress,
    std::uint64_t& last_sequence,
    const std::optional<Clock::time_point>& until
) {
    Followed followed;
    const auto on_tick = [&until, &progress] {
        progress.tick();
        return until && Clock::now() >= *until ? Reading::stop : Reading::go_on;
    };
    const auto on_line = [&](std::string_view line) {
        const auto body = daemon::parse_json(line);
        if (body.has_error()) {
            return Reading::go_on;
        }
        daemon::RunEvent event = daemon::run_event_from_json(*body);
        if (event.sequence != 0) {
            last_sequence = event.sequence;
        }
        if (event.run) {
            followed.run = std::move(event.run);
            followed.body = (*body)["run"];
            return Reading::stop;
        }
        if (event.stage) {
            progress.on_stage(*event.stage);
        }
        if (event.vm) {
            progress.on_vm(*event.vm);
        }
        return Reading::go_on;
    };
    const auto reply = client.follow(
        "/v1/runs/" + percent_encoded(run) + "/events?after=" + std::to_string(last_sequence),
        on_line,
        on_tick
    );
    if (reply.has_error()) {
        if (reply.error().code == make_error_code(Errc::detached)) {
            progress.finish();
            tell_how_to_attach(run);
            followed.status = ExitStatus::detached;
        } else if (reply.error().code == make_error_code(Errc::not_permitted)) {
            progress.finish();
            followed.status = report(options, reply.error());
        } else {
            followed.is_lost = true;
        }
    } else if (reply->status != kOk) {
        progress.finish();
        followed.status = report(options, *reply);
        if (reply->status == kNotFound) {
            tell(
                "See 'qhupd-ctl status' for what qhupd found when it started, and 'qhupd-ctl list' "
                "for how the VMs are.\n"
            );
        }
    } else {
        followed.is_lost = !followed.run.has_value();
    }
    return followed;
}

} // namespace

Progress make_progress(const Options& options) {
    const Terminal err = observe_terminal(STDERR_FILENO);
    return {choose_progress(options.progress, err, options.json), error_style(options)};
}

ExitStatus follow_run(
    Client& client, const Options& options, const nlohmann::json& document, Progress& progress
) {
    detach_on_interrupt();
    const daemon::RunView known = daemon::run_from_json(document);
    const std::string& run = known.id;
    progress.on_run(known);
    const auto until = end_of_waiting(options);
    std::uint64_t last_sequence = 0;
    bool was_told = false;
    for (int attempt = 0; attempt < kReconnectSeconds;) {
        const std::uint64_t before = last_sequence;
        const Followed followed = follow_once(client, options, run, progress, last_sequence, until);
        if (followed.status) {
            return *followed.status;
        }
        if (followed.run) {
            progress.finish();
            print_document(
                options, *followed.body, render_run(*followed.run, output_style(options))
            );
            return exit_status_of(*followed.run);
        }
        attempt = last_sequence > before ? 0 : attempt + 1;
        if (!was_told) {
            progress.note(
                "qhupd went away. The VMs go on by themselves; waiting for qhupd to come back.\n"
            );
            was_told = true;
        }
        last_sequence = 0; // why: a daemon that started again counts from the beginning
        pause_briefly();
        if (was_interrupted() || (until && Clock::now() >= *until)) {
            progress.finish();
            tell_how_to_attach(run);
            return ExitStatus::detached;
        }
    }
    progress.finish();
    tell("qhupd did not come back. See 'systemctl status qhupd'; when it runs again, 'qhupd-ctl "
         "status' says what it found.\n");
    return ExitStatus::unreachable;
}

ExitStatus run_upgrade(Client& client, const Options& options) {
    if (const auto ended = confirm(client, options)) {
        return *ended;
    }
    Progress progress = make_progress(options);
    progress.begin(beginning_of(options));
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
        const auto found = body.find("runs");
        for (const auto& run : found != body.end() ? *found : nlohmann::json::array()) {
            runs.push_back(daemon::run_from_json(run));
        }
        print_document(options, body, render_runs(runs));
        return ExitStatus::ok;
    }
    const daemon::RunView run = daemon::run_from_json(body);
    if (run.state == "running" && !options.once) {
        Progress progress = make_progress(options);
        return follow_run(client, options, body, progress);
    }
    print_document(options, body, render_run(run, output_style(options)));
    return run.state == "running" ? ExitStatus::ok : exit_status_of(run);
}

} // namespace qhup::ctl
