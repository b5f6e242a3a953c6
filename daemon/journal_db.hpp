// SPDX-License-Identifier: GPL-2.0-or-later
//
// The journal's file: SQLite in WAL mode with synchronous=FULL, so that a commit survives a crash
// of the host. A file that is damaged or from a newer qhupd is set aside and a fresh one is made.
// Everything here blocks; called on the journal's own thread only.
#pragma once

#include "common/result.hpp"
#include "daemon/journal_rows.hpp"

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

struct sqlite3;

namespace qhup::daemon {

/// Errors of the journal's file that callers tell apart.
enum class JournalErrc {
    damaged = 1, ///< torn, truncated, bits flipped, not a database, or what is in it is not ours
    newer,       ///< written by a newer qhupd
    unavailable, ///< it cannot be read or written now: no space, no permission, locked, I/O error
};

[[nodiscard]] error_code make_error_code(JournalErrc value) noexcept;

/// Schema that this qhupd writes, in SQLite's user_version.
int journal_schema_version() noexcept;

class JournalDb {
public:
    /// Opens the file, makes it if it is missing, brings its schema up to date, and checks every
    /// page and every record.
    ///
    /// Errors:        JournalErrc
    /// After failure: the file is as it was, but for a schema that may have been brought up to date
    static Result<JournalDb> open(const std::string& path);

    /// What was in the file when it was opened. The second call gives nothing.
    std::vector<RunView> take_runs() { return std::move(runs_); }
    std::vector<HoldView> take_holds() { return std::move(holds_); }
    std::vector<HistoryView> take_history() { return std::move(history_); }

    /// Makes all changes or none.
    ///
    /// Errors:        JournalErrc::unavailable, after which the same may be tried again;
    ///                JournalErrc::damaged
    /// After failure: the rows are what they were
    Result<void> write(const std::vector<JournalChange>& changes);

    /// Whether the file is no longer what its path leads to: it was removed, renamed or replaced.
    /// What is written then is found by nobody.
    [[nodiscard]] bool is_gone() const;

    /// Closes it and leaves alone whatever is at its path now.
    void leave() &&;

private:
    struct Close {
        void operator()(sqlite3* db) const noexcept;
    };
    using Handle = std::unique_ptr<sqlite3, Close>;

    JournalDb(
        Handle db,
        std::vector<RunView> runs,
        std::vector<HoldView> holds,
        std::vector<HistoryView> history
    )
        : db_(std::move(db)),
          runs_(std::move(runs)),
          holds_(std::move(holds)),
          history_(std::move(history)) {}

    Handle db_;
    std::vector<RunView> runs_;
    std::vector<HoldView> holds_;
    std::vector<HistoryView> history_;
};

/// Renames the file, with what SQLite keeps beside it, to "<path>.broken-<unix_ms>".
///
/// @return        the new name
/// Errors:        JournalErrc::unavailable
/// After failure: the file may have its old name
Result<std::string> set_journal_aside(const std::string& path, std::int64_t unix_ms);

} // namespace qhup::daemon

template <>
struct boost::system::is_error_code_enum<qhup::daemon::JournalErrc> : std::true_type {};
