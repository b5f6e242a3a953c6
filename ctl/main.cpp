// SPDX-License-Identifier: GPL-2.0-or-later
//
// qhupd-ctl: what operators type. Parses the command line and runs one command.
#include "ctl/client.hpp"
#include "ctl/command_line.hpp"
#include "ctl/commands/commands.hpp"
#include "ctl/render.hpp"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <exception>
#include <string_view>

namespace {

using namespace qhup::ctl;

ExitStatus run_command(const Options& options) {
    Client client(options.socket, options.read_socket);
    switch (options.command) {
    case Command::list: return run_list(client, options);
    case Command::show: return run_show(client, options);
    case Command::check: return run_check(client, options);
    case Command::upgrade:
    case Command::rehearse:
    case Command::revert: return run_upgrade(client, options);
    case Command::releases: return run_releases(client, options);
    case Command::status: return run_status(client, options);
    case Command::abort: return run_abort(client, options);
    case Command::selftest: return run_selftest(client, options);
    case Command::hold: return run_hold(client, options);
    case Command::unhold: return run_unhold(client, options);
    case Command::watch: return run_watch(client, options);
    case Command::history: return run_history(client, options);
    case Command::events: return run_events(client, options);
    case Command::explain: return run_explain(client, options);
    case Command::doctor: return run_doctor(client, options);
    case Command::config_show: return run_config_show(options);
    case Command::completion: return run_completion(options);
    case Command::version: return run_version(client, options);
    case Command::complete: return run_complete(client, options);
    case Command::generate: return run_generate(options);
    }
    return ExitStatus::failure;
}

/// The command line is wrong, so nobody else says it.
bool is_json_wanted(int argc, char** argv) {
    return std::any_of(argv + 1, argv + argc, [](const char* word) {
        return std::string_view(word) == "--json";
    });
}

} // namespace

int main(int argc, char** argv) {
    try {
        const auto parsed = parse_command_line(argc, argv);
        if (const auto* early = std::get_if<EarlyExit>(&parsed)) {
            if (early->status != ExitStatus::ok && is_json_wanted(argc, argv)) {
                print_raw(
                    qhup::daemon::format_json(
                        {{"code", "wrong_command_line"},
                         {"detail", printable(early->text.substr(0, early->text.find('\n')))}}
                    ) +
                    "\n"
                );
            }
            (early->status == ExitStatus::ok ? print : tell)(early->text);
            return static_cast<int>(early->status);
        }
        const ExitStatus status = run_command(std::get<Options>(parsed));
        if (status == ExitStatus::ok && is_output_lost()) {
            tell("The output could not be written.\n");
            return static_cast<int>(ExitStatus::failure);
        }
        return static_cast<int>(status);
    } catch (const std::exception& bug) {
        tell(
            "qhupd-ctl has a bug; nothing is known about the VMs: " + std::string(bug.what()) + "\n"
        );
        return static_cast<int>(ExitStatus::failure);
    }
}
