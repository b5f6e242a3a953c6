// SPDX-License-Identifier: GPL-2.0-or-later
//
// Finds what somebody meant who mistyped a name: a key of the configuration, a VM, a release.
// Pure. Called by config and by the API handlers.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace qhup::daemon {

/// The candidate that is closest to `given`, if it is close enough to be meant.
///
/// @return  nothing when no candidate is within a third of its length (at least one letter)
std::optional<std::string>
nearest_name(std::string_view given, const std::vector<std::string>& candidates);

/// "did you mean 'vm1'? " or an empty string; ready to stand before another sentence.
std::string did_you_mean(std::string_view given, const std::vector<std::string>& candidates);

} // namespace qhup::daemon
