// SPDX-License-Identifier: GPL-2.0-or-later
//
// Decides whether a VM may be upgraded to a release: QEMU's own blockers and the engine's. Pure.
// Refusing a VM costs milliseconds and touches nothing.
#pragma once

#include "upgrade-engine/argv_plan.hpp"
#include "upgrade-engine/binary_facts.hpp"
#include "upgrade-engine/vm_facts.hpp"

#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace qhup::upgrade {

/// The release, as far as a blocker may depend on it.
struct ReleaseFacts {
    std::string name;     ///< of the drop-in
    QemuVersion version;  ///< of the binary; not known: nothing can be planned
    std::string build_id; ///< hex; "" if the binary has none
    /// What its binary says of itself; null: it could not be asked, and prepare will tell.
    std::shared_ptr<const BinaryFacts> binary{};
    /// What the binary says of itself that the VM runs now; null: it was not asked.
    std::shared_ptr<const BinaryFacts> source_binary{};
};

/// What preflight found.
struct Verdict {
    std::vector<Blocker> blockers; ///< all of them; QEMU's first
    std::vector<Blocker> warnings; ///< what does not stand against it, but should be known
    bool is_already_there = false; ///< the VM runs this very binary: nothing to do

    [[nodiscard]] bool may_upgrade() const noexcept {
        return blockers.empty() && !is_already_there;
    }
};

/// Judges one VM.
///
/// @param facts    what QEMU says
/// @param process  what the kernel says
/// @param release  where to
/// @param argv     the plan for the target's command line
/// @param trusted  supervisors that follow the new process although it cannot be seen
[[nodiscard]] Verdict find_blockers(
    const VmFacts& facts,
    const ProcessFacts& process,
    const ReleaseFacts& release,
    const ArgvPlan& argv,
    const std::vector<std::string>& trusted = {}
);

/// A kind of blocker of the engine, for docs/blockers.md.
struct BlockerClass {
    std::string_view name;   ///< Blocker::klass
    std::string_view remedy; ///< what to do, in general
};

/// All classes that the engine adds to those of QEMU, in order.
[[nodiscard]] std::span<const BlockerClass> blocker_classes() noexcept;

/// The one blocker of a QEMU that has no query-hot-upgrade.
[[nodiscard]] Blocker make_not_patched_blocker();

} // namespace qhup::upgrade
