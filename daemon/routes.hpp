// SPDX-License-Identifier: GPL-2.0-or-later
//
// Which request is meant: method and target of HTTP to one of the API's calls. Pure.
#pragma once

#include "daemon/api_types.hpp"

#include <cstdint>
#include <string>
#include <string_view>
#include <variant>

namespace qhup::daemon {

/// The calls of the API. Names that came in the path were checked with is_valid_name().
struct GetHealth {};
struct GetVersion {};
struct GetVms {};
struct GetVm {
    std::string name;
};
struct GetCheck {
    std::string vm;
    std::string to;
};
struct GetReleases {};
struct PostRun {};
struct GetRuns {};
struct GetRun {
    std::string id;
};
struct AbortRun {
    std::string id;
};
struct HoldVm {
    std::string vm;
};
struct UnholdVm {
    std::string vm;
};
struct GetHolds {};
struct GetRunEvents {
    std::string id;
    std::uint64_t after = 0; ///< events up to this number are known already
};

using Route = std::variant<
    GetHealth,
    GetVersion,
    GetVms,
    GetVm,
    GetCheck,
    GetReleases,
    PostRun,
    GetRuns,
    GetRun,
    GetRunEvents,
    AbortRun,
    HoldVm,
    UnholdVm,
    GetHolds,
    Problem>;

/// The call, or the problem to answer with: no_such_path, method_not_allowed, bad_request.
Route find_route(std::string_view method, std::string_view target);

} // namespace qhup::daemon
