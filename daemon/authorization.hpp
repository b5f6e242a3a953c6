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

/// What somebody may do.
enum class Access : std::uint8_t {
    none,
    read, ///< look, and change nothing
    act,  ///< everything
};

/// Who may do what.
struct AccessRule {
    std::uint32_t daemon_uid = 0; ///< the daemon's own user may act
    std::optional<std::uint32_t>
        admin_group; ///< members may act; none if not configured or unknown
    std::optional<std::uint32_t>
        read_group; ///< members may read; none if not configured or unknown
};

/// Root, the daemon's own user and members of the admin group may act, members of the read group
/// may read, nobody else may anything.
/// @param most  what the socket allows, whoever comes to it
Access access_of(const Peer& peer, const AccessRule& rule, Access most) noexcept;

} // namespace qhup::daemon
