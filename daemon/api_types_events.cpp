// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/api_types_events.hpp"

#include "daemon/api_types_read.hpp"

#include <nlohmann/json.hpp>

#include <algorithm>

namespace qhup::daemon {
namespace {

using nlohmann::json;

using read::integer;
using read::member;
using read::text;

json to_json(const RunSummaryView& value) {
    json document = to_json(value.run);
    document.erase("vms");
    document.erase("request");
    document["vm_count"] = value.vm_count;
    document["outcomes"] = value.outcomes;
    return document;
}

json to_json(const MissedView& value) {
    return {
        {"first", value.first},
        {"last", value.last},
        {"count", value.count ? json(*value.count) : json(nullptr)},
        {"reason", value.reason},
    };
}

RunSummaryView summary_from_json(const json& value) {
    RunSummaryView summary;
    summary.run = run_from_json(value);
    summary.vm_count = integer<std::uint64_t>(value, "vm_count");
    const json& outcomes = member(value, "outcomes");
    if (outcomes.is_object()) {
        for (const auto& [outcome, count] : outcomes.items()) {
            summary.outcomes[outcome] = integer<std::uint32_t>(outcomes, outcome.c_str());
        }
    }
    return summary;
}

MissedView missed_from_json(const json& value) {
    MissedView missed;
    missed.first = integer<std::uint64_t>(value, "first");
    missed.last = integer<std::uint64_t>(value, "last");
    if (member(value, "count").is_number_integer()) {
        missed.count = integer<std::uint64_t>(value, "count");
    }
    missed.reason = text(value, "reason");
    return missed;
}

/// "3 VMs: 2 upgraded, 1 refused"
std::string describe(const RunSummaryView& run) {
    std::string words = std::to_string(run.vm_count) + (run.vm_count == 1 ? " VM" : " VMs");
    for (const auto& [outcome, count] : run.outcomes) {
        words += (words.find(':') == std::string::npos ? ": " : ", ") + std::to_string(count) +
                 " " + outcome;
    }
    return words;
}

std::string describe(EventType type, const RunSummaryView& summary) {
    const RunView& run = summary.run;
    const std::string name = "run " + run.id + " (" + run.kind +
                             (run.to.empty() ? "" : " to " + run.to) +
                             (run.dry_run ? ", dry run" : "") + ")";
    switch (type) {
    case EventType::run_started: return name + " begins, " + describe(summary);
    case EventType::run_resumed: return name + " goes on, " + describe(summary);
    case EventType::run_stage:
        return name + " is in stage " + std::to_string(run.stage ? run.stage->number : 0) + " of " +
               std::to_string(run.stage ? run.stage->of : 0) + ", " +
               (run.stage ? run.stage->state : "");
    case EventType::run_stopping:
        return name + " begins no further VM: " +
               (run.stop_reason.empty() ? run.stopped_by : run.stop_reason);
    default: return name + " has ended, " + describe(summary);
    }
}

std::string describe(EventType type, const VmView& vm) {
    if (type == EventType::vm_gone) {
        return "VM " + vm.name + " is not there any more";
    }
    const std::string version = vm.version.empty() ? "" : ", QEMU " + vm.version;
    return "VM " + vm.name + (type == EventType::vm_found ? " is found: " : " is now: ") +
           vm.state + version + (vm.attention ? ", needs an operator" : "");
}

} // namespace

std::string_view to_string(EventType type) noexcept {
    switch (type) {
    case EventType::hello: return "hello";
    case EventType::missed: return "missed";
    case EventType::daemon_ready: return "daemon_ready";
    case EventType::daemon_stopping: return "daemon_stopping";
    case EventType::vm_found: return "vm_found";
    case EventType::vm_changed: return "vm_changed";
    case EventType::vm_gone: return "vm_gone";
    case EventType::run_started: return "run_started";
    case EventType::run_resumed: return "run_resumed";
    case EventType::run_stage: return "run_stage";
    case EventType::run_stopping: return "run_stopping";
    case EventType::run_finished: return "run_finished";
    case EventType::upgrade_phase: return "upgrade_phase";
    case EventType::upgrade_ended: return "upgrade_ended";
    case EventType::hold_set: return "hold_set";
    case EventType::hold_removed: return "hold_removed";
    case EventType::log: return "log";
    }
    return "log";
}

std::optional<EventType> parse_event_type(std::string_view word) noexcept {
    const auto* const found =
        std::find_if(kAllEventTypes.begin(), kAllEventTypes.end(), [word](EventType type) {
            return to_string(type) == word;
        });
    return found == kAllEventTypes.end() ? std::nullopt : std::optional<EventType>(*found);
}

json to_json(const EventView& value) {
    json document = {
        {"id", value.id},
        {"type", value.type},
        {"time_unix_ms", value.time_unix_ms},
        {"run", value.run},
        {"vm", value.vm},
        {"message", value.message},
    };
    if (value.vm_state) {
        document["vm_state"] = to_json(*value.vm_state);
    }
    if (value.of_run) {
        document["run_summary"] = to_json(*value.of_run);
    }
    if (value.stage) {
        document["stage"] = to_json(*value.stage);
    }
    if (value.upgrade) {
        document["upgrade"] = to_json(*value.upgrade);
    }
    if (value.hold) {
        document["hold"] = to_json(*value.hold);
    }
    if (value.missed) {
        document["missed"] = to_json(*value.missed);
    }
    if (!value.level.empty()) {
        document["level"] = value.level;
    }
    if (value.version) {
        document["version"] = to_json(*value.version);
    }
    return document;
}

EventView event_from_json(const json& value) {
    EventView event;
    event.id = integer<std::uint64_t>(value, "id");
    event.type = text(value, "type");
    event.time_unix_ms = integer<std::int64_t>(value, "time_unix_ms");
    event.run = text(value, "run");
    event.vm = text(value, "vm");
    event.message = text(value, "message");
    event.level = text(value, "level");
    const auto read_part = [&value](const char* key, auto from_json, auto& into) {
        if (const json& part = member(value, key); part.is_object()) {
            into = from_json(part);
        }
    };
    read_part("vm_state", vm_from_json, event.vm_state);
    read_part("run_summary", summary_from_json, event.of_run);
    if (const json& stage = member(value, "stage"); stage.is_object()) {
        event.stage = run_from_json({{"stage", stage}}).stage;
    }
    read_part("upgrade", run_vm_from_json, event.upgrade);
    read_part("hold", hold_from_json, event.hold);
    read_part("missed", missed_from_json, event.missed);
    read_part("version", version_from_json, event.version);
    return event;
}

RunSummaryView make_summary(const RunView& run) {
    RunSummaryView summary;
    summary.vm_count = run.vms.size();
    for (const RunVmView& vm : run.vms) {
        if (!vm.outcome.empty()) {
            ++summary.outcomes[vm.outcome];
        }
    }
    summary.run.id = run.id;
    summary.run.kind = run.kind;
    summary.run.state = run.state;
    summary.run.to = run.to;
    summary.run.parallel = run.parallel;
    summary.run.dry_run = run.dry_run;
    summary.run.started_unix_ms = run.started_unix_ms;
    summary.run.finished_unix_ms = run.finished_unix_ms;
    summary.run.by_uid = run.by_uid;
    summary.run.stopped_by = run.stopped_by;
    summary.run.stop_reason = run.stop_reason;
    summary.run.stage = run.stage;
    return summary;
}

EventView make_vm_event(EventType type, const VmView& vm) {
    EventView event;
    event.type = std::string(to_string(type));
    event.vm = vm.name;
    event.message = describe(type, vm);
    event.vm_state = vm;
    return event;
}

EventView make_run_event(EventType type, const RunView& run) {
    EventView event;
    event.type = std::string(to_string(type));
    event.run = run.id;
    event.of_run = make_summary(run);
    event.message = describe(type, *event.of_run);
    if (type == EventType::run_stage) {
        event.stage = run.stage;
    }
    return event;
}

EventView make_upgrade_event(const std::string& run, const RunVmView& vm) {
    const bool has_ended = !vm.outcome.empty();
    EventView event;
    event.type =
        std::string(to_string(has_ended ? EventType::upgrade_ended : EventType::upgrade_phase));
    event.run = run;
    event.vm = vm.vm;
    event.message = "VM " + vm.vm + (has_ended ? " ends " + vm.outcome : " enters " + vm.phase) +
                    (vm.code.empty() ? "" : " (" + vm.code + ")") +
                    (vm.message.empty() ? "" : ": " + vm.message);
    event.upgrade = vm;
    if (!has_ended) {
        event.upgrade->steps.clear();
        event.upgrade->blockers.clear();
    }
    return event;
}

EventView make_hold_event(EventType type, const HoldView& hold) {
    EventView event;
    event.type = std::string(to_string(type));
    event.vm = hold.vm;
    event.message =
        "VM " + hold.vm +
        (type == EventType::hold_set ? " is held: " + hold.reason : " is not held any more");
    event.hold = hold;
    return event;
}

std::string format_sse(const EventView& event) {
    // why: format_json() gives one line, and a type is a word, so nothing can end its own frame.
    const EventType type = parse_event_type(event.type).value_or(EventType::log);
    return "id: " + std::to_string(event.id) + "\nevent: " + std::string(to_string(type)) +
           "\ndata: " + format_json(to_json(event)) + "\n\n";
}

} // namespace qhup::daemon
