// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/strand_work.hpp"

#include <utility>

namespace qhup::daemon {

using std::chrono::milliseconds;
using upgrade::QmpVmPort;
using upgrade::QmpVmPortConfig;
using upgrade::UpgradeReport;

awaitable<UpgradeReport> upgrade_on_strand(
    Strand strand,
    QmpVmPortConfig port_config,
    std::shared_ptr<upgrade::SlotGate::Turn> turn,
    upgrade::UpgradeRequest request,
    upgrade::UpgradeObserver observer,
    upgrade::IntentWriter write_intent
) {
    QmpVmPort port(strand, std::move(port_config));
    UpgradeReport report = co_await upgrade::run_upgrade(
        port, std::move(turn), std::move(request), std::move(observer), std::move(write_intent)
    );
    co_await port.close();
    co_return report;
}

awaitable<UpgradeReport> recover_on_strand(
    Strand strand,
    QmpVmPortConfig port_config,
    upgrade::RecoveryRequest request,
    upgrade::UpgradeObserver observer
) {
    QmpVmPort port(strand, std::move(port_config));
    UpgradeReport report =
        co_await upgrade::run_recovery(port, std::move(request), std::move(observer));
    co_await port.close();
    co_return report;
}

awaitable<FirstLook> look_on_strand(Strand strand, QmpVmPortConfig config, milliseconds patience) {
    const std::string id = config.upgrade.text();
    QmpVmPort port(strand, std::move(config));
    const auto source = co_await port.observe_source(Deadline::in(patience));
    const auto target = co_await port.observe_target(Deadline::in(patience));
    co_await port.close();
    FirstLook look;
    look.action = upgrade::decide(source, target).action;
    for (const auto* side : {&source, &target}) {
        const std::string other = side->answers() ? side->facts.upgrade.text() : std::string();
        look.is_of_this_upgrade = look.is_of_this_upgrade && (other.empty() || other == id);
    }
    co_return look;
}

awaitable<Judged>
check_on_strand(Strand strand, QmpVmPortConfig config, upgrade::UpgradeRequest request) {
    QmpVmPort port(strand, std::move(config));
    auto verdict = co_await upgrade::check_upgrade(port, std::move(request));
    co_await port.close();
    co_return Judged{std::move(verdict)};
}

} // namespace qhup::daemon
