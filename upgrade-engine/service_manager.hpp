// SPDX-License-Identifier: GPL-2.0-or-later
//
// Asks systemd about a unit, over its private socket or the system bus.
#pragma once

#include "upgrade-engine/supervisor.hpp"

#include <optional>
#include <string>

namespace qhup::upgrade {

/// Whether systemd is the service manager of this host.
[[nodiscard]] bool has_systemd();

/// What systemd says about a service; nothing if it does not answer.
///
/// Blocking: up to a quarter of a second for each of a few questions, when systemd is busy
[[nodiscard]] std::optional<UnitFacts> observe_unit(const std::string& unit);

} // namespace qhup::upgrade
