// SPDX-License-Identifier: GPL-2.0-or-later
//
// Where the program qhupd is, for the commands that ask it.
#pragma once

#include <string>

namespace qhup::ctl {

/// Path of qhupd: beside this program, or where a package puts it; "" if it is nowhere.
std::string find_daemon_program();

} // namespace qhup::ctl
