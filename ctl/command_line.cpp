// SPDX-License-Identifier: GPL-2.0-or-later
#include "ctl/command_line.hpp"

#include "common/version.hpp"
#include "ctl/times.hpp"
#include "daemon/nearest_name.hpp"

#include <CLI/CLI.hpp>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <map>
#include <memory>
#include <sstream>
#include <utility>

namespace qhup::ctl {
namespace {

constexpr const char* kExitStatusHelp =
    "Exit status\n"
    "  0    all selected VMs are on the release, or the answer was printed\n"
    "  1    a failure without a status of its own\n"
    "  2    nothing to do\n"
    "  3    no such VM, release or run\n"
    "  4    some were rolled back; every guest runs\n"
    "  5    a guest was lost or needs an operator\n"
    "  6    some were refused and not moved; others may have been\n"
    "  7    the run was aborted\n"
    "  64   wrong command line\n"
    "  69   the daemon cannot be reached\n"
    "  75   nothing was touched; try later\n"
    "  77   not permitted\n"
    "  78   the configuration is wrong\n"
    "  130  ended by Ctrl-C or --timeout; a run that was followed goes on\n";

OptionSpec describe(const CLI::Option& option);
CommandSpec describe(const CLI::App& app);

/// The nearest of the names that the user may have meant.
std::string meant(const std::string& word, const std::vector<std::string>& names) {
    const auto nearest = daemon::nearest_name(word, names);
    return nearest ? " Did you mean '" + *nearest + "'?" : "";
}

/// What to say of a value that is none of some words.
std::string none_of(const std::string& word, const std::vector<std::string>& words) {
    std::string list;
    for (const std::string& one : words) {
        list += (list.empty() ? "" : ", ") + one;
    }
    return "'" + word + "' is none of " + list + "." + meant(word, words);
}

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
                   std::vector<std::string> words;
                   for (const auto& [one, value] : choices) {
                       words.push_back(one);
                   }
                   throw CLI::ValidationError(name, none_of(word, words));
               }
               target = chosen->second;
           },
           what
    )
        ->type_name(type);
}

CLI::Option* add_labels(CLI::App& command, Options& options, const std::string& help) {
    return command
        .add_option_function<std::vector<std::string>>(
            "--label",
            [&options](const std::vector<std::string>& words) {
                for (const std::string& word : words) {
                    const auto equals = word.find('=');
                    if (equals == 0 || equals == std::string::npos || equals + 1 == word.size()) {
                        throw CLI::ValidationError("--label", "a label is KEY=VALUE");
                    }
                    options.labels[word.substr(0, equals)] = word.substr(equals + 1);
                }
                options.all = true;
            },
            help
        )
        ->expected(1)
        ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll)
        ->type_name("KEY=VALUE");
}

void add_selection(CLI::App& command, Options& options) {
    auto* vms =
        command.add_option("VM", options.vms, "Names of VMs, as 'qhupd-ctl list' shows them");
    vms->type_name("");
    auto* all = command.add_flag("--all", options.all, "Every VM");
    vms->excludes(all);
    add_labels(command, options, "Every VM with this label; again: and with that one")
        ->excludes(vms);
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
    command
        .add_option(
            "--parallel",
            options.parallel,
            "VMs in work at once; parallel of qhupd.toml if left out"
        )
        ->check(CLI::Range(1, 1024).description(""))
        ->type_name("N");
    command.add_option("--max-failures", options.max_failures, "Begin no further VM after so many")
        ->check(CLI::Range(1, 10'000).description(""))
        ->type_name("N");
    command
        .add_option_function<std::string>(
            "--pause-budget",
            [&options](const std::string& text) {
                options.pause_budget_ms = parse_pause(text);
                if (!options.pause_budget_ms) {
                    throw CLI::ValidationError(
                        "--pause-budget", "a pause is 50ms or 2s, from 1ms to 30s"
                    );
                }
            },
            "Longest pause of each VM: 50ms, 2s, or a number of milliseconds; one that would be "
            "longer is refused. A policy may allow less"
        )
        ->type_name("TIME");
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

void add_rehearsal_flags(CLI::App& upgrade, Options& options, const std::string& what) {
    CLI::Option* all = upgrade.add_flag_callback(
        "--rehearse",
        [&options] { options.rehearse = "all"; },
        "Rehearse each VM before its " + what
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
        ->check(CLI::Range(1, 10'000).description(""))
        ->type_name("N");
    upgrade.add_option("--batch", options.batch, "Upgrade so many VMs, then the next")
        ->check(CLI::Range(1, 10'000).description(""))
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

/// One for each check that may be overruled; none for those that keep a guest from harm.
void add_allowances(CLI::App& upgrade, Options& options) {
    upgrade.add_flag_callback(
        "--allow-outside-window",
        [&options] { options.allow.emplace_back("outside_window"); },
        "Begin although the policy of a VM names other times of day"
    );
    upgrade.add_flag_callback(
        "--allow-untested",
        [&options] { options.allow.emplace_back("untested"); },
        "Begin although no selftest of the two binaries has passed, and the configuration wants one"
    );
}

void add_selftest_options(CLI::App& selftest, Options& options) {
    selftest.add_option("--to", options.to, "The release, as 'qhupd-ctl releases' shows it")
        ->required()
        ->type_name("RELEASE");
    selftest
        .add_option(
            "--from", options.from, "The release to begin with; left out: the one that VMs run"
        )
        ->type_name("RELEASE");
    selftest
        .add_option(
            "--guests,-n", options.guests, "So many guests, each upgraded once; 5 if left out"
        )
        ->check(CLI::Range(1, 50).description(""))
        ->type_name("N");
}

void add_hold_options(CLI::App& hold, Options& options) {
    hold.add_option("VM", options.vms, "Their names")->required()->type_name("");
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
    add_labels(
        *add("list", "All VMs, and whether they can be upgraded", Command::list),
        options,
        "Only VMs with this label; again: and with that one"
    );
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
    add_rehearsal_flags(*upgrade, options, "upgrade");
    add_stage_options(*upgrade, options);
    add_allowances(*upgrade, options);
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
    add_rehearsal_flags(*revert, options, "revert");
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
    add_selftest_options(
        *add("selftest", "Upgrade throwaway guests of this host first", Command::selftest), options
    );
    add_hold_options(
        *add("hold", "Let nobody upgrade, rehearse or revert these VMs", Command::hold), options
    );
    add("unhold", "Take the hold off these VMs", Command::unhold)
        ->add_option("VM", options.vms, "Their names")
        ->required();
    CLI::App* watch = add("watch", "Follow a run: the one that goes on, or RUN", Command::watch);
    watch->add_option("RUN", options.run, "Its name; left out: the newest that goes on");
    add_waiting(*watch, options, false);
    CLI::App* history =
        add("history",
            "What was asked by whom and what became of VMs, the newest first",
            Command::history);
    history->add_option("VM", options.vms, "Their names; left out: all");
    options.limit = 50;
    history->add_option("--limit", options.limit, "So many entries at most; 50 if left out")
        ->check(CLI::Range(1, 100'000).description(""))
        ->type_name("N");
    CLI::App* events = add("events", "What happens on this host, as it happens", Command::events);
    events->add_option("VM", options.vms, "Only of these VMs");
    events->add_option("--run", options.run, "Only of this run")->type_name("RUN");
    events->add_option("--type", options.types, "Only events of this type; may be said again")
        ->type_name("TYPE")
        ->expected(1)
        ->take_all();
    events
        ->add_option("--after", options.after_event, "Begin behind this event; 0: with the oldest")
        ->type_name("ID");
    add_waiting(*events, options, false);
    add("explain",
        "What a code, an outcome, a blocker or a phase means, and what to do",
        Command::explain)
        ->add_option(
            "CODE",
            options.code,
            "As it is shown, 'load_failed' or 'chardev/serial0'; left out: all"
        );
    CLI::App* doctor = add(
        "doctor", "Look for what is wrong with this host, and say how to mend it", Command::doctor
    );
    doctor->add_option("--config", options.config_file, "This configuration, not the system's")
        ->type_name("FILE");
    CLI::App* config = app.add_subcommand("config", "The configuration of qhupd");
    config->fallthrough();
    config->require_subcommand(1);
    config->footer("'qhupd-ctl config show --help' says what it takes: --origin, --config FILE.\n");
    CLI::App* config_show =
        config->add_subcommand("show", "Every key with its value, as qhupd reads it");
    config_show->fallthrough();
    config_show->callback([&options] { options.command = Command::config_show; });
    config_show->add_flag("--origin", options.origin, "Say where each value was set");
    config_show->add_option("--config", options.config_file, "This file, not the system's")
        ->type_name("FILE");
    add("completion", "The words that make a shell complete this command line", Command::completion)
        ->add_option("SHELL", options.shell, "One of bash, zsh and fish")
        ->required()
        ->check(CLI::Validator(
            [](std::string& word) {
                static const std::vector<std::string> shells{"bash", "zsh", "fish"};
                const bool is_one = std::find(shells.begin(), shells.end(), word) != shells.end();
                return is_one ? std::string() : none_of(word, shells);
            },
            ""
        ));
    add("version", "Versions of this program and of the daemon", Command::version);
}

/// The nearest of the options that the user may have meant. One letter is near any other, so a
/// short one has no nearest name.
std::string meant_option(const std::string& word, const std::vector<std::string>& names) {
    constexpr std::size_t kShort = 2;
    if (word == "-v" || word == "-V") {
        return " Did you mean '--version'?";
    }
    return word.size() <= kShort ? "" : meant(word, names);
}

std::vector<std::string> names_of_commands(const CommandSpec& spec) {
    std::vector<std::string> names;
    for (const CommandSpec& command : spec.commands) {
        names.push_back(command.name);
    }
    return names;
}

std::vector<std::string> names_of_options(const CommandSpec& spec) {
    std::vector<std::string> names;
    for (const OptionSpec& option : spec.options) {
        names.insert(names.end(), option.names.begin(), option.names.end());
    }
    return names;
}

std::string explain_unknown_command(const CLI::App& below, const std::string& word) {
    return "'" + word + "' is not a command." + meant(word, names_of_commands(describe(below))) +
           " 'qhupd-ctl --help' shows all.\n";
}

/// What the user may have meant, for words that nobody understood; "" if there is none.
std::string explain_extras(const CLI::App& app, const CLI::App& used, const std::string& path) {
    std::vector<std::string> left = app.remaining(true);
    left.erase(std::remove(left.begin(), left.end(), "--"), left.end());
    if (left.empty()) {
        return {};
    }
    const std::string& word = left.front();
    const CommandSpec whole = describe(app);
    if (&used == &app || used.get_name() == "config") {
        if (!word.starts_with('-')) {
            return explain_unknown_command(used, word);
        }
    }
    const std::string help = "'qhupd-ctl " + path + "--help' shows what it takes.\n";
    if (word.starts_with('-')) {
        std::vector<std::string> names = names_of_options(describe(used));
        const std::vector<std::string> global = names_of_options(whole);
        names.insert(names.end(), global.begin(), global.end());
        const std::string name = word.substr(0, word.find('='));
        return "There is no option " + name + " here." + meant_option(name, names) + " " + help;
    }
    return "'" + word + "' is one word too many. " + help;
}

OptionSpec describe(const CLI::Option& option) {
    OptionSpec spec;
    for (const std::string& name : option.get_lnames()) {
        spec.names.push_back("--" + name);
    }
    for (const std::string& name : option.get_snames()) {
        spec.names.push_back("-" + name);
    }
    spec.help = option.get_description();
    spec.is_required = option.get_required();
    spec.takes_many = option.get_items_expected_max() > 1;
    spec.value = option.get_items_expected_max() == 0 ? ""
                 : option.get_positional()            ? option.get_name(true)
                                                      : option.get_type_name();
    if (option.get_positional()) {
        spec.value = option.get_single_name();
    }
    // the help of an option with a few words says them
    if (spec.value == "HOW") {
        spec.words = {"auto", "plain", "live", "none"};
    } else if (spec.value == "WHEN") {
        spec.words = {"auto", "always", "never"};
    } else if (spec.value == "SHELL") {
        spec.words = {"bash", "zsh", "fish"};
    }
    return spec;
}

CommandSpec describe(const CLI::App& app) {
    CommandSpec spec{app.get_name(), app.get_description(), {}, {}};
    for (const CLI::Option* option : app.get_options()) {
        spec.options.push_back(describe(*option));
    }
    for (const CLI::App* command : app.get_subcommands([](const CLI::App*) { return true; })) {
        if (!command->get_group().empty()) {
            spec.commands.push_back(describe(*command));
        }
    }
    return spec;
}

bool is_blank(const std::string& text) {
    return text.find_first_not_of(" \t") == std::string::npos;
}

/// What CLI11 cannot say by itself.
std::optional<EarlyExit> find_mistake(const Options& options) {
    const bool selects = options.command == Command::check || options.command == Command::upgrade ||
                         options.command == Command::rehearse;
    if (selects && options.vms.empty() && !options.all) {
        return EarlyExit{ExitStatus::usage, "Name the VMs, or say --all.\n"};
    }
    if (options.command == Command::hold && is_blank(options.reason)) {
        return EarlyExit{
            ExitStatus::usage,
            "--reason is empty. Say in a few words why, for whoever comes by the hold.\n"};
    }
    const bool needs_release = selects || options.command == Command::selftest;
    if (needs_release && options.to.empty()) {
        return EarlyExit{
            ExitStatus::usage, "--to is empty. Name a release; 'qhupd-ctl releases' shows all.\n"};
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

namespace {

std::unique_ptr<CLI::App> make_app(Options& options) {
    auto app = std::make_unique<CLI::App>("Hot upgrade of QEMU under running VMs", "qhupd-ctl");
    app->set_help_flag("-h,--help", "Say what there is, and end");
    app->set_version_flag(
        "--version",
        "qhupd-ctl " + std::string(kVersion),
        "Say the version of this program, and end"
    );
    app->add_option("--socket", options.socket, "The daemon's socket; also $QHUPD_SOCKET")
        ->envname("QHUPD_SOCKET")
        ->capture_default_str()
        ->type_name("PATH");
    app->add_flag("--json", options.json, "Print JSON for programs");
    add_choice(
        *app,
        "--progress",
        "HOW",
        options.progress,
        {{"auto", ProgressMode::automatic},
         {"plain", ProgressMode::plain},
         {"live", ProgressMode::live},
         {"none", ProgressMode::none}},
        "How runs are shown: auto (if left out), plain, live or none"
    );
    add_choice(
        *app,
        "--color",
        "WHEN",
        options.color,
        {{"auto", ColorMode::automatic},
         {"always", ColorMode::always},
         {"never", ColorMode::never}},
        "Whether outcomes have colors: auto (if left out), always or never"
    );
    app->require_subcommand(1);
    app->footer(kExitStatusHelp);
    add_commands(*app, options);
    return app;
}

/// What is wrong with the command line, as a sentence.
std::string explain_mistake(const CLI::App& app, const CLI::ParseError& error) {
    const CLI::App* used = &app;
    std::string path;
    for (auto below = used->get_subcommands(); !below.empty(); below = used->get_subcommands()) {
        used = below.front();
        path += used->get_name() + " ";
    }
    const std::string extras = explain_extras(app, *used, path);
    const bool is_about_extras = error.get_name() == "ExtrasError" ||
                                 (error.get_name() == "RequiredError" && used == &app) ||
                                 (error.get_name() == "RequiredError" && path == "config ");
    const bool is_misspelt = extras.starts_with("There is no option");
    if ((is_about_extras || is_misspelt) && !extras.empty()) {
        return extras;
    }
    if (is_about_extras && used == &app) {
        return "Say what to do: qhupd-ctl list, check, upgrade, status, … 'qhupd-ctl --help' shows "
               "all.\n";
    }
    std::string text = error.what();
    while (!text.empty() && (text.back() == '\n' || text.back() == '.')) {
        text.pop_back();
    }
    return text + (text.ends_with('?') ? "" : ".") + " 'qhupd-ctl " + path +
           "--help' shows what it takes.\n";
}

} // namespace

namespace {

/// What shells and the build ask: their words are no command line of ours.
std::optional<Options> parse_hidden(Options options) {
    const bool is_complete = options.words.size() > 1 && options.words[1] == "__complete";
    const bool is_generate = options.words.size() > 1 && options.words[1] == "__generate";
    if (!is_complete && !is_generate) {
        return std::nullopt;
    }
    options.command = is_complete ? Command::complete : Command::generate;
    options.rest.assign(options.words.begin() + 2, options.words.end());
    if (const char* socket = std::getenv("QHUPD_SOCKET"); socket != nullptr && *socket != '\0') {
        options.socket = socket;
        options.read_socket.clear();
    }
    for (std::size_t i = 0; i + 2 < options.rest.size(); ++i) {
        if (options.rest[i] == "--socket") {
            options.socket = options.rest[i + 1];
            options.read_socket.clear();
        }
    }
    return options;
}

} // namespace

namespace {

/// The first word behind the program's that is no option, nor the value of one; "" if there is
/// none.
std::string first_word(const std::vector<std::string>& words) {
    static constexpr std::array<std::string_view, 3> kWithValue{
        "--socket", "--progress", "--color"};
    for (std::size_t i = 1; i < words.size(); ++i) {
        if (!words[i].starts_with('-')) {
            return words[i];
        }
        i += std::find(kWithValue.begin(), kWithValue.end(), words[i]) != kWithValue.end() ? 1 : 0;
    }
    return {};
}

} // namespace

std::string_view exit_status_help() noexcept {
    return kExitStatusHelp;
}

CommandSpec describe_command_line() {
    Options unused;
    return describe(*make_app(unused));
}

std::variant<Options, EarlyExit> parse_command_line(int argc, const char* const* argv) {
    Options options;
    options.words.assign(argv, argv + argc);
    if (auto hidden = parse_hidden(options)) {
        return std::move(*hidden);
    }
    const auto app = make_app(options);
    try {
        app->parse(argc, argv);
    } catch (const CLI::ParseError& error) {
        const bool is_help = error.get_exit_code() == 0;
        if (is_help && app->get_subcommands().empty()) {
            // why: the help is no answer for somebody who has misspelt the command.
            const std::string word = first_word(options.words);
            if (!word.empty()) {
                return EarlyExit{ExitStatus::usage, explain_unknown_command(*app, word)};
            }
        }
        if (!is_help) {
            return EarlyExit{ExitStatus::usage, explain_mistake(*app, error)};
        }
        std::ostringstream out;
        std::ostringstream err;
        (void)app->exit(error, out, err);
        return EarlyExit{ExitStatus::ok, out.str()};
    }
    if (auto mistake = find_mistake(options)) {
        return *mistake;
    }
    if (app->get_option("--socket")->count() != 0) {
        options.read_socket.clear();
    }
    return options;
}

} // namespace qhup::ctl
