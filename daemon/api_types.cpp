// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/api_types.hpp"

#include "daemon/api_types_read.hpp"
#include "daemon/nearest_name.hpp"
#include "daemon/vm_labels.hpp"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <cstddef>
#include <initializer_list>
#include <set>
#include <vector>

namespace qhup::daemon {
namespace {

using nlohmann::json;
using read::elements;
using read::flag;
using read::integer;
using read::member;
using read::text;
using read::whole_number;

constexpr int kMaxDepth = 32;
constexpr std::size_t kMaxNameLength = 128;
constexpr std::size_t kMaxNamedVms = 10'000;
constexpr std::uint32_t kMaxParallel = 1024;
constexpr std::uint64_t kMaxSoakMs = 7ULL * 24 * 3600 * 1000;
constexpr std::ptrdiff_t kMaxReasonLength = 500;
constexpr std::uint64_t kMaxPauseBudgetMs = 30'000;

std::optional<double> decimal(const json& object, const char* key) {
    const json& value = member(object, key);
    return value.is_number() ? std::optional<double>(value.get<double>()) : std::nullopt;
}

template <class T>
json array_of(const std::vector<T>& values) {
    json array = json::array();
    for (const T& value : values) {
        array.push_back(to_json(value));
    }
    return array;
}

json or_null(const std::optional<double>& value) {
    return value ? json(*value) : json(nullptr);
}

std::vector<BlockerView> blockers_from_json(const json& object, const char* key = "blockers") {
    std::vector<BlockerView> blockers;
    for (const json& value : elements(object, key)) {
        blockers.push_back(
            {.id = text(value, "id"),
             .klass = text(value, "class"),
             .reason = text(value, "reason")}
        );
    }
    return blockers;
}

std::optional<RehearsalView> rehearsal_from_json(const json& value) {
    if (!value.is_object()) {
        return std::nullopt;
    }
    return RehearsalView{
        .result = text(value, "result"),
        .code = text(value, "code"),
        .reason = text(value, "reason"),
        .section = text(value, "section"),
        .pause_ms = decimal(value, "pause_ms"),
        .predicted_pause_ms = decimal(value, "predicted_pause_ms"),
    };
}

std::optional<StageView> stage_from_json(const json& value) {
    if (!value.is_object()) {
        return std::nullopt;
    }
    return StageView{
        .name = text(value, "name"),
        .number = integer<std::uint32_t>(value, "number"),
        .of = integer<std::uint32_t>(value, "of"),
        .state = text(value, "state"),
        .soak_until_unix_ms = integer<std::int64_t>(value, "soak_until_unix_ms"),
    };
}

std::vector<StepView> steps_from_json(const json& object) {
    std::vector<StepView> steps;
    for (const json& value : elements(object, "steps")) {
        steps.push_back(
            {.phase = text(value, "phase"),
             .at_ms = integer<std::uint64_t>(value, "at_ms"),
             .outcome = text(value, "outcome")}
        );
    }
    return steps;
}

/// How deep the text nests, strings left out. Looked at first: to print or to destroy a deep tree
/// would crash, and a parser that calls back at every value takes several times as long.
bool is_too_deep(std::string_view text) noexcept {
    int depth = 0;
    bool is_in_string = false;
    for (std::size_t i = 0; i < text.size(); ++i) {
        const char c = text[i];
        if (is_in_string) {
            i += c == '\\' ? 1U : 0U;
            is_in_string = c != '"';
        } else if (c == '"') {
            is_in_string = true;
        } else if (c == '[' || c == '{') {
            if (++depth > kMaxDepth) {
                return true;
            }
        } else if (c == ']' || c == '}') {
            --depth;
        }
    }
    return false;
}

Failure bad_request(std::string message) {
    return make_failure(Errc::invalid_argument, std::move(message));
}

Result<std::vector<std::string>> parse_vm_names(const json& value) {
    if (!value.is_array()) {
        return bad_request("'vms' must be a list of names");
    }
    if (value.size() > kMaxNamedVms) {
        return bad_request("'vms' has too many names; use 'all'");
    }
    std::vector<std::string> names;
    for (const json& entry : value) {
        if (!entry.is_string() || !is_valid_name(entry.get_ref<const std::string&>())) {
            return bad_request("'vms' must be a list of names; one of them is not a name");
        }
        const auto& name = entry.get_ref<const std::string&>();
        if (std::find(names.begin(), names.end(), name) == names.end()) {
            names.push_back(name);
        }
    }
    return names;
}

/// @return  nothing if the value is one of the words
std::optional<std::string>
word_of(const json& value, std::initializer_list<std::string_view> words) {
    const std::string given = value.is_string() ? value.get<std::string>() : std::string();
    const bool is_known = std::find(words.begin(), words.end(), given) != words.end();
    return is_known ? std::optional(given) : std::nullopt;
}

/// 1 to `most`, which fits.
std::optional<std::uint32_t> number_of(const json& value, std::uint64_t most) {
    const auto number = whole_number(value);
    const bool is_in_range = number && *number >= 1 && *number <= most;
    return is_in_range ? std::optional(static_cast<std::uint32_t>(*number)) : std::nullopt;
}

Result<std::vector<std::string>> parse_allow(const json& value) {
    std::vector<std::string> codes;
    for (const json& entry : value.is_array() ? value : json::array({nullptr})) {
        if (!entry.is_string() || !is_overrulable(entry.get_ref<const std::string&>())) {
            return bad_request("'allow' must be a list of the words untested and outside_window");
        }
        codes.push_back(entry.get<std::string>());
    }
    std::sort(codes.begin(), codes.end());
    codes.erase(std::unique(codes.begin(), codes.end()), codes.end());
    return codes;
}

/// Texts by key; what is not a text is left out.
std::map<std::string, std::string> labels_from_json(const json& value) {
    std::map<std::string, std::string> labels;
    if (!value.is_object()) {
        return labels;
    }
    for (const auto& [key, label] : value.items()) {
        if (label.is_string()) {
            labels[key] = label.get<std::string>();
        }
    }
    return labels;
}

Failure unknown_member(const std::string& key) {
    static const std::vector<std::string> members{
        "vms",
        "all",
        "kind",
        "to",
        "labels",
        "parallel",
        "max_failures",
        "rehearse",
        "pause_budget_ms",
        "canaries",
        "batch",
        "soak_ms",
        "dry_run",
        "allow",
        "request_id"};
    std::string all;
    for (const std::string& member : members) {
        all += (all.empty() ? "" : ", ") + member;
    }
    // why: whoever sent megabytes by mistake shall not get them back.
    const std::string shown = key.size() <= 64 ? "'" + key + "'" : "of so long a name";
    return bad_request(
        "this request has no member " + shown + ". " + did_you_mean(key, members) + "It has " + all
    );
}

Result<void> parse_run_member(const std::string& key, const json& value, RunRequest& request) {
    if (key == "vms") {
        auto names = parse_vm_names(value);
        if (names.has_error()) {
            return names.error();
        }
        request.vms = std::move(*names);
    } else if (key == "all" || key == "dry_run") {
        if (!value.is_boolean()) {
            return bad_request("'" + key + "' must be true or false");
        }
        (key == "all" ? request.all : request.dry_run) = value.get<bool>();
    } else if (key == "to") {
        if (!value.is_string() || !is_valid_name(value.get_ref<const std::string&>())) {
            return bad_request("'to' must be the name of a release");
        }
        request.to = value.get<std::string>();
    } else if (key == "labels") {
        request.labels = labels_from_json(value);
        const bool is_good =
            !request.labels.empty() && request.labels.size() == value.size() &&
            std::all_of(request.labels.begin(), request.labels.end(), [](const auto& label) {
                return is_label_word(label.first) && is_label_word(label.second);
            });
        if (!is_good) {
            return bad_request("'labels' must be an object of words, as {\"tier\": \"db\"}");
        }
    } else if (key == "request_id") {
        if (!value.is_string() || !is_valid_name(value.get_ref<const std::string&>())) {
            return bad_request("'request_id' must be a name: up to 128 printable characters "
                               "without a slash");
        }
        request.request_id = value.get<std::string>();
    } else if (key == "kind") {
        const auto kind = word_of(value, {"upgrade", "rehearsal", "revert", "way_back"});
        if (!kind) {
            return bad_request("'kind' must be upgrade, rehearsal, revert or way_back");
        }
        request.kind = *kind;
    } else if (key == "rehearse") {
        const auto which = word_of(value, {"none", "first", "all"});
        if (!which) {
            return bad_request("'rehearse' must be none, first or all");
        }
        request.rehearse = *which;
    } else if (key == "pause_budget_ms") {
        request.pause_budget_ms = number_of(value, kMaxPauseBudgetMs);
        if (!request.pause_budget_ms) {
            return bad_request("'pause_budget_ms' must be a number from 1 to 30000");
        }
    } else if (key == "allow") {
        auto codes = parse_allow(value);
        if (codes.has_error()) {
            return codes.error();
        }
        request.allow = std::move(*codes);
    } else if (key == "canaries" || key == "batch") {
        const auto number = number_of(value, kMaxNamedVms);
        if (!number) {
            return bad_request("'" + key + "' must be a number from 1 to 10000");
        }
        (key == "canaries" ? request.canaries : request.batch) = *number;
    } else if (key == "soak_ms") {
        const auto number = number_of(value, kMaxSoakMs);
        if (!number) {
            return bad_request("'soak_ms' must be a number from 1 to 604800000");
        }
        request.soak_ms = *number;
    } else if (key == "max_failures") {
        const auto number = number_of(value, kMaxNamedVms);
        if (!number) {
            return bad_request("'max_failures' must be a number from 1 to 10000");
        }
        request.max_failures = *number;
    } else if (key == "parallel") {
        request.parallel = number_of(value, kMaxParallel);
        if (!request.parallel) {
            return bad_request("'parallel' must be a number from 1 to 1024");
        }
    } else {
        return unknown_member(key);
    }
    return {};
}

} // namespace

bool is_overrulable(std::string_view code) noexcept {
    return code == "untested" || code == "outside_window";
}

bool allows(const RunRequest& request, std::string_view code) noexcept {
    return std::find(request.allow.begin(), request.allow.end(), code) != request.allow.end();
}

json to_json(const BlockerView& value) {
    return {{"id", value.id}, {"class", value.klass}, {"reason", value.reason}};
}

json to_json(const HoldView& value) {
    return {
        {"vm", value.vm},
        {"reason", value.reason},
        {"since_unix_ms", value.since_unix_ms},
        {"until_unix_ms", value.until_unix_ms},
        {"by_uid", value.by_uid},
    };
}

json to_json(const AttentionView& value) {
    return {
        {"vm", value.vm},
        {"run", value.run},
        {"code", value.code},
        {"message", value.message},
        {"next_step", value.next_step},
        {"since_unix_ms", value.since_unix_ms},
    };
}

json to_json(const VmView& value) {
    return {
        {"name", value.name},
        {"uuid", value.uuid},
        {"pid", value.pid},
        {"version", value.version},
        {"package", value.package},
        {"build_id", value.build_id},
        {"machine", value.machine},
        {"shape_class", value.shape_class},
        {"socket", value.socket},
        {"state", value.state},
        {"upgrade_state", value.upgrade_state},
        {"ram_bytes", value.ram_bytes},
        {"reachable", value.reachable},
        {"stale", value.stale},
        {"labels", value.labels},
        {"upgradable", value.upgradable},
        {"reason", value.reason},
        {"run", value.run},
        {"age_ms", value.age_ms},
        {"blockers", array_of(value.blockers)},
        {"hold", value.hold ? to_json(*value.hold) : json(nullptr)},
        {"attention", value.attention ? to_json(*value.attention) : json(nullptr)},
    };
}

json to_json(const ReleaseView& value) {
    return {
        {"name", value.name},
        {"path", value.path},
        {"sha256", value.sha256},
        {"description", value.description},
        {"build_id", value.build_id},
        {"usable", value.usable},
        {"reason", value.reason},
    };
}

json to_json(const CheckView& value) {
    return {
        {"vm", value.vm},
        {"from", value.from},
        {"to", value.to},
        {"can_upgrade", value.can_upgrade},
        {"code", value.code},
        {"message", value.message},
        {"blockers", array_of(value.blockers)},
        {"warnings", array_of(value.warnings)},
        {"way_known", value.way_known},
    };
}

json to_json(const StepView& value) {
    return {{"phase", value.phase}, {"at_ms", value.at_ms}, {"outcome", value.outcome}};
}

json to_json(const RehearsalView& value) {
    return {
        {"result", value.result},
        {"code", value.code},
        {"reason", value.reason},
        {"section", value.section},
        {"pause_ms", or_null(value.pause_ms)},
        {"predicted_pause_ms", or_null(value.predicted_pause_ms)},
    };
}

json to_json(const RunVmView& value) {
    return {
        {"vm", value.vm},
        {"upgrade", value.upgrade},
        {"phase", value.phase},
        {"since_ms", value.since_ms},
        {"outcome", value.outcome},
        {"code", value.code},
        {"message", value.message},
        {"peer_text", value.peer_text},
        {"next_step", value.next_step},
        {"from", value.from},
        {"to", value.to},
        {"from_build_id", value.from_build_id},
        {"to_build_id", value.to_build_id},
        {"recoveries", value.recoveries},
        {"steps", array_of(value.steps)},
        {"pause_ms", or_null(value.pause_ms)},
        {"total_ms", or_null(value.total_ms)},
        {"timings_ns", value.timings_ns},
        {"blockers", array_of(value.blockers)},
        {"shape_class", value.shape_class},
        {"rehearsal", value.rehearsal ? to_json(*value.rehearsal) : json(nullptr)},
        {"stage", value.stage},
        {"run_state", value.run_state},
        {"settled", value.settled},
    };
}

json to_json(const StageView& value) {
    return {
        {"name", value.name},
        {"number", value.number},
        {"of", value.of},
        {"state", value.state},
        {"soak_until_unix_ms", value.soak_until_unix_ms},
    };
}

json to_json(const RunView& value) {
    return {
        {"id", value.id},
        {"kind", value.kind},
        {"state", value.state},
        {"to", value.to},
        {"parallel", value.parallel},
        {"dry_run", value.dry_run},
        {"started_unix_ms", value.started_unix_ms},
        {"finished_unix_ms", value.finished_unix_ms},
        {"by_uid", value.by_uid},
        {"stopped_by", value.stopped_by},
        {"stop_reason", value.stop_reason},
        {"stage", value.stage ? to_json(*value.stage) : json(nullptr)},
        {"request", value.request ? to_json(*value.request) : json(nullptr)},
        {"warnings", array_of(value.warnings)},
        {"vms", array_of(value.vms)},
    };
}

json to_json(const RunEvent& value) {
    json event = {{"seq", value.sequence}};
    if (value.vm) {
        event["vm"] = to_json(*value.vm);
    }
    if (value.stage) {
        event["stage"] = to_json(*value.stage);
    }
    if (value.run) {
        event["run"] = to_json(*value.run);
    }
    return event;
}

json to_json(const RunRequest& value) {
    json request = {{"dry_run", value.dry_run}};
    if (!value.to.empty()) {
        request["to"] = value.to;
    }
    if (value.all) {
        request["all"] = true;
    } else {
        request["vms"] = value.vms;
    }
    if (!value.labels.empty()) {
        request["labels"] = value.labels;
    }
    if (value.parallel) {
        request["parallel"] = *value.parallel;
    }
    if (value.kind != "upgrade") {
        request["kind"] = value.kind;
    }
    if (!value.rehearse.empty()) {
        request["rehearse"] = value.rehearse;
    }
    if (value.pause_budget_ms) {
        request["pause_budget_ms"] = *value.pause_budget_ms;
    }
    if (value.max_failures != 0) {
        request["max_failures"] = value.max_failures;
    }
    if (value.canaries != 0) {
        request["canaries"] = value.canaries;
    }
    if (value.batch != 0) {
        request["batch"] = value.batch;
    }
    if (value.soak_ms != 0) {
        request["soak_ms"] = value.soak_ms;
    }
    if (!value.request_id.empty()) {
        request["request_id"] = value.request_id;
    }
    if (!value.allow.empty()) {
        request["allow"] = value.allow;
    }
    return request;
}

json to_json(const Problem& value) {
    return {
        {"type", "urn:qhup:problem:" + value.code},
        {"title", value.title},
        {"status", value.status},
        {"detail", value.detail},
        {"code", value.code},
        {"next_step", value.next_step},
    };
}

json to_json(const VersionView& value) {
    return {
        {"version", value.version},
        {"api", value.api},
        {"pid", value.pid},
        {"status", value.status},
    };
}

json to_json(const std::vector<VmView>& value) {
    return {{"vms", array_of(value)}};
}

json to_json(const std::vector<ReleaseView>& value) {
    return {{"releases", array_of(value)}};
}

json to_json(const std::vector<RunView>& value) {
    return {{"runs", array_of(value)}};
}

std::string format_json(const json& value) {
    return value.dump(-1, ' ', false, json::error_handler_t::replace);
}

std::string format_json_pretty(const json& value) {
    return value.dump(2, ' ', false, json::error_handler_t::replace);
}

HoldView hold_from_json(const json& value) {
    return {
        .vm = text(value, "vm"),
        .reason = text(value, "reason"),
        .since_unix_ms = integer<std::int64_t>(value, "since_unix_ms"),
        .until_unix_ms = integer<std::int64_t>(value, "until_unix_ms"),
        .by_uid = integer<std::int64_t>(value, "by_uid"),
    };
}

AttentionView attention_from_json(const json& value) {
    return {
        .vm = text(value, "vm"),
        .run = text(value, "run"),
        .code = text(value, "code"),
        .message = text(value, "message"),
        .next_step = text(value, "next_step"),
        .since_unix_ms = integer<std::int64_t>(value, "since_unix_ms"),
    };
}

VmView vm_from_json(const json& value) {
    const json& hold = member(value, "hold");
    const json& attention = member(value, "attention");
    return {
        .name = text(value, "name"),
        .uuid = text(value, "uuid"),
        .pid = integer<std::int64_t>(value, "pid"),
        .version = text(value, "version"),
        .package = text(value, "package"),
        .build_id = text(value, "build_id"),
        .machine = text(value, "machine"),
        .shape_class = text(value, "shape_class"),
        .socket = text(value, "socket"),
        .state = text(value, "state"),
        .upgrade_state = text(value, "upgrade_state"),
        .ram_bytes = integer<std::uint64_t>(value, "ram_bytes"),
        .reachable = flag(value, "reachable"),
        .stale = flag(value, "stale"),
        .upgradable = flag(value, "upgradable"),
        .reason = text(value, "reason"),
        .run = text(value, "run"),
        .age_ms = integer<std::uint64_t>(value, "age_ms"),
        .blockers = blockers_from_json(value),
        .hold = hold.is_object() ? std::optional(hold_from_json(hold)) : std::nullopt,
        .labels = {},
        .attention =
            attention.is_object() ? std::optional(attention_from_json(attention)) : std::nullopt,
    };
}

ReleaseView release_from_json(const json& value) {
    return {
        .name = text(value, "name"),
        .path = text(value, "path"),
        .sha256 = text(value, "sha256"),
        .description = text(value, "description"),
        .build_id = text(value, "build_id"),
        .usable = flag(value, "usable"),
        .reason = text(value, "reason"),
    };
}

CheckView check_from_json(const json& value) {
    return {
        .vm = text(value, "vm"),
        .from = text(value, "from"),
        .to = text(value, "to"),
        .can_upgrade = flag(value, "can_upgrade"),
        .code = text(value, "code"),
        .message = text(value, "message"),
        .blockers = blockers_from_json(value),
        .warnings = blockers_from_json(value, "warnings"),
        .way_known = flag(value, "way_known"),
    };
}

RunVmView run_vm_from_json(const json& value) {
    RunVmView vm{
        .vm = text(value, "vm"),
        .upgrade = text(value, "upgrade"),
        .phase = text(value, "phase"),
        .since_ms = integer<std::uint64_t>(value, "since_ms"),
        .outcome = text(value, "outcome"),
        .code = text(value, "code"),
        .message = text(value, "message"),
        .peer_text = text(value, "peer_text"),
        .next_step = text(value, "next_step"),
        .from = text(value, "from"),
        .to = text(value, "to"),
        .from_build_id = text(value, "from_build_id"),
        .to_build_id = text(value, "to_build_id"),
        .recoveries = integer<std::uint32_t>(value, "recoveries"),
        .steps = steps_from_json(value),
        .pause_ms = decimal(value, "pause_ms"),
        .total_ms = decimal(value, "total_ms"),
        .timings_ns = {},
        .blockers = blockers_from_json(value),
        .shape_class = text(value, "shape_class"),
        .rehearsal = rehearsal_from_json(member(value, "rehearsal")),
        .stage = integer<std::uint32_t>(value, "stage"),
        .run_state = text(value, "run_state"),
        .settled = flag(value, "settled"),
    };
    const json& timings = member(value, "timings_ns");
    if (timings.is_object()) {
        for (const auto& [key, nanoseconds] : timings.items()) {
            if (nanoseconds.is_number_integer()) {
                vm.timings_ns.emplace(key, nanoseconds.get<std::int64_t>());
            }
        }
    }
    return vm;
}

RunRequest run_request_from_json(const json& value) {
    RunRequest request{
        .kind = "upgrade",
        .vms = {},
        .all = flag(value, "all"),
        .to = text(value, "to"),
        .parallel = {},
        .max_failures = integer<std::uint32_t>(value, "max_failures"),
        .dry_run = flag(value, "dry_run"),
        .rehearse = text(value, "rehearse"),
        .pause_budget_ms = {},
        .canaries = integer<std::uint32_t>(value, "canaries"),
        .batch = integer<std::uint32_t>(value, "batch"),
        .soak_ms = integer<std::uint64_t>(value, "soak_ms"),
        .request_id = text(value, "request_id"),
        .allow = {},
    };
    request.labels = labels_from_json(member(value, "labels"));
    if (const std::string kind = text(value, "kind"); !kind.empty()) {
        request.kind = kind;
    }
    request.pause_budget_ms = number_of(member(value, "pause_budget_ms"), kMaxPauseBudgetMs);
    if (const json& parallel = member(value, "parallel"); parallel.is_number_unsigned()) {
        request.parallel = parallel.get<std::uint32_t>();
    }
    const json& vms = member(value, "vms");
    for (const json& vm : vms.is_array() ? vms : json::array()) {
        request.vms.push_back(vm.is_string() ? vm.get<std::string>() : std::string());
    }
    const json& allow = member(value, "allow");
    for (const json& code : allow.is_array() ? allow : json::array()) {
        request.allow.push_back(code.is_string() ? code.get<std::string>() : std::string());
    }
    return request;
}

RunView run_from_json(const json& value) {
    RunView run{
        .id = text(value, "id"),
        .kind = text(value, "kind"),
        .state = text(value, "state"),
        .to = text(value, "to"),
        .parallel = integer<std::uint32_t>(value, "parallel"),
        .dry_run = flag(value, "dry_run"),
        .started_unix_ms = integer<std::int64_t>(value, "started_unix_ms"),
        .finished_unix_ms = integer<std::int64_t>(value, "finished_unix_ms"),
        .by_uid = integer<std::int64_t>(value, "by_uid"),
        .stopped_by = text(value, "stopped_by"),
        .stop_reason = text(value, "stop_reason"),
        .stage = stage_from_json(member(value, "stage")),
        .request = {},
        .warnings = blockers_from_json(value, "warnings"),
        .vms = {},
    };
    if (const json& request = member(value, "request"); request.is_object()) {
        run.request = run_request_from_json(request);
    }
    for (const json& vm : elements(value, "vms")) {
        run.vms.push_back(run_vm_from_json(vm));
    }
    return run;
}

RunEvent run_event_from_json(const json& value) {
    RunEvent event;
    event.sequence = integer<std::uint64_t>(value, "seq");
    if (const json& vm = member(value, "vm"); vm.is_object()) {
        event.vm = run_vm_from_json(vm);
    }
    event.stage = stage_from_json(member(value, "stage"));
    if (const json& run = member(value, "run"); run.is_object()) {
        event.run = run_from_json(run);
    }
    return event;
}

Problem problem_from_json(const json& value) {
    return {
        .status = integer<int>(value, "status"),
        .code = text(value, "code"),
        .title = text(value, "title"),
        .detail = text(value, "detail"),
        .next_step = text(value, "next_step"),
    };
}

VersionView version_from_json(const json& value) {
    return {
        .version = text(value, "version"),
        .api = integer<int>(value, "api"),
        .pid = integer<std::int64_t>(value, "pid"),
        .status = text(value, "status"),
    };
}

Result<json> parse_json(std::string_view input) {
    if (is_too_deep(input)) {
        return bad_request("the JSON text is nested too deeply");
    }
    json value = json::parse(input, nullptr, false);
    if (value.is_discarded()) {
        return bad_request("the text is not JSON");
    }
    return value;
}

Result<json> read::parse_request(std::string_view body) {
    const auto plain = parse_json(body);
    if (plain.has_error()) {
        return plain.error();
    }
    std::vector<std::set<std::string>> members; // of the objects around
    std::string repeated;
    const auto look = [&](int /*depth*/, json::parse_event_t event, const json& parsed) {
        if (event == json::parse_event_t::object_start) {
            members.emplace_back();
        } else if (event == json::parse_event_t::object_end) {
            members.pop_back();
        } else if (event == json::parse_event_t::key) {
            const auto name = parsed.get<std::string>();
            repeated = members.back().insert(name).second ? repeated : name;
        }
        return true;
    };
    json looked_at = json::parse(body, look, false);
    if (!repeated.empty()) {
        return bad_request("the member '" + repeated + "' is there twice");
    }
    return looked_at;
}

Result<RunRequest> parse_run_request(std::string_view body) {
    const auto parsed = read::parse_request(body);
    if (parsed.has_error()) {
        return parsed.error();
    }
    if (!parsed->is_object()) {
        return bad_request("the request must be a JSON object");
    }
    RunRequest request;
    for (const auto& [key, value] : parsed->items()) {
        if (const auto result = parse_run_member(key, value, request); result.has_error()) {
            return result.error();
        }
    }
    const bool is_revert = request.kind == "revert" || request.kind == "way_back";
    if (request.to.empty() && !is_revert) {
        return bad_request("'to' is missing: the name of a release");
    }
    if (!request.to.empty() && is_revert) {
        return bad_request("'to' is not for a revert, which goes where each VM came from");
    }
    const bool has_stages = request.canaries != 0 || request.batch != 0;
    if ((has_stages || request.soak_ms != 0) && request.kind != "upgrade") {
        return bad_request("'canaries', 'batch' and 'soak_ms' are for upgrades");
    }
    if (request.soak_ms != 0 && !has_stages) {
        return bad_request("'soak_ms' needs 'canaries' or 'batch': there is nothing after it");
    }
    if (!request.labels.empty() && !request.all) {
        return bad_request("'labels' choose of all VMs: set 'all' to true with them");
    }
    if (request.all == !request.vms.empty()) {
        return bad_request("name VMs in 'vms', or set 'all' to true, and not both");
    }
    return request;
}

Result<HoldView> parse_hold_request(std::string_view body) {
    const auto parsed = read::parse_request(body);
    if (parsed.has_error()) {
        return parsed.error();
    }
    const bool is_known =
        parsed->is_object() &&
        std::all_of(parsed->items().begin(), parsed->items().end(), [](const auto& item) {
            return item.key() == "reason" || item.key() == "until_unix_ms";
        });
    if (!is_known) {
        return bad_request("a hold has reason and until_unix_ms, and nothing else");
    }
    HoldView hold;
    hold.reason = text(*parsed, "reason");
    // why: the contract counts characters, and a byte 10xxxxxx begins none.
    const auto length = std::count_if(hold.reason.begin(), hold.reason.end(), [](char c) {
        return (static_cast<unsigned char>(c) & 0xC0U) != 0x80U;
    });
    const bool is_good_reason = !hold.reason.empty() && length <= kMaxReasonLength &&
                                std::none_of(hold.reason.begin(), hold.reason.end(), [](char c) {
                                    return static_cast<unsigned char>(c) < ' ' || c == '\x7f';
                                });
    if (!is_good_reason) {
        return bad_request("'reason' must be one line of text, up to 500 characters");
    }
    const auto until = parsed->find("until_unix_ms");
    const auto time =
        until == parsed->end() ? std::optional<std::uint64_t>(0) : whole_number(*until);
    if (!time) {
        return bad_request("'until_unix_ms' must be a time in milliseconds since 1970");
    }
    hold.until_unix_ms = static_cast<std::int64_t>(*time);
    return hold;
}

bool is_valid_name(std::string_view name) noexcept {
    if (name.empty() || name.size() > kMaxNameLength || name.front() == '.' ||
        name.front() == '-') {
        return false;
    }
    return std::all_of(name.begin(), name.end(), [](char c) {
        return c > ' ' && c < '\x7f' && c != '/' && c != '"' && c != '\\';
    });
}

} // namespace qhup::daemon
