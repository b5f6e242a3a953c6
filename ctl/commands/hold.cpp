// SPDX-License-Identifier: GPL-2.0-or-later
//
// hold, unhold: VMs that nobody shall touch.
#include "ctl/commands/commands.hpp"
#include "ctl/render.hpp"
#include "daemon/api_types_read.hpp"

#include <nlohmann/json.hpp>

#include <chrono>
#include <map>
#include <string>

namespace qhup::ctl {
namespace {

constexpr int kOk = 200;

std::int64_t unix_ms_now() {
    const auto now = std::chrono::system_clock::now().time_since_epoch();
    return std::chrono::duration_cast<std::chrono::milliseconds>(now).count();
}

/// The holds that are there before; none if nobody says.
std::map<std::string, daemon::HoldView> get_holds(const Client& client) {
    const auto reply = client.request("GET", "/v1/holds");
    const auto body = reply.has_value() && reply->status == kOk
                          ? json_of(*reply)
                          : Result<nlohmann::json>(nlohmann::json::object());
    const nlohmann::json document = body.has_value() ? *body : nlohmann::json::object();
    std::map<std::string, daemon::HoldView> holds;
    for (const auto& value : daemon::read::elements(document, "holds")) {
        const daemon::HoldView hold = daemon::hold_from_json(value);
        holds[hold.vm] = hold;
    }
    return holds;
}

/// Asks once for each VM; the first failure ends it.
ExitStatus
run_for_each(Client& client, const Options& options, const char* method, const std::string& body) {
    nlohmann::json holds = nlohmann::json::array();
    const auto before = options.command == Command::hold && !options.json
                            ? get_holds(client)
                            : std::map<std::string, daemon::HoldView>();
    for (const std::string& vm : options.vms) {
        const std::string target = "/v1/vms/" + percent_encoded(vm) + "/hold";
        const auto reply = client.request(method, target, body);
        if (reply.has_error()) {
            return report(options, reply.error());
        }
        if (reply->status != kOk) {
            return report(options, *reply);
        }
        const auto answer = json_of(*reply);
        if (answer.has_error()) {
            return report(options, answer.error());
        }
        if (options.json) {
            holds.push_back(*answer);
            continue;
        }
        const daemon::HoldView hold = daemon::hold_from_json(*answer);
        const bool is_on = options.command == Command::hold;
        const auto was = before.find(hold.vm);
        print(is_on ? render_hold(hold) : printable(hold.vm) + " is not held any longer.\n");
        print(
            was == before.end() ? ""
                                : "  In place of a hold that it had: " + render_hold(was->second)
        );
    }
    if (options.json) {
        print_raw(daemon::format_json_pretty({{"holds", holds}}) + "\n");
    }
    return ExitStatus::ok;
}

} // namespace

ExitStatus run_hold(Client& client, const Options& options) {
    if (options.until_unix_ms && *options.until_unix_ms <= unix_ms_now()) {
        tell(
            "--until " + format_time(*options.until_unix_ms) +
            " is over already; nobody is held. Say a time that is still to come, or --for 2h.\n"
        );
        return ExitStatus::usage;
    }
    nlohmann::json body = {{"reason", options.reason}};
    if (options.until_unix_ms) {
        body["until_unix_ms"] = *options.until_unix_ms;
    } else if (options.hold_for) {
        body["until_unix_ms"] = unix_ms_now() + options.hold_for->count();
    }
    return run_for_each(client, options, "PUT", daemon::format_json(body));
}

ExitStatus run_unhold(Client& client, const Options& options) {
    return run_for_each(client, options, "DELETE", {});
}

} // namespace qhup::ctl
