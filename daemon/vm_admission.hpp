// SPDX-License-Identifier: GPL-2.0-or-later
//
// May a VM be begun now? Asked when its turn has come: holds, the window of its policy, and memory
// for a second process beside those of the others in work.
#pragma once

#include "daemon/hold_store.hpp"
#include "daemon/run.hpp"
#include "upgrade-engine/memory_ledger.hpp"

#include <memory>
#include <vector>

namespace qhup::daemon {

/// Thread: all members on the home strand.
class VmAdmission {
public:
    VmAdmission(RunServices services, const HoldStore& holds);

    /// For the engine: asks on the home strand, and may wait for memory.
    upgrade::Admission make_admission(const RunPtr& run, std::size_t index);

    /// The VM has one process again, or will not have two.
    void release_memory(const Run& run, std::size_t index);

private:
    [[nodiscard]] awaitable<Result<void>> admit(RunPtr run, std::size_t index);
    [[nodiscard]] awaitable<Result<void>>
    wait_for_memory(RunPtr run, std::size_t index, pid_t source);

    RunServices services_;
    const HoldStore& holds_;
    upgrade::MemoryLedger memory_;
    std::vector<std::shared_ptr<Notifier>> waiting_for_memory_;
};

} // namespace qhup::daemon
