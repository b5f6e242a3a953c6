// SPDX-License-Identifier: GPL-2.0-or-later
//
// Where the log goes under systemd: into journald, with fields, through a bounded queue and a
// thread of its own. Whoever logs never waits: what the queue has no room for is counted, and the
// number is logged when there is room again.
#pragma once

#include <spdlog/sinks/base_sink.h>

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

namespace qhup::daemon {

/// One message as journald takes it: "NAME=value" each. @return whether it was taken
using JournaldSender = std::function<bool(const std::vector<std::string>&)>;

class JournaldSink final : public spdlog::sinks::base_sink<std::mutex> {
public:
    /// @param send      called by the sink's thread alone; may block
    /// @param capacity  messages that wait, at most
    explicit JournaldSink(JournaldSender send, std::size_t capacity = 4096);
    /// Waits a second at most for what is left.
    ~JournaldSink() override;
    JournaldSink(const JournaldSink&) = delete;
    JournaldSink& operator=(const JournaldSink&) = delete;

    /// Waits until all is sent, or the patience is over.
    /// @return  whether all was sent
    bool drain(std::chrono::milliseconds patience);

private:
    struct Queue;
    void sink_it_(const spdlog::details::log_msg& message) override;
    void flush_() override {}

    std::shared_ptr<Queue> queue_;
};

/// sd_journal_sendv(3).
bool hand_to_journald(const std::vector<std::string>& fields);

/// Whether our standard error is a stream of journald's, as JOURNAL_STREAM says.
bool is_logged_by_journald();

/// From now on the log goes to journald. Call when the process is alone in its main thread.
void log_to_journald();

} // namespace qhup::daemon
