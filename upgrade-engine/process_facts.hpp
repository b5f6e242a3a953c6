// SPDX-License-Identifier: GPL-2.0-or-later
//
// Asks the kernel about a QEMU process. The parsing is in vm_facts.cpp; here are only the files.
#pragma once

#include "upgrade-engine/vm_facts.hpp"

namespace qhup::upgrade {

/// What the kernel says about a process now.
///
/// Errors:   Errc::vm_gone: there is no such process; Errc::unexpected_answer
/// Blocking: reads of /proc, which never wait for a device
[[nodiscard]] Result<ProcessFacts> observe_process(pid_t pid);

/// Does RLIMIT_MEMLOCK not count for the process, nor for its child, since it has CAP_IPC_LOCK?
///
/// @param status_text  /proc/PID/status; false if it does not tell
[[nodiscard]] bool may_lock_anything(std::string_view status_text);

/// The counters of all links in the network namespace of a process; none if they cannot be read.
///
/// Blocking: a read of /proc, which never waits for a device
[[nodiscard]] LinkCounters observe_links(pid_t pid);

/// The files of disks that do not have the name any more by which the VM's QEMU, and so a new one,
/// opens them: deleted, replaced, or moved away. What cannot be told without a file system that may
/// have to be waited for is not said: a new QEMU will.
///
/// @param pid    the process that said it
/// @param facts  what it said
/// Blocking: no; a link of /proc for each file, and only what the kernel has in its cache of names
[[nodiscard]] std::vector<LostImage> observe_lost_images(pid_t pid, const VmFacts& facts);

/// What a control group and those above it leave: the least of each.
///
/// @param root  where the unified hierarchy is mounted: "/sys/fs/cgroup"
/// @param path  of the group below it, from parse_cgroup_path(); "" gives no limits
/// Blocking:    reads of small files that the kernel makes
[[nodiscard]] Headroom observe_headroom(const std::string& root, const std::string& path);

/// The process behind a QMP connection.
///
/// why: the kernel names the process that called listen(). A monitor that crossed an upgrade shows
/// the first QEMU of the VM, which is gone; then QEMU's own word is taken, if the process that it
/// names belongs to the same user.
///
/// @param peer_pid     from SO_PEERCRED; 0 if it is in another pid namespace
/// @param peer_uid     from SO_PEERCRED
/// @param claimed_pid  from query-hot-upgrade
/// @return all members zero but pid, if nothing can be said
[[nodiscard]] ProcessFacts observe_peer(pid_t peer_pid, uid_t peer_uid, pid_t claimed_pid);

/// The user that the process behind a QMP connection has now. It may have made its socket as root
/// and have given up its rights since (-runas).
///
/// Parameters: of observe_peer()
/// @return peer_uid, if nothing else can be said
[[nodiscard]] uid_t observe_user(pid_t peer_pid, uid_t peer_uid, pid_t claimed_pid);

} // namespace qhup::upgrade
