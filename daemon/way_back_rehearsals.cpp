// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/way_back_rehearsals.hpp"

#include "common/log.hpp"
#include "daemon/wall_clock.hpp"

#include <algorithm>
#include <chrono>
#include <string>
#include <unordered_map>
#include <utility>

namespace qhup::daemon {
namespace {

using std::chrono::milliseconds;

constexpr milliseconds kShortestLook{100};
constexpr milliseconds kSettles{1500};
constexpr milliseconds kLongestLook{300'000}; // the wall clock may have been set
constexpr int kDoubts = 20;                   // looks after a run at VMs that are not settled
constexpr milliseconds kGivesWay{20'000};     // as long as a rehearsal may take

bool is_ours(const RunView& run) {
    return run.kind == "way_back" && run.state == "running";
}

} // namespace

std::vector<WayBackCandidate> WayBackRehearsals::find_candidates() const {
    std::vector<WayBackCandidate> candidates;
    const std::vector<VmView> vms = services_.registry.list();
    std::unordered_map<std::string, std::string> build_ids;
    for (const VmView& vm : vms) {
        build_ids.emplace(vm.name, vm.build_id);
    }
    const auto ways = find_ways_back(book_.history(), build_ids);
    for (const VmView& vm : vms) {
        const auto from = ways.find(vm.name);
        if (from == ways.end() || !kept_.is_kept(from->second.build_id)) {
            continue;
        }
        const VmPolicy policy = policy_of(services_.config.policies, vm.name, vm.labels);
        const std::string said =
            policy.rehearse_back.empty() ? services_.config.rehearse_back : policy.rehearse_back;
        candidates.push_back(
            {.vm = vm.name,
             .shape_class = vm.shape_class,
             .build_id = vm.build_id,
             .from = from->second,
             .rehearse = policy.skip ? "none" : said,
             .is_free =
                 vm.upgradable && !holds_.find(vm.name) && is_open(policy, time_of_day_now())}
        );
    }
    return candidates;
}

awaitable<bool> WayBackRehearsals::look_at_doubtful() {
    // why: a VM is asked when its run lets it go. What it says then may be that its old process is
    // there still, or nothing if somebody else has its monitor, and nobody asks it again.
    const auto names = choose_doubtful(services_.registry.list(), book_.history());
    for (const std::string& name : names) {
        if (book_.running() == 0) {
            co_await services_.registry.refresh_vm(name);
        }
    }
    co_return choose_doubtful(services_.registry.list(), book_.history()).empty();
}

awaitable<void> WayBackRehearsals::run() {
    const auto changed = std::make_shared<Notifier>(services_.home);
    book_.tell_when_finished(changed);
    bool has_news = true;
    int doubts = 0;
    for (bool is_stopped = false; !is_stopped;) {
        // why: what a run has moved is asked about its new binary a moment after the run.
        Deadline look = Deadline::in(has_news ? kSettles : kLongestLook);
        // why: whatever is asked for goes first, a soak included.
        if (book_.running() == 0) {
            const bool is_settled = co_await look_at_doubtful();
            doubts = has_news ? 0 : doubts + 1;
            if (!is_settled && doubts < kDoubts) {
                look = Deadline::in(kSettles);
            }
            const std::int64_t now = unix_ms_now();
            const auto candidates = find_candidates();
            DueTrials due = choose_trials(
                candidates, book_.history(), now, services_.config.rehearse_back_after
            );
            if (!due.vms.empty()) {
                RunRequest request;
                request.kind = "way_back";
                request.vms = std::move(due.vms);
                request.parallel = 1;
                auto starting = start_(std::move(request));
                const std::string problem = co_await std::move(starting);
                if (!problem.empty()) {
                    log().info("ways back are not rehearsed now: {}", problem);
                }
            } else if (due.look_again_ms) {
                const milliseconds wait(*due.look_again_ms - now);
                look = earlier(look, Deadline::in(std::clamp(wait, kShortestLook, kLongestLook)));
            }
        }
        const Result<void> waited = co_await changed->wait(look);
        has_news = waited.has_value();
        is_stopped = waited.has_error() && is_cancelled(waited.error());
    }
}

awaitable<void> WayBackRehearsals::give_way() {
    const auto changed = std::make_shared<Notifier>(services_.home);
    book_.tell_when_finished(changed);
    const Deadline patience = Deadline::in(kGivesWay);
    for (bool is_over = false; !is_over;) {
        bool is_free = true;
        for (const RunPtr& run : book_.runs()) {
            if (is_ours(run->view)) {
                is_free = false;
                if (run->view.stopped_by.empty()) {
                    log().info("run {}: gives way to what was asked for", run->view.id);
                    book_.stop_run(run, "request");
                }
            }
        }
        if (is_free) {
            break;
        }
        const Result<void> waited = co_await changed->wait(patience);
        is_over = waited.has_error();
    }
    book_.forget_who_waits(changed);
}

} // namespace qhup::daemon
