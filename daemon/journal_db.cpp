// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/journal_db.hpp"

#include "common/unique_fd.hpp"

#include <sqlite3.h>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <optional>
#include <string_view>
#include <utility>

namespace qhup::daemon {
namespace {

namespace fs = std::filesystem;

constexpr int kBusyTimeoutMs = 200;

/// Migrations: the entry at n brings a file from version n to n + 1. Never changed, only added to.
// clang-format off
constexpr std::array kMigrations{
    "CREATE TABLE runs (id TEXT PRIMARY KEY, record TEXT NOT NULL, checksum INTEGER NOT NULL)"
    " STRICT, WITHOUT ROWID;"
    "CREATE TABLE upgrades (run TEXT NOT NULL, number INTEGER NOT NULL, record TEXT NOT NULL,"
    " checksum INTEGER NOT NULL, PRIMARY KEY (run, number)) STRICT, WITHOUT ROWID;",
    "CREATE TABLE holds (vm TEXT PRIMARY KEY, record TEXT NOT NULL, checksum INTEGER NOT NULL)"
    " STRICT, WITHOUT ROWID;",
    "CREATE TABLE history (id INTEGER PRIMARY KEY, record TEXT NOT NULL, checksum INTEGER NOT NULL)"
    " STRICT;",
};
// clang-format on

class JournalCategory final : public Category {
public:
    constexpr JournalCategory() noexcept : Category(0x6a1d90b3e4f7c258U) {}
    const char* name() const noexcept override { return "qhup.journal"; }
    std::string message(int value) const override {
        switch (static_cast<JournalErrc>(value)) {
        case JournalErrc::damaged: return "the journal is damaged";
        case JournalErrc::newer: return "the journal is from a newer qhupd";
        case JournalErrc::unavailable: return "the journal cannot be read or written now";
        }
        return "unknown error";
    }
    Severity severity(int /*value*/) const noexcept override { return Severity::transient; }
    const char* wire_code(int /*value*/) const noexcept override { return "journal_failed"; }
};

/// What an SQLite result means for the file.
JournalErrc errc_of(int code) noexcept {
    switch (code) {
    case SQLITE_IOERR_READ: // a sector that cannot be read does not get better
    case SQLITE_IOERR_SHORT_READ: return JournalErrc::damaged;
    default: break;
    }
    switch (code & 0xFF) {
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
    case SQLITE_ERROR: // a table or column that should be there is not
    case SQLITE_CONSTRAINT:
    case SQLITE_MISMATCH:
    case SQLITE_SCHEMA: return JournalErrc::damaged;
    default: return JournalErrc::unavailable;
    }
}

Failure failure_of(sqlite3* db, int code, std::string doing) {
    const char* said = db == nullptr ? sqlite3_errstr(code) : sqlite3_errmsg(db);
    return make_failure(make_error_code(errc_of(code)), std::move(doing), said);
}

Result<void> execute(sqlite3* db, const char* sql, const char* doing) {
    const int code = sqlite3_exec(db, sql, nullptr, nullptr, nullptr);
    if (code != SQLITE_OK) {
        return failure_of(db, code, doing);
    }
    return {};
}

/// A prepared statement.
class Statement {
public:
    static Result<Statement> make(sqlite3* db, const char* sql) {
        sqlite3_stmt* made = nullptr;
        const int code = sqlite3_prepare_v2(db, sql, -1, &made, nullptr);
        Statement statement(db, made);
        if (code != SQLITE_OK) {
            return failure_of(db, code, "preparing a statement of the journal");
        }
        return statement;
    }

    Statement& bind(std::string_view text) {
        sqlite3_bind_text(
            handle_.get(), ++bound_, text.data(), static_cast<int>(text.size()), SQLITE_STATIC
        );
        return *this;
    }
    Statement& bind(std::int64_t number) {
        sqlite3_bind_int64(handle_.get(), ++bound_, number);
        return *this;
    }

    /// @return  true: there is a row
    Result<bool> step() {
        const int code = sqlite3_step(handle_.get());
        if (code != SQLITE_ROW && code != SQLITE_DONE) {
            return failure_of(db_, code, "reading or writing the journal");
        }
        return code == SQLITE_ROW;
    }

    std::string text(int column) {
        const auto* bytes = sqlite3_column_blob(handle_.get(), column);
        const auto size = static_cast<std::size_t>(sqlite3_column_bytes(handle_.get(), column));
        return bytes == nullptr ? std::string()
                                : std::string(static_cast<const char*>(bytes), size);
    }
    std::int64_t number(int column) { return sqlite3_column_int64(handle_.get(), column); }

private:
    struct Finalize {
        void operator()(sqlite3_stmt* statement) const noexcept { sqlite3_finalize(statement); }
    };
    Statement(sqlite3* db, sqlite3_stmt* made) : db_(db), handle_(made) {}

    sqlite3* db_;
    std::unique_ptr<sqlite3_stmt, Finalize> handle_;
    int bound_ = 0;
};

/// The first column of the first row.
Result<std::string> ask(sqlite3* db, const char* sql) {
    auto statement = Statement::make(db, sql);
    if (statement.has_error()) {
        return statement.error();
    }
    const auto has_row = statement->step();
    if (has_row.has_error()) {
        return has_row.error();
    }
    return *has_row ? statement->text(0) : std::string();
}

Result<void> set_up(sqlite3* db) {
    sqlite3_busy_timeout(db, kBusyTimeoutMs);
    // why: one process owns the file. Without shared memory a full disk cannot end in SIGBUS.
    auto done = execute(db, "PRAGMA locking_mode=EXCLUSIVE", "locking the journal");
    if (done.has_error()) {
        return done;
    }
    const auto mode = ask(db, "PRAGMA journal_mode=WAL");
    if (mode.has_error()) {
        return mode.error();
    }
    if (*mode != "wal") {
        return make_failure(
            JournalErrc::unavailable, "the journal cannot be put into WAL mode", *mode
        );
    }
    return execute(
        db,
        "PRAGMA synchronous=FULL; PRAGMA journal_size_limit=4194304; PRAGMA trusted_schema=OFF",
        "setting up the journal"
    );
}

Result<void> migrate(sqlite3* db) {
    auto statement = Statement::make(db, "PRAGMA user_version");
    if (statement.has_error()) {
        return statement.error();
    }
    const auto row = statement->step();
    if (row.has_error()) {
        return row.error();
    }
    const std::int64_t version = *row ? statement->number(0) : 0;
    if (version > journal_schema_version() || version < 0) {
        return make_failure(
            JournalErrc::newer,
            "the journal has schema " + std::to_string(version) + ", and this qhupd knows " +
                std::to_string(journal_schema_version())
        );
    }
    if (version == journal_schema_version()) {
        return {};
    }
    std::string sql = "BEGIN IMMEDIATE;";
    for (auto next = static_cast<std::size_t>(version); next < kMigrations.size(); ++next) {
        sql += kMigrations[next];
    }
    sql += "PRAGMA user_version=" + std::to_string(journal_schema_version()) + ";COMMIT;";
    const auto done = execute(db, sql.c_str(), "bringing the journal's schema up to date");
    if (done.has_error()) {
        sqlite3_exec(db, "ROLLBACK", nullptr, nullptr, nullptr);
    }
    return done;
}

Result<void> check_pages(sqlite3* db) {
    const auto verdict = ask(db, "PRAGMA quick_check(1)");
    if (verdict.has_error()) {
        return verdict.error();
    }
    if (*verdict != "ok") {
        return make_failure(JournalErrc::damaged, "the journal's pages are damaged", *verdict);
    }
    return {};
}

Result<void> read_rows(sqlite3* db, const char* sql, std::vector<JournalRow>& rows) {
    auto statement = Statement::make(db, sql);
    if (statement.has_error()) {
        return statement.error();
    }
    while (true) {
        const auto has_row = statement->step();
        if (has_row.has_error()) {
            return has_row.error();
        }
        if (!*has_row) {
            return {};
        }
        JournalRow row{
            .run = statement->text(0),
            .number = {},
            .record = statement->text(2),
            .hold = statement->text(4),
            .history = static_cast<std::uint64_t>(statement->number(5))};
        if (statement->number(1) >= 0) {
            row.number = static_cast<std::uint32_t>(statement->number(1));
        }
        if (checksum_of(row) != statement->number(3)) {
            return make_failure(
                JournalErrc::damaged, "a record of the journal does not have its checksum"
            );
        }
        rows.push_back(std::move(row));
    }
}

Result<std::vector<RunView>> read_runs(sqlite3* db) {
    std::vector<JournalRow> rows;
    auto read = read_rows(db, "SELECT id, -1, record, checksum, '', 0 FROM runs", rows);
    if (read.has_value()) {
        read = read_rows(db, "SELECT run, number, record, checksum, '', 0 FROM upgrades", rows);
    }
    if (read.has_error()) {
        return read.error();
    }
    auto runs = assemble_runs(rows);
    if (runs.has_error()) {
        return make_failure(JournalErrc::damaged, runs.error().message);
    }
    return runs;
}

Result<std::vector<HoldView>> read_holds(sqlite3* db) {
    std::vector<JournalRow> rows;
    const auto read = read_rows(db, "SELECT '', -1, record, checksum, vm, 0 FROM holds", rows);
    if (read.has_error()) {
        return read.error();
    }
    auto holds = assemble_holds(rows);
    if (holds.has_error()) {
        return make_failure(JournalErrc::damaged, holds.error().message);
    }
    return holds;
}

Result<std::vector<HistoryView>> read_history(sqlite3* db) {
    std::vector<JournalRow> rows;
    const auto read = read_rows(db, "SELECT '', -1, record, checksum, '', id FROM history", rows);
    if (read.has_error()) {
        return read.error();
    }
    auto entries = assemble_history(rows);
    if (entries.has_error()) {
        return make_failure(JournalErrc::damaged, entries.error().message);
    }
    return entries;
}

Result<void> put_row(sqlite3* db, const JournalRow& row) {
    const bool is_hold = !row.hold.empty();
    const bool is_history = row.history != 0;
    const char* sql = is_history   ? "INSERT OR REPLACE INTO history VALUES (?1, ?2, ?3)"
                      : is_hold    ? "INSERT OR REPLACE INTO holds VALUES (?1, ?2, ?3)"
                      : row.number ? "INSERT OR REPLACE INTO upgrades VALUES (?1, ?2, ?3, ?4)"
                                   : "INSERT OR REPLACE INTO runs VALUES (?1, ?2, ?3)";
    auto statement = Statement::make(db, sql);
    if (statement.has_error()) {
        return statement.error();
    }
    if (is_history) {
        statement->bind(static_cast<std::int64_t>(row.history));
    } else {
        statement->bind(is_hold ? row.hold : row.run);
    }
    if (row.number) {
        statement->bind(std::int64_t{*row.number});
    }
    const auto stepped = statement->bind(row.record).bind(checksum_of(row)).step();
    return stepped.has_error() ? Result<void>(stepped.error()) : Result<void>();
}

Result<void> remove_rows(sqlite3* db, const char* sql, const std::string& key) {
    auto statement = Statement::make(db, sql);
    if (statement.has_error()) {
        return statement.error();
    }
    const auto stepped = statement->bind(key).step();
    return stepped.has_error() ? Result<void>(stepped.error()) : Result<void>();
}

Result<void> remove_history(sqlite3* db, std::uint64_t last) {
    auto statement = Statement::make(db, "DELETE FROM history WHERE id <= ?1");
    if (statement.has_error()) {
        return statement.error();
    }
    const auto stepped = statement->bind(static_cast<std::int64_t>(last)).step();
    return stepped.has_error() ? Result<void>(stepped.error()) : Result<void>();
}

Result<void> write_change(sqlite3* db, const JournalChange& change) {
    const JournalRow& row = change.row;
    switch (change.kind) {
    case JournalChange::Kind::put: return put_row(db, row);
    case JournalChange::Kind::forget_hold:
        return remove_rows(db, "DELETE FROM holds WHERE vm = ?1", row.hold);
    case JournalChange::Kind::forget_history: return remove_history(db, row.history);
    case JournalChange::Kind::forget_run: break;
    }
    const auto removed = remove_rows(db, "DELETE FROM upgrades WHERE run = ?1", row.run);
    return removed.has_error() ? removed
                               : remove_rows(db, "DELETE FROM runs WHERE id = ?1", row.run);
}

/// A name that was made or changed survives a crash.
/// Best effort: SQLite says what is wrong with the file. Closed before it is opened there, since to
/// close a file drops the locks that this process has on it.
void make_private(const std::string& path) {
    const UniqueFd fd(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
    if (fd) {
        ::fchmod(fd.get(), 0600);
    }
}

Result<void> sync_folder_of(const std::string& path) {
    const std::string folder = fs::path(path).parent_path().string();
    const UniqueFd fd(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (!fd || ::fsync(fd.get()) != 0) {
        Failure why = make_system_failure(errno, "writing the folder " + folder);
        why.code = make_error_code(JournalErrc::unavailable);
        return why;
    }
    return {};
}

} // namespace

error_code make_error_code(JournalErrc value) noexcept {
    static const JournalCategory category;
    return {static_cast<int>(value), category};
}

int journal_schema_version() noexcept {
    return static_cast<int>(kMigrations.size());
}

void JournalDb::Close::operator()(sqlite3* db) const noexcept {
    sqlite3_close(db);
}

Result<JournalDb> JournalDb::open(const std::string& path) {
    struct stat facts {};
    if (::lstat(path.c_str(), &facts) == 0 && !S_ISREG(facts.st_mode)) {
        return make_failure(JournalErrc::damaged, "the journal " + path + " is not a file");
    }
    // why: nobody else may read it, and SQLite gives what it keeps beside the file the same mode.
    make_private(path);
    sqlite3* opened = nullptr;
    const int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX |
                      SQLITE_OPEN_NOFOLLOW | SQLITE_OPEN_EXRESCODE;
    const int code = sqlite3_open_v2(path.c_str(), &opened, flags, nullptr);
    Handle db(opened);
    if (code != SQLITE_OK) {
        return failure_of(opened, code, "opening the journal " + path);
    }
    // why: if the file turns out to be damaged, closing it must not write to it.
    sqlite3_db_config(opened, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, nullptr);
    sqlite3_db_config(opened, SQLITE_DBCONFIG_DEFENSIVE, 1, nullptr);
    auto done = set_up(opened);
    for (auto* next : {check_pages, migrate}) {
        done = done.has_value() ? next(opened) : done;
    }
    if (done.has_value()) {
        done = sync_folder_of(path);
    }
    if (done.has_error()) {
        return with_context(done.error(), "opening the journal " + path);
    }
    auto runs = read_runs(opened);
    if (runs.has_error()) {
        return with_context(runs.error(), "opening the journal " + path);
    }
    auto holds = read_holds(opened);
    if (holds.has_error()) {
        return with_context(holds.error(), "opening the journal " + path);
    }
    auto history = read_history(opened);
    if (history.has_error()) {
        return with_context(history.error(), "opening the journal " + path);
    }
    sqlite3_db_config(opened, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 0, nullptr);
    return JournalDb(std::move(db), std::move(*runs), std::move(*holds), std::move(*history));
}

Result<void> JournalDb::write(const std::vector<JournalChange>& changes) {
    auto done = execute(db_.get(), "BEGIN IMMEDIATE", "writing the journal");
    for (const JournalChange& change : changes) {
        if (done.has_value()) {
            done = write_change(db_.get(), change);
        }
    }
    if (done.has_value()) {
        done = execute(db_.get(), "COMMIT", "writing the journal");
    }
    if (done.has_error() && sqlite3_get_autocommit(db_.get()) == 0) {
        sqlite3_exec(db_.get(), "ROLLBACK", nullptr, nullptr, nullptr);
    }
    return done;
}

bool JournalDb::is_gone() const {
    int has_moved = 0;
    sqlite3_file_control(db_.get(), "main", SQLITE_FCNTL_HAS_MOVED, &has_moved);
    return has_moved != 0;
}

void JournalDb::leave() && {
    // why: SQLite would remove the "-wal" of the path, and that may be another file's now.
    sqlite3_db_config(db_.get(), SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, nullptr);
    db_.reset();
}

Result<std::string> set_journal_aside(const std::string& path, std::int64_t unix_ms) {
    const std::string aside = path + ".broken-" + std::to_string(unix_ms);
    // why: the file itself comes last, so that a fresh one never meets what belongs to the old one.
    for (const char* suffix : {"-wal", "-shm", "-journal", ""}) {
        const std::string from = path + suffix;
        if (std::rename(from.c_str(), (aside + suffix).c_str()) != 0 && errno != ENOENT) {
            Failure why = make_system_failure(errno, "renaming " + from);
            why.code = make_error_code(JournalErrc::unavailable);
            return why;
        }
    }
    const auto synced = sync_folder_of(path);
    if (synced.has_error()) {
        return synced.error();
    }
    return aside;
}

} // namespace qhup::daemon
