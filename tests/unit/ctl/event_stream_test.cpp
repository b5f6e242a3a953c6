// SPDX-License-Identifier: GPL-2.0-or-later
#include "ctl/event_stream.hpp"
#include "tests/support/catch.hpp"

#include <nlohmann/json.hpp>

using namespace qhup;
using namespace qhup::ctl;

namespace {

/// All data of the text, whose lines end with \n.
std::vector<std::string> read(EventReader& reader, std::string_view text) {
    std::vector<std::string> found;
    while (!text.empty()) {
        const std::size_t end = text.find('\n');
        if (const auto data = reader.on_line(text.substr(0, end))) {
            found.push_back(*data);
        }
        text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
    }
    return found;
}

daemon::RunVmView vm_in(const std::string& phase, const std::string& outcome = "") {
    daemon::RunVmView vm;
    vm.vm = "vm0";
    vm.phase = phase;
    vm.outcome = outcome;
    return vm;
}

daemon::RunView run_with(const daemon::RunVmView& vm) {
    daemon::RunView run;
    run.id = "r1";
    run.state = "running";
    run.vms = {vm};
    return run;
}

daemon::EventView event_of(daemon::EventType type) {
    daemon::EventView event;
    event.type = std::string(to_string(type));
    event.run = "r1";
    return event;
}

} // namespace

TEST_CASE("events are put together from their lines", "[ctl][events]") {
    EventReader reader;
    CHECK(
        read(reader, "retry: 1000\nid: 7\nevent: hello\ndata: {}\n\n") ==
        std::vector<std::string>{"{}"}
    );
    CHECK(reader.last_id() == 7U);
    CHECK(read(reader, "data:a\r\ndata: b\r\n\r\n") == std::vector<std::string>{"a\nb"});
    CHECK(reader.last_id() == 7U);
    // an event of the daemon, as it writes it
    daemon::EventView event = event_of(daemon::EventType::run_finished);
    event.id = 9;
    const auto told = read(reader, daemon::format_sse(event));
    REQUIRE(told.size() == 1);
    CHECK(reader.last_id() == 9U);
    CHECK(daemon::event_from_json(daemon::parse_json(told.front()).value()).run == "r1");
}

TEST_CASE("what is silent moves the follower on, and half an event does not", "[ctl][events]") {
    EventReader reader;
    CHECK_FALSE(reader.last_id().has_value());
    CHECK(read(reader, ": nothing new\nid: 12\n\n").empty());
    CHECK(reader.last_id() == 12U);
    CHECK(read(reader, "id: 13\nevent: log\ndata: {\"half\"").empty());
    CHECK(reader.last_id() == 12U);
    reader.on_connection();
    CHECK(read(reader, "data: whole\n\n") == std::vector<std::string>{"whole"});
    CHECK(reader.last_id() == 12U);
    CHECK(read(reader, "id: x1\ndata: y\n\n").size() == 1);
    CHECK(reader.last_id() == 12U);
}

TEST_CASE("a follower of a run shows what changes, once", "[ctl][events]") {
    RunFollower follower(run_with(vm_in("queued")));
    daemon::EventView phase = event_of(daemon::EventType::upgrade_phase);
    phase.upgrade = vm_in("prepare");
    REQUIRE(follower.on_event(phase).vms.size() == 1);
    CHECK(follower.on_run(run_with(vm_in("prepare"))).vms.empty());
    REQUIRE(follower.on_run(run_with(vm_in("upgraded", "upgraded"))).vms.size() == 1);
    // the stream tells what the answer had already
    CHECK(follower.on_event(phase).vms.empty());
    CHECK_FALSE(follower.must_ask());
    daemon::EventView stage = event_of(daemon::EventType::run_stage);
    stage.stage = daemon::StageView{.name = "canaries", .number = 1, .of = 2, .state = "working"};
    CHECK(follower.on_event(stage).stage == stage.stage);
    CHECK_FALSE(follower.on_event(stage).stage.has_value());
}

TEST_CASE("what a whole run has that is new comes in the order of time", "[ctl][events]") {
    daemon::RunView run = run_with(vm_in("queued"));
    run.vms.push_back(run.vms.front());
    run.vms[0].vm = "vm3";
    run.vms[1].vm = "vm1";
    RunFollower follower(run);
    run.vms[0].phase = "preflight";
    run.vms[0].since_ms = 71;
    run.vms[1].phase = "prepare";
    run.vms[1].since_ms = 59;
    const auto news = follower.on_run(run);
    REQUIRE(news.vms.size() == 2);
    CHECK(news.vms.front().vm == "vm1");
}

TEST_CASE("a follower asks where events do not say everything", "[ctl][events]") {
    using daemon::EventType;
    for (const EventType type :
         {EventType::missed, EventType::run_resumed, EventType::run_finished}) {
        RunFollower follower(run_with(vm_in("queued")));
        (void)follower.on_event(event_of(EventType::run_started));
        CHECK_FALSE(follower.must_ask());
        (void)follower.on_event(event_of(type));
        CHECK(follower.must_ask());
        (void)follower.on_run(run_with(vm_in("queued")));
        CHECK_FALSE(follower.must_ask());
    }
}

TEST_CASE("events alone tell how a run ended, if none was missed", "[ctl][events]") {
    RunFollower follower(run_with(vm_in("queued")));
    daemon::EventView ended = event_of(daemon::EventType::upgrade_ended);
    ended.upgrade = vm_in("upgraded", "upgraded");
    CHECK_FALSE(follower.told_end().has_value());
    (void)follower.on_event(ended);
    REQUIRE(follower.told_end().has_value());
    CHECK(follower.told_end()->state == "finished");
    CHECK(follower.told_end()->vms.front().outcome == "upgraded");

    daemon::EventView finished = event_of(daemon::EventType::run_finished);
    finished.of_run = daemon::RunSummaryView{};
    finished.of_run->run.stopped_by = "shutdown";
    (void)follower.on_event(finished);
    CHECK(follower.told_end()->stopped_by == "shutdown");

    (void)follower.on_event(event_of(daemon::EventType::missed));
    CHECK_FALSE(follower.told_end().has_value());
    (void)follower.on_run(run_with(vm_in("upgraded", "upgraded")));
    CHECK(follower.told_end().has_value());
}
