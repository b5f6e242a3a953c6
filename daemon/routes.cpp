// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/routes.hpp"

#include "daemon/api_types_events.hpp"
#include "daemon/api_types_read.hpp"
#include "daemon/problems.hpp"
#include "daemon/vm_labels.hpp"

#include <algorithm>
#include <array>
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

Problem bad_query(const std::string& key, const std::string& value, std::string next_step = {}) {
    return make_problem(
        ProblemCode::bad_request,
        "The query '" + key + "=" + value + "' is not understood.",
        std::move(next_step)
    );
}

Problem bad_after() {
    return make_problem(ProblemCode::bad_request, "'after' must be the number of an event.");
}

/// The query is strict: a misspelt key would give what nobody asked for.
/// @return  a problem if there is another key than these, or one that is there twice
std::optional<Problem>
find_unknown(const Query& query, std::initializer_list<std::string_view> known) {
    for (const auto& [key, value] : query) {
        const bool is_known = std::find(known.begin(), known.end(), key) != known.end();
        if (!is_known || query.count(key) != 1) {
            return bad_query(key, value);
        }
    }
    return std::nullopt;
}

Route make_run_events(const std::string& id, const Query& query) {
    if (auto problem = find_unknown(query, {"after"})) {
        return std::move(*problem);
    }
    const auto after = query.find("after");
    const auto number =
        after == query.end() ? std::optional<std::uint64_t>(0) : parse_event_id(after->second);
    return number ? Route(GetRunEvents{.id = id, .after = *number}) : Route(bad_after());
}

Route make_events(const std::string& /*name*/, const Query& query) {
    GetEvents route;
    for (const auto& [key, value] : query) {
        const bool is_name = (key == "run" || key == "vm") && is_valid_name(value);
        const bool is_type = key == "type" && parse_event_type(value).has_value();
        if (key == "after") {
            route.after = query.count(key) == 1 ? parse_event_id(value) : std::nullopt;
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
            return bad_query(key, value);
        }
        *into = value;
    }
    return std::nullopt;
}

/// At least 1; "" is the default.
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

Route make_upgrades(const std::string& /*name*/, const Query& query) {
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

Route make_rehearsals(const std::string& /*name*/, const Query& query) {
    GetRehearsals route;
    std::string limit;
    const auto problem =
        read_query(query, {{"run", &route.run}, {"vm", &route.vm}, {"limit", &limit}});
    if (problem) {
        return *problem;
    }
    return read_number(limit, route.limit) ? Route(route) : Route(bad_number());
}

Route make_history(const std::string& /*name*/, const Query& query) {
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
Route make_vms(const std::string& /*name*/, const Query& query) {
    if (auto problem = find_unknown(query, {"labels"})) {
        return std::move(*problem);
    }
    GetVms route;
    const auto labels = query.find("labels");
    bool goes_on = labels != query.end();
    std::string_view rest = goes_on ? std::string_view(labels->second) : std::string_view();
    while (goes_on) {
        const auto comma = rest.find(',');
        const std::string_view one = rest.substr(0, comma);
        const auto equals = one.find('=');
        if (equals == std::string_view::npos || !is_label_word(one.substr(0, equals)) ||
            !is_label_word(one.substr(equals + 1))) {
            return make_problem(
                ProblemCode::bad_request, "'labels' must be written as labels=tier=db,rack=7."
            );
        }
        route.labels[std::string(one.substr(0, equals))] = one.substr(equals + 1);
        goes_on = comma != std::string_view::npos;
        rest.remove_prefix(goes_on ? comma + 1 : rest.size());
    }
    return route;
}

Route make_check(const std::string& vm, const Query& query) {
    if (auto problem = find_unknown(query, {"to", "allow"})) {
        return std::move(*problem);
    }
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
        .vm = vm, .to = to->second, .allow = allow == query.end() ? std::string() : allow->second};
}

/// A call that is chosen by its path only.
template <class Call>
Route make_plain(const std::string& /*name*/, const Query& query) {
    return query.empty() ? Route(Call{})
                         : Route(bad_query(query.begin()->first, query.begin()->second));
}

template <class Call>
Route make_named(const std::string& name, const Query& query) {
    return query.empty() ? Route(Call{name})
                         : Route(bad_query(query.begin()->first, query.begin()->second));
}

/// For programs that look whether we are there: what they add to the address changes nothing.
template <class Call>
Route make_lenient(const std::string& /*name*/, const Query& /*query*/) {
    return Call{};
}

/// One call of the API: docs/openapi.yaml has the same.
struct CallRow {
    std::string_view method;
    std::string_view path; ///< "*" stands for a name
    Route (*make)(const std::string& name, const Query& query);
};

constexpr std::array kCalls{
    CallRow{"GET", "healthz", make_lenient<GetHealth>},
    CallRow{"GET", "metrics", make_lenient<GetMetrics>},
    CallRow{"GET", "v1/version", make_plain<GetVersion>},
    CallRow{"GET", "v1/codes", make_plain<GetCodes>},
    CallRow{"GET", "v1/vms", make_vms},
    CallRow{"GET", "v1/vms/*", make_named<GetVm>},
    CallRow{"GET", "v1/vms/*/check", make_check},
    CallRow{"PUT", "v1/vms/*/hold", make_named<HoldVm>},
    CallRow{"DELETE", "v1/vms/*/hold", make_named<UnholdVm>},
    CallRow{"GET", "v1/holds", make_plain<GetHolds>},
    CallRow{"GET", "v1/releases", make_plain<GetReleases>},
    CallRow{"GET", "v1/selftests", make_plain<GetSelftests>},
    CallRow{"POST", "v1/selftests", make_plain<PostSelftest>},
    CallRow{"GET", "v1/selftests/*", make_named<GetSelftest>},
    CallRow{"GET", "v1/runs", make_plain<GetRuns>},
    CallRow{"POST", "v1/runs", make_plain<PostRun>},
    CallRow{"GET", "v1/runs/*", make_named<GetRun>},
    CallRow{"POST", "v1/runs/*/abort", make_named<AbortRun>},
    CallRow{"GET", "v1/runs/*/events", make_run_events},
    CallRow{"GET", "v1/upgrades", make_upgrades},
    CallRow{"GET", "v1/upgrades/*", make_named<GetUpgrade>},
    CallRow{"GET", "v1/rehearsals", make_rehearsals},
    CallRow{"GET", "v1/history", make_history},
    CallRow{"GET", "v1/events", make_events},
};

bool is_path(const std::vector<std::string>& parts, std::string_view path) noexcept {
    for (const std::string& part : parts) {
        const std::string_view wanted = path.substr(0, path.find('/'));
        if (wanted.empty() || (wanted != "*" && wanted != part)) {
            return false;
        }
        path.remove_prefix(std::min(wanted.size() + 1, path.size()));
    }
    return path.empty();
}

} // namespace

std::optional<std::uint64_t> parse_event_id(std::string_view digits) noexcept {
    std::uint64_t id = 0;
    const auto parsed = std::from_chars(digits.data(), digits.data() + digits.size(), id);
    const bool is_whole = parsed.ec == std::errc{} && parsed.ptr == digits.data() + digits.size();
    return is_whole && id <= read::kMaxExactInteger ? std::optional<std::uint64_t>(id)
                                                    : std::nullopt;
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
    const std::string_view meant = method == "HEAD" ? "GET" : method;
    const CallRow* found = nullptr;
    std::string methods;
    bool has_name = false;
    for (const CallRow& row : kCalls) {
        if (is_path(*parts, row.path)) {
            methods += (methods.empty() ? "" : ", ") + std::string(row.method) +
                       (row.method == "GET" ? ", HEAD" : "");
            has_name = row.path.find('*') != std::string_view::npos;
            found = row.method == meant ? &row : found;
        }
    }
    if (methods.empty()) {
        return make_problem(ProblemCode::no_such_path, "The API has no such path.");
    }
    const std::string name = has_name ? (*parts)[2] : std::string();
    if (has_name && !is_valid_name(name)) {
        return bad_target();
    }
    if (found == nullptr) {
        Problem problem = make_problem(
            ProblemCode::method_not_allowed,
            "This path does not take the method of the request, but " + methods + "."
        );
        problem.allow = std::move(methods);
        return problem;
    }
    return found->make(name, *query);
}

} // namespace qhup::daemon
