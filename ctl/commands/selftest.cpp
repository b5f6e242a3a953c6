// SPDX-License-Identifier: GPL-2.0-or-later
//
// selftest: throwaway guests of this host are upgraded first.
#include "ctl/commands/commands.hpp"
#include "ctl/render.hpp"
#include "daemon/api_types_selftest.hpp"

#include <nlohmann/json.hpp>

#include <chrono>

namespace qhup::ctl {
namespace {

constexpr int kAccepted = 202;
constexpr std::chrono::milliseconds kBetweenQuestions{200};

/// Shows the run as any other.
/// @return  none: it has ended
std::optional<ExitStatus>
follow_guests(Client& client, const Options& options, const std::string& run, Progress& progress) {
    const auto answer = get_document(client, options, "/v1/runs/" + percent_encoded(run));
    if (const auto* failed = std::get_if<ExitStatus>(&answer)) {
        return *failed;
    }
    const ExitStatus ended =
        follow_run(client, options, std::get<nlohmann::json>(answer), progress);
    const bool is_lost = ended == ExitStatus::detached || ended == ExitStatus::unreachable;
    return is_lost ? std::optional(ended) : std::nullopt;
}

} // namespace

ExitStatus run_selftest(Client& client, const Options& options) {
    const daemon::SelftestRequest request{
        .to = options.to, .from = options.from, .guests = options.guests};
    const auto reply =
        client.request("POST", "/v1/selftests", daemon::format_json(daemon::to_json(request)));
    if (reply.has_error()) {
        return report(options, reply.error());
    }
    if (reply->status != kAccepted) {
        return report(options, *reply);
    }
    const auto begun = json_of(*reply);
    if (begun.has_error()) {
        return report(options, begun.error());
    }
    daemon::SelftestView selftest = daemon::selftest_from_json(*begun);
    const std::string target = "/v1/selftests/" + percent_encoded(selftest.id);
    detach_on_interrupt();
    tell(render_selftest_begin(selftest));
    Progress progress = make_progress(options);
    std::string run;
    for (;;) {
        const auto answer = get_document(client, options, target);
        if (const auto* failed = std::get_if<ExitStatus>(&answer)) {
            return *failed;
        }
        const auto& body = std::get<nlohmann::json>(answer);
        selftest = daemon::selftest_from_json(body);
        if (selftest.state == "finished") {
            print_document(options, body, [&] {
                return render_selftest(selftest, output_style(options));
            });
            return selftest.passed ? ExitStatus::ok : ExitStatus::failure;
        }
        if (run != selftest.run && !options.json) {
            run = selftest.run;
            const auto ended = follow_guests(client, options, run, progress);
            if (ended) {
                return *ended;
            }
            continue;
        }
        wait_interruptibly(kBetweenQuestions);
        if (was_interrupted()) {
            tell(
                "Detached: the selftest goes on without this command. Its result is in "
                "'qhupd-ctl history' and GET " +
                target + "\n"
            );
            return ExitStatus::detached;
        }
    }
}

} // namespace qhup::ctl
