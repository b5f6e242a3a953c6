// SPDX-License-Identifier: GPL-2.0-or-later
//
// What a run would do, as it is shown before the run begins: who moves, who does not and why, and
// the longest pause to expect. Pure: values in, text out.
#pragma once

#include "ctl/exit_status.hpp"
#include "daemon/api_types.hpp"

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace qhup::ctl {

/// A VM that the run would work on.
struct PlannedVm {
    std::string vm;                                 ///< its name
    std::string from;                               ///< version that it runs
    std::string to;                                 ///< release, or the version to go back to
    std::optional<double> pause_ms;                 ///< as measured or predicted last
    std::vector<daemon::BlockerView> warnings = {}; ///< nothing against it, but good to know
    std::string kind = {};                ///< equal for VMs of one kind and way; "": not known
    std::int64_t priority = 0;            ///< the higher, the earlier in the run
    std::string rehearse = {};            ///< before it: none, first or all; "": not known
    bool is_way_known = false;            ///< so the first of its kind is not rehearsed
    bool is_rehearsed = false;            ///< paused once more before
    std::string rehearse_back = {};       ///< after the run, as rehearse
    std::optional<double> budget_ms = {}; ///< as configured for it; none: not known
    std::optional<double> policy_budget_ms =
        {}; ///< no run of it may pause longer; none: it says nothing
};

/// A VM that the run would not touch.
struct UnplannedVm {
    std::string vm;                                 ///< its name
    std::string code;                               ///< why, for programs; "" if unknown
    std::string reason;                             ///< why, as a sentence
    std::vector<daemon::BlockerView> blockers = {}; ///< why, each
};

struct Plan {
    std::string verb;                      ///< "Upgrade", "Rehearse", "Revert"
    std::string to;                        ///< release; "" for a revert
    std::vector<PlannedVm> work;           ///< in the order of the question
    std::vector<UnplannedVm> left_out;     ///< refused, held, or on the release already
    std::optional<double> pause_budget_ms; ///< what the command line allows
    std::string stages;                    ///< canaries and batches, as a sentence; "": none
};

/// The newest pause that a run says about the VM: measured by its last upgrade, or predicted by its
/// last rehearsal.
/// @param newest_first  as the API lists them
std::optional<double>
expected_pause(const std::vector<daemon::RunView>& newest_first, std::string_view vm);

/// Says of each VM whether it is paused once more before, for a rehearsal, as the daemon chooses.
void choose_rehearsed(std::vector<PlannedVm>& work);

/// Each VM whose policy allows less than the command line, as a sentence; "" if there is none.
std::string render_caps(const std::vector<PlannedVm>& work, double asked_ms);

/// After a run: the ways back that nobody has rehearsed yet, which is one more pause; "" for none.
/// @param is_each  of every one of these, not of one of each kind
std::string render_pauses_to_come(const std::vector<std::string>& vms, bool is_each);

/// The plan as a table and sentences, without the question. Long lists are cut, visibly.
std::string render_plan(const Plan& plan);

/// What to end with if nobody is left to work on: refused wins over on the release already.
ExitStatus exit_status_of_nothing(const Plan& plan);

/// The word as the shell must be given it.
std::string shell_quoted(std::string_view word);

} // namespace qhup::ctl
