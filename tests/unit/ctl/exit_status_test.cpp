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

TEST_CASE("a problem of the daemon has its exit status", "[ctl][exit_status]") {
    CHECK(status_of(404, "vm_not_found") == 3);
    CHECK(status_of(403, "not_permitted") == 77);
    CHECK(status_of(503, "stopping") == 69);
    CHECK(status_of(409, "vm_busy") == 1);
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
}
