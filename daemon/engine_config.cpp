// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/engine_config.hpp"

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

} // namespace qhup::daemon
