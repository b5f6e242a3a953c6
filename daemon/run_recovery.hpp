// SPDX-License-Identifier: GPL-2.0-or-later
//
// What a daemon before us left: its runs go on under their old names, pairs that no record tells of
// are adopted. upgrade-engine/recovery decides what becomes of a pair.
#pragma once

#include "daemon/control_folders.hpp"
#include "daemon/run.hpp"
#include "daemon/run_book.hpp"
#include "daemon/stage_runner.hpp"
#include "daemon/vm_upgrades.hpp"

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace qhup::daemon {

/// Thread: all members on the home strand.
class RunRecovery {
public:
    RunRecovery(RunServices services, RunBook& book, VmUpgrades& upgrades, StageRunner& stages)
        : services_(std::move(services)), book_(book), upgrades_(upgrades), stages_(stages) {}

    /// Starts to finish or undo what is unfinished. Returns as soon as every VM that is concerned
    /// is marked as busy.
    /// @param runs   of the journal, oldest first
    /// @param pairs  that were found
    [[nodiscard]] awaitable<void> start(std::vector<RunView> runs, std::vector<FoundUpgrade> pairs);

private:
    struct OrphanLooks;

    void resume_run(RunView record, std::vector<FoundUpgrade>& found);
    [[nodiscard]] awaitable<void>
    look_at_orphan(FoundUpgrade entry, std::shared_ptr<OrphanLooks> looks);
    [[nodiscard]] awaitable<void> adopt_orphans(std::vector<FoundUpgrade> found);
    [[nodiscard]] awaitable<void>
    recover_vm(RunPtr run, std::size_t index, std::optional<FoundUpgrade> found);
    [[nodiscard]] awaitable<void> count_recovery(RunPtr run, std::size_t index);
    std::uint32_t recoveries_of(const std::string& upgrade) const;
    RunVmView view_without_pair(const Run& run, std::size_t index) const;
    std::string vm_of_folder(const std::string& folder) const;

    RunServices services_;
    RunBook& book_;
    VmUpgrades& upgrades_;
    StageRunner& stages_;
};

} // namespace qhup::daemon
