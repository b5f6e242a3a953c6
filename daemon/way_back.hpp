// SPDX-License-Identifier: GPL-2.0-or-later
//
// Where a VM can go back to: the binary that it ran before the one that it runs now. Pure: runs
// that are remembered and what is kept of binaries in, ways out.
#pragma once

#include "daemon/api_types.hpp"
#include "daemon/pause_history.hpp"

#include <cstdint>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

namespace qhup::daemon {

/// Where a VM came from.
struct CameFrom {
    std::string build_id;           ///< of the binary that it ran before
    std::string version;            ///< of that QEMU
    std::string run;                ///< that moved it away from there
    std::int64_t moved_unix_ms = 0; ///< when that run ended; 0: it goes on, or it is not known
};

/// The binary that the VM ran before the one that it runs now; nothing if no run that is remembered
/// brought it there.
/// @param build_id  of the binary that it runs now
[[nodiscard]] std::optional<CameFrom>
find_way_back(const RunHistory& newest_first, const std::string& vm, const std::string& build_id);

/// The same for many VMs in one walk: it takes hardly longer than for one.
/// @param build_ids  of the binary that it runs now, by VM
/// @return  by VM; those that have a way back
[[nodiscard]] std::unordered_map<std::string, CameFrom> find_ways_back(
    const RunHistory& newest_first, const std::unordered_map<std::string, std::string>& build_ids
);

/// The VMs that a run has moved, also those that were not well afterwards: where a revert of the
/// run takes them back to, their rows say.
/// @param build_ids  of the binaries that the VMs run that are there, by name; "" if unknown
[[nodiscard]] std::vector<RunVmView>
choose_moved(const RunView& run, const std::unordered_map<std::string, std::string>& build_ids);

/// What the newest try of a way by a VM of this kind said.
struct WayTrial {
    enum class Result : std::uint8_t {
        none,   ///< nobody has tried it
        passed, ///< the binary at its end loads the state of such a VM
        failed, ///< it does not
    };
    Result result = Result::none;
    std::string vm;      ///< that tried it
    std::string code;    ///< why it failed; else ""
    std::string message; ///< the same as a sentence
};

/// All that is known of tries, found in one walk.
class WayTrials {
public:
    explicit WayTrials(const RunHistory& newest_first);

    /// @param shape_class  of the VM; "": nothing is known
    /// @param from         build id of the binary that the VM runs
    /// @param to           of the one that it would go to
    [[nodiscard]] WayTrial
    find(const std::string& shape_class, const std::string& from, const std::string& to) const;

private:
    static std::string
    key_of(const std::string& shape_class, const std::string& from, const std::string& to);

    std::unordered_map<std::string, WayTrial> trials_; // the newest of each kind and way
};

/// Whether a VM can go back to the binary that it came from.
struct WayBack {
    bool is_open = false;
    std::string version;   ///< that it would go back to; "" if it came from nowhere
    std::string build_id;  ///< of that binary
    std::string reason;    ///< why it is not open
    std::string rehearsed; ///< "passed", "failed"; "": nobody has tried
};

/// @param is_kept       whether that binary is
/// @param why_not_kept  "" if that is not known
/// @param trial         of this way
WayBack judge_way_back(
    const std::optional<CameFrom>& from,
    bool is_kept,
    const std::string& why_not_kept,
    const WayTrial& trial = {}
);

} // namespace qhup::daemon
