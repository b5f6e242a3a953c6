// SPDX-License-Identifier: GPL-2.0-or-later
//
// The command line of qhupd-ctl as a struct. Pure but for the environment variable QHUPD_SOCKET.
#pragma once

#include "ctl/exit_status.hpp"
#include "ctl/terminal.hpp"

#include <chrono>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace qhup::ctl {

enum class Command {
    list,
    show,
    check,
    upgrade,
    rehearse,
    revert,
    releases,
    status,
    abort,
    selftest,
    hold,
    unhold,
    watch,
    history,
    events,
    explain,
    doctor,
    config_show,
    completion,
    version,
    complete, ///< hidden: what may stand behind some words
    generate, ///< hidden: pages of the manual
};

/// What the user wants.
struct Options {
    std::string socket = "/run/qhupd/qhupd.sock"; ///< of the daemon
    /// For whoever may not open `socket`, which is the default; "" if a socket was named.
    std::string read_socket = "/run/qhupd/qhupd-ro.sock";
    bool json = false; ///< print the daemon's values instead of tables
    ProgressMode progress = ProgressMode::automatic;  ///< of runs
    ColorMode color = ColorMode::automatic;           ///< of outcomes
    Command command = Command::list;                  ///< what to do
    std::vector<std::string> vms;                     ///< names, where the command takes any
    bool all = false;                                 ///< every VM
    std::map<std::string, std::string> labels;        ///< with all: of these those that have each
    std::string to;                                   ///< release name
    std::optional<std::uint32_t> parallel;            ///< VMs in work at once
    bool yes = false;                                 ///< do not ask
    bool no_wait = false;                             ///< begin, and do not wait for the end
    std::optional<std::chrono::milliseconds> timeout; ///< detach after so long; none: never
    std::vector<std::string> words;                   ///< what was typed, the program's name first
    bool dry_run = false;                             ///< check inside a run, touch nothing
    std::string rehearse; ///< before upgrades: none, first, all; "": default
    std::optional<std::uint32_t> pause_budget_ms;  ///< longest pause of each VM
    std::uint32_t canaries = 0;                    ///< so many VMs first; 0: none
    std::uint32_t batch = 0;                       ///< then so many at a time; 0: all
    std::optional<std::chrono::milliseconds> soak; ///< after each of these
    std::string request_id;                        ///< the caller's name for an upgrade; "": none
    std::uint32_t max_failures = 0;            ///< no further VM is begun after so many; 0: never
    std::string run;                           ///< for abort, and for status; "": list runs
    std::vector<std::string> allow;            ///< codes of refusals that are overruled
    std::string from;                          ///< selftest: release to begin with; "": as the VMs
    std::uint32_t guests = 5;                  ///< selftest: so many, each upgraded once
    std::string reason;                        ///< of a hold
    std::optional<std::int64_t> until_unix_ms; ///< when a hold ends, or
    std::optional<std::chrono::milliseconds> hold_for; ///< after which time; neither: never
    bool once = false;                                 ///< status: do not follow a run that goes on
    std::string code;                                  ///< explain; "": all
    std::size_t limit = 0;                             ///< history: so many entries at most
    std::vector<std::string> types;                    ///< events: only these
    std::optional<std::uint64_t> after_event;          ///< events: those behind this one
    bool origin = false;                               ///< config show: where each value was set
    std::string config_file;       ///< config show, doctor: this one instead of the system's
    std::string shell;             ///< completion: bash, zsh or fish
    std::vector<std::string> rest; ///< complete, generate: the words behind it
};

/// The process ends at once with this text: help, version, or what is wrong with the command line.
struct EarlyExit {
    ExitStatus status = ExitStatus::usage; ///< ok for --help
    std::string text;                      ///< for stdout if ok, else for stderr
};

std::variant<Options, EarlyExit> parse_command_line(int argc, const char* const* argv);

/// An option, or a word that stands for itself, as its help says it.
struct OptionSpec {
    std::vector<std::string> names; ///< "--yes", "-y"; none: it has a place, not a name
    std::string value;              ///< what it takes: "DURATION", "VM"; "" for a flag
    std::string help;               ///< one sentence
    bool is_required = false;       ///< the command does nothing without it
    bool takes_many = false;        ///< several values
    std::vector<std::string> words; ///< the only values that it takes; none: others too
};

/// A command with what it takes.
struct CommandSpec {
    std::string name;                  ///< "upgrade"; of the program itself its name
    std::string help;                  ///< one sentence
    std::vector<OptionSpec> options;   ///< in the order of the help
    std::vector<CommandSpec> commands; ///< below it; hidden ones are left out
};

/// The whole command line as a value: help, manual pages and completion come from it.
CommandSpec describe_command_line();

/// The exit statuses, as the help ends with them.
std::string_view exit_status_help() noexcept;

} // namespace qhup::ctl
