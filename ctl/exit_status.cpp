// SPDX-License-Identifier: GPL-2.0-or-later
#include "ctl/exit_status.hpp"

#include <algorithm>

namespace qhup::ctl {
namespace {

/// How bad an outcome is; the worst decides.
ExitStatus status_of_outcome(const daemon::RunVmView& vm) noexcept {
    if (vm.outcome == "upgraded" || vm.outcome == "checked" || vm.outcome == "rehearsed") {
        return ExitStatus::ok;
    }
    if (vm.outcome == "unchanged" || vm.outcome == "skipped") {
        return ExitStatus::nothing_to_do;
    }
    if (vm.outcome == "refused") {
        return ExitStatus::refused;
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
    case ExitStatus::refused: return 2;
    case ExitStatus::rolled_back: return 3;
    case ExitStatus::failure: return 4;
    default: return 5;
    }
}

} // namespace

ExitStatus exit_status_of(const daemon::RunView& run) noexcept {
    ExitStatus worst = ExitStatus::nothing_to_do;
    for (const daemon::RunVmView& vm : run.vms) {
        const ExitStatus status = status_of_outcome(vm);
        worst = badness(status) > badness(worst) ? status : worst;
    }
    return worst;
}

ExitStatus exit_status_of(const std::vector<daemon::CheckView>& checks) noexcept {
    if (checks.empty()) {
        return ExitStatus::nothing_to_do;
    }
    ExitStatus worst = ExitStatus::nothing_to_do;
    for (const daemon::CheckView& check : checks) {
        const ExitStatus status = check.can_upgrade                    ? ExitStatus::ok
                                  : check.code == "already_on_release" ? ExitStatus::nothing_to_do
                                                                       : ExitStatus::refused;
        worst = badness(status) > badness(worst) ? status : worst;
    }
    return worst;
}

ExitStatus exit_status_of(const daemon::Problem& problem) noexcept {
    if (problem.code == "nothing_to_do") {
        return ExitStatus::nothing_to_do;
    }
    if (problem.code == "release_unusable" || problem.code == "journal_failed") {
        return ExitStatus::refused; // no VM was touched
    }
    switch (problem.status) {
    case 401:
    case 403: return ExitStatus::not_permitted;
    case 404: return ExitStatus::not_found;
    case 503: return ExitStatus::unreachable;
    default: return ExitStatus::failure;
    }
}

} // namespace qhup::ctl
