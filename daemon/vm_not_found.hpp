// SPDX-License-Identifier: GPL-2.0-or-later
//
// What is said about a VM of a name that nobody has. Pure.
#pragma once

#include "daemon/api_types.hpp"

#include <string>
#include <string_view>
#include <vector>

namespace qhup::daemon {

/// A VM whose monitor has never answered goes by the name of its socket: while there are such, the
/// name may be one of theirs.
///
/// @param vms   all that were found, as they were asked last
/// @param what  there is none of that name, e.g. "VM"
Problem make_vm_not_found(
    const std::string& name, const std::vector<VmView>& vms, std::string_view what = "VM"
);

} // namespace qhup::daemon
