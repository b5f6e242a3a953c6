// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/engine_config.hpp"

#include <algorithm>

namespace qhup::daemon {

upgrade::RunnerConfig make_runner_config(const Config& config) {
    upgrade::RunnerConfig runner;
    runner.deadlines[upgrade::Phase::prepare] = config.deadlines.prepare;
    runner.watch_window = config.deadlines.verify;
    runner.lease = config.leases.prepared;
    runner.switch_limits.drain_deadline = config.deadlines.drain;
    runner.switch_limits.budget = config.deadlines.pause_budget;
    runner.switch_limits.frozen_lease = config.leases.frozen;
    runner.trusted_supervisors = config.trusted_supervisors;
    return runner;
}

upgrade::SchedulerLimits make_scheduler_limits(const Config& config, std::uint32_t cores) noexcept {
    constexpr std::uint32_t kStarts = 2;
    const std::uint32_t pauses = pause_slots_for(config, cores);
    const std::uint32_t starts = cores > pauses ? std::max(cores - pauses, kStarts) : kStarts;
    return {.prepare_slots = std::min(config.parallel, starts), .pause_slots = pauses};
}

} // namespace qhup::daemon
