// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/routes.hpp"

#include "daemon/api_types_events.hpp"
#include "daemon/problems.hpp"

#include <algorithm>
#include <charconv>
#include <initializer_list>
#include <map>
#include <optional>
#include <utility>
#include <vector>

namespace qhup::daemon {
namespace {

int hex_value(char c) noexcept {
    if (c >= '0' && c <= '9') {
        return c - '0';
    }
    if (c >= 'a' && c <= 'f') {
        return c - 'a' + 10;
    }
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

std::optional<std::string> percent_decoded(std::string_view text) {
    std::string decoded;
    for (std::size_t i = 0; i < text.size(); ++i) {
        if (text[i] != '%') {
            decoded += text[i];
            continue;
        }
        const int high = i + 2 < text.size() ? hex_value(text[i + 1]) : -1;
        const int low = i + 2 < text.size() ? hex_value(text[i + 2]) : -1;
        if (high < 0 || low < 0) {
            return std::nullopt;
        }
        decoded += static_cast<char>(high * 16 + low);
        i += 2;
    }
    return decoded;
}

/// "/v1/vms/a" as {"v1", "vms", "a"}, each part decoded after it was cut.
std::optional<std::vector<std::string>> split_path(std::string_view path) {
    if (path.empty() || path.front() != '/') {
        return std::nullopt;
    }
    path.remove_prefix(1);
    std::vector<std::string> parts;
    for (;;) {
        const auto end = path.find('/');
        auto part = percent_decoded(path.substr(0, end));
        if (!part) {
            return std::nullopt;
        }
        parts.push_back(std::move(*part));
        if (end == std::string_view::npos) {
            return parts;
        }
        path.remove_prefix(end + 1);
    }
}

using Query = std::multimap<std::string, std::string>;

std::optional<Query> split_query(std::string_view query) {
    Query values;
    while (!query.empty()) {
        const auto end = query.find('&');
        const std::string_view pair = query.substr(0, end);
        const auto equals = pair.find('=');
        auto key = percent_decoded(pair.substr(0, equals));
        auto value = percent_decoded(
            equals == std::string_view::npos ? std::string_view() : pair.substr(equals + 1)
        );
        if (!key || !value) {
            return std::nullopt;
        }
        values.emplace(std::move(*key), std::move(*value));
        query.remove_prefix(end == std::string_view::npos ? query.size() : end + 1);
    }
    return values;
}

Problem bad_target() {
    return make_problem(ProblemCode::bad_request, "The address of the request is not understood.");
}

Problem bad_after() {
    return make_problem(ProblemCode::bad_request, "'after' must be the number of an event.");
}

Route make_run_events(std::string id, const Query& query) {
    GetRunEvents route{.id = std::move(id), .after = 0};
    const auto after = query.find("after");
    if (after != query.end()) {
        const auto number = parse_event_id(after->second);
        if (!number) {
            return bad_after();
        }
        route.after = *number;
    }
    return route;
}

/// The filters are strict: a misspelt one would give what nobody asked for.
Route make_events(const Query& query) {
    GetEvents route;
    for (const auto& [key, value] : query) {
        const bool is_name = (key == "run" || key == "vm") && is_valid_name(value);
        const bool is_type = key == "type" && parse_event_type(value).has_value();
        if (key == "after" && !route.after) {
            route.after = parse_event_id(value);
        }
        if (key == "after" && !route.after) {
            return bad_after();
        }
        if (key != "after" && !is_name && !is_type) {
            return make_problem(
                ProblemCode::bad_request,
                "Events cannot be chosen by '" + key + "=" + value + "'.",
                "Use run=, vm=, type= and after=; docs/api.md has the types."
            );
        }
        if (is_name || is_type) {
            auto& list = key == "run"  ? route.filter.runs
                         : key == "vm" ? route.filter.vms
                                       : route.filter.types;
            list.push_back(value);
        }
    }
    return route;
}

/// One value of each key that is known, and no other key.
/// @return  a problem, or nothing
std::optional<Problem>
read_query(const Query& query, std::initializer_list<std::pair<const char*, std::string*>> known) {
    for (const auto& [key, value] : query) {
        std::string* into = nullptr;
        for (const auto& [name, target] : known) {
            into = key == name ? target : into;
        }
        if (into == nullptr || !into->empty() || !is_valid_name(value)) {
            return make_problem(
                ProblemCode::bad_request, "The query '" + key + "=" + value + "' is not understood."
            );
        }
        *into = value;
    }
    return std::nullopt;
}

/// 1 to 10,000; "" is the default.
template <class Number>
bool read_number(const std::string& digits, Number& into) {
    const auto number = parse_event_id(digits);
    if (!digits.empty() && number && *number > 0) {
        into = static_cast<Number>(*number);
    }
    return digits.empty() || (number && *number > 0);
}

Problem bad_number() {
    return make_problem(ProblemCode::bad_request, "'limit' and 'before' must be numbers above 0.");
}

Route make_upgrades(const Query& query) {
    GetUpgrades route;
    std::string limit;
    const auto problem = read_query(
        query,
        {{"run", &route.run}, {"vm", &route.vm}, {"outcome", &route.outcome}, {"limit", &limit}}
    );
    if (problem) {
        return *problem;
    }
    return read_number(limit, route.limit) ? Route(route) : Route(bad_number());
}

Route make_rehearsals(const Query& query) {
    GetRehearsals route;
    std::string limit;
    const auto problem =
        read_query(query, {{"run", &route.run}, {"vm", &route.vm}, {"limit", &limit}});
    if (problem) {
        return *problem;
    }
    return read_number(limit, route.limit) ? Route(route) : Route(bad_number());
}

Route make_history(const Query& query) {
    GetHistory route;
    std::string limit;
    std::string before;
    const auto problem = read_query(
        query,
        {{"run", &route.filter.run},
         {"vm", &route.filter.vm},
         {"action", &route.filter.action},
         {"before", &before},
         {"limit", &limit}}
    );
    if (problem) {
        return *problem;
    }
    if (!route.filter.action.empty() && !parse_history_action(route.filter.action)) {
        return make_problem(
            ProblemCode::bad_request, "There is no action '" + route.filter.action + "'."
        );
    }
    const bool is_good =
        read_number(limit, route.filter.limit) && read_number(before, route.filter.before);
    return is_good ? Route(route) : Route(bad_number());
}

/// "?labels=tier=db,rack=7"
Route make_vms(const Query& query) {
    GetVms route;
    const auto labels = query.find("labels");
    std::string_view rest = labels == query.end() ? std::string_view() : labels->second;
    while (!rest.empty()) {
        const std::string_view one = rest.substr(0, rest.find(','));
        rest.remove_prefix(std::min(one.size() + 1, rest.size()));
        const auto equals = one.find('=');
        if (equals == std::string_view::npos || equals == 0) {
            return make_problem(
                ProblemCode::bad_request, "'labels' must be written as labels=tier=db,rack=7."
            );
        }
        route.labels[std::string(one.substr(0, equals))] = one.substr(equals + 1);
    }
    return route;
}

Route make_check(std::string vm, const Query& query) {
    const auto to = query.find("to");
    if (to == query.end() || !is_valid_name(to->second)) {
        return make_problem(
            ProblemCode::bad_request,
            "The release is missing.",
            "Add ?to= with the name of a release from /v1/releases."
        );
    }
    const auto allow = query.find("allow");
    if (allow != query.end() && !is_overrulable(allow->second)) {
        return make_problem(
            ProblemCode::bad_request,
            "There is nothing to allow with the word '" + allow->second + "'.",
            "Use untested or outside_window."
        );
    }
    return GetCheck{
        .vm = std::move(vm),
        .to = to->second,
        .allow = allow == query.end() ? std::string() : allow->second};
}

std::string_view method_of(const Route& route) noexcept {
    const bool is_post = std::holds_alternative<AbortRun>(route) ||
                         std::holds_alternative<PostRun>(route) ||
                         std::holds_alternative<PostSelftest>(route);
    return is_post                                   ? "POST"
           : std::holds_alternative<HoldVm>(route)   ? "PUT"
           : std::holds_alternative<UnholdVm>(route) ? "DELETE"
                                                     : "GET";
}

Route find_named(
    std::string_view method, const std::vector<std::string>& parts, const Query& query
) {
    const std::string& name = parts[2];
    if (!is_valid_name(name)) {
        return bad_target();
    }
    if (parts[1] == "upgrades" || parts[1] == "selftests") {
        return parts.size() != 3
                   ? Route(make_problem(ProblemCode::no_such_path, "The API has no such path."))
               : parts[1] == "upgrades" ? Route(GetUpgrade{name})
                                        : Route(GetSelftest{name});
    }
    const bool is_vm = parts[1] == "vms";
    if (parts.size() == 3) {
        return is_vm ? Route(GetVm{name}) : Route(GetRun{name});
    }
    if (is_vm && parts.size() == 4 && parts[3] == "check") {
        return make_check(name, query);
    }
    if (is_vm && parts.size() == 4 && parts[3] == "hold") {
        return method == "DELETE" ? Route(UnholdVm{name}) : Route(HoldVm{name});
    }
    if (!is_vm && parts.size() == 4 && parts[3] == "abort") {
        return AbortRun{name};
    }
    if (!is_vm && parts.size() == 4 && parts[3] == "events") {
        return make_run_events(name, query);
    }
    return make_problem(ProblemCode::no_such_path, "The API has no such path.");
}

} // namespace

std::optional<std::uint64_t> parse_event_id(std::string_view digits) noexcept {
    std::uint64_t id = 0;
    const auto parsed = std::from_chars(digits.data(), digits.data() + digits.size(), id);
    const bool is_whole = parsed.ec == std::errc{} && parsed.ptr == digits.data() + digits.size();
    return is_whole ? std::optional<std::uint64_t>(id) : std::nullopt;
}

bool is_action(const Route& route) noexcept {
    return std::holds_alternative<PostRun>(route) || std::holds_alternative<AbortRun>(route) ||
           std::holds_alternative<HoldVm>(route) || std::holds_alternative<UnholdVm>(route) ||
           std::holds_alternative<PostSelftest>(route);
}

Route find_route(std::string_view method, std::string_view target) {
    const auto mark = target.find('?');
    const auto parts = split_path(target.substr(0, mark));
    const auto query =
        split_query(mark == std::string_view::npos ? std::string_view() : target.substr(mark + 1));
    if (!parts || !query) {
        return bad_target();
    }
    Route route = make_problem(ProblemCode::no_such_path, "The API has no such path.");
    if (*parts == std::vector<std::string>{"healthz"}) {
        route = GetHealth{};
    } else if (*parts == std::vector<std::string>{"metrics"}) {
        route = GetMetrics{};
    } else if (parts->size() < 2 || parts->front() != "v1") {
        return route;
    } else if (parts->size() > 2 && ((*parts)[1] == "vms" || (*parts)[1] == "runs" || (*parts)[1] == "upgrades" || (*parts)[1] == "selftests")) {
        route = find_named(method, *parts, *query);
    } else if (parts->size() == 2 && (*parts)[1] == "version") {
        route = GetVersion{};
    } else if (parts->size() == 2 && (*parts)[1] == "codes") {
        route = GetCodes{};
    } else if (parts->size() == 2 && (*parts)[1] == "vms") {
        route = make_vms(*query);
    } else if (parts->size() == 2 && (*parts)[1] == "releases") {
        route = GetReleases{};
    } else if (parts->size() == 2 && (*parts)[1] == "holds") {
        route = GetHolds{};
    } else if (parts->size() == 2 && (*parts)[1] == "events") {
        route = make_events(*query);
    } else if (parts->size() == 2 && (*parts)[1] == "upgrades") {
        route = make_upgrades(*query);
    } else if (parts->size() == 2 && (*parts)[1] == "rehearsals") {
        route = make_rehearsals(*query);
    } else if (parts->size() == 2 && (*parts)[1] == "history") {
        route = make_history(*query);
    } else if (parts->size() == 2 && (*parts)[1] == "selftests") {
        route = method == "POST" ? Route(PostSelftest{}) : Route(GetSelftests{});
    } else if (parts->size() == 2 && (*parts)[1] == "runs") {
        route = method == "POST" ? Route(PostRun{}) : Route(GetRuns{});
    }
    if (!std::holds_alternative<Problem>(route) && method != method_of(route)) {
        return make_problem(
            ProblemCode::method_not_allowed, "This path does not take the method of the request."
        );
    }
    return route;
}

} // namespace qhup::daemon
