// SPDX-License-Identifier: GPL-2.0-or-later
//
// What the engine shall keep to, from what the operator has set. Pure.
#pragma once

#include "daemon/config.hpp"
#include "upgrade-engine/runner.hpp"
#include "upgrade-engine/scheduler.hpp"

#include <cstdint>

namespace qhup::daemon {

/// The same for each VM; a run and the policy of a VM change it afterwards.
upgrade::RunnerConfig make_runner_config(const Config& config);

/// How many guests may be paused at once, and how many standbys may start beside them: a start
/// takes a processor, and guests that wait for one are paused for longer. Two may start in any
/// case, so that one that hangs holds nobody up.
/// @param cores  of the host; zero: unknown
upgrade::SchedulerLimits make_scheduler_limits(const Config& config, std::uint32_t cores) noexcept;

} // namespace qhup::daemon
