// SPDX-License-Identifier: GPL-2.0-or-later
//
// Where a VM can go back to: the binary that it ran before the one that it runs now. Pure: runs
// that are remembered and what is kept of binaries in, ways out.
#pragma once

#include "daemon/api_types.hpp"
#include "daemon/pause_history.hpp"

#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

namespace qhup::daemon {

/// Where a VM came from.
struct CameFrom {
    std::string build_id; ///< of the binary that it ran before
    std::string version;  ///< of that QEMU
    std::string run;      ///< that moved it away from there
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

/// Whether a VM can go back to the binary that it came from.
struct WayBack {
    bool is_open = false;
    std::string version;  ///< that it would go back to; "" if it came from nowhere
    std::string build_id; ///< of that binary
    std::string reason;   ///< why it is not open
};

/// @param is_kept       whether that binary is
/// @param why_not_kept  "" if that is not known
WayBack
judge_way_back(const std::optional<CameFrom>& from, bool is_kept, const std::string& why_not_kept);

} // namespace qhup::daemon
