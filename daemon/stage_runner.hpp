// SPDX-License-Identifier: GPL-2.0-or-later
//
// Leads a run from stage to stage: waits for its VMs, soaks, and ends it where run_stages says that
// it must not go on.
#pragma once

#include "daemon/hold_store.hpp"
#include "daemon/kept_binaries.hpp"
#include "daemon/run.hpp"
#include "daemon/run_book.hpp"
#include "daemon/vm_upgrades.hpp"

#include <cstdint>
#include <optional>
#include <string>

namespace qhup::daemon {

/// Thread: all members on the home strand.
class StageRunner {
public:
    StageRunner(
        RunServices services,
        RunBook& book,
        const HoldStore& holds,
        const KeptBinaries& kept,
        VmUpgrades& upgrades
    )
        : services_(std::move(services)),
          book_(book),
          holds_(holds),
          kept_(kept),
          upgrades_(upgrades) {}

    /// Which VM is of which stage, as far as it is known now.
    void plan_run(Run& run) const;

    /// Goes on from stage to stage. Those VMs of the present one that shall be begun have been.
    /// Cancellation: ends a soak; the next daemon goes on with it
    [[nodiscard]] awaitable<void> run_stages(RunPtr run);

    /// The same for a run whose daemon was stopped, or died, in a soak.
    [[nodiscard]] awaitable<void> resume_stages(RunPtr run);

    /// No stage is begun any more.
    void request_stop() noexcept { is_stopping_ = true; }

private:
    void look_again(Run& run, std::uint32_t stage) const;
    void set_stage(const RunPtr& run, StageView stage);
    [[nodiscard]] awaitable<bool> soak(RunPtr run);
    [[nodiscard]] awaitable<std::optional<std::string>> look_at_soaking(RunPtr run);
    [[nodiscard]] awaitable<void> end_unbegun(RunPtr run);

    RunServices services_;
    RunBook& book_;
    const HoldStore& holds_;
    const KeptBinaries& kept_;
    VmUpgrades& upgrades_;
    bool is_stopping_ = false;
};

} // namespace qhup::daemon
