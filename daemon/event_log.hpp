// SPDX-License-Identifier: GPL-2.0-or-later
//
// What happened lately, for followers: a bounded ring of events with rising ids. Whoever reads has
// only a number, the last id that he has seen, so a slow reader costs nothing and delays nobody; he
// is told what the ring has forgotten before he came to it. Pure.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <optional>
#include <string>
#include <vector>

namespace qhup::daemon {

/// How much is remembered. What is older is forgotten as soon as one of these is exceeded.
struct EventBounds {
    std::size_t events = 10'000;      ///< at least one is kept
    std::size_t bytes = 16U << 20U;   ///< of their texts
    std::size_t batch = 256U * 1024U; ///< of texts that one read() gives, but for the last of them
};

/// Which events a follower wants. One that is about no run or no VM does not pass a filter by it.
struct EventFilter {
    std::vector<std::string> runs;  ///< ids; empty: of all, and those of no run
    std::vector<std::string> vms;   ///< names; empty: of all, and those of no VM
    std::vector<std::string> types; ///< empty: all
};

class EventLog {
public:
    /// One event as it goes to followers.
    struct Entry {
        std::string type; ///< docs/api.md has the list
        std::string run;  ///< that it is about; "" for none
        std::string vm;   ///< that it is about; "" for none
        std::string text; ///< what followers get
    };

    /// Events that a reader will never get.
    struct Gap {
        enum class Reason : std::uint8_t {
            slow,    ///< the ring has forgotten them
            restart, ///< a daemon before this one had them
            unknown, ///< no daemon gave such an id
        };
        std::uint64_t first = 0;            ///< id of the first one
        std::uint64_t last = 0;             ///< id of the last one
        std::optional<std::uint64_t> count; ///< of all kinds; none: nobody knows
        Reason reason = Reason::slow;
    };

    struct Reading {
        std::optional<Gap> gap; ///< comes before the texts
        std::string text;       ///< of the events that pass the filter, one after the other
        std::uint64_t last = 0; ///< id up to which the reader knows everything now
        bool is_at_end = true;  ///< there was nothing more to read
    };

    /// @param first_id  of the first event, at least 1
    explicit EventLog(std::uint64_t first_id, EventBounds bounds = {});

    /// Id of the event that is added next.
    std::uint64_t next_id() const noexcept { return oldest_ + entries_.size(); }

    /// Adds an event, whose id is next_id().
    void add(Entry entry);

    /// @param after  the reader has seen everything up to this id; 0: nothing, and wants what is
    ///               remembered
    Reading read(std::uint64_t after, const EventFilter& filter) const;

private:
    std::optional<Gap> find_gap(std::uint64_t after) const;

    EventBounds bounds_;
    std::uint64_t first_;  // that this process gave
    std::uint64_t oldest_; // that is remembered
    std::size_t bytes_ = 0;
    std::deque<Entry> entries_;
};

/// The id of the first event of a daemon that starts now, so that ids never go back: beyond what a
/// daemon before may have used, and not less than the microseconds since 1970, in case that what it
/// left is lost.
std::uint64_t first_event_id(std::uint64_t reserved, std::uint64_t unix_us) noexcept;

} // namespace qhup::daemon
