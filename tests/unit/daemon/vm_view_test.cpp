// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/vm_view.hpp"
#include "qmp-client/errors.hpp"
#include "tests/support/catch.hpp"

#include <set>

using namespace qhup;
using namespace qhup::daemon;

namespace {

ProbedSocket socket_of(std::string path, std::string claimed, std::string name = {}) {
    static pid_t next_pid = 100;
    VmProbe probe;
    probe.answers = true;
    probe.is_patched = true;
    probe.facts.name = std::move(claimed);
    probe.facts.claimed_pid = next_pid;
    probe.listener_pid = next_pid++;
    const bool is_named = !name.empty();
    return {
        .path = std::move(path),
        .last = std::make_shared<VmProbe>(probe),
        .name = std::move(name),
        .claim = is_named ? std::optional(probe.facts.name) : std::nullopt,
        .is_in_run = false};
}

} // namespace

TEST_CASE("a path gives a name even if QEMU says none", "[daemon][vm_view]") {
    CHECK(name_from_path("/run/qhup-vm/web/qmp") == "web");
    CHECK(name_from_path("/run/qhup-vm/web/qmp.sock") == "web");
    CHECK(name_from_path("/tmp/vm1.qmp") == "vm1");
    CHECK(name_from_path("/tmp/vm 1.qmp") == "vm_1");
    CHECK(is_valid_name(name_from_path("/")));
    CHECK(is_valid_name(name_from_path("")));
}

TEST_CASE("a VM has the name that QEMU says", "[daemon][vm_view]") {
    const auto names = choose_names({socket_of("/q/a.qmp", "web"), socket_of("/q/b.qmp", "db")});
    CHECK(names == std::vector<std::string>{"web", "db"});
}

TEST_CASE("a claimed name that could leave its folder is not taken", "[daemon][vm_view]") {
    const auto names =
        choose_names({socket_of("/q/a.qmp", "../../etc"), socket_of("/q/b.qmp", "")});
    CHECK(names == std::vector<std::string>{"a", "b"});
}

TEST_CASE("a VM cannot take away the name of another one", "[daemon][vm_view]") {
    // the path decides
    CHECK(
        choose_names({socket_of("/q/evil/qmp", "web"), socket_of("/q/web/qmp", "web")}) ==
        std::vector<std::string>{"evil", "web"}
    );
    // else who had it before
    CHECK(
        choose_names({socket_of("/q/a.qmp", "web"), socket_of("/q/b.qmp", "web", "web")}) ==
        std::vector<std::string>{"a", "web"}
    );
    // and never from a VM that is in a run
    auto busy = socket_of("/q/b.qmp", "web", "web");
    busy.is_in_run = true;
    CHECK(
        choose_names({socket_of("/q/web.qmp", "web"), busy}) ==
        std::vector<std::string>{"web~2", "web"}
    );
}

TEST_CASE("of two VMs with one name neither has it", "[daemon][vm_view]") {
    const auto names = choose_names({socket_of("/q/a.qmp", "web"), socket_of("/q/b.qmp", "web")});
    CHECK(names == std::vector<std::string>{"a", "b"});
}

TEST_CASE("a name does not move to another VM when its owner ends", "[daemon][vm_view]") {
    const ProbedSocket other = socket_of("/q/b.qmp", "web", "b");
    CHECK(
        choose_names({socket_of("/q/a.qmp", "web", "web"), other}) ==
        std::vector<std::string>{"web", "b"}
    );
    CHECK(choose_names({other}) == std::vector<std::string>{"b"});
    // nor is it lost to one that is started later and whose path has it
    CHECK(
        choose_names({socket_of("/q/a.qmp", "web", "web"), socket_of("/q/web.qmp", "web")}) ==
        std::vector<std::string>{"web", "web~2"}
    );
}

TEST_CASE("another VM on the same socket has its own name", "[daemon][vm_view]") {
    ProbedSocket socket = socket_of("/q/a.qmp", "web", "web");
    socket.claim = "db";
    CHECK(choose_names({socket}) == std::vector<std::string>{"web"});
    socket.name = "db";
    CHECK(choose_names({socket}) == std::vector<std::string>{"web"});
    ProbedSocket nameless = socket_of("/q/a.qmp", "", "web");
    nameless.claim = "web";
    CHECK(choose_names({nameless}) == std::vector<std::string>{"a"});
}

TEST_CASE("names stay unique however many claim one", "[daemon][vm_view]") {
    const auto names = choose_names(
        {socket_of("/q/1/a.qmp", "a"), socket_of("/q/2/a.qmp", "a"), socket_of("/q/3/a.qmp", "a")}
    );
    CHECK(std::set<std::string>(names.begin(), names.end()).size() == 3);
}

TEST_CASE("a second monitor of one process is left out", "[daemon][vm_view]") {
    auto first = socket_of("/q/a.qmp", "web");
    auto second = first;
    second.path = "/q/b.qmp";
    CHECK(choose_names({first, second}) == std::vector<std::string>{"web", ""});
}

TEST_CASE("a second monitor takes no name from a VM in a run", "[daemon][vm_view]") {
    const auto busy = [] {
        auto socket = socket_of("/q/b.qmp", "web", "web");
        socket.is_in_run = true;
        return socket;
    }();
    auto first = busy;
    first.path = "/q/a.qmp";
    first.name = "";
    first.is_in_run = false;
    CHECK(choose_names({first, busy}) == std::vector<std::string>{"", "web"});
    // nor does one from the other, if runs have both
    first.name = "a";
    first.is_in_run = true;
    CHECK(choose_names({first, busy}) == std::vector<std::string>{"a", "web"});
}

TEST_CASE("a VM that falls silent keeps its name", "[daemon][vm_view]") {
    VmProbe silent;
    const ProbedSocket socket{
        .path = "/q/a.qmp",
        .last = std::make_shared<VmProbe>(silent),
        .name = "web",
        .claim = "web",
        .is_in_run = false};
    CHECK(choose_names({socket}) == std::vector<std::string>{"web"});
}

TEST_CASE("a control folder is short enough for a socket's path", "[daemon][vm_view]") {
    CHECK(control_folder_of("vm1") == "vm1");
    const std::string a = control_folder_of(std::string(128, 'a'));
    const std::string b = control_folder_of(std::string(127, 'a') + "b");
    CHECK(a.size() <= 48);
    CHECK(a != b);
    CHECK(is_valid_name(a));
}

TEST_CASE("a VM that does not answer is shown with a reason", "[daemon][vm_view]") {
    VmProbe probe;
    probe.why = make_failure(qmp::Errc::nobody_listens, "connecting");
    const VmView view = make_vm_view("vm1", "/q/a", &probe);
    CHECK_FALSE(view.reachable);
    CHECK(view.state == "unreachable");
    CHECK(view.reason.find("nobody listens on /q/a") != std::string::npos);
    CHECK(view.reason.find("rm /q/a") != std::string::npos);
    CHECK(view.stale);
    probe.why = make_failure(qmp::Errc::greeting_timed_out, "connecting");
    CHECK_FALSE(make_vm_view("vm1", "/q/a", &probe).stale);
}

TEST_CASE("only a VM that has ended is said to have ended", "[daemon][vm_view]") {
    struct Case {
        qmp::Errc code;
        const char* says;
    };
    for (const Case& wanted :
         {Case{qmp::Errc::monitor_busy, "does not accept connections now"},
          Case{qmp::Errc::monitor_forbidden, "permissions"},
          Case{qmp::Errc::connect_failed, "(Too many open files)"},
          Case{qmp::Errc::greeting_timed_out, "does not greet"}}) {
        const std::string reason =
            reason_of(make_failure(wanted.code, "connecting", "Too many open files"), "/q/a");
        INFO(reason);
        CHECK(reason.find(wanted.says) != std::string::npos);
        CHECK(reason.find("has ended") == std::string::npos);
    }
}

TEST_CASE("a QEMU without hot upgrade has one blocker", "[daemon][vm_view]") {
    VmProbe probe = *socket_of("/q/a", "web").last;
    probe.is_patched = false;
    const VmView view = make_vm_view("web", "/q/a", &probe);
    CHECK(view.reachable);
    CHECK_FALSE(view.upgradable);
    CHECK(view.blockers.size() == 1);
}

TEST_CASE("a VM with an upgrade that has not ended cannot be upgraded", "[daemon][vm_view]") {
    VmProbe probe = *socket_of("/q/a", "web").last;
    CHECK(make_vm_view("web", "/q/a", &probe).upgradable);
    probe.facts.state = upgrade::PairState::prepared;
    const VmView view = make_vm_view("web", "/q/a", &probe);
    CHECK_FALSE(view.upgradable);
    CHECK(view.blockers.size() == 1);
}
