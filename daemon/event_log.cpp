// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/event_log.hpp"

#include <algorithm>
#include <utility>

namespace qhup::daemon {
namespace {

bool is_wanted(const std::vector<std::string>& wanted, const std::string& value) {
    return wanted.empty() || std::find(wanted.begin(), wanted.end(), value) != wanted.end();
}

bool passes(const EventFilter& filter, const EventLog::Entry& entry) {
    return is_wanted(filter.runs, entry.run) && is_wanted(filter.vms, entry.vm) &&
           is_wanted(filter.types, entry.type);
}

} // namespace

EventLog::EventLog(std::uint64_t first_id, EventBounds bounds)
    : bounds_(bounds), first_(first_id), oldest_(first_id) {}

void EventLog::add(Entry entry) {
    bytes_ += entry.text.size();
    entries_.push_back(std::move(entry));
    while (entries_.size() > 1 && (entries_.size() > bounds_.events || bytes_ > bounds_.bytes)) {
        bytes_ -= entries_.front().text.size();
        entries_.pop_front();
        ++oldest_;
    }
}

std::optional<EventLog::Gap> EventLog::find_gap(std::uint64_t after) const {
    if (after >= next_id()) {
        return Gap{.first = next_id(), .last = after, .count = {}, .reason = Gap::Reason::unknown};
    }
    if (after == 0 || after + 1 >= oldest_) {
        return std::nullopt;
    }
    Gap gap{.first = after + 1, .last = oldest_ - 1, .count = {}, .reason = Gap::Reason::restart};
    if (after + 1 >= first_) {
        gap.reason = Gap::Reason::slow;
        gap.count = gap.last - after;
    }
    return gap;
}

EventLog::Reading EventLog::read(std::uint64_t after, const EventFilter& filter) const {
    Reading reading;
    reading.gap = find_gap(after);
    const bool is_unknown = reading.gap && reading.gap->reason == Gap::Reason::unknown;
    const std::uint64_t known = is_unknown ? 0 : after;
    std::size_t index = known < oldest_ ? 0 : static_cast<std::size_t>(known + 1 - oldest_);
    while (index < entries_.size() && reading.text.size() < bounds_.batch) {
        if (passes(filter, entries_[index])) {
            reading.text += entries_[index].text;
        }
        ++index;
    }
    reading.last = oldest_ + index - 1;
    reading.is_at_end = index == entries_.size();
    return reading;
}

std::uint64_t first_event_id(std::uint64_t reserved, std::uint64_t unix_us) noexcept {
    return std::max({reserved, unix_us, std::uint64_t{1}});
}

} // namespace qhup::daemon
