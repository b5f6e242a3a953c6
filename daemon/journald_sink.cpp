// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/journald_sink.hpp"

#include "common/log.hpp"
#include "common/log_fields.hpp"

#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include <condition_variable>
#include <cstdlib>
#include <deque>
#include <thread>
#include <utility>

// why: the macros of the header would put our source lines where the message came from.
#define SD_JOURNAL_SUPPRESS_LOCATION
#include <systemd/sd-journal.h>

namespace qhup::daemon {
namespace {

constexpr std::chrono::seconds kLastPatience{1};

/// Of syslog(3).
int priority_of(spdlog::level::level_enum level) {
    switch (level) {
    case spdlog::level::critical: return 2;
    case spdlog::level::err: return 3;
    case spdlog::level::warn: return 4;
    case spdlog::level::info: return 6;
    default: return 7;
    }
}

std::vector<std::string> make_message(int priority, std::string_view text) {
    return {
        "PRIORITY=" + std::to_string(priority),
        "SYSLOG_IDENTIFIER=qhupd",
        "MESSAGE=" + std::string(text),
    };
}

} // namespace

/// Shared with the thread, which may outlive the sink when journald does not answer.
struct JournaldSink::Queue {
    Queue(JournaldSender sender, std::size_t most) : send(std::move(sender)), capacity(most) {}

    void put(std::vector<std::string> message) {
        {
            const std::lock_guard lock(mutex);
            if (waiting.size() >= capacity) {
                ++lost;
                return;
            }
            waiting.push_back(std::move(message));
        }
        changed.notify_all();
    }

    void run() {
        std::unique_lock lock(mutex);
        for (;;) {
            changed.wait(lock, [this] { return is_over || !waiting.empty(); });
            if (waiting.empty()) {
                return;
            }
            std::vector<std::string> message = std::move(waiting.front());
            waiting.pop_front();
            const std::uint64_t lost_before = std::exchange(lost, 0);
            is_sending = true;
            lock.unlock();
            bool is_taken = send(message);
            if (lost_before != 0) {
                const std::string count = std::to_string(lost_before);
                auto words = make_message(4, count + " messages were lost: the log was too slow");
                words.push_back("QHUPD_LOST=" + count);
                is_taken = send(words) && is_taken;
            }
            lock.lock();
            lost += is_taken ? 0U : 1U;
            is_sending = false;
            changed.notify_all();
        }
    }

    const JournaldSender send;
    const std::size_t capacity;
    std::mutex mutex;
    std::condition_variable changed;
    std::deque<std::vector<std::string>> waiting;
    std::uint64_t lost = 0;
    bool is_sending = false;
    bool is_over = false;
};

JournaldSink::JournaldSink(JournaldSender send, std::size_t capacity)
    : queue_(std::make_shared<Queue>(std::move(send), capacity)) {
    std::thread([queue = queue_] { queue->run(); }).detach();
}

JournaldSink::~JournaldSink() {
    drain(kLastPatience);
    {
        const std::lock_guard lock(queue_->mutex);
        queue_->is_over = true;
    }
    queue_->changed.notify_all();
}

bool JournaldSink::drain(std::chrono::milliseconds patience) {
    std::unique_lock lock(queue_->mutex);
    return queue_->changed.wait_for(lock, patience, [this] {
        return queue_->waiting.empty() && !queue_->is_sending;
    });
}

void JournaldSink::sink_it_(const spdlog::details::log_msg& message) {
    auto fields = make_message(
        priority_of(message.level), std::string_view(message.payload.data(), message.payload.size())
    );
    for (const LogField& field : LogFields::current()) {
        fields.push_back(field.name + "=" + field.value);
    }
    queue_->put(std::move(fields));
}

bool hand_to_journald(const std::vector<std::string>& fields) {
    std::vector<iovec> parts;
    for (const std::string& field : fields) {
        parts.push_back({const_cast<char*>(field.data()), field.size()});
    }
    return ::sd_journal_sendv(parts.data(), static_cast<int>(parts.size())) == 0;
}

bool is_logged_by_journald() {
    const char* stream = std::getenv("JOURNAL_STREAM");
    struct stat facts {};
    return stream != nullptr && ::fstat(STDERR_FILENO, &facts) == 0 &&
           std::to_string(facts.st_dev) + ":" + std::to_string(facts.st_ino) == stream;
}

void log_to_journald() {
    log().sinks() = {std::make_shared<JournaldSink>(hand_to_journald)};
}

} // namespace qhup::daemon
