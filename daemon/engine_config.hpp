// SPDX-License-Identifier: GPL-2.0-or-later
//
// What the engine shall keep to, from what the operator has set. Pure.
#pragma once

#include "daemon/config.hpp"
#include "upgrade-engine/runner.hpp"

namespace qhup::daemon {

/// The same for each VM; a run and the policy of a VM change it afterwards.
upgrade::RunnerConfig make_runner_config(const Config& config);

} // namespace qhup::daemon
