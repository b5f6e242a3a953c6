// SPDX-License-Identifier: GPL-2.0-or-later
//
// What the runs that are remembered say about a VM before it is upgraded: how long its pause will
// be, and whether its kind of machine has made this way before. Pure.
#pragma once

#include "daemon/api_types.hpp"
#include "upgrade-engine/runner.hpp"

#include <optional>
#include <string>
#include <vector>

namespace qhup::daemon {

/// Runs that are remembered, newest first. Borrowed.
using RunHistory = std::vector<const RunView*>;

/// How long the pause of this VM will probably be: as its last upgrade was, or as its last
/// rehearsal said, whichever was measured later. Nothing if it was never measured.
[[nodiscard]] std::optional<upgrade::PausePrediction>
predict_pause(const RunHistory& newest_first, const std::string& vm);

/// Whether a VM of this kind was upgraded or rehearsed between these two binaries before, and the
/// newest such try did not fail. False if anything about them is unknown.
[[nodiscard]] bool is_way_proven(
    const RunHistory& newest_first,
    const std::string& shape_class,
    const std::string& from_build_id,
    const std::string& to_build_id
);

/// Whether a rehearsal that failed with this code says something about every VM of its kind, and
/// not only about this VM at this time.
[[nodiscard]] bool is_about_the_kind(const std::string& code);

} // namespace qhup::daemon
