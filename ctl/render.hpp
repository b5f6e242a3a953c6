// SPDX-License-Identifier: GPL-2.0-or-later
//
// What qhupd-ctl shows to people, as text. Pure: values in, text out; no terminal is asked here.
// Everything that came from a QEMU or the daemon is made printable first.
#pragma once

#include "ctl/terminal.hpp"
#include "daemon/api_types.hpp"
#include "daemon/api_types_history.hpp"
#include "daemon/api_types_selftest.hpp"

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace qhup::ctl {

/// The text with control characters replaced by '?', so that a VM's name or words cannot drive the
/// terminal. UTF-8 passes.
std::string printable(std::string_view text);

/// Left-aligned columns with two spaces between; no space at the end of a line.
std::string render_table(const std::vector<std::vector<std::string>>& rows);

/// "12.3 ms", "1.24 s": for columns.
std::string format_milliseconds(double milliseconds);

/// `list`: VM, PID, VERSION, STATE, UPGRADABLE; below it a line for each VM that is unreachable or
/// held, or needs an operator.
/// @param gone  those that need one and are not there
std::string render_vms(
    const std::vector<daemon::VmView>& vms, const std::vector<daemon::AttentionView>& gone = {}
);

/// `list` where no VM has all of these labels.
std::string render_no_vm_with(const std::map<std::string, std::string>& labels);

/// `show`: everything about one VM, its blockers last.
std::string render_vm(const daemon::VmView& vm);

/// Why a VM needs an operator, as sentences.
std::string render_attention(const daemon::AttentionView& attention);

/// A hold, as a sentence.
std::string render_hold(const daemon::HoldView& hold);

/// `check`: one line per VM, and below each that cannot be upgraded all reasons.
std::string render_checks(const std::vector<daemon::CheckView>& checks, const Style& style = {});

/// `releases`: NAME, USABLE, BINARY, DESCRIPTION.
std::string render_releases(const std::vector<daemon::ReleaseView>& releases);

/// `status` without a run: RUN, KIND, STATE, TO, VMS, STARTED.
std::string render_runs(const std::vector<daemon::RunView>& runs);

/// `upgrade` and `status RUN`: the table VM, FROM, TO, OUTCOME, PAUSE, TOTAL, and below it one
/// sentence for each VM that was not upgraded.
std::string render_run(const daemon::RunView& run, const Style& style = {});

/// Where a run in stages stands, as a sentence.
std::string render_stage(const daemon::StageView& stage);

/// The newest entries, about these VMs (none: all), so many at most. Where an entry says what
/// became of a VM, `by` is who asked for the run, if that is remembered.
std::vector<daemon::HistoryView> choose_history(
    std::vector<daemon::HistoryView> newest_first,
    const std::vector<std::string>& vms,
    std::size_t limit
);

/// `history`: WHEN, VM, WHAT, FROM, TO, PAUSE, RUN, WHO (asked).
std::string
render_history(const std::vector<daemon::HistoryView>& entries, const Style& style = {});

/// What `doctor` found about one thing.
struct Finding {
    std::string name;      ///< of the thing
    std::string level;     ///< "ok", "warn" or "fail"
    std::string text;      ///< what is true
    std::string next_step; ///< what to do; "" if ok
};

/// `doctor`: a line for each finding, below each that is not ok what to do, and a total.
std::string render_findings(const std::vector<Finding>& findings, const Style& style = {});

/// How a VM of a run has ended, or its phase: "rolled back"; one that a revert has moved is
/// "reverted".
///
/// @param kind  of the run
std::string outcome_in(std::string_view kind, const daemon::RunVmView& vm);

/// One change of one VM while a run of that kind goes on: "  0.412 s  vm1  prepare".
std::string render_progress(std::string_view kind, const daemon::RunVmView& vm);

/// `selftest`: what has begun, and how it ended.
std::string render_selftest_begin(const daemon::SelftestView& selftest);
std::string render_selftest(const daemon::SelftestView& selftest, const Style& style = {});

/// Warnings of a run, each as a sentence; "" for none.
std::string render_warnings(const std::vector<daemon::BlockerView>& warnings);

/// An error answer: what is true, and what to do next.
std::string render_problem(const daemon::Problem& problem);

/// A point of time in UTC as "2026-01-31 12:00:00Z".
std::string format_time(std::int64_t unix_ms);

} // namespace qhup::ctl
