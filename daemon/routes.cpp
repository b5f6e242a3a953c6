// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/routes.hpp"

#include "daemon/api_types_events.hpp"
#include "daemon/problems.hpp"

#include <charconv>
#include <initializer_list>
#include <map>
#include <optional>
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

Route make_check(std::string vm, const Query& query) {
    const auto to = query.find("to");
    if (to == query.end() || !is_valid_name(to->second)) {
        return make_problem(
            ProblemCode::bad_request,
            "The release is missing.",
            "Add ?to= with the name of a release from /v1/releases."
        );
    }
    return GetCheck{.vm = std::move(vm), .to = to->second};
}

std::string_view method_of(const Route& route) noexcept {
    const bool is_post =
        std::holds_alternative<AbortRun>(route) || std::holds_alternative<PostRun>(route);
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
    } else if (parts->size() < 2 || parts->front() != "v1") {
        return route;
    } else if (parts->size() > 2 && ((*parts)[1] == "vms" || (*parts)[1] == "runs")) {
        route = find_named(method, *parts, *query);
    } else if (parts->size() == 2 && (*parts)[1] == "version") {
        route = GetVersion{};
    } else if (parts->size() == 2 && (*parts)[1] == "vms") {
        route = GetVms{};
    } else if (parts->size() == 2 && (*parts)[1] == "releases") {
        route = GetReleases{};
    } else if (parts->size() == 2 && (*parts)[1] == "holds") {
        route = GetHolds{};
    } else if (parts->size() == 2 && (*parts)[1] == "events") {
        route = make_events(*query);
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
