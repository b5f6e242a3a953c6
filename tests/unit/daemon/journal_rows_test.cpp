// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/journal_rows.hpp"
#include "tests/support/catch.hpp"

#include <algorithm>

using namespace qhup::daemon;
using Kind = JournalChange::Kind;

namespace {

RunView some_run(std::string id, std::int64_t started, std::size_t vms = 2) {
    RunView run;
    run.id = std::move(id);
    run.kind = "upgrade";
    run.state = "running";
    run.to = "new";
    run.started_unix_ms = started;
    for (std::size_t i = 0; i < vms; ++i) {
        RunVmView vm;
        vm.vm = "vm" + std::to_string(i);
        vm.upgrade = run.id + "." + std::to_string(i);
        vm.phase = "prepare";
        vm.from_build_id = "aa";
        vm.steps = {{"queued", 0, "ok"}, {"prepare", 12, ""}};
        vm.peer_text = "a \"quoted\" \xFF word\n";
        run.vms.push_back(vm);
    }
    return run;
}

std::vector<JournalRow> rows_of(const RunView& run) {
    std::vector<JournalRow> rows;
    for (const JournalChange& change : put_whole(run)) {
        rows.push_back(change.row);
    }
    return rows;
}

JournalChange put(std::string run, std::optional<std::uint32_t> number, std::string record) {
    return {Kind::put, {.run = std::move(run), .number = number, .record = std::move(record)}};
}

JournalChange forget(std::string run) {
    return {Kind::forget_run, {.run = std::move(run), .number = {}, .record = {}}};
}

bool is_damaged(std::vector<JournalRow> rows) {
    return assemble_runs(rows).has_error();
}

} // namespace

TEST_CASE("a run that was taken apart into rows is the same run again", "[daemon][journal]") {
    const RunView run = some_run("r1", 5, 3);
    auto rows = rows_of(run);
    REQUIRE(rows.size() == 4);
    std::reverse(rows.begin(), rows.end());
    const auto again = assemble_runs(rows);
    REQUIRE(again.has_value());
    REQUIRE(again->size() == 1);
    CHECK(again->front().id == "r1");
    CHECK(again->front().to == "new");
    REQUIRE(again->front().vms.size() == 3);
    CHECK(again->front().vms[2].upgrade == "r1.2");
    CHECK(again->front().vms[2].steps == run.vms[2].steps);
    CHECK(again->front().vms[2].from_build_id == "aa");
}

TEST_CASE("runs come back in the order of their start", "[daemon][journal]") {
    auto rows = rows_of(some_run("ra", 9));
    for (const JournalRow& row : rows_of(some_run("rz", 3))) {
        rows.push_back(row);
    }
    const auto runs = assemble_runs(rows);
    REQUIRE(runs.has_value());
    CHECK(runs->at(0).id == "rz");
    CHECK(runs->at(1).id == "ra");
}

TEST_CASE("rows that do not make whole runs are a damage", "[daemon][journal]") {
    const auto rows = rows_of(some_run("r1", 1));
    CHECK_FALSE(is_damaged(rows));
    CHECK_FALSE(is_damaged({}));
    for (std::size_t i = 0; i < rows.size(); ++i) {
        INFO("without row " << i);
        auto fewer = rows;
        fewer.erase(fewer.begin() + static_cast<std::ptrdiff_t>(i));
        CHECK(is_damaged(fewer));
    }
    const auto with_record = [&rows](std::size_t row, std::string record) {
        auto changed = rows;
        changed[row].record = std::move(record);
        return changed;
    };
    CHECK(is_damaged(with_record(0, "")));
    CHECK(is_damaged(with_record(0, "[]")));
    CHECK(is_damaged(with_record(0, R"({"id": "r2", "state": "running", "vm_count": 2})")));
    CHECK(is_damaged(with_record(0, R"({"id": "r1", "state": "odd", "vm_count": 2})")));
    CHECK(is_damaged(with_record(0, R"({"id": "r1", "state": "running"})")));
    CHECK(is_damaged(with_record(1, R"({"vm": "vm0", "phase": "committed"})")));
    CHECK(is_damaged(with_record(1, R"({"vm": "../x", "phase": "prepare"})")));
    CHECK(is_damaged(with_record(1, std::string(100'000, '['))));
}

TEST_CASE("every flipped bit of a row changes its checksum", "[daemon][journal]") {
    const JournalRow row{.run = "r1", .number = 7, .record = R"({"vm": "vm1", "phase": "commit"})"};
    const std::int64_t sum = checksum_of(row);
    for (std::size_t byte = 0; byte < row.record.size(); ++byte) {
        for (unsigned bit = 0; bit < 8; ++bit) {
            JournalRow flipped = row;
            flipped.record[byte] =
                static_cast<char>(static_cast<unsigned char>(flipped.record[byte]) ^ (1U << bit));
            CHECK(checksum_of(flipped) != sum);
        }
    }
    CHECK(checksum_of({.run = "r1", .number = 8, .record = row.record}) != sum);
    CHECK(checksum_of({.run = "r1", .number = {}, .record = row.record}) != sum);
    CHECK(checksum_of({.run = "r2", .number = 7, .record = row.record}) != sum);
}

TEST_CASE("of many changes of a row the last one is left, in order", "[daemon][journal]") {
    const auto left = merged(
        {put("r1", {}, "a"),
         put("r1", 0, "b"),
         put("r2", 0, "c"),
         put("r1", 0, "d"),
         put("r1", {}, "e")}
    );
    CHECK(
        left == std::vector<JournalChange>{put("r2", 0, "c"), put("r1", 0, "d"), put("r1", {}, "e")}
    );
}

TEST_CASE("a forgotten run takes along what was put before it only", "[daemon][journal]") {
    const auto left =
        merged({put("r1", 0, "a"), forget("r1"), put("r1", 1, "b"), put("r2", 0, "c")});
    CHECK(left == std::vector<JournalChange>{forget("r1"), put("r1", 1, "b"), put("r2", 0, "c")});
    CHECK(merged({forget("r1"), forget("r1")}) == std::vector<JournalChange>{forget("r1")});
}

TEST_CASE("old finished runs go, unfinished ones and the newest stay", "[daemon][journal]") {
    std::vector<RunView> runs;
    for (int i = 0; i < 5; ++i) {
        runs.push_back(some_run("r" + std::to_string(i), i, 10));
        runs.back().state = i == 1 ? "running" : "finished";
    }
    CHECK(
        outdated_runs(runs, {.runs = 2, .upgrades = 1000}) == std::vector<std::string>{"r2", "r0"}
    );
    CHECK(
        outdated_runs(runs, {.runs = 100, .upgrades = 25}) == std::vector<std::string>{"r2", "r0"}
    );
    CHECK(
        outdated_runs(runs, {.runs = 0, .upgrades = 0}) ==
        std::vector<std::string>{"r3", "r2", "r0"}
    );
    CHECK(outdated_runs(runs, {}).empty());
}
