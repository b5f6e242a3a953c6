// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/event_hub.hpp"

#include "common/log.hpp"
#include "common/unique_fd.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <chrono>
#include <cstdio>
#include <fstream>
#include <utility>

namespace qhup::daemon {
namespace {

constexpr std::uint64_t kReserve = 1'000'000; // ids that one write of the mark allows
constexpr std::uint64_t kSpare = 100'000;     // when so few are left, it is written again

std::uint64_t unix_us_now() {
    const auto now = std::chrono::system_clock::now().time_since_epoch();
    return static_cast<std::uint64_t>(
        std::chrono::duration_cast<std::chrono::microseconds>(now).count()
    );
}

/// 0 if there is none, or it cannot be read: the clock will do then.
std::uint64_t load_mark(const std::string& path) {
    std::ifstream file(path);
    std::string text;
    std::getline(file, text);
    std::uint64_t mark = 0;
    const auto parsed = std::from_chars(text.data(), text.data() + text.size(), mark);
    return parsed.ec == std::errc{} ? mark : 0;
}

Result<void> store_mark(const std::string& path, std::uint64_t mark) {
    const std::string fresh = path + ".new";
    const std::string text = std::to_string(mark) + "\n";
    const UniqueFd file(::open(fresh.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
    const bool is_written =
        file.get() >= 0 && ::write(file.get(), text.data(), text.size()) == ssize_t(text.size()) &&
        ::fdatasync(file.get()) == 0 && ::rename(fresh.c_str(), path.c_str()) == 0;
    if (!is_written) {
        return make_system_failure(errno, "writing " + path);
    }
    return {};
}

} // namespace

EventHub::EventHub(
    Strand home,
    asio::thread_pool& disk,
    TaskGroup& tasks,
    std::string mark_path,
    EventBounds bounds
)
    : home_(std::move(home)),
      disk_(disk),
      tasks_(tasks),
      mark_path_(std::move(mark_path)),
      bounds_(bounds),
      log_(first_event_id(0, unix_us_now()), bounds) {}

awaitable<void> EventHub::open() {
    auto load = [path = mark_path_] { return load_mark(path); };
    const std::uint64_t mark = co_await blocking(disk_, std::move(load));
    log_ = EventLog(first_event_id(mark, unix_us_now()), bounds_);
    co_await reserve();
}

awaitable<void> EventHub::reserve() {
    is_reserving_ = true;
    const std::uint64_t mark = log_.next_id() + kReserve;
    auto store = [path = mark_path_, mark] { return store_mark(path, mark); };
    const Result<void> stored = co_await blocking(disk_, std::move(store));
    if (stored.has_error()) {
        // why: ids go back then only if the clock does, too.
        log_failure("remembering the ids of events", stored.error());
    }
    reserved_ = mark;
    is_reserving_ = false;
}

void EventHub::publish(EventView event) {
    const auto now = std::chrono::system_clock::now().time_since_epoch();
    event.id = log_.next_id();
    event.time_unix_ms = std::chrono::duration_cast<std::chrono::milliseconds>(now).count();
    log_.add({.type = event.type, .run = event.run, .vm = event.vm, .text = format_sse(event)});
    if (observer_) {
        observer_(event);
    }
    for (const auto& follower : std::exchange(waiting_, {})) {
        follower->notify();
    }
    if (!is_reserving_ && log_.next_id() + kSpare > reserved_) {
        is_reserving_ = true;
        tasks_.spawn("ids of events", reserve());
    }
}

awaitable<EventLog::Reading>
EventHub::next(std::uint64_t after, EventFilter filter, Deadline deadline) {
    EventLog::Reading reading = log_.read(after, filter);
    const auto changed = std::make_shared<Notifier>(home_);
    bool is_over = false;
    while (reading.text.empty() && !reading.gap && !is_over) {
        if (reading.is_at_end) {
            waiting_.push_back(changed);
            const Result<void> waited = co_await changed->wait(deadline);
            waiting_.erase(std::remove(waiting_.begin(), waiting_.end(), changed), waiting_.end());
            is_over = waited.has_error();
        }
        reading = log_.read(reading.last, filter);
    }
    co_return reading;
}

} // namespace qhup::daemon
