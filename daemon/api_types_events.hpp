// SPDX-License-Identifier: GPL-2.0-or-later
//
// The events of GET /v1/events as values, and the mapping from and to JSON. Pure.
// The daemon writes them and qhupd-ctl reads them; docs/api.md explains them.
#pragma once

#include "daemon/api_types.hpp"

#include <nlohmann/json_fwd.hpp>

#include <array>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>

namespace qhup::daemon {

enum class EventType : std::uint8_t {
    hello,           ///< the first one of each stream, made for it
    missed,          ///< events that this follower will not get, made for him
    daemon_ready,    ///< the daemon serves, and has begun to finish what one before it left
    daemon_stopping, ///< nothing new is begun
    vm_found,        ///< a VM is known from here on
    vm_changed,      ///< what is known of a VM is not what it was
    vm_gone,         ///< a VM is not there any more
    run_started,     ///< a run is in the journal
    run_resumed,     ///< a run that a daemon before this one began goes on
    run_stage,       ///< a run has come to its next stage, or soak
    run_stopping,    ///< a run begins no further VM
    run_finished,    ///< a run has ended
    upgrade_phase,   ///< a VM of a run has entered a phase
    upgrade_ended,   ///< a VM of a run has its outcome
    hold_set,        ///< a VM is held
    hold_removed,    ///< a VM is not held any more
    log,             ///< something that an operator should read
};

inline constexpr std::array kAllEventTypes{
    EventType::hello,
    EventType::missed,
    EventType::daemon_ready,
    EventType::vm_found,
    EventType::vm_changed,
    EventType::vm_gone,
    EventType::run_started,
    EventType::run_resumed,
    EventType::run_stage,
    EventType::run_stopping,
    EventType::run_finished,
    EventType::upgrade_phase,
    EventType::upgrade_ended,
    EventType::hold_set,
    EventType::hold_removed,
    EventType::log,
    EventType::daemon_stopping};

/// The stable word of the type.
std::string_view to_string(EventType type) noexcept;
std::optional<EventType> parse_event_type(std::string_view word) noexcept;

/// A run without what is long about it.
struct RunSummaryView {
    RunView run;                                   ///< without `vms` and `request`
    std::uint64_t vm_count = 0;                    ///< how many VMs it is about
    std::map<std::string, std::uint32_t> outcomes; ///< how many VMs ended so
};

/// Events that a follower did not get.
struct MissedView {
    std::uint64_t first = 0;            ///< id of the first one
    std::uint64_t last = 0;             ///< id of the last one
    std::optional<std::uint64_t> count; ///< of all kinds; none: nobody knows
    std::string reason;                 ///< "slow", "restart" or "unknown"
};

/// One event. Which of the optional members there are depends on the type.
struct EventView {
    std::uint64_t id = 0;                 ///< rises, across restarts too
    std::string type;                     ///< word of EventType; a newer daemon may have more
    std::int64_t time_unix_ms = 0;        ///< wall clock
    std::string run;                      ///< that it is about; "" for none
    std::string vm;                       ///< that it is about; "" for none
    std::string message;                  ///< one line for people
    std::optional<VmView> vm_state;       ///< vm_*: what is known now, or was at last
    std::optional<RunSummaryView> of_run; ///< "run_summary": run_*
    std::optional<StageView> stage;       ///< run_stage
    std::optional<RunVmView> upgrade;     ///< upgrade_*; in a phase without steps and blockers
    std::optional<HoldView> hold;         ///< hold_*
    std::optional<MissedView> missed;     ///< missed
    std::string level;                    ///< log: "warning", "error" or "critical"
    std::optional<VersionView> version;   ///< hello
};

nlohmann::json to_json(const EventView& value);

/// What a daemon said; missing members keep their default.
EventView event_from_json(const nlohmann::json& value);

/// The run as a summary.
RunSummaryView make_summary(const RunView& run);

/// The events that the daemon tells; the hub adds id and time.
EventView make_vm_event(EventType type, const VmView& vm);
EventView make_run_event(EventType type, const RunView& run);
/// upgrade_ended if it has its outcome, else upgrade_phase.
EventView make_upgrade_event(const std::string& run, const RunVmView& vm);
EventView make_hold_event(EventType type, const HoldView& hold);

/// One event as text/event-stream: id, type and the JSON.
std::string format_sse(const EventView& event);

} // namespace qhup::daemon
