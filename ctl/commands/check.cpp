// SPDX-License-Identifier: GPL-2.0-or-later
#include "ctl/commands/commands.hpp"
#include "ctl/render.hpp"
#include "daemon/api_types_read.hpp"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <atomic>
#include <optional>
#include <thread>

namespace qhup::ctl {
namespace {

constexpr int kOk = 200;
constexpr std::size_t kAskedAtOnce = 8; // the daemon has room for some others beside us

/// Which VMs a run over all would begin, and what is said of the others.
struct Selected {
    std::vector<std::string> names;
    std::vector<daemon::CheckView> left_out;
};

Selected select_all(const nlohmann::json& list, const std::string& to) {
    Selected selected;
    for (const nlohmann::json& document : daemon::read::elements(list, "vms")) {
        const daemon::VmView vm = daemon::vm_from_json(document);
        const auto out = left_out_of_all(vm, document);
        if (!out) {
            selected.names.push_back(vm.name);
            continue;
        }
        daemon::CheckView check;
        check.vm = vm.name;
        check.from = vm.version;
        check.to = to;
        check.code = out->code;
        check.message = out->reason;
        selected.left_out.push_back(std::move(check));
    }
    return selected;
}

/// What to exit with if the daemon has no release of the wanted name.
std::optional<ExitStatus> find_unknown_release(Client& client, const Options& options) {
    const auto answer = get_document(client, options, "/v1/releases");
    if (const auto* failed = std::get_if<ExitStatus>(&answer)) {
        return *failed;
    }
    const auto& body = std::get<nlohmann::json>(answer);
    for (const auto& release : daemon::read::elements(body, "releases")) {
        if (daemon::release_from_json(release).name == options.to) {
            return std::nullopt;
        }
    }
    daemon::Problem problem;
    problem.status = 404;
    problem.code = "release_not_found";
    problem.detail = "There is no release '" + options.to + "'.";
    problem.next_step = "'qhupd-ctl releases' shows all.";
    return report_problem(options, problem);
}

} // namespace

std::variant<nlohmann::json, ExitStatus>
get_checks(const Client& client, const Options& options, const std::vector<std::string>& names) {
    std::vector<std::optional<Result<Reply>>> replies(names.size());
    // why: a rehearsal is not refused for it.
    const bool is_untested_allowed =
        options.command == Command::rehearse ||
        std::find(options.allow.begin(), options.allow.end(), "untested") != options.allow.end();
    const std::string allowance = is_untested_allowed ? "&allow=untested" : "";
    std::atomic<std::size_t> next{0};
    const auto ask = [&] {
        for (std::size_t i = next++; i < names.size(); i = next++) {
            replies[i] = client.request(
                "GET",
                "/v1/vms/" + percent_encoded(names[i]) +
                    "/check?to=" + percent_encoded(options.to) + allowance
            );
        }
    };
    std::vector<std::thread> askers;
    for (std::size_t i = 1; i < std::min(names.size(), kAskedAtOnce); ++i) {
        askers.emplace_back(ask);
    }
    ask();
    for (std::thread& asker : askers) {
        asker.join();
    }
    nlohmann::json bodies = nlohmann::json::array();
    for (const auto& reply : replies) {
        if (reply->has_error()) {
            return report(options, reply->error());
        }
        if ((*reply)->status != kOk) {
            return report(options, **reply);
        }
        auto body = json_of(**reply);
        if (body.has_error()) {
            return report(options, body.error());
        }
        bodies.push_back(std::move(*body));
    }
    return bodies;
}

ExitStatus run_check(Client& client, const Options& options) {
    Selected selected{options.vms, {}};
    if (options.all) {
        const auto reply = client.request("GET", vms_target(options));
        if (reply.has_error()) {
            return report(options, reply.error());
        }
        const auto body = reply->status == kOk ? json_of(*reply) : Result<nlohmann::json>(nullptr);
        if (body.has_error()) {
            return report(options, body.error());
        }
        if (reply->status != kOk) {
            return report(options, *reply);
        }
        selected = select_all(*body, options.to);
    }
    if (selected.names.empty()) {
        // why: a release that does not exist is said also where there is no VM to check.
        const auto problem = find_unknown_release(client, options);
        if (problem) {
            return *problem;
        }
    }
    const auto answers = get_checks(client, options, selected.names);
    if (const auto* failed = std::get_if<ExitStatus>(&answers)) {
        return *failed;
    }
    auto bodies = std::get<nlohmann::json>(answers);
    std::vector<daemon::CheckView> checks;
    for (const nlohmann::json& body : bodies) {
        checks.push_back(daemon::check_from_json(body));
    }
    for (const daemon::CheckView& out : selected.left_out) {
        checks.push_back(out);
        bodies.push_back(daemon::to_json(out));
    }
    const nlohmann::json document = {{"checks", bodies}};
    print_document(options, document, [&] { return render_checks(checks, output_style(options)); });
    return exit_status_of(checks);
}

} // namespace qhup::ctl
