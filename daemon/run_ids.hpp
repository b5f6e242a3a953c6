// SPDX-License-Identifier: GPL-2.0-or-later
//
// How runs and the upgrades of their VMs are called. The names are in control folders, in QEMU and
// in the journal, so they never change. Pure.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace qhup::daemon {

/// "r" and eight hex digits: short enough to type.
/// @param chance  makes it unique
std::string make_run_id(std::uint32_t chance);

/// The upgrade of one VM of a run. With it a daemon that starts again finds the run.
std::string upgrade_id_of(const std::string& run, std::size_t index);

/// True for what upgrade_id_of() makes: nobody else's upgrade is ours to undo.
bool is_our_upgrade_id(std::string_view id);

} // namespace qhup::daemon
