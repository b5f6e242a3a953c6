// SPDX-License-Identifier: GPL-2.0-or-later
#include "common/task_group.hpp"
#include "daemon/journal.hpp"
#include "daemon/journal_db.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/temp_dir.hpp"

#include <sqlite3.h>

#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <optional>

using namespace qhup;
using namespace qhup::daemon;
using namespace qhup::test;
using namespace std::chrono_literals;

namespace {

namespace fs = std::filesystem;
using IfNotWritten = Journal::IfNotWritten;

RunView some_run(const std::string& id, std::size_t vms = 3) {
    RunView run;
    run.id = id;
    run.kind = "upgrade";
    run.state = "running";
    run.started_unix_ms = 1;
    for (std::size_t i = 0; i < vms; ++i) {
        RunVmView vm;
        vm.vm = "vm" + std::to_string(i);
        vm.phase = "queued";
        vm.message = std::string(300, 'm');
        run.vms.push_back(vm);
    }
    return run;
}

std::vector<JournalRow> to_rows(const RunView& run) {
    std::vector<JournalRow> rows;
    for (const JournalChange& change : put_whole(run)) {
        rows.push_back(change.row);
    }
    return rows;
}

std::string read_file(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

void write_file(const std::string& path, const std::string& bytes) {
    std::ofstream(path, std::ios::binary | std::ios::trunc) << bytes;
}

void run_sql(const std::string& path, const std::string& sql) {
    sqlite3* db = nullptr;
    REQUIRE(sqlite3_open(path.c_str(), &db) == SQLITE_OK);
    const int code = sqlite3_exec(db, sql.c_str(), nullptr, nullptr, nullptr);
    CHECK(code == SQLITE_OK);
    sqlite3_close(db);
}

/// A journal with its home, for one test.
class Home {
public:
    explicit Home(std::string path)
        : journal(
              io.get_executor(),
              std::move(path),
              [this] { ++replaced; },
              {.retry = 20ms, .fault = {}}
          ) {}

    std::vector<RunView> open() { return open_all().runs; }
    JournalContents open_all() {
        JournalContents contents;
        run(open_into(&journal, &contents));
        return contents;
    }
    Result<void> write(std::vector<JournalChange> changes, IfNotWritten policy) {
        std::optional<Result<void>> written;
        run(write_into(&journal, std::move(changes), policy, &written));
        return *written;
    }
    std::size_t close() {
        std::size_t left = 0;
        run(close_into(&journal, &left));
        return left;
    }

    asio::io_context io;
    int replaced = 0;
    Journal journal;

private:
    static awaitable<void> open_into(Journal* journal, JournalContents* into) {
        *into = co_await journal->open(Deadline::in(5s));
    }
    static awaitable<void> write_into(
        Journal* journal,
        std::vector<JournalChange> changes,
        IfNotWritten policy,
        std::optional<Result<void>>* into
    ) {
        *into = co_await journal->write(std::move(changes), policy, Deadline::in(5s));
    }
    static awaitable<void> close_into(Journal* journal, std::size_t* into) {
        *into = co_await journal->close(Deadline::in(5s));
    }
    void run(awaitable<void> work) {
        TaskGroup tasks(io.get_executor());
        tasks.spawn("test", std::move(work));
        io.restart();
        io.run();
    }
};

/// Makes a journal with this run in it. With `is_killed` its writer had no time to clean up.
void make_journal(const std::string& path, const RunView& run, bool is_killed = false) {
    const std::string copy = path + ".copy";
    {
        Home home(path);
        REQUIRE(home.open().empty());
        REQUIRE(home.write(put_whole(run), IfNotWritten::drop).has_value());
        if (is_killed) {
            fs::copy_file(path, copy);
            fs::copy_file(path + "-wal", copy + "-wal");
        }
        CHECK(home.close() == 0);
    }
    if (is_killed) {
        fs::rename(copy, path);
        fs::rename(copy + "-wal", path + "-wal");
    }
}

std::size_t count_set_aside(const std::string& folder) {
    std::size_t count = 0;
    for (const auto& entry : fs::directory_iterator(folder)) {
        const std::string name = entry.path().filename().string();
        const bool is_side = name.ends_with("-wal") || name.ends_with("-shm");
        count += name.find(".broken-") != std::string::npos && !is_side ? 1U : 0U;
    }
    return count;
}

/// No file of this process may become longer than that, as on a disk that is full.
class FullDisk {
public:
    explicit FullDisk(std::size_t bytes) {
        before_handler_ = std::signal(SIGXFSZ, SIG_IGN);
        ::getrlimit(RLIMIT_FSIZE, &before_);
        rlimit limit = before_;
        limit.rlim_cur = bytes;
        REQUIRE(::setrlimit(RLIMIT_FSIZE, &limit) == 0);
    }
    ~FullDisk() {
        ::setrlimit(RLIMIT_FSIZE, &before_);
        std::signal(SIGXFSZ, before_handler_);
    }
    FullDisk(const FullDisk&) = delete;
    FullDisk& operator=(const FullDisk&) = delete;

private:
    rlimit before_{};
    void (*before_handler_)(int) = nullptr;
};

} // namespace

TEST_CASE("what was written is there after an end and after a kill", "[daemon][journal]") {
    for (const bool is_killed : {false, true}) {
        const TempDir folder;
        const std::string path = folder / "journal.db";
        make_journal(path, some_run("r1"), is_killed);
        Home home(path);
        const auto runs = home.open();
        REQUIRE(runs.size() == 1);
        CHECK(runs[0].id == "r1");
        CHECK(runs[0].vms.size() == 3);
        CHECK(count_set_aside(folder.path()) == 0);
    }
}

TEST_CASE("a journal of the first schema is brought up to date", "[daemon][journal]") {
    const TempDir dir;
    const std::string path = dir / "journal.db";
    const HoldView hold{
        .vm = "vm1", .reason = "why", .since_unix_ms = 1, .until_unix_ms = 0, .by_uid = 7};
    {
        Home home(path);
        REQUIRE(home.open().empty());
        REQUIRE(home.write(put_whole(some_run("r1")), IfNotWritten::drop).has_value());
        REQUIRE(home.close() == 0);
    }
    run_sql(path, "DROP TABLE holds; DROP TABLE history; PRAGMA user_version=1");
    {
        Home home(path);
        const JournalContents contents = home.open_all();
        CHECK(contents.runs.size() == 1);
        CHECK(contents.holds.empty());
        const JournalChange put{JournalChange::Kind::put, make_hold_row(hold)};
        REQUIRE(home.write({put}, IfNotWritten::drop).has_value());
        REQUIRE(home.close() == 0);
    }
    {
        Home home(path);
        const JournalContents contents = home.open_all();
        CHECK(contents.runs.size() == 1);
        CHECK(contents.holds == std::vector<HoldView>{hold});
        REQUIRE(home.write({forget_hold("vm1")}, IfNotWritten::drop).has_value());
        REQUIRE(home.close() == 0);
    }
    Home home(path);
    CHECK(home.open_all().holds.empty());
}

TEST_CASE("a hold that was changed in the file is not believed", "[daemon][journal]") {
    const TempDir dir;
    const std::string path = dir / "journal.db";
    {
        Home home(path);
        REQUIRE(home.open().empty());
        const HoldView hold{
            .vm = "vm1", .reason = "why", .since_unix_ms = 1, .until_unix_ms = 0, .by_uid = 7};
        const JournalChange put{JournalChange::Kind::put, make_hold_row(hold)};
        REQUIRE(home.write({put}, IfNotWritten::drop).has_value());
        REQUIRE(home.close() == 0);
    }
    run_sql(path, "UPDATE holds SET vm = 'vm2'");
    Home home(path);
    CHECK(home.open_all().holds.empty());
    CHECK(fs::exists(path)); // a fresh one
}

TEST_CASE("the journal is WAL, syncs fully, and has its schema's version", "[daemon][journal]") {
    const TempDir folder;
    const std::string path = folder / "journal.db";
    make_journal(path, some_run("r1"));
    const std::string header = read_file(path).substr(0, 100);
    CHECK(header[18] == 2); // written by WAL
    CHECK(header[63] == static_cast<char>(journal_schema_version()));
}

TEST_CASE("a forgotten run is gone and the others stay", "[daemon][journal]") {
    const TempDir folder;
    const std::string path = folder / "journal.db";
    make_journal(path, some_run("r1"));
    {
        Home home(path);
        REQUIRE(home.open().size() == 1);
        home.journal.put(put_whole(some_run("r2")));
        home.journal.put(
            {{JournalChange::Kind::forget_run, {.run = "r1", .number = {}, .record = {}}}}
        );
        CHECK(home.close() == 0);
    }
    Home home(path);
    const auto runs = home.open();
    REQUIRE(runs.size() == 1);
    CHECK(runs[0].id == "r2");
}

TEST_CASE("a journal of 10,000 upgrades is as large as what is remembered", "[daemon][journal]") {
    const TempDir folder;
    const std::string path = folder / "journal.db";
    constexpr JournalBounds kBounds{.runs = 20, .upgrades = 10'000};
    Home home(path);
    REQUIRE(home.open().empty());
    std::vector<RunView> runs;
    std::uintmax_t early = 0;
    const auto size = [&] {
        std::error_code none;
        const std::uintmax_t log = fs::file_size(path + "-wal", none);
        return fs::file_size(path) + (none ? 0 : log);
    };
    for (int i = 0; i < 100; ++i) {
        runs.push_back(some_run("r" + std::to_string(i), 100));
        runs.back().state = "finished";
        std::vector<JournalChange> changes = put_whole(runs.back());
        for (const std::string& id : outdated_runs(runs, kBounds)) {
            changes.push_back(
                {JournalChange::Kind::forget_run, {.run = id, .number = {}, .record = {}}}
            );
            runs.erase(runs.begin()); // they are ordered, and the oldest goes
        }
        REQUIRE(home.write(std::move(changes), IfNotWritten::keep).has_value());
        early = i == 29 ? size() : early;
    }
    CHECK(runs.size() == kBounds.runs);
    INFO("after 3,000: " << early << " bytes, after 10,000: " << size());
    CHECK(size() < early + early / 4);
    CHECK(home.close() == 0);
    Home again(path);
    CHECK(again.open().size() == kBounds.runs);
}

TEST_CASE("a journal that is taken away from a daemon is made anew", "[daemon][journal]") {
    const TempDir folder;
    fs::create_directory(folder / "state");
    const std::string path = folder / "state/journal.db";
    const std::string elsewhere = folder / "elsewhere.db";
    make_journal(elsewhere, some_run("r9"));
    const std::function<void()> takes[] = {
        [&] {
            fs::remove(path);
            fs::remove(path + "-wal");
        },
        [&] { fs::rename(folder / "state", folder / "moved"); },
        [&] { fs::copy_file(elsewhere, path + ".new"), fs::rename(path + ".new", path); },
    };
    for (const auto& take : takes) {
        {
            Home home(path);
            home.open();
            REQUIRE(home.write(put_whole(some_run("r1")), IfNotWritten::drop).has_value());
            take();
            const bool has_folder = fs::exists(folder / "state");
            CHECK(
                home.write(put_whole(some_run("r2")), IfNotWritten::drop).has_value() == has_folder
            );
            CHECK(home.replaced == 1); // so that all that is known is put again
            fs::create_directory(folder / "state");
            CHECK(home.write(put_whole(some_run("r3")), IfNotWritten::drop).has_value());
            CHECK(home.replaced == 1);
            CHECK(home.close() == 0);
        }
        Home home(path);
        std::vector<std::string> ids;
        for (const RunView& run : home.open()) {
            ids.push_back(run.id);
        }
        REQUIRE(ids.size() >= 1);
        CHECK(ids.back() == "r3");
        CHECK(std::count(ids.begin(), ids.end(), "r9") == 0);
        fs::remove_all(folder / "state");
        fs::create_directory(folder / "state");
    }
}

TEST_CASE("a journal that cannot be used is set aside and a fresh one works", "[daemon][journal]") {
    struct Row {
        const char* what;
        std::function<void(const std::string&)> spoil;
    };
    const Row rows[] = {
        {"not a database", [](const std::string& path) { write_file(path, "{\"id\": \"r1\"}\n"); }},
        {"random bytes",
         [](const std::string& path) {
             std::string bytes;
             for (unsigned i = 0; i < 20'000; ++i) {
                 bytes += static_cast<char>((i * 2654435761U) >> 13U);
             }
             write_file(path, bytes);
         }},
        {"truncated in the middle",
         [](const std::string& path) { fs::resize_file(path, fs::file_size(path) / 2); }},
        {"truncated to its first page",
         [](const std::string& path) { fs::resize_file(path, 4096); }},
        {"truncated in its header", [](const std::string& path) { fs::resize_file(path, 50); }},
        {"a page torn: its second half is zero",
         [](const std::string& path) {
             std::string bytes = read_file(path);
             std::fill(bytes.end() - 2048, bytes.end(), '\0');
             write_file(path, bytes);
         }},
        {"a newer version",
         [](const std::string& path) { run_sql(path, "PRAGMA user_version=4711"); }},
        {"a table is missing",
         [](const std::string& path) { run_sql(path, "DROP TABLE upgrades"); }},
        {"a row is missing",
         [](const std::string& path) { run_sql(path, "DELETE FROM upgrades WHERE number=1"); }},
        {"a record without its checksum",
         [](const std::string& path) {
             run_sql(path, "UPDATE upgrades SET record=replace(record, 'queued', 'commit')");
         }},
        {"a folder",
         [](const std::string& path) {
             fs::remove(path);
             fs::create_directory(path);
         }},
        {"a symbolic link",
         [](const std::string& path) {
             fs::rename(path, path + ".elsewhere");
             fs::create_symlink(path + ".elsewhere", path);
         }},
    };
    for (const Row& row : rows) {
        INFO(row.what);
        const TempDir folder;
        const std::string path = folder / "journal.db";
        make_journal(path, some_run("r1", 20));
        row.spoil(path);
        {
            Home home(path);
            CHECK(home.open().empty());
            CHECK(count_set_aside(folder.path()) == 1);
            CHECK(home.write(put_whole(some_run("r2")), IfNotWritten::drop).has_value());
            CHECK(home.close() == 0);
        }
        Home home(path);
        const auto runs = home.open();
        REQUIRE(runs.size() == 1);
        CHECK(runs[0].id == "r2");
        CHECK(count_set_aside(folder.path()) == 1);
    }
}

TEST_CASE("no flipped bit is believed and none stops the journal", "[daemon][journal]") {
    const TempDir folder;
    const std::string path = folder / "journal.db";
    make_journal(path, some_run("r1", 4));
    const std::string good = read_file(path);
    std::size_t set_aside = 0;
    // 97 is prime: over the file, every position in a word and every bit is hit.
    for (std::size_t at = 0; at < good.size(); at += 97) {
        INFO("byte " << at << " of " << good.size());
        const TempDir copy_folder;
        const std::string copy = copy_folder / "journal.db";
        std::string bytes = good;
        bytes[at] = static_cast<char>(static_cast<unsigned char>(bytes[at]) ^ (1U << (at % 8U)));
        write_file(copy, bytes);
        Home home(copy);
        const auto runs = home.open();
        const bool is_aside = count_set_aside(copy_folder.path()) == 1;
        set_aside += is_aside ? 1U : 0U;
        REQUIRE(runs.size() == (is_aside ? 0U : 1U));
        if (!is_aside) { // the bit meant nothing: everything is as it was
            CHECK(to_rows(runs[0]) == to_rows(some_run("r1", 4)));
        }
        CHECK(home.write(put_whole(some_run("r2")), IfNotWritten::drop).has_value());
    }
    CHECK(set_aside > 10);
}

TEST_CASE("a torn or flipped tail of the log costs the last writes only", "[daemon][journal]") {
    const TempDir folder;
    const std::string path = folder / "journal.db";
    make_journal(path, some_run("r1"), true);
    const std::string wal = read_file(path + "-wal");
    const std::string main = read_file(path);
    for (std::size_t length = 0; length < wal.size(); length += 501) {
        for (const bool is_torn : {true, false}) {
            INFO("at " << length << " torn " << is_torn);
            const TempDir copy_folder;
            const std::string copy = copy_folder / "journal.db";
            write_file(copy, main);
            std::string bytes = is_torn ? wal.substr(0, length) : wal;
            if (!is_torn) {
                bytes[length] = static_cast<char>(bytes[length] ^ 0x10);
            }
            write_file(copy + "-wal", bytes);
            Home home(copy);
            const auto runs = home.open();
            REQUIRE(runs.size() <= 1);
            if (runs.size() == 1) {
                CHECK(to_rows(runs[0]) == to_rows(some_run("r1")));
            }
            CHECK(home.write(put_whole(some_run("r2")), IfNotWritten::drop).has_value());
        }
    }
}

TEST_CASE(
    "a full disk refuses intents, keeps results, and loses none of them", "[daemon][journal]"
) {
    const TempDir folder;
    const std::string path = folder / "journal.db";
    {
        Home home(path);
        REQUIRE(home.open().empty());
        REQUIRE(home.write(put_whole(some_run("r1")), IfNotWritten::drop).has_value());
        {
            const FullDisk full(fs::file_size(path + "-wal"));
            const auto intent = home.write(put_whole(some_run("r2")), IfNotWritten::drop);
            REQUIRE(intent.has_error());
            CHECK(intent.error().code == make_error_code(JournalErrc::unavailable));
            RunView done = some_run("r1");
            done.vms[0].phase = "upgraded";
            done.vms[0].outcome = "upgraded";
            CHECK(home.write(put_whole(done), IfNotWritten::keep).has_error());
        }
        // room again: the next write, or the retry, takes along what was kept
        CHECK(home.write(put_whole(some_run("r3")), IfNotWritten::drop).has_value());
        CHECK(home.close() == 0);
    }
    Home home(path);
    const auto runs = home.open();
    REQUIRE(runs.size() == 2);
    CHECK(runs[0].id == "r1");
    CHECK(runs[0].vms[0].outcome == "upgraded");
    CHECK(runs[1].id == "r3");
}

TEST_CASE("a result that could not be written is tried again by itself", "[daemon][journal]") {
    const TempDir folder;
    const std::string path = folder / "journal.db";
    {
        Home home(path);
        REQUIRE(home.open().empty());
        {
            const FullDisk full(0);
            CHECK(home.write(put_whole(some_run("r1")), IfNotWritten::keep).has_error());
        }
        const auto until = std::chrono::steady_clock::now() + 5s;
        while (read_file(path + "-wal").find("\"r1\"") == std::string::npos) {
            REQUIRE(std::chrono::steady_clock::now() < until);
        }
    }
    Home home(path);
    CHECK(home.open().size() == 1);
}

TEST_CASE("a folder that cannot be written stops nobody, and works later", "[daemon][journal]") {
    const TempDir folder;
    const std::string path = folder / "missing/journal.db";
    Home home(path);
    CHECK(home.open().empty());
    CHECK(home.write(put_whole(some_run("r1")), IfNotWritten::drop).has_error());
    fs::create_directory(folder / "missing");
    CHECK(home.write(put_whole(some_run("r2")), IfNotWritten::drop).has_value());
}

TEST_CASE("a journal that somebody else has locked is not set aside", "[daemon][journal]") {
    const TempDir folder;
    const std::string path = folder / "journal.db";
    make_journal(path, some_run("r1"));
    sqlite3* other = nullptr;
    REQUIRE(sqlite3_open(path.c_str(), &other) == SQLITE_OK);
    REQUIRE(sqlite3_exec(other, "BEGIN IMMEDIATE", nullptr, nullptr, nullptr) == SQLITE_OK);
    Home home(path);
    CHECK(home.open().empty());
    CHECK(home.write(put_whole(some_run("r2")), IfNotWritten::drop).has_error());
    CHECK(count_set_aside(folder.path()) == 0);
    sqlite3_close(other);
    CHECK(home.write(put_whole(some_run("r2")), IfNotWritten::drop).has_value());
    CHECK(count_set_aside(folder.path()) == 0);
}

TEST_CASE(
    "a journal that is spoilt while it is in use is replaced and said so", "[daemon][journal]"
) {
    const TempDir folder;
    const std::string path = folder / "journal.db";
    Home home(path);
    REQUIRE(home.open().empty());
    // more than SQLite keeps in memory, so that it must read pages again
    REQUIRE(home.write(put_whole(some_run("r1", 6000)), IfNotWritten::drop).has_value());
    REQUIRE(home.close() == 0);
    Home second(path);
    REQUIRE(second.open().size() == 1);
    std::string bytes = read_file(path);
    std::fill(bytes.begin() + 100, bytes.end(), 'x');
    write_file(path, bytes);
    std::vector<JournalChange> changes = put_whole(some_run("r2"));
    changes.push_back({JournalChange::Kind::forget_run, {.run = "r1", .number = {}, .record = {}}});
    CHECK(second.write(std::move(changes), IfNotWritten::drop).has_value());
    CHECK(second.replaced == 1);
    CHECK(count_set_aside(folder.path()) == 1);
    REQUIRE(second.close() == 0);
    Home third(path);
    const auto runs = third.open();
    REQUIRE(runs.size() == 1);
    CHECK(runs[0].id == "r2");
}
