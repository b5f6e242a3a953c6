// SPDX-License-Identifier: GPL-2.0-or-later
//
// Which request is meant: method and target of HTTP to one of the API's calls. Pure.
#pragma once

#include "daemon/api_types_history.hpp"
#include "daemon/event_log.hpp"

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <variant>

namespace qhup::daemon {

/// The calls of the API. Names that came in the path were checked with is_valid_name().
struct GetHealth {};
struct GetVersion {};
struct GetCodes {};
struct GetVms {
    std::map<std::string, std::string> labels = {}; ///< only VMs that have each of these
};
struct GetVm {
    std::string name;
};
struct GetCheck {
    std::string vm;
    std::string to;
    std::string allow; ///< code of a refusal that is overruled; "": none
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
struct PostSelftest {};
struct GetSelftests {};
struct GetSelftest {
    std::string id;
};
struct GetRunEvents {
    std::string id;
    std::uint64_t after = 0; ///< events up to this number are known already
};
struct GetUpgrades {
    std::string run; ///< "": of all
    std::string vm;
    std::string outcome;
    std::size_t limit = 1000;
};
struct GetUpgrade {
    std::string id;
};
struct GetRehearsals {
    std::string run; ///< "": of all
    std::string vm;
    std::size_t limit = 1000;
};
struct GetHistory {
    HistoryFilter filter;
};
struct GetMetrics {};
struct GetEvents {
    std::optional<std::uint64_t> after; ///< events up to this id are known; none: all until now
    EventFilter filter;
};

using Route = std::variant<
    GetHealth,
    GetVersion,
    GetCodes,
    GetVms,
    GetVm,
    GetCheck,
    GetReleases,
    PostRun,
    GetRuns,
    GetRun,
    GetRunEvents,
    GetEvents,
    GetUpgrades,
    GetUpgrade,
    GetRehearsals,
    GetHistory,
    GetMetrics,
    AbortRun,
    HoldVm,
    UnholdVm,
    GetHolds,
    PostSelftest,
    GetSelftests,
    GetSelftest,
    Problem>;

/// The id of an event, or another number, in a request: up to kMaxExactInteger.
std::optional<std::uint64_t> parse_event_id(std::string_view digits) noexcept;

/// The call, or the problem to answer with: no_such_path, method_not_allowed, bad_request. HEAD is
/// the call of GET.
Route find_route(std::string_view method, std::string_view target);

/// The call changes something.
bool is_action(const Route& route) noexcept;

} // namespace qhup::daemon
