// SPDX-License-Identifier: GPL-2.0-or-later
//
// What the engine asks of the two QEMU processes of one VM. Two implementations: QmpVmPort (real
// sockets) and the tests' FakeVmPort. The port carries commands and reports; it decides nothing,
// repeats nothing, and its failures already have the engine's codes.
#pragma once

#include "common/async.hpp"
#include "upgrade-engine/vm_facts.hpp"

#include <chrono>
#include <string>
#include <vector>

namespace qhup::upgrade {

/// What hot-upgrade-prepare needs.
struct PrepareRequest {
    UpgradeId upgrade;              ///< new for each attempt
    int binary_fd = -1;             ///< the checked binary; borrowed until prepare() has returned
    std::vector<std::string> argv;  ///< whole command line of the target
    std::string pidfile;            ///< pidfile that the target takes over; "" if none
    std::chrono::nanoseconds lease; ///< how long the pair stays prepared without renewal
};

/// Bounds of the pause.
struct SwitchLimits {
    std::chrono::nanoseconds drain_deadline = std::chrono::milliseconds(200); ///< for I/O to settle
    std::chrono::nanoseconds budget = std::chrono::milliseconds(300);         ///< for the pause
    std::chrono::nanoseconds frozen_lease = std::chrono::seconds(1); ///< then it rolls back
};

/// Both QEMU processes of one VM during one upgrade.
///
/// Errors of every command: the engine's Errc. Errc::not_answering: the command was certainly not
/// taken. qhup::Errc::timed_out, qhup::Errc::cancelled and Errc::lost_contact: the outcome is
/// unknown; observe before acting. Every other code is QEMU's own answer.
/// Thread: the VM's strand.
class VmPort {
public:
    VmPort() = default;
    VmPort(const VmPort&) = delete;
    VmPort& operator=(const VmPort&) = delete;
    virtual ~VmPort() = default;

    /// Asks the process that ran the VM when the upgrade began. Changes nothing.
    /// Cancellation: ends the wait; the answer is then `silent`.
    [[nodiscard]] virtual awaitable<Observation> observe_source(Deadline deadline) = 0;

    /// Asks the target of this upgrade; `absent` before it has one. Changes nothing.
    /// Cancellation: ends the wait; the answer is then `silent`.
    [[nodiscard]] virtual awaitable<Observation> observe_target(Deadline deadline) = 0;

    /// What the kernel says about the source. Valid after observe_source() has answered.
    [[nodiscard]] virtual ProcessFacts source_process() const = 0;

    /// The counters of the links around the source, as of now. Valid after observe_source() has
    /// answered.
    [[nodiscard]] virtual LinkCounters source_links() const = 0;

    /// Starts to build the standby, and returns before it is built. The guest runs on.
    /// After failure: nothing was started, unless the outcome is unknown.
    [[nodiscard]] virtual awaitable<Result<void>>
    prepare(PrepareRequest request, Deadline deadline) = 0;

    /// A new lease for a pair that is being prepared, or is prepared.
    /// After failure: unchanged.
    [[nodiscard]] virtual awaitable<Result<void>>
    renew(std::chrono::nanoseconds lease, Deadline deadline) = 0;

    /// The whole pause. Returns when the guest runs on the target, with the times of the parts.
    /// After failure: docs/qmp.md, by code; the guest runs on the source, or soon will.
    /// Cancellation: ends the wait; the pair goes on by itself.
    [[nodiscard]] virtual awaitable<Result<SwitchTimings>>
    switch_over(SwitchLimits limits, Deadline deadline) = 0;

    /// The first half of the pause, for a rehearsal: the guest is stopped and its state saved. It
    /// stays so until rollback(), or until the frozen lease ends.
    /// After failure: docs/qmp.md, by code; the guest runs on the source, or soon will.
    [[nodiscard]] virtual awaitable<Result<void>>
    freeze(SwitchLimits limits, Deadline deadline) = 0;

    /// After freeze(): the target reads the state. It takes nothing over.
    /// After failure: as freeze()
    [[nodiscard]] virtual awaitable<Result<void>> load(Deadline deadline) = 0;

    /// Ends the parked source.
    /// After failure: the guest runs on the target; the source may still be there.
    [[nodiscard]] virtual awaitable<Result<void>> commit(Deadline deadline) = 0;

    /// Kills and reaps the target and lets the guest run on the source. Does nothing in state none.
    /// After failure: the source may still be rolling back; Errc::wrong_state: it gave the VM away.
    [[nodiscard]] virtual awaitable<Result<void>> rollback(Deadline deadline) = 0;
};

} // namespace qhup::upgrade
