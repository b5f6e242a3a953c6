// SPDX-License-Identifier: GPL-2.0-or-later
//
// The stages of a run: canaries first, then batches, and after each a soak in which its VMs are
// looked at. Decides which VM is of which stage, and what ends a run between two of them. Pure.
#pragma once

#include "daemon/api_types.hpp"

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace qhup::daemon {

/// How a run is divided.
struct StageSizes {
    std::uint32_t canaries = 0; ///< VMs of the first stage; 0: there are none
    std::uint32_t batch = 0;    ///< VMs of each later stage; 0: one for all that are left
};

/// What decides whether a VM can be a canary.
struct StageCandidate {
    std::string kind;             ///< of machine and way; "" is a kind too
    bool can_be_upgraded = false; ///< as far as it is known before it is tried
};

/// The stage of each VM, from 1, in the order of the candidates.
///
/// Canaries are the first of the order that can be upgraded, one of each kind before a second one
/// of any. Without canaries, and without any VM that can be one, the first batch is stage 1.
/// All are 0 if everything is one stage: then there is nothing to wait for.
std::vector<std::uint32_t> plan_stages(const std::vector<StageCandidate>& order, StageSizes sizes);

/// Number of the last stage; 0 if the run has none.
std::uint32_t last_stage(const RunView& run) noexcept;

/// The stage with that number, as it begins.
StageView make_stage(const RunView& run, std::uint32_t number, bool has_canaries);

/// Every VM of the stage has an outcome.
bool is_stage_over(const RunView& run, std::uint32_t stage) noexcept;

/// Why no further VM must be begun after the canaries, as a sentence without its full stop; none if
/// each of them is on the release now.
std::optional<std::string> find_bad_canary(const RunView& run);

/// The VMs of the stage that were upgraded, by index: those that a soak looks at.
std::vector<std::size_t> soaking_vms(const RunView& run, std::uint32_t stage);

/// Why a VM is not well in the soak, as a sentence without its full stop; none if it is.
///
/// @param now  as it was when it was asked last; none: it is not there
std::optional<std::string> find_unwell(const RunVmView& upgraded, const std::optional<VmView>& now);

} // namespace qhup::daemon
