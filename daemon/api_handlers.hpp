// SPDX-License-Identifier: GPL-2.0-or-later
//
// What each call of the API does. Gets requests that were authorised and bounded by the server, and
// gives back values; it never sees a socket.
#pragma once

#include "common/async.hpp"
#include "daemon/authorization.hpp"
#include "daemon/event_hub.hpp"
#include "daemon/metrics.hpp"
#include "daemon/release_shelf.hpp"
#include "daemon/routes.hpp"
#include "daemon/selftests.hpp"
#include "daemon/upgrade_runs.hpp"
#include "daemon/vm_registry.hpp"

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

namespace qhup::daemon {

/// A complete request.
struct ApiRequest {
    std::string method;
    std::string target;
    std::string body;
    std::uint32_t uid = 0;                      ///< who asks
    std::int64_t pid = 0;                       ///< his process when he connected
    std::optional<std::string> last_event_id;   ///< header
    std::optional<std::string> idempotency_key; ///< header
};

/// What a stream says next.
struct StreamPart {
    std::string text;
    bool is_end = false; ///< nothing more will come
};

/// What to answer.
struct ApiReply {
    int status = 200;
    std::string content_type = "application/json";
    std::string body;
    std::string allow = {}; ///< header of 405: the methods that the path takes; "": no such header
    /// If set: 200, and what this gives, again and again, until the end.
    std::function<awaitable<StreamPart>()> stream;
};

ApiReply make_reply(const Problem& problem);

/// Thread: the daemon's home strand.
class ApiHandlers {
public:
    ApiHandlers(
        VmRegistry& registry,
        ReleaseShelf& shelf,
        UpgradeRuns& runs,
        Selftests& selftests,
        EventHub& events,
        Metrics& metrics
    )
        : registry_(registry),
          shelf_(shelf),
          runs_(runs),
          selftests_(selftests),
          events_(events),
          metrics_(metrics) {}

    /// Answers one request. Never fails: problems are answers.
    [[nodiscard]] awaitable<ApiReply> handle(ApiRequest request);

    /// Why somebody with this access does not get an answer; none: he does. Looks at what is known
    /// before the body is read.
    static std::optional<Problem>
    refuse(std::string_view method, std::string_view target, Access access);

    /// A request was answered, or refused, while so many clients were connected.
    void on_answer(int status, std::size_t connections) {
        connections_ = connections;
        metrics_.on_answer(status);
    }

    /// From now on /v1/version says that the daemon is stopping.
    void request_stop() { is_stopping_ = true; }

private:
    [[nodiscard]] awaitable<ApiReply> answer(GetHealth route, const ApiRequest& request);
    [[nodiscard]] awaitable<ApiReply> answer(GetVersion route, const ApiRequest& request);
    [[nodiscard]] awaitable<ApiReply> answer(GetCodes route, const ApiRequest& request);
    [[nodiscard]] awaitable<ApiReply> answer(GetVms route, const ApiRequest& request);
    [[nodiscard]] awaitable<ApiReply> answer(GetVm route, const ApiRequest& request);
    [[nodiscard]] awaitable<ApiReply> answer(GetCheck route, const ApiRequest& request);
    [[nodiscard]] awaitable<ApiReply> answer(GetReleases route, const ApiRequest& request);
    [[nodiscard]] awaitable<ApiReply> answer(PostRun route, const ApiRequest& request);
    [[nodiscard]] awaitable<ApiReply> answer(GetRuns route, const ApiRequest& request);
    [[nodiscard]] awaitable<ApiReply> answer(GetRun route, const ApiRequest& request);
    [[nodiscard]] awaitable<ApiReply> answer(GetRunEvents route, const ApiRequest& request);
    [[nodiscard]] awaitable<ApiReply> answer(GetUpgrades route, const ApiRequest& request);
    [[nodiscard]] awaitable<ApiReply> answer(GetUpgrade route, const ApiRequest& request);
    [[nodiscard]] awaitable<ApiReply> answer(GetRehearsals route, const ApiRequest& request);
    [[nodiscard]] awaitable<ApiReply> answer(GetHistory route, const ApiRequest& request);
    [[nodiscard]] awaitable<ApiReply> answer(GetMetrics route, const ApiRequest& request);
    [[nodiscard]] awaitable<ApiReply> answer(GetEvents route, const ApiRequest& request);
    [[nodiscard]] awaitable<ApiReply> answer(AbortRun route, const ApiRequest& request);
    [[nodiscard]] awaitable<ApiReply> answer(HoldVm route, const ApiRequest& request);
    [[nodiscard]] awaitable<ApiReply> answer(UnholdVm route, const ApiRequest& request);
    [[nodiscard]] awaitable<ApiReply> answer(GetHolds route, const ApiRequest& request);
    [[nodiscard]] awaitable<ApiReply> answer(PostSelftest route, const ApiRequest& request);
    [[nodiscard]] awaitable<ApiReply> answer(GetSelftests route, const ApiRequest& request);
    [[nodiscard]] awaitable<ApiReply> answer(GetSelftest route, const ApiRequest& request);
    [[nodiscard]] awaitable<ApiReply> answer(Problem route, const ApiRequest& request);

    /// Where a follower of events is.
    struct EventCursor {
        std::uint64_t after = 0;
        EventFilter filter;
        bool is_greeted = false;
    };
    [[nodiscard]] awaitable<StreamPart> next_lines(std::shared_ptr<GetRunEvents> stream);
    [[nodiscard]] awaitable<StreamPart> next_events(std::shared_ptr<EventCursor> cursor);
    VersionView version() const;

    VmRegistry& registry_;
    ReleaseShelf& shelf_;
    UpgradeRuns& runs_;
    Selftests& selftests_;
    EventHub& events_;
    Metrics& metrics_;
    std::size_t connections_ = 0;
    bool is_stopping_ = false;
};

} // namespace qhup::daemon
