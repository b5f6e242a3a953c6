// SPDX-License-Identifier: GPL-2.0-or-later
#include "ctl/exit_status.hpp"

#include "common/code_catalog.hpp"

#include <string_view>

namespace qhup::ctl {
namespace {

/// The same may succeed later. A code of a newer daemon is none of those.
bool is_transient(CodeKind kind, std::string_view code) {
    const CodeRow* row = find_code(kind, code);
    return row != nullptr && row->severity == Severity::transient;
}

/// A VM that was not touched.
ExitStatus status_of_refusal(const std::string& code, const std::string& stopped_by) {
    if (code == "stopped" && stopped_by == "abort") {
        return ExitStatus::aborted;
    }
    const bool is_daemon_going = code == "stopped" && stopped_by == "shutdown";
    return is_daemon_going || is_transient(CodeKind::upgrade, code) ? ExitStatus::try_later
                                                                    : ExitStatus::refused;
}

/// How bad an outcome is; the worst decides.
ExitStatus status_of_outcome(const daemon::RunVmView& vm, const std::string& stopped_by) {
    if (vm.outcome == "upgraded" || vm.outcome == "checked" || vm.outcome == "rehearsed") {
        return ExitStatus::ok;
    }
    if (vm.outcome == "unchanged" || vm.outcome == "skipped") {
        return ExitStatus::nothing_to_do;
    }
    if (vm.outcome == "refused") {
        return status_of_refusal(vm.code, stopped_by);
    }
    if (vm.outcome == "rolled_back") {
        return ExitStatus::rolled_back;
    }
    if (vm.outcome == "lost_contact" || vm.outcome == "needs_operator") {
        return ExitStatus::needs_operator;
    }
    return ExitStatus::failure;
}

int badness(ExitStatus status) noexcept {
    switch (status) {
    case ExitStatus::nothing_to_do: return 0;
    case ExitStatus::ok: return 1;
    case ExitStatus::try_later: return 2;
    case ExitStatus::refused: return 3;
    case ExitStatus::aborted: return 4;
    case ExitStatus::rolled_back: return 5;
    case ExitStatus::failure: return 6;
    default: return 7;
    }
}

} // namespace

ExitStatus exit_status_of(const daemon::RunView& run) {
    ExitStatus worst = ExitStatus::nothing_to_do;
    for (const daemon::RunVmView& vm : run.vms) {
        const ExitStatus status = status_of_outcome(vm, run.stopped_by);
        worst = badness(status) > badness(worst) ? status : worst;
    }
    return worst;
}

ExitStatus exit_status_of(const std::vector<daemon::CheckView>& checks) {
    ExitStatus worst = ExitStatus::nothing_to_do;
    for (const daemon::CheckView& check : checks) {
        const ExitStatus status = check.can_upgrade ? ExitStatus::ok
                                  : check.code == "already_on_release" || check.code == "skipped"
                                      ? ExitStatus::nothing_to_do
                                      : status_of_refusal(check.code, {});
        worst = badness(status) > badness(worst) ? status : worst;
    }
    return worst;
}

ExitStatus exit_status_of(const daemon::Problem& problem) {
    if (problem.code == "nothing_to_do") {
        return ExitStatus::nothing_to_do;
    }
    if (problem.code == "release_unusable") {
        return ExitStatus::refused;
    }
    if (is_transient(CodeKind::problem, problem.code)) {
        return ExitStatus::try_later;
    }
    if (problem.code == "no_such_path") {
        return ExitStatus::failure; // why: a daemon that is older than this program
    }
    switch (problem.status) {
    case 400:
    case 413: return ExitStatus::usage;
    case 401:
    case 403: return ExitStatus::not_permitted;
    case 404: return ExitStatus::not_found;
    case 408:
    case 429:
    case 503:
    case 507: return ExitStatus::try_later;
    default: return ExitStatus::failure;
    }
}

} // namespace qhup::ctl
