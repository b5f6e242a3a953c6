// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/pause_history.hpp"

#include <algorithm>
#include <array>
#include <chrono>
#include <string_view>

namespace qhup::daemon {
namespace {

std::chrono::nanoseconds from_ms(double milliseconds) {
    return std::chrono::duration_cast<std::chrono::nanoseconds>(
        std::chrono::duration<double, std::milli>(milliseconds)
    );
}

std::chrono::nanoseconds part_of(const RunVmView& view, const char* name) {
    const auto found = view.timings_ns.find(name);
    return std::chrono::nanoseconds(found == view.timings_ns.end() ? 0 : found->second);
}

constexpr std::chrono::milliseconds kTypicalTakeover{5}; // where no upgrade has measured it

} // namespace

std::optional<upgrade::PausePrediction>
predict_pause(const RunHistory& newest_first, const std::string& vm) {
    std::optional<upgrade::PausePrediction> newest;
    for (const RunView* run : newest_first) {
        for (const RunVmView& view : run->vms) {
            if (view.vm != vm) {
                continue;
            }
            const bool is_upgrade = view.outcome == "upgraded" && view.pause_ms;
            if (is_upgrade) {
                const auto takeover = part_of(view, "activate") + part_of(view, "start");
                if (newest) {
                    newest->takeover = takeover; // the newer one is a rehearsal
                    return newest;
                }
                return upgrade::PausePrediction{
                    from_ms(*view.pause_ms), takeover, "its last upgrade, in run " + run->id + ","};
            }
            const bool is_rehearsal = view.rehearsal && view.rehearsal->predicted_pause_ms;
            if (is_rehearsal && !newest) {
                newest = upgrade::PausePrediction{
                    from_ms(*view.rehearsal->predicted_pause_ms),
                    kTypicalTakeover,
                    "its last rehearsal, in run " + run->id + ","};
            }
        }
    }
    return newest;
}

bool is_way_proven(
    const RunHistory& newest_first,
    const std::string& shape_class,
    const std::string& from_build_id,
    const std::string& to_build_id
) {
    if (shape_class.empty() || from_build_id.empty() || to_build_id.empty()) {
        return false;
    }
    for (const RunView* run : newest_first) {
        for (const RunVmView& view : run->vms) {
            const bool is_same = view.shape_class == shape_class &&
                                 view.from_build_id == from_build_id &&
                                 view.to_build_id == to_build_id;
            if (!is_same) {
                continue;
            }
            if (view.outcome == "upgraded" ||
                (view.rehearsal && view.rehearsal->result == "passed")) {
                return true;
            }
            if (is_about_the_kind(view.code)) {
                return false;
            }
        }
    }
    return false;
}

bool is_about_the_kind(const std::string& code) {
    static constexpr std::array<std::string_view, 7> kCodes{
        "load_failed",
        "shape_differs",
        "protocol_mismatch",
        "target_died",
        "spawn_failed",
        "save_failed",
        "bad_argument",
    };
    return std::find(kCodes.begin(), kCodes.end(), code) != kCodes.end();
}

} // namespace qhup::daemon
