// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/api_types_history.hpp"
#include "tests/support/catch.hpp"

#include <nlohmann/json.hpp>

using namespace qhup::daemon;

namespace {

HistoryView some_entry(const std::string& vm, HistoryAction action = HistoryAction::vm_ended) {
    HistoryView entry;
    entry.action = std::string(to_string(action));
    entry.vm = vm;
    entry.run = "r1";
    entry.by = AskerView{.uid = 1000, .user = "anna", .pid = 7};
    entry.pause_ms = 11.5;
    return entry;
}

} // namespace

TEST_CASE("an entry of the history is the same after it went over the wire", "[daemon][history]") {
    const auto document = to_json(some_entry("vm1"));
    CHECK(document.at("by").at("user") == "anna");
    CHECK(to_json(history_from_json(document)) == document);
    CHECK(history_from_json({{"by", 3}, {"id", "x"}, {"pause_ms", "y"}}).id == 0);
    for (const HistoryAction action : kAllHistoryActions) {
        CHECK(parse_history_action(to_string(action)) == action);
    }
    CHECK_FALSE(parse_history_action("nothing"));
}

TEST_CASE("the history gives ids that rise, across restarts too", "[daemon][history]") {
    History history;
    CHECK(history.add(some_entry("vm1")).id == 1);
    CHECK(history.add(some_entry("vm2")).id == 2);
    std::vector<HistoryView> stored(history.entries().rbegin(), history.entries().rend());
    History again(stored);
    CHECK(again.add(some_entry("vm3")).id == 3);
    CHECK(again.oldest() == 1);
}

TEST_CASE("the history is bounded and forgets the oldest", "[daemon][history]") {
    History history;
    for (std::size_t i = 0; i < History::kMaxEntries + 5; ++i) {
        history.add(some_entry("vm1"));
    }
    CHECK(history.entries().size() == History::kMaxEntries);
    CHECK(history.oldest() == 6);
}

TEST_CASE("the history is found by VM, run, action and page, newest first", "[daemon][history]") {
    History history;
    history.add(some_entry("vm1"));
    history.add(some_entry("vm2", HistoryAction::hold_set));
    history.add(some_entry("vm1", HistoryAction::hold_set));
    CHECK(history.find({}).front().id == 3);
    CHECK(history.find({.run = {}, .vm = "vm1", .action = {}}).size() == 2);
    CHECK(history.find({.run = {}, .vm = "vm1", .action = "hold_set"}).front().id == 3);
    CHECK(history.find({.run = "r2", .vm = {}, .action = {}}).empty());
    CHECK(history.find({.run = {}, .vm = {}, .action = {}, .before = 3}).front().id == 2);
    CHECK(history.find({.run = {}, .vm = {}, .action = {}, .before = 0, .limit = 1}).size() == 1);
}
