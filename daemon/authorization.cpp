// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/authorization.hpp"

#include <algorithm>

namespace qhup::daemon {

namespace {

bool is_member(const Peer& peer, const std::optional<std::uint32_t>& group) noexcept {
    return group &&
           (peer.gid == *group ||
            std::find(peer.groups.begin(), peer.groups.end(), *group) != peer.groups.end());
}

} // namespace

Access access_of(const Peer& peer, const AccessRule& rule, Access most) noexcept {
    const bool may_act =
        peer.uid == 0 || peer.uid == rule.daemon_uid || is_member(peer, rule.admin_group);
    const Access access = may_act                            ? Access::act
                          : is_member(peer, rule.read_group) ? Access::read
                                                             : Access::none;
    return std::min(access, most);
}

} // namespace qhup::daemon
