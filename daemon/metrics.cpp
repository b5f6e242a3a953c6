// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/metrics.hpp"

#include "common/version.hpp"

#include <prometheus/counter.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>
#include <prometheus/text_serializer.h>

#include <algorithm>
#include <array>
#include <map>
#include <string_view>

namespace qhup::daemon {
namespace {

namespace prom = prometheus;

using Counters = prom::Family<prom::Counter>;
using Gauges = prom::Family<prom::Gauge>;
using Histograms = prom::Family<prom::Histogram>;

/// A pause is some milliseconds, and never longer than the largest budget.
const prom::Histogram::BucketBoundaries kPauseBuckets{
    0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1, 2, 5, 30};
const prom::Histogram::BucketBoundaries kPhaseBuckets{
    0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 60, 300};

/// Codes of upgrades that say that a QEMU did not answer as it should.
constexpr std::array<std::string_view, 5> kQmpCodes{
    "not_answering", "unexpected_answer", "unknown_qemu_code", "wrong_state", "bad_argument"};

Counters& counters(prom::Registry& registry, const char* name, const char* help) {
    return prom::BuildCounter().Name(name).Help(help).Register(registry);
}
Gauges& gauges(prom::Registry& registry, const char* name, const char* help) {
    return prom::BuildGauge().Name(name).Help(help).Register(registry);
}
Histograms& histograms(prom::Registry& registry, const char* name, const char* help) {
    return prom::BuildHistogram().Name(name).Help(help).Register(registry);
}

double seconds(double milliseconds) {
    return milliseconds / 1000.0;
}

std::string release_of(const VmView& vm, const std::vector<ReleaseView>& releases) {
    for (const ReleaseView& release : releases) {
        if (!vm.build_id.empty() && release.build_id == vm.build_id) {
            return release.name;
        }
    }
    return "";
}

} // namespace

struct Metrics::Families {
    prom::Registry registry;

    Gauges& build_info = gauges(registry, "qhup_build_info", "1, with the version of qhupd.");
    Gauges& vms = gauges(
        registry, "qhup_vms", "VMs by run state, version of QEMU, and release of this binary."
    );
    prom::Gauge& outdated =
        gauges(registry, "qhup_vms_outdated", "VMs that run a binary of no release.").Add({});
    prom::Gauge& needing_operator =
        gauges(registry, "qhup_vms_needing_operator", "VMs whose last upgrade needs an operator.")
            .Add({});
    prom::Gauge& runs =
        gauges(registry, "qhup_runs_in_progress", "Runs that have not finished.").Add({});
    prom::Gauge& holds = gauges(registry, "qhup_holds", "VMs that are held.").Add({});
    prom::Gauge& connections =
        gauges(registry, "qhup_api_connections", "Clients that are connected.").Add({});
    Counters& results = counters(
        registry, "qhup_upgrades_total", "VMs of runs that have their outcome, by outcome."
    );
    Counters& rollbacks =
        counters(registry, "qhup_rollbacks_total", "VMs that were rolled back, by reason.");
    Counters& qmp_errors = counters(
        registry, "qhup_qmp_errors_total", "Answers of QEMU that were missing or wrong, by code."
    );
    prom::Counter& silent = qmp_errors.Add({{"code", "probe_failed"}});
    Histograms& pause = histograms(
        registry, "qhup_pause_seconds", "For which guests stood still, from stop to cont."
    );
    Histograms& phases =
        histograms(registry, "qhup_phase_seconds", "Time in each phase of upgrades.");
    prom::Histogram& total =
        histograms(registry, "qhup_upgrade_seconds", "From the begin of work on a VM to its end.")
            .Add({}, kPhaseBuckets);
    Counters& events = counters(registry, "qhup_events_total", "Events that were told, by type.");
    Counters& requests =
        counters(registry, "qhup_api_requests_total", "Answers of the API, by status.");
    std::vector<prom::Gauge*> shown; // of vms
};

Metrics::Metrics() : families_(std::make_unique<Families>()) {
    families_->build_info.Add({{"version", std::string(kVersion)}}).Set(1);
    // why: a counter that is there from the start can be used in rate() at its first increase.
    for (const char* outcome : {"upgraded", "rolled_back", "refused", "needs_operator"}) {
        families_->results.Add({{"outcome", outcome}});
    }
    families_->pause.Add({}, kPauseBuckets);
}

Metrics::~Metrics() = default;

void Metrics::on_event(const EventView& event) {
    families_->events.Add({{"type", event.type}}).Increment();
    if (event.type == to_string(EventType::vm_changed) && event.vm_state &&
        !event.vm_state->reachable) {
        families_->silent.Increment();
    }
    if (event.type != to_string(EventType::upgrade_ended) || !event.upgrade) {
        return;
    }
    const RunVmView& vm = *event.upgrade;
    families_->results.Add({{"outcome", vm.outcome}}).Increment();
    if (vm.outcome == "rolled_back") {
        families_->rollbacks.Add({{"reason", vm.code}}).Increment();
    }
    if (std::find(kQmpCodes.begin(), kQmpCodes.end(), vm.code) != kQmpCodes.end()) {
        families_->qmp_errors.Add({{"code", vm.code}}).Increment();
    }
    if (vm.pause_ms) {
        families_->pause.Add({}, kPauseBuckets).Observe(seconds(*vm.pause_ms));
    }
    if (vm.total_ms) {
        families_->total.Observe(seconds(*vm.total_ms));
    }
    for (std::size_t i = 0; i < vm.steps.size(); ++i) {
        const bool is_last = i + 1 == vm.steps.size();
        const std::uint64_t end = is_last ? vm.since_ms : vm.steps[i + 1].at_ms;
        if (end >= vm.steps[i].at_ms) {
            families_->phases.Add({{"phase", vm.steps[i].phase}}, kPhaseBuckets)
                .Observe(seconds(static_cast<double>(end - vm.steps[i].at_ms)));
        }
    }
}

void Metrics::on_answer(int status) {
    families_->requests.Add({{"status", std::to_string(status)}}).Increment();
}

std::string Metrics::format(const MetricsNow& now) {
    Families& all = *families_;
    for (prom::Gauge* gauge : all.shown) {
        all.vms.Remove(gauge);
    }
    all.shown.clear();
    std::map<std::map<std::string, std::string>, double> counts;
    double outdated = 0;
    for (const VmView& vm : now.vms) {
        const std::string release = release_of(vm, now.releases);
        counts[{{"state", vm.state}, {"version", vm.version}, {"release", release}}] += 1;
        outdated += vm.reachable && release.empty() && !now.releases.empty() ? 1 : 0;
    }
    for (const auto& [labels, count] : counts) {
        prom::Gauge& gauge = all.vms.Add(labels);
        gauge.Set(count);
        all.shown.push_back(&gauge);
    }
    all.outdated.Set(outdated);
    all.needing_operator.Set(static_cast<double>(now.needing_operator));
    all.runs.Set(static_cast<double>(now.runs_in_progress));
    all.holds.Set(static_cast<double>(now.holds));
    all.connections.Set(static_cast<double>(now.connections));
    return prom::TextSerializer().Serialize(all.registry.Collect());
}

const char* Metrics::content_type() noexcept {
    return "text/plain; version=0.0.4; charset=utf-8";
}

} // namespace qhup::daemon
