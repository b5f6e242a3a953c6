// SPDX-License-Identifier: GPL-2.0-or-later
//
// The real VmPort: the main QMP of the VM for prepare, then one control socket for each side. The
// only file where answers of QEMU and errors of sockets become the engine's codes.
#pragma once

#include "upgrade-engine/vm_port.hpp"

#include <memory>
#include <string>
#include <vector>

namespace qhup::upgrade {

/// Where the two sides of one VM are found.
struct QmpVmPortConfig {
    std::string main_socket; ///< path of a QMP monitor; "" if only the control sockets are used
    std::string control_dir; ///< "<control-dir>/<vm>": absolute, 0700, made by the caller
    UpgradeId upgrade;       ///< names the control sockets
};

class QmpVmPort final : public VmPort {
public:
    QmpVmPort(Strand strand, QmpVmPortConfig config);
    ~QmpVmPort() override;

    awaitable<Observation> observe_source(Deadline deadline) override;
    awaitable<Observation> observe_target(Deadline deadline) override;
    ProcessFacts source_process() const override;
    LinkCounters source_links() const override;
    awaitable<Result<void>> prepare(PrepareRequest request, Deadline deadline) override;
    awaitable<Result<void>> renew(std::chrono::nanoseconds lease, Deadline deadline) override;
    awaitable<Result<SwitchTimings>> switch_over(SwitchLimits limits, Deadline deadline) override;
    awaitable<Result<void>> freeze(SwitchLimits limits, Deadline deadline) override;
    awaitable<Result<void>> load(Deadline deadline) override;
    awaitable<Result<void>> commit(Deadline deadline) override;
    awaitable<Result<void>> rollback(Deadline deadline) override;

    /// Closes every connection. Must be awaited before the port is destroyed.
    [[nodiscard]] awaitable<void> close();

private:
    struct State;
    std::shared_ptr<State> state_;
};

/// The upgrades whose control sockets are in a control folder, in order of their names: what a
/// daemon before us began. A folder that does not exist holds none.
/// Errors:   qhup::Errc::system_error
/// Blocking: one readdir
[[nodiscard]] Result<std::vector<UpgradeId>> list_upgrades(const std::string& control_dir);

} // namespace qhup::upgrade
