// SPDX-License-Identifier: GPL-2.0-or-later
#include "ctl/exit_status.hpp"
#include "tests/support/catch.hpp"

using namespace qhup;
using namespace qhup::ctl;

namespace {

int status_of(const std::vector<std::string>& outcomes) {
    daemon::RunView run;
    for (const std::string& outcome : outcomes) {
        run.vms.push_back({});
        run.vms.back().outcome = outcome;
    }
    return static_cast<int>(exit_status_of(run));
}

int status_of(int http, std::string code) {
    daemon::Problem problem;
    problem.status = http;
    problem.code = std::move(code);
    return static_cast<int>(exit_status_of(problem));
}

} // namespace

TEST_CASE("each outcome alone has its exit status", "[ctl][exit_status]") {
    CHECK(status_of({"upgraded"}) == 0);
    CHECK(status_of({"checked"}) == 0);
    CHECK(status_of({"unchanged"}) == 2);
    CHECK(status_of({"skipped"}) == 2);
    CHECK(status_of({}) == 2);
    CHECK(status_of({"refused"}) == 6);
    CHECK(status_of({"rolled_back"}) == 4);
    CHECK(status_of({"lost_contact"}) == 5);
    CHECK(status_of({"needs_operator"}) == 5);
    CHECK(status_of({"something new"}) == 1);
}

TEST_CASE("of mixed outcomes the worst decides, in any order", "[ctl][exit_status]") {
    CHECK(status_of({"upgraded", "unchanged"}) == 0);
    CHECK(status_of({"unchanged", "upgraded"}) == 0);
    CHECK(status_of({"skipped", "upgraded"}) == 0);
    CHECK(status_of({"upgraded", "refused"}) == 6);
    CHECK(status_of({"refused", "rolled_back", "upgraded"}) == 4);
    CHECK(status_of({"needs_operator", "rolled_back", "refused"}) == 5);
    CHECK(status_of({"upgraded", "lost_contact"}) == 5);
}

TEST_CASE("a VM that an abort left out says aborted, and worse wins", "[ctl][exit_status]") {
    const auto status_of = [](const std::string& stopped_by, std::vector<std::string> others) {
        daemon::RunView run;
        run.stopped_by = stopped_by;
        others.insert(others.begin(), "refused");
        for (const std::string& outcome : others) {
            run.vms.push_back({});
            run.vms.back().outcome = outcome;
        }
        run.vms.front().code = "stopped";
        return static_cast<int>(exit_status_of(run));
    };
    CHECK(status_of("abort", {}) == 7);
    CHECK(status_of("abort", {"upgraded"}) == 7);
    CHECK(status_of("abort", {"refused"}) == 7);
    CHECK(status_of("abort", {"rolled_back"}) == 4);
    CHECK(status_of("abort", {"needs_operator"}) == 5);
    CHECK(status_of("failures", {}) == 6);
    CHECK(status_of("shutdown", {}) == 75);
    // an abort that came too late changes nothing
    daemon::RunView done;
    done.stopped_by = "abort";
    done.vms.push_back({});
    done.vms.back().outcome = "upgraded";
    CHECK(static_cast<int>(exit_status_of(done)) == 0);
}

TEST_CASE("a refusal that may pass by itself says try later", "[ctl][exit_status]") {
    const auto status_of = [](const std::vector<std::string>& codes) {
        daemon::RunView run;
        for (const std::string& code : codes) {
            run.vms.push_back({});
            run.vms.back().outcome = "refused";
            run.vms.back().code = code;
        }
        return static_cast<int>(exit_status_of(run));
    };
    for (const char* code :
         {"busy", "not_answering", "journal_failed", "wrong_state", "shutting_down"}) {
        INFO(code);
        CHECK(status_of({code}) == 75);
    }
    CHECK(status_of({"busy", "blocked"}) == 6);
    CHECK(status_of({"held"}) == 6);
    CHECK(status_of({"a_code_of_tomorrow"}) == 6);
}

TEST_CASE("a problem of the daemon has its exit status", "[ctl][exit_status]") {
    CHECK(status_of(404, "vm_not_found") == 3);
    CHECK(status_of(403, "not_permitted") == 77);
    CHECK(status_of(404, "no_such_path") == 1);
    CHECK(status_of(400, "bad_request") == 64);
    CHECK(status_of(503, "stopping") == 75);
    CHECK(status_of(507, "journal_failed") == 75);
    CHECK(status_of(429, "too_many_runs") == 75);
    CHECK(status_of(409, "vm_busy") == 75);
    CHECK(status_of(409, "request_id_reused") == 1);
    CHECK(status_of(422, "release_unusable") == 6);
    CHECK(status_of(500, "internal_error") == 1);
}

TEST_CASE("a check is refused if one VM cannot be upgraded", "[ctl][exit_status]") {
    daemon::CheckView good;
    good.can_upgrade = true;
    CHECK(exit_status_of(std::vector<daemon::CheckView>{}) == ExitStatus::nothing_to_do);
    CHECK(exit_status_of(std::vector<daemon::CheckView>{good}) == ExitStatus::ok);
    CHECK(exit_status_of(std::vector<daemon::CheckView>{good, {}}) == ExitStatus::refused);
    daemon::CheckView there;
    there.code = "already_on_release";
    using Checks = std::vector<daemon::CheckView>;
    CHECK(exit_status_of(Checks{there}) == ExitStatus::nothing_to_do);
    CHECK(exit_status_of(Checks{there, good}) == ExitStatus::ok);
    CHECK(exit_status_of(Checks{there, {}}) == ExitStatus::refused);
    daemon::CheckView busy;
    busy.code = "busy";
    CHECK(exit_status_of(Checks{good, busy}) == ExitStatus::try_later);
    CHECK(exit_status_of(Checks{busy, {}}) == ExitStatus::refused);
}
