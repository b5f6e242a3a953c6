// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/queued_sink.hpp"

#include "common/log.hpp"

#include <poll.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include <cerrno>
#include <condition_variable>
#include <cstdlib>
#include <deque>
#include <system_error>
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

/// sd_journal_sendv(3).
bool hand_to_journald(const QueuedMessage& message) {
    const std::vector<std::string> fields = to_journald_fields(message);
    std::vector<iovec> parts;
    for (const std::string& field : fields) {
        parts.push_back({const_cast<char*>(field.data()), field.size()});
    }
    return ::sd_journal_sendv(parts.data(), static_cast<int>(parts.size())) == 0;
}

bool write_to_stderr(const QueuedMessage& message) {
    std::string_view left = message.line;
    while (!left.empty()) {
        const ssize_t count = ::write(STDERR_FILENO, left.data(), left.size());
        if (count < 0 && errno == EINTR) {
            continue;
        }
        if (count < 0 && errno == EAGAIN) {
            pollfd out{.fd = STDERR_FILENO, .events = POLLOUT, .revents = 0};
            (void)::poll(&out, 1, -1);
            continue;
        }
        if (count <= 0) {
            return false;
        }
        left.remove_prefix(static_cast<std::size_t>(count));
    }
    return true;
}

/// Whether our standard error is a stream of journald's, as JOURNAL_STREAM says.
bool is_logged_by_journald() {
    const char* stream = std::getenv("JOURNAL_STREAM");
    struct stat facts {};
    return stream != nullptr && ::fstat(STDERR_FILENO, &facts) == 0 &&
           std::to_string(facts.st_dev) + ":" + std::to_string(facts.st_ino) == stream;
}

QueuedMessage make_loss(std::uint64_t lost) {
    const std::string count = std::to_string(lost);
    std::string text = count + " messages were lost: the log did not take them in time";
    return {
        .priority = priority_of(spdlog::level::warn),
        .text = text,
        .line = text + "\n",
        .fields = {{"QHUPD_LOST", count}},
    };
}

} // namespace

/// Shared with the thread, which may outlive the sink when journald does not answer.
struct QueuedSink::Queue {
    Queue(LogSender sender, std::size_t most) : send(std::move(sender)), capacity(most) {}

    void put(QueuedMessage message) {
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
            const QueuedMessage message = std::move(waiting.front());
            waiting.pop_front();
            const std::uint64_t lost_before = std::exchange(lost, 0);
            is_sending = true;
            lock.unlock();
            const bool is_taken = send(message);
            const bool is_told = is_taken && (lost_before == 0 || send(make_loss(lost_before)));
            lock.lock();
            lost += (is_taken ? 0U : 1U) + (is_told ? 0U : lost_before);
            is_sending = false;
            changed.notify_all();
        }
    }

    const LogSender send;
    const std::size_t capacity;
    std::mutex mutex;
    std::condition_variable changed;
    std::deque<QueuedMessage> waiting;
    std::uint64_t lost = 0;
    bool is_sending = false;
    bool is_over = false;
};

QueuedSink::QueuedSink(LogSender send, std::size_t capacity)
    : queue_(std::make_shared<Queue>(std::move(send), capacity)) {
    std::thread([queue = queue_] { queue->run(); }).detach();
}

QueuedSink::~QueuedSink() {
    drain(kLastPatience);
    {
        const std::lock_guard lock(queue_->mutex);
        queue_->is_over = true;
    }
    queue_->changed.notify_all();
}

bool QueuedSink::drain(std::chrono::milliseconds patience) {
    std::unique_lock lock(queue_->mutex);
    return queue_->changed.wait_for(lock, patience, [this] {
        return queue_->waiting.empty() && !queue_->is_sending;
    });
}

void QueuedSink::sink_it_(const spdlog::details::log_msg& message) {
    spdlog::memory_buf_t line;
    formatter_->format(message, line);
    queue_->put(
        {.priority = priority_of(message.level),
         .text = std::string(message.payload.data(), message.payload.size()),
         .line = std::string(line.data(), line.size()),
         .fields = LogFields::current()}
    );
}

std::vector<std::string> to_journald_fields(const QueuedMessage& message) {
    std::vector<std::string> fields = {
        "PRIORITY=" + std::to_string(message.priority),
        "SYSLOG_IDENTIFIER=qhupd",
        "MESSAGE=" + message.text,
    };
    for (const LogField& field : message.fields) {
        fields.push_back(field.name + "=" + field.value);
    }
    return fields;
}

void queue_log() {
    try {
        auto send = is_logged_by_journald() ? hand_to_journald : write_to_stderr;
        auto sink = std::make_shared<QueuedSink>(std::move(send));
        log().sinks() = {std::move(sink)};
        log().set_formatter(make_log_formatter());
    } catch (const std::system_error& error) {
        log().warn("the log may wait for who reads it: {}", error.what());
    }
}

} // namespace qhup::daemon
