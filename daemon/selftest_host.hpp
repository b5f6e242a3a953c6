// SPDX-License-Identifier: GPL-2.0-or-later
//
// What a selftest does to the host: folders of its guests, their processes, what can be seen of
// both. All functions block: call them on the disk pool.
#pragma once

#include "common/result.hpp"
#include "daemon/selftest_judge.hpp"

#include <sys/types.h>

#include <optional>
#include <string>
#include <vector>

namespace qhup::daemon {

/// Makes the folder of a guest with its disk, which it boots from.
///
/// Errors:        Errc::system_error
/// After failure: the folder may be there
Result<void> make_selftest_folder(const std::string& folder);

/// Starts a guest; see selftest_command().
///
/// Errors:        Errc::system_error; peer_text has what the program said
/// After failure: a process may be left that names the folder
/// Blocking:      until it runs, a second or two
Result<void> start_selftest_guest(const std::vector<std::string>& command);

/// What can be read of a guest.
struct SelftestSaid {
    std::string serial;        ///< everything that it said
    std::string sector;        ///< of its disk, as it wrote it
    std::size_t number_at = 0; ///< where the number is in it
};
/// Errors: Errc::system_error
Result<SelftestSaid> read_selftest_guest(const std::string& folder);

/// Whether a process of the guest is there.
bool is_selftest_guest_running(const std::string& folder);

/// What a process of QEMU uses of the host; nothing of what cannot be read.
HostUse observe_host_use(pid_t pid);

/// Last lines of what QEMU, and who started it, printed; "" for none.
std::string read_selftest_log(const std::string& folder, std::size_t most = 600);

/// Ends every process that has the folder in its command line, and removes the folder.
void end_selftest_guest(const std::string& folder);

/// Folders below this one, each of a guest.
std::vector<std::string> find_selftest_guests(const std::string& folder);

/// Huge pages of 2 MiB on this host that are neither used nor reserved.
std::size_t free_huge_pages();

/// Whether libvirt is on this host.
bool has_libvirt();

/// Release of the running kernel.
std::string kernel_release();

/// Results that were kept; "" if there are none, or they cannot be read.
std::string load_selftests(const std::string& path);
/// Errors:        Errc::system_error
/// After failure: those that were kept before are kept
Result<void> store_selftests(const std::string& path, const std::string& text);

} // namespace qhup::daemon
