// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/api_handlers.hpp"

#include "common/version.hpp"
#include "daemon/api_types_codes.hpp"
#include "daemon/problems.hpp"
#include "daemon/vm_labels.hpp"
#include "daemon/vm_not_found.hpp"

#include <nlohmann/json.hpp>

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <utility>

namespace qhup::daemon {
namespace {

constexpr std::chrono::seconds kHeartbeat{10};

template <class T>
ApiReply make_document(const T& value, int status = 200) {
    ApiReply reply;
    reply.status = status;
    reply.body = format_json(to_json(value)) + "\n";
    return reply;
}

nlohmann::json to_document(const UpgradeRuns::Policy& said) {
    const VmPolicy& policy = said.policy;
    nlohmann::json windows = nlohmann::json::array();
    for (const DayWindow& window : policy.window) {
        windows.push_back(format_day_window(window));
    }
    nlohmann::json document = {
        {"priority", policy.priority},
        {"skip", policy.skip},
        {"pause_budget_ms", nullptr},
        {"rehearse", policy.rehearse},
        {"rehearse_back", policy.rehearse_back},
        {"probe", policy.probe},
        {"after_failed_verify", policy.after_failed_verify},
        {"window", std::move(windows)},
        {"window_open", said.is_window_open},
    };
    if (policy.pause_budget) {
        document["pause_budget_ms"] = policy.pause_budget->count();
    }
    document["effective"] = {
        {"pause_budget_ms", said.pause_budget.count()},
        {"rehearse", said.rehearse},
        {"rehearse_back", said.rehearse_back},
    };
    return document;
}

/// A VM with what is known of its way back, and what the configuration says about it.
nlohmann::json to_document(const VmView& vm, const WayBack& way, const UpgradeRuns& runs) {
    VmView shown = vm;
    shown.hold = runs.hold_of(vm.name);
    nlohmann::json document = to_json(shown);
    document["way_back"] = {
        {"open", way.is_open},
        {"version", way.version},
        {"build_id", way.build_id},
        {"reason", way.reason},
        {"rehearsed", way.rehearsed},
    };
    document["policy"] = to_document(runs.policy(vm.name));
    return document;
}

ApiReply make_json_reply(const nlohmann::json& document) {
    ApiReply reply;
    reply.body = format_json(document) + "\n";
    return reply;
}

std::int64_t unix_ms_now() {
    const auto now = std::chrono::system_clock::now().time_since_epoch();
    return std::chrono::duration_cast<std::chrono::milliseconds>(now).count();
}

/// The first event of each stream: from then on nothing is lost.
EventView make_hello(std::uint64_t after, VersionView version) {
    EventView event;
    event.id = after;
    event.type = std::string(to_string(EventType::hello));
    event.time_unix_ms = unix_ms_now();
    event.message = "qhupd " + version.version + " is " + version.status;
    event.version = std::move(version);
    return event;
}

EventView make_missed(const EventLog::Gap& gap, std::uint64_t after) {
    using Reason = EventLog::Gap::Reason;
    EventView event;
    event.id = gap.reason == Reason::unknown ? after : gap.last;
    event.type = std::string(to_string(EventType::missed));
    event.time_unix_ms = unix_ms_now();
    event.missed =
        MissedView{.first = gap.first, .last = gap.last, .count = gap.count, .reason = {}};
    switch (gap.reason) {
    case Reason::slow:
        event.missed->reason = "slow";
        event.message = std::to_string(gap.count.value_or(0)) +
                        " events were forgotten before they could be sent; ask again for what you "
                        "show";
        break;
    case Reason::restart:
        event.missed->reason = "restart";
        event.message = "qhupd was started again, and what happened before is not known; ask again "
                        "for what you show";
        break;
    case Reason::unknown:
        event.missed->reason = "unknown";
        event.message = "there was no event with this id; what follows is all that is remembered";
        break;
    }
    return event;
}

HistoryView make_entry(HistoryAction action, const ApiRequest& request) {
    HistoryView entry;
    entry.action = std::string(to_string(action));
    entry.by = AskerView{.uid = request.uid, .user = {}, .pid = request.pid};
    return entry;
}

/// "upgrade of vm1, vm2 and 3 more to deb13"
std::string describe(const RunRequest& request) {
    constexpr std::size_t kNamed = 3;
    std::string words = request.kind + (request.dry_run ? " (dry run)" : "") + " of ";
    for (std::size_t i = 0; i < std::min(request.vms.size(), kNamed); ++i) {
        words += (i == 0 ? "" : ", ") + request.vms[i];
    }
    if (request.vms.size() > kNamed) {
        words += " and " + std::to_string(request.vms.size() - kNamed) + " more";
    }
    words += (request.all ? "all VMs" : "") + (request.to.empty() ? "" : " to " + request.to);
    for (const std::string& code : request.allow) {
        words += ", allowing " + code;
    }
    return words;
}

/// A VM of a run, with what it has from the run.
nlohmann::json to_document(const RunView& run, const RunVmView& vm) {
    nlohmann::json document = to_json(vm);
    document["run"] = run.id;
    document["kind"] = run.kind;
    document["release"] = run.to;
    document["started_unix_ms"] = run.started_unix_ms;
    return document;
}

bool is_wanted(const std::string& wanted, const std::string& value) {
    return wanted.empty() || wanted == value;
}

Problem run_not_found(const std::string& id) {
    return make_problem(
        ProblemCode::run_not_found,
        "There is no run '" + id + "'.",
        "'qhupd-ctl status' shows the runs that are remembered."
    );
}

} // namespace

ApiReply make_reply(const Problem& problem) {
    ApiReply reply = make_document(problem, problem.status);
    reply.content_type = "application/problem+json";
    reply.allow = problem.allow;
    return reply;
}

std::optional<Problem>
ApiHandlers::refuse(std::string_view method, std::string_view target, Access access) {
    if (access == Access::act) {
        return std::nullopt;
    }
    if (access == Access::read && !is_action(find_route(method, target))) {
        return std::nullopt;
    }
    return make_problem(
        access == Access::read ? ProblemCode::read_only : ProblemCode::not_permitted,
        access == Access::read
            ? "This socket, or this user, may look at everything and change nothing."
            : "This user may not use qhupd."
    );
}

awaitable<ApiReply> ApiHandlers::handle(ApiRequest request) {
    Route route = find_route(request.method, request.target);
    // why: std::visit would make a coroutine inside an expression; one call per kind is plain.
    auto reply =
        std::visit([this, &request](auto& one) { return answer(std::move(one), request); }, route);
    co_return co_await std::move(reply);
}

awaitable<ApiReply> ApiHandlers::answer(GetHealth /*route*/, const ApiRequest& /*request*/) {
    ApiReply reply;
    reply.content_type = "text/plain";
    reply.body = "ok\n";
    co_return reply;
}

VersionView ApiHandlers::version() const {
    VersionView version;
    version.version = std::string(kVersion);
    version.pid = ::getpid();
    version.status = is_stopping_ ? "stopping" : runs_.is_recovering() ? "recovering" : "ready";
    return version;
}

awaitable<ApiReply> ApiHandlers::answer(GetVersion /*route*/, const ApiRequest& /*request*/) {
    co_return make_document(version());
}

awaitable<ApiReply> ApiHandlers::answer(GetCodes /*route*/, const ApiRequest& /*request*/) {
    co_return make_document(known_codes());
}

awaitable<ApiReply> ApiHandlers::answer(GetVms route, const ApiRequest& /*request*/) {
    co_await registry_.refresh_some();
    const std::vector<VmView> listed = registry_.list();
    const std::vector<WayBack> ways = runs_.ways_back(listed);
    std::string vms;
    // why: to build, print and destroy one document of all VMs takes twice the processor time.
    for (std::size_t i = 0; i < listed.size(); ++i) {
        if (has_labels(listed[i].labels, route.labels)) {
            vms += vms.empty() ? "" : ",";
            vms += format_json(to_document(listed[i], ways[i], runs_));
        }
    }
    nlohmann::json gone = nlohmann::json::array();
    // why: what labels a VM had that is not there, nobody knows.
    if (route.labels.empty()) {
        for (const AttentionView& one : runs_.gone()) {
            gone.push_back(to_json(one));
        }
    }
    ApiReply reply;
    reply.body = R"({"gone":)" + format_json(gone) + R"(,"vms":[)" + vms + "]}\n";
    co_return reply;
}

awaitable<ApiReply> ApiHandlers::answer(GetVm route, const ApiRequest& /*request*/) {
    co_await registry_.refresh_vm(route.name);
    const auto vm = registry_.find(route.name);
    if (!vm) {
        co_return make_reply(make_vm_not_found(route.name, registry_.list()));
    }
    co_return make_json_reply(to_document(*vm, runs_.way_back(vm->name), runs_));
}

awaitable<ApiReply> ApiHandlers::answer(GetCheck route, const ApiRequest& /*request*/) {
    const auto checked = co_await runs_.check(route.vm, route.to, route.allow);
    if (const auto* problem = std::get_if<Problem>(&checked)) {
        co_return make_reply(*problem);
    }
    co_return make_document(std::get<CheckView>(checked));
}

awaitable<ApiReply> ApiHandlers::answer(GetReleases /*route*/, const ApiRequest& /*request*/) {
    const std::vector<ReleaseView> releases = co_await shelf_.list();
    co_return make_document(releases);
}

awaitable<ApiReply> ApiHandlers::answer(PostRun /*route*/, const ApiRequest& request) {
    auto parsed = parse_run_request(request.body);
    if (parsed.has_error()) {
        co_return make_reply(make_problem(
            ProblemCode::bad_request,
            "The request is not understood: " + parsed.error().message + "."
        ));
    }
    const std::string key = request.idempotency_key.value_or(parsed->request_id);
    const bool is_same = parsed->request_id.empty() || parsed->request_id == key;
    if (request.idempotency_key && (!is_same || !is_valid_name(key))) {
        co_return make_reply(make_problem(
            ProblemCode::bad_request,
            is_same ? "'Idempotency-Key' must be 1 to 128 printable characters without '/'."
                    : "'Idempotency-Key' and 'request_id' say different things."
        ));
    }
    parsed->request_id = key;
    HistoryView entry = make_entry(HistoryAction::run_requested, request);
    entry.message = describe(*parsed);
    entry.allow = parsed->allow;
    entry.to = parsed->to;
    auto starting = runs_.start(std::move(*parsed), request.uid, entry);
    auto started = co_await std::move(starting);
    if (const auto* problem = std::get_if<Problem>(&started)) {
        entry.code = problem->code;
        co_await runs_.record(std::move(entry));
        co_return make_reply(*problem);
    }
    const auto& begun = std::get<UpgradeRuns::Started>(started);
    if (begun.entry) {
        co_await runs_.sign(*begun.entry);
    }
    co_return make_document(begun.run, begun.is_new ? 202 : 200);
}

awaitable<ApiReply> ApiHandlers::answer(GetRuns /*route*/, const ApiRequest& /*request*/) {
    co_return make_document(runs_.list());
}

awaitable<ApiReply> ApiHandlers::answer(GetRun route, const ApiRequest& /*request*/) {
    const auto run = runs_.find(route.id);
    if (!run) {
        co_return make_reply(run_not_found(route.id));
    }
    co_return make_document(*run);
}

awaitable<ApiReply> ApiHandlers::answer(GetRunEvents route, const ApiRequest& /*request*/) {
    if (!runs_.find(route.id)) {
        co_return make_reply(run_not_found(route.id));
    }
    ApiReply reply;
    reply.content_type = "application/x-ndjson";
    const auto stream = std::make_shared<GetRunEvents>(std::move(route));
    reply.stream = [this, stream] { return next_lines(stream); };
    co_return reply;
}

awaitable<ApiReply> ApiHandlers::answer(GetUpgrades route, const ApiRequest& /*request*/) {
    nlohmann::json upgrades = nlohmann::json::array();
    for (const RunView& run : runs_.list()) {
        const bool is_upgrade = run.kind != "rehearsal" && !run.dry_run;
        for (const RunVmView& vm : run.vms) {
            if (is_upgrade && upgrades.size() < route.limit && is_wanted(route.run, run.id) &&
                is_wanted(route.vm, vm.vm) && is_wanted(route.outcome, vm.outcome)) {
                upgrades.push_back(to_document(run, vm));
            }
        }
    }
    nlohmann::json document = nlohmann::json::object();
    document["upgrades"] = std::move(upgrades);
    co_return make_json_reply(document);
}

awaitable<ApiReply> ApiHandlers::answer(GetUpgrade route, const ApiRequest& /*request*/) {
    for (const RunView& run : runs_.list()) {
        for (const RunVmView& vm : run.vms) {
            if (vm.upgrade == route.id) {
                co_return make_json_reply(to_document(run, vm));
            }
        }
    }
    co_return make_reply(
        make_problem(ProblemCode::upgrade_not_found, "There is no upgrade '" + route.id + "'.")
    );
}

awaitable<ApiReply> ApiHandlers::answer(GetRehearsals route, const ApiRequest& /*request*/) {
    nlohmann::json rehearsals = nlohmann::json::array();
    for (const RunView& run : runs_.list()) {
        for (const RunVmView& vm : run.vms) {
            const bool is_one = run.kind == "rehearsal" || vm.rehearsal.has_value();
            if (is_one && rehearsals.size() < route.limit && is_wanted(route.run, run.id) &&
                is_wanted(route.vm, vm.vm)) {
                rehearsals.push_back(to_document(run, vm));
            }
        }
    }
    nlohmann::json document = nlohmann::json::object();
    document["rehearsals"] = std::move(rehearsals);
    co_return make_json_reply(document);
}

awaitable<ApiReply> ApiHandlers::answer(GetHistory route, const ApiRequest& /*request*/) {
    nlohmann::json entries = nlohmann::json::array();
    for (const HistoryView& entry : runs_.history().find(route.filter)) {
        entries.push_back(to_json(entry));
    }
    nlohmann::json document = nlohmann::json::object();
    document["history"] = std::move(entries);
    co_return make_json_reply(document);
}

awaitable<ApiReply> ApiHandlers::answer(GetMetrics /*route*/, const ApiRequest& /*request*/) {
    MetricsNow now;
    now.releases = co_await shelf_.list();
    now.vms = registry_.list();
    now.runs_in_progress = runs_.running();
    now.holds = runs_.holds().size();
    now.needing_operator = runs_.needing_operator();
    now.connections = connections_;
    ApiReply reply;
    reply.content_type = Metrics::content_type();
    reply.body = metrics_.format(now);
    co_return reply;
}

awaitable<ApiReply> ApiHandlers::answer(GetEvents route, const ApiRequest& request) {
    const auto cursor = std::make_shared<EventCursor>();
    cursor->filter = std::move(route.filter);
    cursor->after = route.after.value_or(events_.last_id());
    if (request.last_event_id) {
        const auto after = parse_event_id(*request.last_event_id);
        if (!after) {
            co_return make_reply(make_problem(
                ProblemCode::bad_request, "'Last-Event-ID' must be the id of an event."
            ));
        }
        cursor->after = *after;
    }
    ApiReply reply;
    reply.content_type = "text/event-stream";
    reply.stream = [this, cursor] { return next_events(cursor); };
    co_return reply;
}

awaitable<ApiReply> ApiHandlers::answer(AbortRun route, const ApiRequest& request) {
    if (!runs_.find(route.id)) {
        co_return make_reply(run_not_found(route.id));
    }
    const auto aborted = runs_.abort(route.id, request.uid);
    HistoryView entry = make_entry(HistoryAction::run_aborted, request);
    entry.run = route.id;
    entry.message = "abort of run " + route.id;
    const auto* refused = std::get_if<Problem>(&aborted);
    entry.code = refused != nullptr ? refused->code : std::string();
    co_await runs_.record(std::move(entry));
    if (const auto* problem = std::get_if<Problem>(&aborted)) {
        co_return make_reply(*problem);
    }
    const auto& run = std::get<RunView>(aborted);
    co_return make_document(run, run.state == "running" ? 202 : 200);
}

awaitable<ApiReply> ApiHandlers::answer(PostSelftest /*route*/, const ApiRequest& request) {
    auto parsed = parse_selftest_request(request.body);
    if (parsed.has_error()) {
        co_return make_reply(make_problem(
            ProblemCode::bad_request,
            "The request is not understood: " + parsed.error().message + "."
        ));
    }
    HistoryView entry = make_entry(HistoryAction::selftest_requested, request);
    entry.to = parsed->to;
    entry.from = parsed->from;
    entry.message = "selftest of " + std::to_string(parsed->guests) + " guests to " + parsed->to;
    const auto started = co_await selftests_.start(std::move(*parsed), request.uid);
    const auto* problem = std::get_if<Problem>(&started);
    entry.code = problem != nullptr ? problem->code : std::string();
    co_await runs_.record(std::move(entry));
    co_return problem != nullptr ? make_reply(*problem)
                                 : make_document(std::get<SelftestView>(started), 202);
}

awaitable<ApiReply> ApiHandlers::answer(GetSelftests /*route*/, const ApiRequest& /*request*/) {
    co_return make_document(selftests_.list());
}

awaitable<ApiReply> ApiHandlers::answer(GetSelftest route, const ApiRequest& /*request*/) {
    const auto found = selftests_.find(route.id);
    if (!found) {
        co_return make_reply(make_problem(
            ProblemCode::selftest_not_found,
            "There is no selftest '" + route.id + "'.",
            "GET /v1/selftests lists those that are remembered."
        ));
    }
    co_return make_document(*found);
}

awaitable<ApiReply> ApiHandlers::answer(HoldVm route, const ApiRequest& request) {
    auto parsed = parse_hold_request(request.body);
    if (parsed.has_error()) {
        co_return make_reply(make_problem(
            ProblemCode::bad_request,
            "The request is not understood: " + parsed.error().message + "."
        ));
    }
    HoldView hold = std::move(*parsed);
    hold.vm = std::move(route.vm);
    hold.by_uid = static_cast<std::int64_t>(request.uid);
    HistoryView entry = make_entry(HistoryAction::hold_set, request);
    entry.vm = hold.vm;
    entry.message = "hold of VM " + hold.vm + ": " + hold.reason;
    auto held = co_await runs_.hold(std::move(hold));
    const auto* refused = std::get_if<Problem>(&held);
    entry.code = refused != nullptr ? refused->code : std::string();
    co_await runs_.record(std::move(entry));
    if (const auto* problem = std::get_if<Problem>(&held)) {
        co_return make_reply(*problem);
    }
    co_return make_document(std::get<HoldView>(held));
}

awaitable<ApiReply> ApiHandlers::answer(UnholdVm route, const ApiRequest& request) {
    HistoryView entry = make_entry(HistoryAction::hold_removed, request);
    entry.vm = route.vm;
    entry.message = "end of the hold of VM " + route.vm;
    auto taken_off = co_await runs_.unhold(std::move(route.vm), request.uid);
    const auto* refused = std::get_if<Problem>(&taken_off);
    entry.code = refused != nullptr ? refused->code : std::string();
    co_await runs_.record(std::move(entry));
    if (const auto* problem = std::get_if<Problem>(&taken_off)) {
        co_return make_reply(*problem);
    }
    co_return make_document(std::get<HoldView>(taken_off));
}

awaitable<ApiReply> ApiHandlers::answer(GetHolds /*route*/, const ApiRequest& /*request*/) {
    nlohmann::json holds = nlohmann::json::array();
    for (const HoldView& hold : runs_.holds()) {
        holds.push_back(to_json(hold));
    }
    nlohmann::json document = nlohmann::json::object();
    document["holds"] = std::move(holds);
    co_return make_json_reply(document);
}

awaitable<ApiReply> ApiHandlers::answer(Problem route, const ApiRequest& /*request*/) {
    co_return make_reply(route);
}

awaitable<StreamPart> ApiHandlers::next_lines(std::shared_ptr<GetRunEvents> stream) {
    const auto progress =
        co_await runs_.next_events(stream->id, stream->after, Deadline::in(kHeartbeat));
    StreamPart part;
    part.is_end = !progress.is_known;
    for (const RunEvent& event : progress.events) {
        part.text += format_json(to_json(event)) + "\n";
        stream->after = event.sequence;
        part.is_end = part.is_end || event.run.has_value();
    }
    if (part.text.empty()) {
        part.text = "\n";
    }
    co_return part;
}

awaitable<StreamPart> ApiHandlers::next_events(std::shared_ptr<EventCursor> cursor) {
    StreamPart part;
    if (!cursor->is_greeted) {
        cursor->is_greeted = true;
        part.text = "retry: 1000\n" + format_sse(make_hello(cursor->after, version()));
        co_return part;
    }
    const auto reading =
        co_await events_.next(cursor->after, cursor->filter, Deadline::in(kHeartbeat));
    if (reading.gap) {
        part.text = format_sse(make_missed(*reading.gap, cursor->after));
    }
    part.text += reading.text;
    cursor->after = reading.last;
    if (part.text.empty()) {
        // why: whoever filters must not be told later that he missed what he did not want.
        part.text = ": nothing new\nid: " + std::to_string(reading.last) + "\n\n";
    }
    co_return part;
}

} // namespace qhup::daemon
