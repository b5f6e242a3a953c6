// SPDX-License-Identifier: GPL-2.0-or-later
//
// Time for a program that must not wait: the steady clock stands still while anything computes, and
// when nothing can go on but time, the world of the simulation says how far it goes. The engine is
// the one of production, with its own timers: what it asks of libc is answered here.
// At most one io_context may run at once, on one thread.
#pragma once

#include <chrono>

namespace qhup::sim {

using Time = std::chrono::nanoseconds; ///< since the run began

/// The virtual time now.
[[nodiscard]] Time now() noexcept;

/// Moves the clock. It never goes back within a run.
void set_now(Time time) noexcept;

/// Called when every coroutine waits. May move the clock up to `until`, and may make coroutines go
/// on; returns when either has been done.
class Idler {
public:
    Idler() = default;
    Idler(const Idler&) = delete;
    Idler& operator=(const Idler&) = delete;
    virtual void on_idle(Time until) = 0;

protected:
    ~Idler() = default;
};

/// From now on that one is called; null: time goes on at once.
void set_idler(Idler* idler) noexcept;

} // namespace qhup::sim
