// SPDX-License-Identifier: GPL-2.0-or-later
//
// What the daemon lets the engine do with one VM: each function opens a port to the VM, does one
// thing and closes it. They run on the VM's strand: await them with on_executor().
#pragma once

#include "common/async.hpp"
#include "upgrade-engine/qmp_vm_port.hpp"
#include "upgrade-engine/recovery.hpp"
#include "upgrade-engine/runner.hpp"
#include "upgrade-engine/slot_gate.hpp"

#include <chrono>
#include <memory>

namespace qhup::daemon {

/// One walk of a VM through the engine's table.
[[nodiscard]] awaitable<upgrade::UpgradeReport> upgrade_on_strand(
    Strand strand,
    upgrade::QmpVmPortConfig port_config,
    std::shared_ptr<upgrade::SlotGate::Turn> turn,
    upgrade::UpgradeRequest request,
    upgrade::UpgradeObserver observer,
    upgrade::IntentWriter write_intent
);

/// Finishes or undoes what was begun.
[[nodiscard]] awaitable<upgrade::UpgradeReport> recover_on_strand(
    Strand strand,
    upgrade::QmpVmPortConfig port_config,
    upgrade::RecoveryRequest request,
    upgrade::UpgradeObserver observer
);

/// What a control folder shows at a first look.
struct FirstLook {
    upgrade::Action action = upgrade::Action::nothing_to_do;
    bool is_of_this_upgrade = true; ///< false: a side is busy with a later upgrade
};

/// Changes nothing.
/// @param patience  for each of the two sides
[[nodiscard]] awaitable<FirstLook>
look_on_strand(Strand strand, upgrade::QmpVmPortConfig config, std::chrono::milliseconds patience);

/// What the engine says about an upgrade that is not tried.
struct Judged {
    Result<upgrade::Verdict> verdict;
};

/// Changes nothing.
[[nodiscard]] awaitable<Judged>
check_on_strand(Strand strand, upgrade::QmpVmPortConfig config, upgrade::UpgradeRequest request);

} // namespace qhup::daemon
