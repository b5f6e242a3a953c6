// SPDX-License-Identifier: GPL-2.0-or-later
//
// Follows a run, or all events, on /v1/events: the stream goes on where it broke when the daemon is
// there again. Where there is no stream, the run is asked for again and again.
#include "ctl/commands/commands.hpp"
#include "ctl/event_stream.hpp"
#include "ctl/plan.hpp"
#include "ctl/render.hpp"
#include "daemon/api_types_read.hpp"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <chrono>
#include <optional>
#include <string>
#include <utility>

namespace qhup::ctl {
namespace {

using daemon::read::elements;
using daemon::read::member;
using nlohmann::json;
using Clock = std::chrono::steady_clock;

constexpr int kOk = 200;
constexpr int kNotFound = 404;
constexpr int kUnavailable = 503;
constexpr std::chrono::seconds kLongestAbsence{30}; // of the daemon
constexpr std::chrono::seconds kBetweenConnections{1};
constexpr std::chrono::milliseconds kBetweenQuestions{500}; // without a stream
constexpr std::chrono::seconds kDoubt{5}; // without an event, before the run is asked for
constexpr std::chrono::seconds kPatience{10};

bool has_moved(const daemon::RunVmView& vm) {
    return vm.outcome == "upgraded";
}

/// Which VMs of the run are paused once more later, as the list of VMs says; "" for none.
std::string render_ways_back_to_come(const daemon::RunView& run, const json& list) {
    std::vector<std::string> names;
    bool is_each = true;
    for (const json& vm : elements(list, "vms")) {
        const std::string name = daemon::vm_from_json(vm).name;
        const bool is_of_run =
            std::any_of(run.vms.begin(), run.vms.end(), [&name](const daemon::RunVmView& one) {
                return one.vm == name && has_moved(one);
            });
        const json& way = member(vm, "way_back");
        const json& back = member(member(member(vm, "policy"), "effective"), "rehearse_back");
        if (is_of_run && member(way, "open") == true && member(way, "rehearsed") == "" &&
            (back == "first" || back == "all")) {
            names.push_back(name);
            is_each = is_each && back == "all";
        }
    }
    return render_pauses_to_come(names, is_each);
}

/// Since when the daemon has not been heard of.
class Absence {
public:
    void on_contact() noexcept { since_.reset(); }

    /// @return  it is new
    bool on_loss() noexcept {
        const bool is_new = !since_;
        since_ = since_.value_or(Clock::now());
        return is_new;
    }

    bool is_too_long() const noexcept { return since_ && Clock::now() - *since_ > kLongestAbsence; }

private:
    std::optional<Clock::time_point> since_;
};

std::optional<Clock::time_point> end_of_waiting(const Options& options) {
    return options.timeout ? std::optional(Clock::now() + *options.timeout) : std::nullopt;
}

bool is_code(const Failure& failure, Errc code) noexcept {
    return failure.code == make_error_code(code);
}

/// One run, until it has ended or cannot be followed any more.
class RunWatch {
public:
    RunWatch(Client& client, const Options& options, const json& document, Progress& progress)
        : client_(client),
          options_(options),
          progress_(progress),
          run_(daemon::run_from_json(document)),
          body_(document),
          follower_(run_),
          until_(end_of_waiting(options)) {}

    ExitStatus follow() {
        progress_.on_run(run_);
        while (!is_over()) {
            if (has_stream_) {
                read_stream();
            } else {
                wait_interruptibly(kBetweenQuestions);
                ask();
            }
            if (!is_over() && (was_interrupted() || is_late())) {
                end_with(ExitStatus::detached);
                tell_how_to_attach();
            }
            if (!is_over() && is_lost_) {
                wait_for_daemon();
            }
        }
        if (status_) {
            return *status_;
        }
        progress_.finish();
        print_document(options_, body_, [this] {
            return render_run(run_, output_style(options_));
        });
        tell_of_ways_back();
        return exit_status_of(run_);
    }

private:
    bool is_over() const { return status_ || run_.state == "finished"; }
    bool is_late() const { return until_ && Clock::now() >= *until_; }

    void end_with(ExitStatus status) {
        progress_.finish();
        status_ = status;
    }

    /// After an upgrade: the pause that comes later, in the background.
    void tell_of_ways_back() const {
        const bool is_any = std::any_of(run_.vms.begin(), run_.vms.end(), has_moved);
        if (options_.command != Command::upgrade || options_.json || run_.dry_run || !is_any) {
            return;
        }
        const auto reply = client_.request("GET", "/v1/vms", {}, kPatience);
        const auto body =
            reply.has_value() && reply->status == kOk ? json_of(*reply) : Result<json>(json());
        if (body.has_value()) {
            tell(render_ways_back_to_come(run_, *body));
        }
    }

    void tell_how_to_attach() const {
        tell(
            "Detached: the run goes on without this command.\n  To attach again:  qhupd-ctl "
            "status " +
            printable(run_.id) + "\n  To stop it:       qhupd-ctl abort " + printable(run_.id) +
            "\n"
        );
    }

    void show(const RunFollower::News& news) {
        if (news.stage) {
            progress_.on_stage(*news.stage);
        }
        for (const daemon::RunVmView& vm : news.vms) {
            progress_.on_vm(vm);
        }
    }

    /// The run as it is now.
    void ask() {
        const auto reply =
            client_.request("GET", "/v1/runs/" + percent_encoded(run_.id), {}, kPatience);
        next_question_ = Clock::now() + kDoubt;
        if (reply.has_error()) {
            on_failure(reply.error());
            return;
        }
        absence_.on_contact();
        if (reply->status != kOk) {
            on_refusal(*reply);
            return;
        }
        auto body = json_of(*reply);
        if (body.has_error()) {
            on_failure(body.error());
            return;
        }
        body_ = std::move(*body);
        run_ = daemon::run_from_json(body_);
        show(follower_.on_run(run_));
    }

    void read_stream() {
        reader_.on_connection();
        // why: the first connection gets the whole run, also what happened before it.
        const std::string target =
            "/v1/events?run=" + percent_encoded(run_.id) + (reader_.last_id() ? "" : "&after=0");
        const auto reply = client_.follow(
            target,
            [this](std::string_view line) { return on_line(line); },
            [this] { return on_tick(); },
            reader_.last_id()
        );
        if (is_over()) {
            return;
        }
        if (reply.has_error()) {
            on_failure(reply.error());
        } else if (reply->status == kUnavailable || reply->status == kOk) {
            on_loss(); // it is stopping, or this reader was too slow
        } else {
            has_stream_ = false;
        }
    }

    Reading on_line(std::string_view line) {
        absence_.on_contact();
        const auto data = reader_.on_line(line);
        const auto body = data ? daemon::parse_json(*data) : Result<json>(json());
        if (body.has_error() || !body->is_object()) {
            return Reading::go_on;
        }
        const daemon::EventView event = daemon::event_from_json(*body);
        show(follower_.on_event(event));
        if (!event.run.empty()) {
            next_question_ = Clock::now() + kDoubt;
        }
        return ask_if_needed();
    }

    Reading on_tick() {
        progress_.tick();
        return is_late() ? Reading::stop : ask_if_needed();
    }

    Reading ask_if_needed() {
        if (follower_.must_ask() || Clock::now() >= next_question_) {
            ask();
        }
        return is_over() || is_lost_ ? Reading::stop : Reading::go_on;
    }

    void on_failure(const Failure& failure) {
        if (is_code(failure, Errc::not_permitted)) {
            end_with(report(options_, failure));
        } else if (!is_code(failure, Errc::detached)) {
            on_loss();
        }
    }

    /// Nobody can be asked now. What events have told may be all.
    void on_loss() {
        is_lost_ = true;
        if (auto ended = follower_.told_end()) {
            run_ = std::move(*ended);
            body_ = daemon::to_json(run_);
        }
    }

    void on_refusal(const Reply& reply) {
        if (reply.status == kUnavailable) {
            on_loss();
            return;
        }
        end_with(report(options_, reply));
        if (reply.status == kNotFound) {
            tell(
                "See 'qhupd-ctl status' for what qhupd found when it started, and 'qhupd-ctl list' "
                "for how the VMs are.\n"
            );
        }
    }

    void wait_for_daemon() {
        if (absence_.on_loss()) {
            progress_.note(
                "qhupd went away. The VMs go on by themselves; waiting for qhupd to come back.\n"
            );
        }
        if (absence_.is_too_long()) {
            end_with(ExitStatus::unreachable);
            tell("qhupd did not come back. See 'systemctl status qhupd'; when it runs again, "
                 "'qhupd-ctl status' says what it found.\n");
            return;
        }
        wait_interruptibly(kBetweenConnections);
        is_lost_ = false;
        has_stream_ = true;            // another daemon may have one
        next_question_ = Clock::now(); // why: what happened meanwhile no event may say
    }

    Client& client_;
    const Options& options_;
    Progress& progress_;
    daemon::RunView run_;
    json body_; ///< run_ as the daemon wrote it
    RunFollower follower_;
    EventReader reader_;
    Absence absence_;
    const std::optional<Clock::time_point> until_;
    Clock::time_point next_question_ = Clock::now() + kDoubt;
    std::optional<ExitStatus> status_; ///< it ended otherwise than with the run
    bool has_stream_ = true;
    bool is_lost_ = false;
};

} // namespace

ExitStatus
follow_run(Client& client, const Options& options, const json& document, Progress& progress) {
    detach_on_interrupt();
    return RunWatch(client, options, document, progress).follow();
}

ExitStatus follow_events(
    Client& client,
    const Options& options,
    const std::string& target,
    const std::function<Reading(const json& event)>& on_event
) {
    detach_on_interrupt();
    const auto until = end_of_waiting(options);
    const auto is_late = [&until] { return until && Clock::now() >= *until; };
    EventReader reader;
    Absence absence;
    bool was_there = false;
    for (;;) {
        bool is_enough = false;
        reader.on_connection();
        const auto on_line = [&](std::string_view line) {
            was_there = true;
            absence.on_contact();
            const auto data = reader.on_line(line);
            const auto event = data ? daemon::parse_json(*data) : Result<json>(json());
            is_enough =
                event.has_value() && event->is_object() && on_event(*event) == Reading::stop;
            return is_enough ? Reading::stop : Reading::go_on;
        };
        const auto on_tick = [&] { return is_late() ? Reading::stop : Reading::go_on; };
        const auto reply = client.follow(target, on_line, on_tick, reader.last_id());
        if (is_enough) {
            return ExitStatus::ok;
        }
        const bool is_refused = reply.has_error() && is_code(reply.error(), Errc::not_permitted);
        const bool is_answer = reply.has_value() && reply->status != kOk;
        if (reply.has_error() && (!was_there || is_refused) &&
            !is_code(reply.error(), Errc::detached)) {
            return report(options, reply.error());
        }
        if (is_answer && (!was_there || reply->status != kUnavailable)) {
            return report(options, *reply);
        }
        if (absence.on_loss() && !was_interrupted() && !is_late()) {
            tell("qhupd ended the stream: it is stopping, or this reader was too slow. Waiting "
                 "for it to come back.\n");
        }
        if (absence.is_too_long()) {
            tell("qhupd did not come back. See 'systemctl status qhupd'.\n");
            return ExitStatus::unreachable;
        }
        if (!was_interrupted() && !is_late()) {
            wait_interruptibly(kBetweenConnections);
        }
        if (was_interrupted() || is_late()) {
            return ExitStatus::detached;
        }
    }
}

} // namespace qhup::ctl
