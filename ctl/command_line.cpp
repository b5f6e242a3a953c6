// SPDX-License-Identifier: GPL-2.0-or-later
#include "ctl/command_line.hpp"

#include "common/version.hpp"
#include "ctl/times.hpp"

#include <CLI/CLI.hpp>

#include <map>
#include <sstream>

namespace qhup::ctl {
namespace {

constexpr const char* kExitStatusHelp =
    "Exit status\n"
    "  0   all selected VMs are on the release        1   a failure without a status of its own\n"
    "  2   nothing to do                              3   no such VM, release or run\n"
    "  4   some were rolled back, every guest runs    5   a guest was lost or needs an operator\n"
    "  6   refused before anything was paused         7   the run was aborted\n"
    "  64  wrong command line                         69  the daemon cannot be reached\n"
    "  75  nothing was touched; try later             77  not permitted\n"
    "  78  the configuration is wrong                 130 detached by Ctrl-C; the run goes on\n";

/// An option whose value is one of some words.
template <class Value>
void add_choice(
    CLI::App& app,
    const std::string& name,
    const char* type,
    Value& target,
    std::map<std::string, Value> choices,
    const std::string& what
) {
    app.add_option_function<std::string>(
           name,
           [name, &target, choices = std::move(choices)](const std::string& word) {
               const auto chosen = choices.find(word);
               if (chosen == choices.end()) {
                   throw CLI::ValidationError(name, "'" + word + "' is none of its words");
               }
               target = chosen->second;
           },
           what
    )
        ->type_name(type);
}

void add_selection(CLI::App& command, Options& options) {
    auto* vms =
        command.add_option("VM", options.vms, "Names of VMs, as 'qhupd-ctl list' shows them");
    auto* all = command.add_flag("--all", options.all, "Every VM");
    vms->excludes(all);
    command.add_option("--to", options.to, "The release, as 'qhupd-ctl releases' shows it")
        ->required()
        ->type_name("RELEASE");
}

/// How long to wait for the end of a run.
void add_waiting(CLI::App& command, Options& options, bool begins) {
    CLI::Option* timeout = command.add_option_function<std::string>(
        "--timeout",
        [&options](const std::string& text) {
            options.timeout = parse_span(text);
            if (!options.timeout) {
                throw CLI::ValidationError("--timeout", "a duration is 90s, 30min, 8h or 7d");
            }
        },
        "Go away after so long (exit status 130); the run goes on: 90s, 30min, 8h"
    );
    timeout->type_name("DURATION");
    if (begins) {
        command.add_flag("--no-wait", options.no_wait, "Begin it, say its name and go away")
            ->excludes(timeout);
    }
}

/// What all runs have in common.
void add_limits(CLI::App& command, Options& options) {
    command.add_option("--parallel", options.parallel, "VMs in work at once")
        ->check(CLI::Range(1, 1024))
        ->type_name("N");
    command.add_option("--max-failures", options.max_failures, "Begin no further VM after so many")
        ->check(CLI::Range(1, 10'000))
        ->type_name("N");
    command
        .add_option(
            "--pause-budget",
            options.pause_budget_ms,
            "Longest pause of each VM, in milliseconds; one that would be longer is refused"
        )
        ->check(CLI::Range(1, 30'000))
        ->type_name("MS");
    command.add_flag("--yes,-y", options.yes, "Do not ask; needed where nobody can be asked");
    add_waiting(command, options, true);
    command
        .add_option(
            "--request-id", options.request_id, "Said again, it follows the run that it started"
        )
        ->type_name("ID");
}

void add_run_options(CLI::App& command, Options& options) {
    add_selection(command, options);
    add_limits(command, options);
}

void add_rehearsal_flags(CLI::App& upgrade, Options& options) {
    CLI::Option* all = upgrade.add_flag_callback(
        "--rehearse",
        [&options] { options.rehearse = "all"; },
        "Rehearse each VM before its upgrade"
    );
    upgrade
        .add_flag_callback(
            "--no-rehearse", [&options] { options.rehearse = "none"; }, "Rehearse no VM"
        )
        ->excludes(all);
}

void add_stage_options(CLI::App& upgrade, Options& options) {
    upgrade
        .add_option(
            "--canaries",
            options.canaries,
            "Upgrade so many VMs first, one of each kind; then the rest"
        )
        ->check(CLI::Range(1, 10'000))
        ->type_name("N");
    upgrade.add_option("--batch", options.batch, "Upgrade so many VMs, then the next")
        ->check(CLI::Range(1, 10'000))
        ->type_name("N");
    upgrade
        .add_option_function<std::string>(
            "--soak",
            [&options](const std::string& text) {
                options.soak = parse_span(text);
                if (!options.soak || *options.soak > std::chrono::hours(7 * 24)) {
                    throw CLI::ValidationError(
                        "--soak", "a duration is 90s, 30min, 8h, at most 7d"
                    );
                }
            },
            "Watch the canaries, and each batch, for so long before the next: 90s, 30min, 8h"
        )
        ->type_name("DURATION");
}

void add_hold_options(CLI::App& hold, Options& options) {
    hold.add_option("VM", options.vms, "Their names")->required();
    hold.add_option("--reason", options.reason, "Why, for whoever comes by it")
        ->required()
        ->type_name("TEXT");
    CLI::Option* until = hold.add_option_function<std::string>(
        "--until",
        [&options](const std::string& text) {
            options.until_unix_ms = parse_time(text);
            if (!options.until_unix_ms) {
                throw CLI::ValidationError(
                    "--until", "a time is 2026-01-31T18:00, in UTC with a Z"
                );
            }
        },
        "When it ends: 2026-01-31T18:00 by the clock of the host, with a Z in UTC"
    );
    until->type_name("TIME");
    hold.add_option_function<std::string>(
            "--for",
            [&options](const std::string& text) {
                options.hold_for = parse_span(text);
                if (!options.hold_for) {
                    throw CLI::ValidationError("--for", "a duration is 90s, 30min, 8h or 7d");
                }
            },
            "After which time it ends: 90s, 30min, 8h, 7d"
    )
        ->type_name("DURATION")
        ->excludes(until);
}

void add_commands(CLI::App& app, Options& options) {
    const auto add = [&app, &options](const char* name, const char* what, Command command) {
        CLI::App* sub = app.add_subcommand(name, what);
        sub->fallthrough();
        sub->callback([&options, command] { options.command = command; });
        return sub;
    };
    add("list", "All VMs, and whether they can be upgraded", Command::list);
    add("show", "Everything about one VM", Command::show)
        ->add_option("VM", options.vms, "Its name")
        ->required()
        ->expected(1);
    add_selection(
        *add("check", "Can these VMs be upgraded? Touches nothing", Command::check), options
    );
    CLI::App* upgrade = add("upgrade", "Upgrade QEMU under running VMs", Command::upgrade);
    add_run_options(*upgrade, options);
    upgrade->add_flag("--dry-run", options.dry_run, "Check everything, touch nothing");
    add_rehearsal_flags(*upgrade, options);
    add_stage_options(*upgrade, options);
    add_run_options(
        *add(
            "rehearse",
            "Try whether VMs could be upgraded: a short pause, no move",
            Command::rehearse
        ),
        options
    );
    CLI::App* revert =
        add("revert", "Take VMs back to the binary that they came from", Command::revert);
    revert->add_option("VM", options.vms, "Names of VMs, or one run")->required();
    add_limits(*revert, options);
    add_rehearsal_flags(*revert, options);
    add("releases", "Binaries that VMs can be upgraded to", Command::releases);
    CLI::App* status =
        add("status", "Runs, or one run; follows it while it goes on", Command::status);
    status->add_option("RUN", options.run, "Its name, as 'qhupd-ctl status' shows it");
    status->add_flag("--once", options.once, "Say how it stands and do not follow it");
    add_waiting(*status, options, false);
    CLI::App* abort =
        add("abort", "Begin no further VM of a run; one in its pause finishes", Command::abort);
    abort->add_option("RUN", options.run, "Its name, as 'qhupd-ctl status' shows it")->required();
    add_waiting(*abort, options, true);
    add_hold_options(
        *add("hold", "Let nobody upgrade, rehearse or revert these VMs", Command::hold), options
    );
    add("unhold", "Take the hold off these VMs", Command::unhold)
        ->add_option("VM", options.vms, "Their names")
        ->required();
    add("version", "Versions of this program and of the daemon", Command::version);
}

/// What CLI11 cannot say by itself.
std::optional<EarlyExit> find_mistake(const Options& options) {
    const bool selects = options.command == Command::check || options.command == Command::upgrade ||
                         options.command == Command::rehearse;
    if (selects && options.vms.empty() && !options.all) {
        return EarlyExit{ExitStatus::usage, "Name the VMs, or say --all.\n"};
    }
    if (options.soak && options.canaries == 0 && options.batch == 0) {
        return EarlyExit{
            ExitStatus::usage, "--soak needs --canaries or --batch: there is nothing after it.\n"};
    }
    for (const std::string& name : options.vms) {
        if (!daemon::is_valid_name(name)) {
            return EarlyExit{ExitStatus::usage, "That is not a name that a VM can have.\n"};
        }
    }
    if (!options.request_id.empty() && !daemon::is_valid_name(options.request_id)) {
        return EarlyExit{ExitStatus::usage, "That is not an id that a request can have.\n"};
    }
    const bool has_bad_name = (!options.to.empty() && !daemon::is_valid_name(options.to)) ||
                              (!options.run.empty() && !daemon::is_valid_name(options.run));
    if (has_bad_name) {
        return EarlyExit{ExitStatus::usage, "That is not a name that a release or run can have.\n"};
    }
    return std::nullopt;
}

} // namespace

std::variant<Options, EarlyExit> parse_command_line(int argc, const char* const* argv) {
    Options options;
    options.words.assign(argv, argv + argc);
    CLI::App app("Hot upgrade of QEMU under running VMs", "qhupd-ctl");
    app.set_version_flag("--version", "qhupd-ctl " + std::string(kVersion));
    app.add_option("--socket", options.socket, "The daemon's socket")
        ->envname("QHUPD_SOCKET")
        ->capture_default_str()
        ->type_name("PATH");
    app.add_flag("--json", options.json, "Print JSON for programs");
    add_choice(
        app,
        "--progress",
        "HOW",
        options.progress,
        {{"auto", ProgressMode::automatic},
         {"plain", ProgressMode::plain},
         {"live", ProgressMode::live},
         {"none", ProgressMode::none}},
        "How runs are shown: auto, plain, live or none"
    );
    add_choice(
        app,
        "--color",
        "WHEN",
        options.color,
        {{"auto", ColorMode::automatic},
         {"always", ColorMode::always},
         {"never", ColorMode::never}},
        "Whether outcomes have colors: auto, always or never"
    );
    app.require_subcommand(1);
    app.footer(kExitStatusHelp);
    add_commands(app, options);
    try {
        app.parse(argc, argv);
    } catch (const CLI::ParseError& error) {
        const std::vector<std::string> left = app.remaining();
        if (app.get_subcommands().empty() && !left.empty() && !left.front().starts_with('-')) {
            return EarlyExit{
                ExitStatus::usage,
                "'" + left.front() + "' is not a command. 'qhupd-ctl --help' shows all.\n"};
        }
        std::ostringstream out;
        std::ostringstream err;
        const bool is_asked_for = app.exit(error, out, err) == 0;
        return is_asked_for ? EarlyExit{ExitStatus::ok, out.str()}
                            : EarlyExit{ExitStatus::usage, err.str()};
    }
    if (auto mistake = find_mistake(options)) {
        return *mistake;
    }
    return options;
}

} // namespace qhup::ctl
