// SPDX-License-Identifier: GPL-2.0-or-later
//
// One run while this process knows it: what the API shows of it, and what is needed to work on it.
// And what every part that works on runs shares.
#pragma once

#include "common/async.hpp"
#include "common/task_group.hpp"
#include "daemon/api_types.hpp"
#include "daemon/config.hpp"
#include "daemon/event_hub.hpp"
#include "daemon/probe_command.hpp"
#include "daemon/release_shelf.hpp"
#include "daemon/run_view.hpp"
#include "daemon/vm_registry.hpp"
#include "upgrade-engine/memory_ledger.hpp"
#include "upgrade-engine/rehearsal_order.hpp"
#include "upgrade-engine/runner.hpp"
#include "upgrade-engine/slot_gate.hpp"

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

namespace qhup::daemon {

/// What the parts of the daemon that work on runs share. All of it outlives them.
struct RunServices {
    asio::io_context& context;
    Strand home;             ///< where runs and registry live
    asio::thread_pool& disk; ///< for calls that block
    TaskGroup& tasks;        ///< joined before the daemon ends
    VmRegistry& registry;    ///< which VMs there are
    ReleaseShelf& shelf;     ///< what they can be upgraded to
    const Config& config;    ///< what the operator has set
    upgrade::SlotGate& gate; ///< whose turn it is
    EventHub& events;        ///< who is told of what happens
};

/// A run and those who follow it. Belongs to the home strand.
struct Run {
    RunView view;
    std::chrono::steady_clock::time_point started;
    std::vector<RunEvent> events;
    std::vector<std::shared_ptr<Notifier>> followers;
    std::vector<std::string> held; ///< VMs that this run has acquired, by index; "" if none
    std::vector<std::vector<StepView>> before; ///< steps of daemons before us, by index
    std::size_t open = 0;                      ///< VMs without an outcome
    std::optional<upgrade::BatchId> batch;     ///< none: it only finishes what was begun
    bool is_starting = false;                  ///< it is not in the journal yet, and may never be
    std::vector<VmPolicy> policies;            ///< by index; none if the run is only recovered
    std::vector<bool> untested;                ///< no selftest has passed; by index; may be empty
    std::vector<std::string> rehearse;         ///< none, first, all; by index
    upgrade::RehearsalOrder rehearsals; ///< of the VMs that are, or that wait for another one
    std::vector<std::shared_ptr<Notifier>> waiting; ///< for what becomes of a rehearsal
    /// What each VM gets, by index; empty until it is known; none: there is no way back.
    std::vector<std::optional<ReleaseShelf::Picked>> picks;
    std::shared_ptr<Notifier> stage_changed; ///< a VM ended, or the run was stopped
    upgrade::Goal goal = upgrade::Goal::upgrade;
    std::map<std::size_t, bool> is_rehearsing; ///< by index: before its upgrade, right now
    std::set<std::size_t> taken_back;          ///< by index: on its way back, as its policy says
    std::uint64_t number = 0;                  ///< of this run, in this process

    upgrade::MemoryLedger::Id memory_id(std::size_t index) const { return (number << 32U) + index; }

    /// What is done with the VM now is a rehearsal.
    bool is_rehearsal(std::size_t index) const;
    /// Before its upgrade, or another one of its kind is.
    bool is_rehearsed(std::size_t index) const;
    RunFacts facts_of(std::size_t index) const;
};
using RunPtr = std::shared_ptr<Run>;

/// What the configuration says about the next VM of the run. Without a request, as in a recovery,
/// it is not rehearsed.
/// @param labels  of the VM
void add_policy(Run& run, const std::string& vm, const VmLabels& labels, const Config& config);

/// The probe of the VM's policy; none: it has none.
std::optional<ProbeCommand> probe_of(const Run& run, std::size_t index, const Config& config);
upgrade::GuestProbe make_probe(const Run& run, std::size_t index, const Config& config);

/// The sentence of an outcome, with what QEMU said or what blocks.
std::string reason_for_log(const RunVmView& view);

} // namespace qhup::daemon
