// SPDX-License-Identifier: GPL-2.0-or-later
//
// The guest of a selftest as values: what it is started with, and whether it was well, from what it
// said. And what a VM's upgrade is told about selftests. Pure.
#pragma once

#include "daemon/api_types.hpp"
#include "daemon/api_types_selftest.hpp"

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace qhup::daemon {

/// Names of the guests begin so; a run over all VMs, and policies, leave them out.
inline constexpr std::string_view kSelftestGuests = "qhup-selftest-";

bool is_selftest_guest(std::string_view vm) noexcept;

/// RAM of each guest, and so many huge pages of 2 MiB.
inline constexpr std::uint32_t kSelftestGuestMib = 64;

/// QEMU's command line for a guest whose files are in `folder`: disk, qmp, serial.
std::vector<std::string> selftest_arguments(
    const std::vector<std::string>& binary, // path, and what its release adds
    const std::string& name,
    const std::string& folder,
    bool has_hugepages
);

/// The command that starts it: with systemd as a unit of its own, else as a process of its own.
/// What it prints goes to `folder`/log.
std::vector<std::string> selftest_command(
    const std::vector<std::string>& arguments,
    const std::string& name,
    const std::string& folder,
    bool has_systemd
);

/// What a guest said on its serial port.
struct SelftestCount {
    std::uint64_t numbers = 0; ///< how many lines
    std::uint64_t last = 0;    ///< the highest number
    std::string problem;       ///< what is wrong with them, as a sentence without stop; "": nothing
};

/// Whole lines only: the guest may be in the middle of one. Each number must be one more than the
/// number before, from 1.
SelftestCount read_count(std::string_view serial);

/// The number in the sector that the guest writes again and again; nothing: it is none.
std::optional<std::uint64_t> number_of_sector(std::string_view sector, std::size_t offset);

/// Why the selftest has not passed, as a sentence without its stop; "": it has.
std::string judge_run(const RunView& run);

/// Whether a selftest of this pair of binaries has passed under this kernel.
bool has_passed(
    const std::vector<SelftestView>& selftests,
    std::string_view from_build_id,
    std::string_view to_build_id,
    std::string_view kernel
) noexcept;

/// What is said about an upgrade that no selftest has tried.
BlockerView make_untested(const std::string& from, const std::string& to, std::string_view kernel);

} // namespace qhup::daemon
