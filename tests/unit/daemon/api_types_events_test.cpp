// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/api_types_events.hpp"
#include "tests/support/catch.hpp"

#include <nlohmann/json.hpp>

#include <fstream>
#include <iterator>
#include <string>

using namespace qhup::daemon;

namespace {

RunView make_run() {
    RunView run;
    run.id = "r1";
    run.kind = "upgrade";
    run.state = "finished";
    run.to = "deb13";
    run.request = RunRequest{};
    for (const char* outcome : {"upgraded", "refused", "upgraded"}) {
        run.vms.push_back({});
        run.vms.back().vm = "vm" + std::to_string(run.vms.size());
        run.vms.back().outcome = outcome;
    }
    return run;
}

} // namespace

TEST_CASE("every type of event has its own word, and docs/api.md knows it", "[daemon][events]") {
    std::ifstream page(QHUP_SOURCE_DIR "/docs/api.md");
    const std::string text((std::istreambuf_iterator<char>(page)), {});
    for (const EventType type : kAllEventTypes) {
        const std::string word(to_string(type));
        INFO(word);
        CHECK(parse_event_type(word) == type);
        CHECK(text.find("| `" + word + "` |") != std::string::npos);
    }
    CHECK_FALSE(parse_event_type("nothing"));
}

TEST_CASE("an event is the same after it went over the wire", "[daemon][events]") {
    EventView event = make_run_event(EventType::run_finished, make_run());
    event.id = 7;
    event.time_unix_ms = 8;
    const auto document = to_json(event);
    CHECK(document.at("run_summary").at("vm_count") == 3);
    CHECK(document.at("run_summary").at("outcomes").at("upgraded") == 2);
    CHECK_FALSE(document.at("run_summary").contains("vms"));
    CHECK(to_json(event_from_json(document)) == document);
    EventView missed;
    missed.type = "missed";
    missed.missed = MissedView{.first = 1, .last = 3, .count = 3, .reason = "slow"};
    CHECK(to_json(event_from_json(to_json(missed))) == to_json(missed));
    CHECK(event_from_json(nlohmann::json::array()).type.empty());
    CHECK(event_from_json({{"upgrade", 3}, {"id", "x"}}).id == 0);
}

TEST_CASE("a phase of an upgrade is short, and its end is complete", "[daemon][events]") {
    RunVmView vm;
    vm.vm = "vm1";
    vm.phase = "prepare";
    vm.steps.push_back({.phase = "preflight", .at_ms = 1, .outcome = "ok"});
    const EventView phase = make_upgrade_event("r1", vm);
    CHECK(phase.type == "upgrade_phase");
    CHECK(phase.upgrade->steps.empty());
    vm.outcome = "upgraded";
    const EventView end = make_upgrade_event("r1", vm);
    CHECK(end.type == "upgrade_ended");
    CHECK(end.upgrade->steps.size() == 1);
    CHECK(end.message == "VM vm1 ends upgraded");
}

TEST_CASE("no text can end its own frame", "[daemon][events]") {
    HoldView hold;
    hold.vm = "vm1";
    hold.reason = "a\n\nid: 9\nevent: run_finished\n\r";
    EventView event = make_hold_event(EventType::hold_set, hold);
    event.id = 5;
    const std::string frame = format_sse(event);
    CHECK(frame.starts_with("id: 5\nevent: hold_set\ndata: {"));
    CHECK(frame.find("\n\n") == frame.size() - 2);
    CHECK(frame.find('\r') == std::string::npos);
}
