// SPDX-License-Identifier: GPL-2.0-or-later
//
// What the journal stores, as values: a run is one row, and each of its upgrades is one row. Pure:
// the mapping from and to the API's types, checksums, and which rows are worth keeping. The files
// are journal_db's business.
#pragma once

#include "common/result.hpp"
#include "daemon/api_types_history.hpp"

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace qhup::daemon {

/// One row: a run without its VMs, one upgrade of a run, a hold, or an entry of the history.
struct JournalRow {
    std::string run;                     ///< id of the run
    std::optional<std::uint32_t> number; ///< of the upgrade in its run, from 0; none: the run
    std::string record;                  ///< JSON, as the API shows it; see make_run_row()
    std::string hold = {};               ///< of a hold: its VM; `run` and `number` mean nothing
    std::uint64_t history = 0;           ///< of an entry of the history: its id; as for a hold

    bool operator==(const JournalRow&) const = default;
};

/// What shall become of a row.
struct JournalChange {
    enum class Kind : std::uint8_t {
        put,            ///< make or replace this row
        forget_run,     ///< remove `row.run` with all its upgrades; the rest of `row` means nothing
        forget_history, ///< remove entries of the history up to the id `row.history`
        forget_hold,    ///< remove the hold of `row.hold`; the rest of `row` means nothing
    };
    Kind kind = Kind::put;
    JournalRow row;

    bool operator==(const JournalChange&) const = default;
};

/// The run as the API shows it, with `vm_count` in place of `vms`.
JournalRow make_run_row(const RunView& run);

/// One of its upgrades, as the API shows it.
JournalRow make_upgrade_row(const std::string& run, std::uint32_t number, const RunVmView& vm);

/// A hold as the API shows it.
JournalRow make_hold_row(const HoldView& hold);

/// An entry of the history as the API shows it.
JournalRow make_history_row(const HistoryView& entry);

/// Entries up to this id are removed.
JournalChange forget_history(std::uint64_t last);

/// The hold of this VM is removed.
JournalChange forget_hold(const std::string& vm);

/// Changes that put the whole run.
std::vector<JournalChange> put_whole(const RunView& run);

/// Of everything in the row. A bit that flips where SQLite has no checksum of its own shows here.
std::int64_t checksum_of(const JournalRow& row) noexcept;

/// The runs that the rows tell of, oldest first.
///
/// Errors: a record that is no JSON or not that of its key, a phase that does not exist, a run
///         without its upgrades or the other way round: the journal is damaged
Result<std::vector<RunView>> assemble_runs(const std::vector<JournalRow>& rows);

/// The holds that the rows tell of.
///
/// Errors: a record that is no JSON, or not that of its key: the journal is damaged
Result<std::vector<HoldView>> assemble_holds(const std::vector<JournalRow>& rows);

/// The history that the rows tell of.
///
/// Errors: a record that is no JSON, or not that of its key: the journal is damaged
Result<std::vector<HistoryView>> assemble_history(const std::vector<JournalRow>& rows);

/// The same effect with at most one change for each row: what waits for a disk does not grow.
std::vector<JournalChange> merged(std::vector<JournalChange> changes);

/// Bounds of what is remembered. Unfinished runs are always kept.
struct JournalBounds {
    std::size_t runs = 100;        ///< finished ones
    std::size_t upgrades = 10'000; ///< of finished runs, together; the newest run is kept anyway
};

/// Ids of the runs that are too old to be remembered.
/// @param runs  oldest first
std::vector<std::string> outdated_runs(const std::vector<RunView>& runs, JournalBounds bounds);

} // namespace qhup::daemon
