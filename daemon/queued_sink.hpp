// SPDX-License-Identifier: GPL-2.0-or-later
//
// Where the log goes while qhupd serves: into journald, with fields, or to standard error; through
// a bounded queue and a thread of its own. Whoever logs never waits: what the queue has no room for
// is counted, and the number is logged when there is room again.
#pragma once

#include "common/log_fields.hpp"

#include <spdlog/sinks/base_sink.h>

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

namespace qhup::daemon {

struct QueuedMessage {
    int priority = 6; ///< of syslog(3)
    std::string text; ///< of the message alone
    std::string line; ///< as the log's pattern has it, with its end
    std::vector<LogField> fields;
};

/// @return whether it was taken
using LogSender = std::function<bool(const QueuedMessage&)>;

class QueuedSink final : public spdlog::sinks::base_sink<std::mutex> {
public:
    /// @param send      called by the sink's thread alone; may block
    /// @param capacity  messages that wait, at most
    /// Throws std::system_error if there is no thread for it.
    explicit QueuedSink(LogSender send, std::size_t capacity = 4096);
    /// Waits a second at most for what is left.
    ~QueuedSink() override;
    QueuedSink(const QueuedSink&) = delete;
    QueuedSink& operator=(const QueuedSink&) = delete;

    /// Waits until all is sent, or the patience is over.
    /// @return  whether all was sent
    bool drain(std::chrono::milliseconds patience);

private:
    struct Queue;
    void sink_it_(const spdlog::details::log_msg& message) override;
    void flush_() override {}

    std::shared_ptr<Queue> queue_;
};

/// "NAME=value" each, as journald takes them.
[[nodiscard]] std::vector<std::string> to_journald_fields(const QueuedMessage& message);

/// From now on the log waits for nobody: it goes to journald if our standard error is a stream of
/// journald's, as JOURNAL_STREAM says, else to standard error. Call when the process is alone in
/// its main thread. Where there is no thread to be had, the log stays as it was, and says so.
void queue_log();

} // namespace qhup::daemon
