// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/run_store.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/temp_dir.hpp"

#include <fstream>

using namespace qhup::daemon;

namespace {

RunView run_at(std::string id, std::int64_t started, std::string state) {
    RunView run;
    run.id = std::move(id);
    run.started_unix_ms = started;
    run.state = std::move(state);
    return run;
}

} // namespace

TEST_CASE("records come back in order of their start", "[daemon][run_store]") {
    const qhup::test::TempDir folder;
    const RunStore store(folder.path() + "/runs");
    REQUIRE(store.save(run_at("r2", 2, "finished")).has_value());
    REQUIRE(store.save(run_at("r1", 1, "running")).has_value());
    REQUIRE(store.save(run_at("r1", 1, "finished")).has_value());
    const auto runs = store.load(10);
    REQUIRE(runs.size() == 2);
    CHECK(runs[0].id == "r1");
    CHECK(runs[0].state == "finished");
    CHECK(runs[1].id == "r2");
}

TEST_CASE("old finished records go, unfinished ones stay", "[daemon][run_store]") {
    const qhup::test::TempDir folder;
    const RunStore store(folder.path());
    REQUIRE(store.save(run_at("r1", 1, "running")).has_value());
    REQUIRE(store.save(run_at("r2", 2, "finished")).has_value());
    REQUIRE(store.save(run_at("r3", 3, "finished")).has_value());
    const auto runs = store.load(1);
    REQUIRE(runs.size() == 2);
    CHECK(runs[0].id == "r1");
    CHECK(runs[1].id == "r3");
    CHECK(store.load(10).size() == 2);
}

TEST_CASE("a file that is no record does not hide the others", "[daemon][run_store]") {
    const qhup::test::TempDir folder;
    const RunStore store(folder.path());
    REQUIRE(store.save(run_at("r1", 1, "finished")).has_value());
    std::ofstream(folder.path() + "/r2.json") << "{\"id\": \"r2\"";
    std::ofstream(folder.path() + "/r3.json") << "{\"id\": \"r4\"}";
    CHECK(store.load(10).size() == 1);
    CHECK(RunStore("/nonexistent").load(10).empty());
}

TEST_CASE("a record that cannot be written is an error", "[daemon][run_store]") {
    CHECK(RunStore("/proc/nonexistent").save(run_at("r1", 1, "running")).has_error());
}
