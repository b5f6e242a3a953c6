// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/way_back_trials.hpp"

#include <algorithm>
#include <array>
#include <set>
#include <string_view>
#include <unordered_map>

namespace qhup::daemon {
namespace {

using std::chrono::milliseconds;

constexpr milliseconds kBlockedLook{300'000}; // at VMs that are held, or whose window is closed

/// The row says that somebody else came first, and nothing about the way.
bool was_put_off(const RunVmView& view) {
    static constexpr std::array<std::string_view, 6> kCodes{
        "stopped", "busy", "held", "outside_window", "cancelled", "shutting_down"};
    return std::find(kCodes.begin(), kCodes.end(), view.code) != kCodes.end();
}

/// The newest try of this VM's way since it was moved.
struct LastTry {
    bool is_done = false;             // it was tried, or will be in a run that goes on
    std::int64_t put_off_unix_ms = 0; // when it was last put off; 0: it was not
};

LastTry find_last_try(const RunHistory& newest_first, const WayBackCandidate& candidate) {
    LastTry last;
    for (const RunView* run : newest_first) {
        if (run->id == candidate.from.run) {
            break;
        }
        for (const RunVmView& view : run->vms) {
            const bool is_it = run->kind == "way_back" && view.vm == candidate.vm &&
                               view.from_build_id == candidate.build_id &&
                               view.to_build_id == candidate.from.build_id;
            if (is_it && was_put_off(view)) {
                last.put_off_unix_ms = std::max(last.put_off_unix_ms, run->finished_unix_ms);
            } else if (is_it) {
                last.is_done = true;
            }
        }
    }
    return last;
}

} // namespace

std::vector<std::string>
choose_doubtful(const std::vector<VmView>& vms, const RunHistory& newest_first) {
    std::unordered_map<std::string, std::string> moved_to; // the build id, by VM
    for (const RunView* run : newest_first) {
        for (const RunVmView& view : run->vms) {
            if (view.outcome == "upgraded") {
                moved_to.try_emplace(view.vm, view.to_build_id);
            }
        }
    }
    std::vector<std::string> doubtful;
    for (const VmView& vm : vms) {
        const auto found = moved_to.find(vm.name);
        if (found != moved_to.end() && vm.run.empty() &&
            (!vm.upgradable || vm.build_id != found->second)) {
            doubtful.push_back(vm.name);
        }
    }
    return doubtful;
}

DueTrials choose_trials(
    const std::vector<WayBackCandidate>& candidates,
    const RunHistory& newest_first,
    std::int64_t now_unix_ms,
    milliseconds delay
) {
    using Result = WayTrial::Result;
    DueTrials due;
    const auto look_at = [&due](std::int64_t time) {
        due.look_again_ms = std::min(due.look_again_ms.value_or(time), time);
    };
    const WayTrials trials(newest_first);
    std::set<std::string> kinds;
    for (const WayBackCandidate& one : candidates) {
        const WayTrial trial = trials.find(one.shape_class, one.build_id, one.from.build_id);
        const LastTry last = find_last_try(newest_first, one);
        const bool is_known = trial.result == Result::failed ||
                              (trial.result == Result::passed && one.rehearse == "first");
        if (one.rehearse == "none" || is_known || last.is_done) {
            continue;
        }
        const std::int64_t since = std::max(one.from.moved_unix_ms, last.put_off_unix_ms);
        if (since + delay.count() > now_unix_ms) {
            look_at(since + delay.count());
            continue;
        }
        if (!one.is_free) {
            look_at(now_unix_ms + kBlockedLook.count());
            continue;
        }
        const std::string kind = one.shape_class + " " + one.build_id + " " + one.from.build_id;
        const bool is_first = one.shape_class.empty() || kinds.insert(kind).second;
        if (is_first || one.rehearse == "all") {
            due.vms.push_back(one.vm);
        }
    }
    return due;
}

} // namespace qhup::daemon
