// SPDX-License-Identifier: GPL-2.0-or-later
//
// The commands of qhupd-ctl. Each asks the daemon, prints, and says how the process shall end.
// Values go to stdout, everything else to stderr.
#pragma once

#include "common/run_program.hpp"
#include "ctl/client.hpp"
#include "ctl/command_line.hpp"
#include "ctl/exit_status.hpp"
#include "ctl/manual.hpp"
#include "ctl/plan.hpp"
#include "ctl/progress.hpp"

#include <nlohmann/json_fwd.hpp>

#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace qhup::ctl {

ExitStatus run_list(Client& client, const Options& options);
ExitStatus run_show(Client& client, const Options& options);
ExitStatus run_check(Client& client, const Options& options);
ExitStatus run_upgrade(Client& client, const Options& options);
ExitStatus run_releases(Client& client, const Options& options);
ExitStatus run_status(Client& client, const Options& options);
ExitStatus run_abort(Client& client, const Options& options);
ExitStatus run_selftest(Client& client, const Options& options);
ExitStatus run_hold(Client& client, const Options& options);
ExitStatus run_unhold(Client& client, const Options& options);
ExitStatus run_version(Client& client, const Options& options);
ExitStatus run_watch(Client& client, const Options& options);
ExitStatus run_history(Client& client, const Options& options);
ExitStatus run_events(Client& client, const Options& options);
ExitStatus run_explain(const Client& client, const Options& options);
ExitStatus run_doctor(Client& client, const Options& options);
ExitStatus run_config_show(const Options& options);
ExitStatus run_completion(const Options& options);
/// The hidden ones.
ExitStatus run_complete(Client& client, const Options& options);
ExitStatus run_generate(const Options& options);

/// A line of 'qhupd --print-config'.
struct ConfigLine {
    std::string section; ///< "api"; "" at the top
    std::string key;     ///< its name
    std::string value;   ///< as it stands in a file
    std::string origin;  ///< "FILE:LINE" or "default"
};
std::vector<ConfigLine> parse_printed_config(std::string_view text);

/// Runs the program qhupd with this one option, and the configuration that was named.
Result<ProgramEnd> ask_daemon_program(const Options& options, const char* what);

/// The manual, with the codes of the daemon if it answers soon; else with those of this program.
std::vector<ManualEntry> get_manual(const Client& client);

/// Shows what would be done and asks for a yes, unless there is one on the command line.
///
/// @return  none: go on; else what to end with, and the reason has been told
std::optional<ExitStatus> confirm(Client& client, const Options& options);

/// Why a run over all VMs leaves this one out, with the code "skipped"; none: it does not.
/// @param document  the VM as the daemon lists it, with what the list says beside it
std::optional<UnplannedVm>
left_out_of_all(const daemon::VmView& vm, const nlohmann::json& document);

/// What the daemon says of each VM and the release, in the order of the names; several are asked at
/// once. The reason of a failure has been told.
std::variant<nlohmann::json, ExitStatus>
get_checks(const Client& client, const Options& options, const std::vector<std::string>& names);

/// Follows a run until it ends, with its progress on stderr, then prints its table.
///
/// @param run  its document
/// @return  what the outcomes say; detached after Ctrl-C or the timeout
/// After failure: the run goes on in the daemon
ExitStatus
follow_run(Client& client, const Options& options, const nlohmann::json& run, Progress& progress);

/// Follows events until `on_event` wants no more, and goes on where it was when the daemon comes
/// back.
///
/// @param target  /v1/events with what is wanted
/// @return  ok: on_event said stop; detached: Ctrl-C or the timeout; else the reason has been told
ExitStatus follow_events(
    Client& client,
    const Options& options,
    const std::string& target,
    const std::function<Reading(const nlohmann::json& event)>& on_event
);

/// Prints to stdout, wrapped to the terminal if it is one. After failure is_output_lost() is true.
void print(const std::string& text);
/// Prints the document with --json, else the text that `render` makes.
void print_document(
    const Options& options,
    const nlohmann::json& document,
    const std::function<std::string()>& render
);
/// The same as it is: documents, and what is made for other programs.
void print_raw(const std::string& text);
/// Whether something that print() was given could not be written.
bool is_output_lost() noexcept;
/// Prints to stderr, wrapped to the terminal if it is one.
void tell(const std::string& text);
/// The same without looking at it: it moves the cursor.
void tell_raw(const std::string& text);

/// Colors for what is printed to stdout, and told to stderr.
Style output_style(const Options& options);
Style error_style(const Options& options);

/// Tells the failure, or the daemon's problem, to stderr. With --json a problem document goes to
/// stdout as well, since programs read there.
ExitStatus report(const Options& options, const Failure& failure);
ExitStatus report(const Options& options, const Reply& reply);
/// The same for a problem of our own.
ExitStatus report_problem(const Options& options, const daemon::Problem& problem);

/// A run by itself may be followed from here.
Progress make_progress(const Options& options);

/// The body as JSON, for a reply whose status says success.
///
/// Errors: bad_answer
Result<nlohmann::json> json_of(const Reply& reply);

/// The document at `target`; or, when there is none, what to exit with: the reason has been told.
std::variant<nlohmann::json, ExitStatus>
get_document(Client& client, const Options& options, const std::string& target);

/// Where all VMs are, or those with the labels of the command line.
std::string vms_target(const Options& options);

/// The name as a part of a path.
std::string percent_encoded(std::string_view name);

} // namespace qhup::ctl
