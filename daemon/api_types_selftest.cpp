// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/api_types_selftest.hpp"

#include "daemon/api_types.hpp"
#include "daemon/api_types_read.hpp"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <utility>

namespace qhup::daemon {
namespace {

using nlohmann::json;
using read::flag;
using read::integer;
using read::member;
using read::text;

constexpr std::uint64_t kMostGuests = 50;

Failure bad_request(std::string message) {
    return make_failure(Errc::invalid_argument, std::move(message));
}

Result<void> parse_member(const std::string& key, const json& value, SelftestRequest& request) {
    if (key == "to" || key == "from") {
        if (!value.is_string() || !is_valid_name(value.get_ref<const std::string&>())) {
            return bad_request("'" + key + "' must be the name of a release");
        }
        (key == "to" ? request.to : request.from) = value.get<std::string>();
        return {};
    }
    if (key != "guests") {
        return bad_request("a selftest has to, from and guests, and nothing else");
    }
    const auto guests = read::whole_number(value);
    if (!guests || *guests < 1 || *guests > kMostGuests) {
        return bad_request("'guests' must be a number from 1 to 50");
    }
    request.guests = static_cast<std::uint32_t>(*guests);
    return {};
}

} // namespace

std::string words_of_tried(std::string_view name) {
    std::string words(name == "kvm" ? "KVM" : name);
    std::replace(words.begin(), words.end(), '_', ' ');
    return words;
}

json to_json(const TriedView& value) {
    return {{"name", value.name}, {"used", value.used}, {"text", value.text}, {"vms", value.vms}};
}

json to_json(const SelftestRequest& value) {
    json request = {{"to", value.to}, {"guests", value.guests}};
    if (!value.from.empty()) {
        request["from"] = value.from;
    }
    return request;
}

json to_json(const SelftestView& value) {
    json tried = json::array();
    for (const TriedView& each : value.tried) {
        tried.push_back(to_json(each));
    }
    return {
        {"id", value.id},
        {"state", value.state},
        {"passed", value.passed},
        {"message", value.message},
        {"next_step", value.next_step},
        {"from", value.from},
        {"to", value.to},
        {"from_build_id", value.from_build_id},
        {"to_build_id", value.to_build_id},
        {"kernel", value.kernel},
        {"guests", value.guests},
        {"run", value.run},
        {"accelerator", value.accelerator},
        {"hugepages", value.hugepages},
        {"confinement", value.confinement},
        {"tried", std::move(tried)},
        {"counted", value.counted},
        {"pause_ms", value.pause_ms ? json(*value.pause_ms) : json(nullptr)},
        {"started_unix_ms", value.started_unix_ms},
        {"finished_unix_ms", value.finished_unix_ms},
        {"by_uid", value.by_uid},
    };
}

json to_json(const std::vector<SelftestView>& value) {
    json list = json::array();
    for (const SelftestView& each : value) {
        list.push_back(to_json(each));
    }
    return {{"selftests", std::move(list)}};
}

SelftestView selftest_from_json(const json& value) {
    const json& pause = member(value, "pause_ms");
    const json& list = member(value, "tried");
    std::vector<TriedView> tried;
    for (const json& each : list.is_array() ? list : json::array()) {
        tried.push_back(
            {.name = text(each, "name"),
             .used = flag(each, "used"),
             .text = text(each, "text"),
             .vms = integer<std::uint32_t>(each, "vms")}
        );
    }
    return {
        .id = text(value, "id"),
        .state = text(value, "state"),
        .passed = flag(value, "passed"),
        .message = text(value, "message"),
        .next_step = text(value, "next_step"),
        .from = text(value, "from"),
        .to = text(value, "to"),
        .from_build_id = text(value, "from_build_id"),
        .to_build_id = text(value, "to_build_id"),
        .kernel = text(value, "kernel"),
        .guests = integer<std::uint32_t>(value, "guests"),
        .run = text(value, "run"),
        .accelerator = text(value, "accelerator"),
        .hugepages = flag(value, "hugepages"),
        .confinement = text(value, "confinement"),
        .tried = std::move(tried),
        .counted = integer<std::uint64_t>(value, "counted"),
        .pause_ms = pause.is_number() ? std::optional(pause.get<double>()) : std::nullopt,
        .started_unix_ms = integer<std::int64_t>(value, "started_unix_ms"),
        .finished_unix_ms = integer<std::int64_t>(value, "finished_unix_ms"),
        .by_uid = integer<std::int64_t>(value, "by_uid"),
    };
}

std::vector<SelftestView> selftests_from_json(const json& value) {
    std::vector<SelftestView> selftests;
    const json& list = member(value, "selftests");
    for (const json& each : list.is_array() ? list : json::array()) {
        selftests.push_back(selftest_from_json(each));
    }
    return selftests;
}

Result<SelftestRequest> parse_selftest_request(std::string_view body) {
    const auto parsed = read::parse_request(body);
    if (parsed.has_error()) {
        return parsed.error();
    }
    if (!parsed->is_object()) {
        return bad_request("the request must be a JSON object");
    }
    SelftestRequest request;
    for (const auto& [key, value] : parsed->items()) {
        if (const auto result = parse_member(key, value, request); result.has_error()) {
            return result.error();
        }
    }
    if (request.to.empty()) {
        return bad_request("'to' is missing: the name of a release");
    }
    return request;
}

} // namespace qhup::daemon
