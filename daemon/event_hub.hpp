// SPDX-License-Identifier: GPL-2.0-or-later
//
// Tells followers what happens: gives each event its id and time, keeps the last ones, and wakes
// who waits. Nobody who tells waits for anybody who reads.
#pragma once

#include "common/async.hpp"
#include "common/task_group.hpp"
#include "daemon/api_types_events.hpp"
#include "daemon/event_log.hpp"

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace qhup::daemon {

/// Thread: all members on the daemon's home strand.
class EventHub {
public:
    /// @param mark_path  file that remembers which ids may have been given; it is made if missing
    EventHub(
        Strand home,
        asio::thread_pool& disk,
        TaskGroup& tasks,
        std::string mark_path,
        EventBounds bounds = {}
    );
    EventHub(const EventHub&) = delete;
    EventHub& operator=(const EventHub&) = delete;

    /// Takes ids that no daemon before us gave. Call once, before anything is told.
    [[nodiscard]] awaitable<void> open();

    /// Tells an event; its id and time are filled in.
    void publish(EventView event);

    /// Called with each event, before anybody else gets it. It must not tell events.
    void set_observer(std::function<void(const EventView&)> observer) {
        observer_ = std::move(observer);
    }

    /// Id of the last event that was told.
    std::uint64_t last_id() const noexcept { return log_.next_id() - 1; }

    /// What comes after this id, once there is something that passes the filter, or something was
    /// missed; nothing at the deadline. `last` of what it gives is where to go on.
    ///
    /// Cancellation: ends the wait
    [[nodiscard]] awaitable<EventLog::Reading>
    next(std::uint64_t after, EventFilter filter, Deadline deadline);

private:
    [[nodiscard]] awaitable<void> reserve();

    std::function<void(const EventView&)> observer_;
    Strand home_;
    asio::thread_pool& disk_;
    TaskGroup& tasks_;
    std::string mark_path_;
    EventBounds bounds_;
    EventLog log_;
    std::uint64_t reserved_ = 0; // ids below it may be given
    bool is_reserving_ = false;
    std::vector<std::shared_ptr<Notifier>> waiting_;
};

} // namespace qhup::daemon
