// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/authorization.hpp"

#include <algorithm>

namespace qhup::daemon {

bool may_act(const Peer& peer, const AccessRule& rule) noexcept {
    if (peer.uid == 0 || peer.uid == rule.daemon_uid) {
        return true;
    }
    if (!rule.admin_group) {
        return false;
    }
    return peer.gid == *rule.admin_group ||
           std::find(peer.groups.begin(), peer.groups.end(), *rule.admin_group) !=
               peer.groups.end();
}

} // namespace qhup::daemon
