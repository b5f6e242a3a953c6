// SPDX-License-Identifier: GPL-2.0-or-later
//
// Every exit status of qhupd-ctl, from the whole program: scripts branch on them.
#include "tests/component/daemon/harness.hpp"
#include "tests/support/catch.hpp"

#include <unistd.h>

#include <atomic>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <memory>

using namespace qhup::test;
using namespace std::chrono_literals;

namespace {

/// A run over two VMs, one at a time, of which vm0 is kept in its pause.
struct PausedRun {
    pid_t ctl = -1;
    std::shared_ptr<std::atomic<bool>> is_held = std::make_shared<std::atomic<bool>>(true);
};

PausedRun start_paused_run(Host& host) {
    PausedRun run;
    host.extra_config = "parallel = 1";
    host.options(0).vm.reactions["hot-upgrade-switch"].held = run.is_held;
    host.serve();
    REQUIRE(host.start_daemon());
    run.ctl = host.start_ctl({"upgrade", "--yes", "--all", "--to", "new"});
    REQUIRE(wait_until([&host] { return has_command(host, "source hot-upgrade-switch"); }));
    return run;
}

} // namespace

TEST_CASE("0: all selected VMs are on the release", "[ctl][exit]") {
    Host host(2);
    host.serve();
    REQUIRE(host.start_daemon());
    CHECK(host.ctl({"upgrade", "--yes", "vm0", "--to", "new"}).status == 0);
    CHECK(host.ctl({"upgrade", "--yes", "--all", "--to", "new"}).status == 0);
}

TEST_CASE("2: all selected VMs were on the release already", "[ctl][exit]") {
    Host host(2);
    host.serve();
    REQUIRE(host.start_daemon());
    REQUIRE(host.ctl({"upgrade", "--yes", "--all", "--to", "new"}).status == 0);
    CHECK(host.ctl({"upgrade", "--yes", "--all", "--to", "new"}).status == 2);
    CHECK(host.ctl({"check", "--all", "--to", "new"}).status == 2);
}

TEST_CASE("1: output that could not be written is a failure", "[ctl][exit]") {
    Host host(1);
    host.serve();
    REQUIRE(host.start_daemon());
    CHECK(host.ctl_in_shell("list >/dev/full").status == 1);
}

TEST_CASE("3: there is no VM, release, run or hold of that name", "[ctl][exit]") {
    Host host(1);
    host.serve();
    REQUIRE(host.start_daemon());
    CHECK(host.ctl({"show", "vm7"}).status == 3);
    CHECK(host.ctl({"upgrade", "--yes", "vm7", "--to", "new"}).status == 3);
    CHECK(host.ctl({"upgrade", "--yes", "vm0", "--to", "old"}).status == 3);
    CHECK(host.ctl({"status", "r0"}).status == 3);
    CHECK(host.ctl({"abort", "r0"}).status == 3);
    CHECK(host.ctl({"unhold", "vm0"}).status == 3);
}

TEST_CASE("4: one VM was rolled back and every guest runs", "[ctl][exit]") {
    Host host(2);
    host.options(1).vm.reactions["hot-upgrade-switch"].error_code = "load-failed";
    host.serve();
    REQUIRE(host.start_daemon());
    CHECK(host.ctl({"upgrade", "--yes", "--all", "--to", "new"}).status == 4);
}

TEST_CASE("5: a guest needs an operator", "[ctl][exit]") {
    Host host(2);
    host.extra_sections = "[[policy]]\nvms = [\"vm1\"]\nprobe = [\"/bin/false\"]\n";
    host.serve();
    REQUIRE(host.start_daemon());
    const Ran ran = host.ctl({"upgrade", "--yes", "--all", "--to", "new"});
    INFO(ran.out << ran.err);
    CHECK(ran.status == 5);
}

TEST_CASE("6: preflight refuses, and nothing was paused", "[ctl][exit]") {
    Host host(1);
    host.options(0).vm.blockers.push_back({"chardev/serial0", "chardev", "Use a pty."});
    host.serve();
    REQUIRE(host.start_daemon());
    CHECK(host.ctl({"check", "vm0", "--to", "new"}).status == 6);
    CHECK(host.ctl({"upgrade", "--yes", "vm0", "--to", "new"}).status == 6);
    CHECK_FALSE(has_command(host, "source hot-upgrade-switch"));
}

TEST_CASE("75: another run has the VM", "[ctl][exit]") {
    Host host(2);
    const PausedRun run = start_paused_run(host);
    CHECK(host.ctl({"upgrade", "--yes", "vm1", "--to", "new"}).status == 75);
    *run.is_held = false;
    CHECK(host.finish_ctl(run.ctl).status == 0);
}

TEST_CASE("7: the run was aborted", "[ctl][exit]") {
    Host host(2);
    const PausedRun run = start_paused_run(host);
    const std::string id = host.newest_run();
    const pid_t abort = host.start_ctl({"abort", id});
    REQUIRE(wait_until([&] {
        const Ran now = host.ctl({"--json", "status", id, "--once"});
        return now.out.find("\"stopped\"") != std::string::npos;
    }));
    *run.is_held = false;
    CHECK(host.finish_ctl(abort).status == 7);
    CHECK(host.finish_ctl(run.ctl).status == 7);
}

TEST_CASE("64: a wrong command line, and a hold that is over already", "[ctl][exit]") {
    Host host(1);
    host.serve();
    REQUIRE(host.start_daemon());
    CHECK(host.ctl({"upgrade"}).status == 64);
    CHECK(host.ctl({"lst"}).status == 64);
    const Ran late = host.ctl({"hold", "vm0", "--reason", "x", "--until", "2020-01-01Z"});
    CHECK(late.status == 64);
    CHECK(late.err.find("is over") != std::string::npos);
    CHECK(host.ctl({"hold", "vm0", "--reason", std::string(4000, 'x')}).status == 64);
    CHECK(host.ctl({"unhold", "vm0"}).status == 3);
}

TEST_CASE("69: nobody listens on the socket", "[ctl][exit]") {
    Host host(0);
    CHECK(host.ctl({"list"}).status == 69);
    CHECK(host.ctl({"upgrade", "--all", "--to", "new", "--yes"}).status == 69);
}

TEST_CASE("77: a user who may not open the socket", "[ctl][exit]") {
    Host host(1);
    host.serve();
    REQUIRE(host.start_daemon());
    if (::getuid() != 0) {
        WARN("not tested: needs root, to become somebody else");
        return;
    }
    // a copy in a folder that everybody reaches: the build's may be private
    namespace fs = std::filesystem;
    fs::permissions(fs::path(host.dir() / "."), fs::perms(0711));
    fs::copy_file(host.ctl_program(), host.dir() / "ctl");
    fs::permissions(fs::path(host.dir() / "ctl"), fs::perms(0755));
    const Ran ran = host.shell(
        "setpriv --reuid 65534 --regid 65534 --clear-groups " + (host.dir() / "ctl") +
        " --socket " + host.api_socket() + " list"
    );
    INFO(ran.err);
    CHECK(ran.status == 77);
}

TEST_CASE("78: the configuration is wrong", "[ctl][exit]") {
    Host host(0);
    std::ofstream(host.dir() / "bad.toml") << "paralel = 3\n";
    const Ran ran = host.ctl({"config", "show", "--config", host.dir() / "bad.toml"});
    CHECK(ran.status == 78);
    CHECK(ran.err.find("Did you mean 'parallel'?") != std::string::npos);
}

TEST_CASE("78: what cannot be used is a mistake of the configuration", "[daemon][exit]") {
    Host host(0);
    const std::string head = "releases_dir = \"" + (host.dir() / "releases") + "\"\n";
    const auto judge = [&](const std::string& line) {
        std::ofstream(host.dir() / "tried.toml") << head << line << "\n";
        return host.shell(
            Host::daemon_program() + " --check-config --config " + (host.dir() / "tried.toml")
        );
    };
    const Ran user = judge("probe_user = \"nobdy\""); // no policy has a probe yet
    CHECK(user.status == 78);
    CHECK(user.err.find("there is no user 'nobdy'") != std::string::npos);
    for (const char* folder : {"/proc/x", "/proc/self/x/y", "/sys/x"}) {
        const Ran of_kernel = judge("state_dir = \"" + std::string(folder) + "\"");
        INFO(folder << of_kernel.err);
        CHECK(of_kernel.status == 78);
        CHECK(of_kernel.err.find("file system of the kernel") != std::string::npos);
    }
    std::ofstream(host.dir() / "releases/odd.toml") << "path = 1\n";
    const Ran odd = judge("");
    CHECK(odd.err.find("correct the file.") != std::string::npos);
    CHECK(odd.err.find("..") == std::string::npos);
}

TEST_CASE("130: Ctrl-C goes away and says how to come back", "[ctl][exit]") {
    Host host(2);
    const PausedRun run = start_paused_run(host);
    ::kill(run.ctl, SIGINT);
    const Ran ran = host.finish_ctl(run.ctl);
    CHECK(ran.status == 130);
    const std::string id = host.newest_run();
    CHECK(ran.err.find("qhupd-ctl status " + id) != std::string::npos);
    *run.is_held = false;
    CHECK(host.ctl({"status", id}).status == 0);
}
