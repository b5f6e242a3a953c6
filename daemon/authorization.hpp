// SPDX-License-Identifier: GPL-2.0-or-later
//
// Decides who may use the API, from what the kernel says about the peer of the socket. Pure.
// Called for each connection before a byte of it is read.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

namespace qhup::daemon {

/// What SO_PEERCRED and SO_PEERGROUPS say.
struct Peer {
    std::int64_t pid = 0;              ///< for the log only: it may be gone already
    std::uint32_t uid = 0;             ///< of the process that connected
    std::uint32_t gid = 0;             ///< its primary group
    std::vector<std::uint32_t> groups; ///< its supplementary groups
};

/// Who may act.
struct AccessRule {
    std::uint32_t daemon_uid = 0;             ///< the daemon's own user may
    std::optional<std::uint32_t> admin_group; ///< members may; none if not configured or unknown
};

/// True for root, the daemon's own user and members of the group. There is one level: who may
/// connect may act.
bool may_act(const Peer& peer, const AccessRule& rule) noexcept;

} // namespace qhup::daemon
