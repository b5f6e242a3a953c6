// SPDX-License-Identifier: GPL-2.0-or-later
//
// The folders in which the two sides of an upgrade put their control sockets: one per VM.
// All functions block: call them on the disk pool.
#pragma once

#include "common/result.hpp"

#include <sys/types.h>

#include <set>
#include <string>
#include <vector>

namespace qhup::daemon {

/// Makes "<control_dir>/<folder>", 0700, for the user that QEMU runs as.
///
/// @return  its path
/// Errors:  Errc::system_error; Errc::invalid_argument: something else has that name
Result<std::string>
make_control_folder(const std::string& control_dir, const std::string& folder, uid_t uid);

/// One upgrade whose control sockets are there.
struct FoundUpgrade {
    std::string folder;  ///< name of the VM's folder
    std::string path;    ///< of the folder
    std::string upgrade; ///< its id
};

/// Everything that is below control_dir, in order.
Result<std::vector<FoundUpgrade>> find_upgrades(const std::string& control_dir);

/// Removes the empty folders below control_dir, except those with a name in `kept`. The next
/// upgrade makes the folder of its VM again.
void remove_empty_folders(const std::string& control_dir, const std::set<std::string>& kept);

/// Removes the control sockets of an upgrade whose processes are both gone.
void remove_control_sockets(const FoundUpgrade& found);

} // namespace qhup::daemon
