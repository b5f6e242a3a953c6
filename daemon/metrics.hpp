// SPDX-License-Identifier: GPL-2.0-or-later
//
// What Prometheus gets: counts what the events tell, and shows what there is when it is asked.
// docs/metrics.md says what each metric covers and what it leaves out.
#pragma once

#include "daemon/api_types_events.hpp"

#include <cstddef>
#include <memory>
#include <string>
#include <vector>

namespace qhup::daemon {

/// What is true when somebody asks.
struct MetricsNow {
    std::vector<VmView> vms;
    std::vector<ReleaseView> releases;
    std::size_t runs_in_progress = 0;
    std::size_t holds = 0;
    std::size_t needing_operator = 0; ///< VMs
    std::size_t connections = 0;      ///< of clients of the API
};

/// Thread: the daemon's home strand.
class Metrics {
public:
    Metrics();
    ~Metrics();
    Metrics(const Metrics&) = delete;
    Metrics& operator=(const Metrics&) = delete;

    /// Counts it.
    void on_event(const EventView& event);

    /// A request was answered with this status of HTTP.
    void on_answer(int status);

    /// In Prometheus's text format.
    std::string format(const MetricsNow& now);

    /// "text/plain; version=0.0.4; charset=utf-8"
    static const char* content_type() noexcept;

private:
    struct Families;
    std::unique_ptr<Families> families_;
};

} // namespace qhup::daemon
