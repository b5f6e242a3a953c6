// SPDX-License-Identifier: GPL-2.0-or-later
//
// The names that things have in the engine, each of its own type. Pure.
#pragma once

#include "common/id.hpp"

namespace qhup::upgrade {

struct VmIdTag;
struct UpgradeIdTag;
struct ReleaseNameTag;

/// A VM on this host, by the name that the operator knows.
using VmId = Id<VmIdTag>;
/// One attempt to upgrade one VM: [A-Za-z0-9_.-]{1,64}, never used twice.
using UpgradeId = Id<UpgradeIdTag>;
/// A release, by the name of its drop-in file.
using ReleaseName = Id<ReleaseNameTag>;

} // namespace qhup::upgrade
