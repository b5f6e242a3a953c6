// SPDX-License-Identifier: GPL-2.0-or-later
//
// TaskGroup starts root coroutines: counted, cancellable, joined, exceptions logged. Nothing else
// in the project starts one.
#pragma once

#include "common/async.hpp"

#include <cstddef>
#include <functional>
#include <memory>
#include <string>

namespace qhup {

/// Starts coroutines and makes sure that they end before their owner does.
///
/// An exception that leaves a root coroutine is a bug. It is logged as critical and the process
/// stops, since a bug must not half-run an upgrade; recovery takes over after the restart.
///
/// Thread: public members on the group's executor only (or before it runs).
class TaskGroup {
public:
    /// Told about an exception, with the coroutine's name; the default logs and aborts.
    using OnBug = std::function<void(const std::string& name, const std::string& what)>;

    explicit TaskGroup(asio::any_io_executor executor, OnBug on_bug = {});
    /// Does not touch what still runs: stop and join first. A coroutine owns what it uses.
    ~TaskGroup() = default;
    TaskGroup(const TaskGroup&) = delete;
    TaskGroup& operator=(const TaskGroup&) = delete;

    /// Starts a coroutine on the group's executor. After request_stop() it is started cancelled.
    /// Inside it throw_if_cancelled is false.
    void spawn(std::string name, awaitable<void> coroutine);
    /// The same on another executor (a VM's strand).
    void spawn(std::string name, asio::any_io_executor executor, awaitable<void> coroutine);

    /// Cancels all coroutines, those that are started later included. Asking twice does no harm.
    void request_stop();

    /// Waits until none is left. One caller at a time.
    /// Cancellation: not cancellable; what is joined has its own deadlines.
    [[nodiscard]] awaitable<void> join();

    /// Coroutines that have not ended.
    [[nodiscard]] std::size_t size() const noexcept;

private:
    struct Member;
    struct State;
    std::shared_ptr<State> state_;
};

} // namespace qhup
