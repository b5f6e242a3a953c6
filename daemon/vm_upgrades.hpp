// SPDX-License-Identifier: GPL-2.0-or-later
//
// What is done with one VM of a run, from when the run takes it until it has an outcome: its turn,
// its rehearsal, its upgrade, and the way back if its policy wants that. The engine decides about
// the VM, this says what it is asked for.
#pragma once

#include "daemon/hold_store.hpp"
#include "daemon/kept_binaries.hpp"
#include "daemon/run.hpp"
#include "daemon/run_book.hpp"
#include "daemon/vm_admission.hpp"
#include "daemon/ways_back.hpp"

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

namespace qhup::daemon {

/// Thread: all members on the home strand. Each VM's upgrade runs on the VM's strand.
class VmUpgrades {
public:
    VmUpgrades(
        RunServices services,
        RunBook& book,
        const HoldStore& holds,
        KeptBinaries& kept,
        const WaysBack& ways_back
    );

    /// The run gets its place among the others. Call before start_vms().
    void open_batch(const RunPtr& run);

    /// Begins with the VMs of this stage; 0 where the run has none.
    void start_vms(const RunPtr& run, std::uint32_t stage);

    /// What becomes of a VM after its upgrade: one that is not well on the new QEMU is taken back,
    /// if its policy says so.
    /// @param folder  of its control sockets
    /// @param view    how the upgrade ended
    /// @return  how the VM ends
    [[nodiscard]] awaitable<RunVmView>
    settle(RunPtr run, std::size_t index, VmHandle vm, std::string folder, RunVmView view);

private:
    /// One VM of a run, and where it goes.
    struct Move {
        RunPtr run;
        std::size_t index = 0; ///< of the VM in the run
        VmHandle vm;
        ReleaseShelf::Picked picked; ///< the binary that it gets
        std::string folder;          ///< of its control sockets
    };

    std::optional<RunVmView> take_vm(const Run& run, std::size_t index, bool has_pick);
    void end_rehearsal(const RunPtr& run, std::size_t index, const RunVmView& view);
    void leave_rehearsals(const RunPtr& run, std::size_t index);
    [[nodiscard]] awaitable<upgrade::RehearsalTurn> wait_to_rehearse(RunPtr run, std::size_t index);
    [[nodiscard]] awaitable<std::optional<RunVmView>> rehearse_first(Move move);
    [[nodiscard]] awaitable<upgrade::UpgradeReport>
    run_engine(Move move, std::shared_ptr<upgrade::SlotGate::Turn> turn, upgrade::Goal goal);
    [[nodiscard]] awaitable<void> run_vm(
        RunPtr run,
        std::size_t index,
        VmHandle vm,
        ReleaseShelf::Picked picked,
        std::shared_ptr<upgrade::SlotGate::Turn> turn
    );
    [[nodiscard]] awaitable<RunVmView>
    take_back(RunPtr run, std::size_t index, VmHandle vm, std::string folder, RunVmView unwell);
    [[nodiscard]] awaitable<std::optional<RunVmView>>
    revert_vm(RunPtr run, std::size_t index, VmHandle vm, std::string folder);
    [[nodiscard]] awaitable<void> end_stray(VmHandle vm, std::string folder);

    RunServices services_;
    RunBook& book_;
    const HoldStore& holds_;
    KeptBinaries& kept_;
    const WaysBack& ways_back_;
    VmAdmission admission_;
};

} // namespace qhup::daemon
