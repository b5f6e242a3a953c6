// SPDX-License-Identifier: GPL-2.0-or-later
#include "tests/component/daemon/harness.hpp"
#include "tests/support/catch.hpp"

#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <fstream>

using namespace qhup::test;
using nlohmann::json;

namespace {

json vm_of(const json& list, const std::string& name) {
    for (const json& vm : list.at("vms")) {
        if (vm.at("name") == name) {
            return vm;
        }
    }
    return json::object();
}

} // namespace

TEST_CASE("a list shows every VM by the name that QEMU says", "[daemon][discovery]") {
    Host host(3);
    host.options(1).vm.name = "web";
    host.options(2).vm.blockers = {{"chardev/serial0", "chardev", "do this"}};
    host.serve();
    REQUIRE(host.start_daemon());
    const Ran ran = host.ctl({"--json", "list"});
    REQUIRE(ran.status == 0);
    const json list = json::parse(ran.out);
    CHECK(list.at("vms").size() == 3);
    CHECK(vm_of(list, "vm0").at("upgradable") == true);
    CHECK(vm_of(list, "web").at("version") == "7.2.22");
    CHECK(vm_of(list, "vm2").at("upgradable") == false);
    CHECK(vm_of(list, "vm2").at("blockers").size() == 1);
}

TEST_CASE("VMs that are silent, slow, garbage or gone delay nobody", "[daemon][discovery]") {
    Host host(7);
    host.options(1).main_script.is_without_greeting = true;
    host.options(2).main_script.chunk_bytes = 1;
    host.options(2).main_script.chunk_pause = std::chrono::seconds(1);
    host.options(3).main_script.greeting = "HTTP/1.1 200 OK\r\n\r\n";
    host.options(4).main_script.is_silent = true;
    host.options(5).main_script.deep_json_depth = 5000;
    host.options(6).main_script.huge_line_bytes = 8U << 20U;
    host.serve();
    // a socket file that nobody listens on
    const int dead = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    (host.dir() / "q/dead.qmp").copy(&address.sun_path[0], sizeof(address.sun_path) - 1);
    REQUIRE(::bind(dead, reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0);
    ::close(dead);
    REQUIRE(host.start_daemon());
    for (int round = 0; round < 2; ++round) {
        const auto begin = std::chrono::steady_clock::now();
        const Ran ran = host.ctl({"--json", "list"});
        CHECK(std::chrono::steady_clock::now() - begin < std::chrono::milliseconds(2500));
        REQUIRE(ran.status == 0);
        const json list = json::parse(ran.out);
        REQUIRE(list.at("vms").size() == 8);
        CHECK(vm_of(list, "vm0").at("reachable") == true);
        for (const char* name : {"vm1", "vm2", "vm3", "vm4", "vm5", "vm6", "dead"}) {
            INFO(name);
            CHECK(vm_of(list, name).at("reachable") == false);
            CHECK_FALSE(vm_of(list, name).at("reason").get<std::string>().empty());
        }
    }
    // a name that nobody has may be one of those that have not answered
    const Ran unknown = host.ctl({"upgrade", "--yes", "web7", "--to", "new"});
    CHECK(unknown.status == 3);
    INFO(unknown.err);
    CHECK(
        unknown.err.find(" monitors have not, so the name may be one of theirs") !=
        std::string::npos
    );
    const Ran shown = host.ctl({"--json", "show", "web7"});
    INFO(shown.out << shown.err);
    CHECK(
        (shown.out + shown.err).find(" not, so the name may be one of theirs") != std::string::npos
    );
    const auto begin = std::chrono::steady_clock::now();
    CHECK(host.ctl({"upgrade", "--yes", "vm0", "--to", "new"}).status == 0);
    CHECK(std::chrono::steady_clock::now() - begin < std::chrono::seconds(4));
}

TEST_CASE("a stock QEMU is listed with the one blocker that it has", "[daemon][discovery]") {
    Host host(1);
    host.options(0).vm.is_patched = false;
    host.serve();
    REQUIRE(host.start_daemon());
    const json list = json::parse(host.ctl({"--json", "list"}).out);
    CHECK(vm_of(list, "vm0").at("reachable") == true);
    CHECK(vm_of(list, "vm0").at("version") == "7.2.22");
    CHECK(vm_of(list, "vm0").at("blockers").size() == 1);
    CHECK(host.ctl({"check", "vm0", "--to", "new"}).status == 6);
    CHECK(host.ctl({"upgrade", "--yes", "vm0", "--to", "new"}).status == 6);
    CHECK(host.daemon_log().find("engine/not-patched: \"") != std::string::npos);
}

TEST_CASE("a mistyped release is listed as not usable, with its line", "[daemon][discovery]") {
    Host host(0);
    std::ofstream(host.dir() / "releases/typo.toml") << "path = \"/q\"\n[=]\n";
    host.serve();
    REQUIRE(host.start_daemon());
    const json list = json::parse(host.ctl({"--json", "releases"}).out);
    REQUIRE(list.at("releases").size() == 2);
    const json& typo = list.at("releases").at(1);
    CHECK(typo.at("name") == "typo");
    CHECK(typo.at("usable") == false);
    CHECK(typo.at("reason").get<std::string>().find("line 2") != std::string::npos);
}

TEST_CASE("empty control folders of VMs that are gone are removed", "[daemon][discovery]") {
    Host host(1);
    std::filesystem::create_directories(host.dir() / "vms/vm0");
    std::filesystem::create_directories(host.dir() / "vms/gone");
    std::filesystem::create_directories(host.dir() / "vms/kept");
    std::ofstream(host.dir() / "vms/kept/file") << "x";
    host.serve();
    REQUIRE(host.start_daemon());
    CHECK_FALSE(std::filesystem::exists(host.dir() / "vms/gone"));
    CHECK(std::filesystem::exists(host.dir() / "vms/kept/file"));
    CHECK(std::filesystem::exists(host.dir() / "vms/vm0"));
}

TEST_CASE("output that cannot be written is a failure", "[daemon][discovery]") {
    Host host(1);
    host.serve();
    REQUIRE(host.start_daemon());
    CHECK(host.ctl_in_shell("list >/dev/full").status == 1);
    CHECK(host.ctl_in_shell("list >/dev/null").status == 0);
}

TEST_CASE("a check without VMs has nothing to do, or no such release", "[daemon][discovery]") {
    Host host(0);
    host.serve();
    REQUIRE(host.start_daemon());
    CHECK(host.ctl({"check", "--all", "--to", "new"}).status == 2);
    CHECK(host.ctl({"check", "--all", "--to", "nosuch"}).status == 3);
}

TEST_CASE("a VM's monitor is free between two looks", "[daemon][discovery]") {
    Host host(1);
    host.serve();
    REQUIRE(host.start_daemon());
    REQUIRE(host.ctl({"list"}).status == 0);
    CHECK(wait_until([&] { return host.qemu().connections() == 0; }));
}

TEST_CASE("a VM whose monitor accepts nobody is not said to have ended", "[daemon][discovery]") {
    Host host(1);
    host.serve();
    // given a listener that accepts nobody, and whose queue fills with the first look
    const int busy = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    (host.dir() / "q/busy.qmp").copy(&address.sun_path[0], sizeof(address.sun_path) - 1);
    REQUIRE(::bind(busy, reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0);
    REQUIRE(::listen(busy, 0) == 0);
    REQUIRE(host.start_daemon());
    // when
    std::string reason;
    const bool is_full = wait_until([&] {
        const json list = json::parse(host.ctl({"--json", "list"}).out);
        reason = vm_of(list, "busy").at("reason").get<std::string>();
        return reason.find("does not accept connections now") != std::string::npos;
    });
    // then
    INFO(reason);
    CHECK(is_full);
    CHECK(reason.find("has ended") == std::string::npos);
    // and each look has closed its socket
    CHECK(wait_until([&] {
        std::size_t sockets = 0;
        for (const auto& fd : std::filesystem::directory_iterator(
                 "/proc/" + std::to_string(host.daemon_pid()) + "/fd"
             )) {
            std::error_code gone;
            const auto target = std::filesystem::read_symlink(fd.path(), gone).string();
            sockets += target.starts_with("socket:") ? 1 : 0;
        }
        return sockets <= 3; // the API's listener, and room for the library
    }));
    ::close(busy);
}

TEST_CASE("a name that two VMs have leads to neither of them", "[daemon][discovery]") {
    Host host(2);
    host.options(0).vm.name = "dup";
    host.options(1).vm.name = "dup";
    host.options(1).vm.pid = 1; // another process than the first one
    host.serve();
    REQUIRE(host.start_daemon());
    const auto names_of = [&host] {
        std::vector<std::string> names;
        const json list = json::parse(host.ctl({"--json", "list"}).out);
        for (const json& vm : list.at("vms")) {
            names.push_back(vm.at("name").get<std::string>());
        }
        return names;
    };
    CHECK(names_of() == std::vector<std::string>{"vm0", "vm1"});
    CHECK(host.ctl({"upgrade", "--yes", "dup", "--to", "new"}).status == 3);
    std::filesystem::remove(host.dir() / "q/vm0.qmp");
    CHECK(names_of() == std::vector<std::string>{"vm1"});
    CHECK(host.ctl({"upgrade", "--yes", "dup", "--to", "new"}).status == 3);
}

TEST_CASE("a link of one VM's user to another VM's socket is not followed", "[daemon][discovery]") {
    Host host(1);
    std::filesystem::create_directory(host.dir() / "q");
    const std::string link = host.dir() / "q/a.qmp"; // comes first in the alphabet
    std::filesystem::create_symlink(host.dir() / "q/vm0.qmp", link);
    host.serve();
    const std::string own = host.dir() / "q/vm0.qmp";
    const bool is_root = ::geteuid() == 0;
    // given: the socket belongs to us, and the link to somebody else
    REQUIRE(::lchown(link.c_str(), is_root ? 65534 : uid_t(-1), gid_t(-1)) == 0);
    REQUIRE(host.start_daemon());
    const auto only_vm = [&host] {
        const json vms = json::parse(host.ctl({"--json", "list"}).out).at("vms");
        REQUIRE(vms.size() == 1);
        return vms.at(0);
    };
    CHECK(only_vm().at("socket") == (is_root ? own : link));
    // what the VM's own user links is followed
    REQUIRE(::lchown(own.c_str(), is_root ? 65534 : uid_t(-1), gid_t(-1)) == 0);
    host.ctl({"list"});
    CHECK(only_vm().at("socket") == link);
}

TEST_CASE("a mistyped name is answered with what was meant", "[daemon][discovery]") {
    Host host(1);
    host.serve();
    REQUIRE(host.start_daemon());
    const Ran show = host.ctl({"show", "vm00"});
    CHECK(show.status == 3);
    CHECK(show.err.find("Did you mean 'vm0'?") != std::string::npos);
    const Ran upgrade = host.ctl({"upgrade", "--yes", "vm0", "--to", "nwe"});
    CHECK(upgrade.status == 3);
    CHECK(upgrade.err.find("Did you mean 'new'?") != std::string::npos);
}

TEST_CASE("a stale socket is named, and is no failure of a run over all", "[daemon][discovery]") {
    Host host(1);
    host.serve();
    { // a QEMU that was killed leaves its socket
        FakeQemuOptions dead = host.options(0);
        dead.qmp_path = host.dir() / "q/dead.qmp";
        dead.vm.name = "dead";
        const FakeQemu killed(dead);
    }
    REQUIRE(host.start_daemon());
    const json list = json::parse(host.ctl({"--json", "list"}).out);
    CHECK(vm_of(list, "dead").at("stale") == true);
    CHECK(vm_of(list, "vm0").at("stale") == false);
    const std::string socket = host.dir() / "q/dead.qmp";
    const Ran all =
        host.ctl({"--json", "upgrade", "--yes", "--all", "--to", "new", "--max-failures", "1"});
    INFO(all.err << all.out << host.daemon_log());
    CHECK(all.status == 0);
    const json run = json::parse(all.out);
    for (const json& vm : run.at("vms")) {
        const bool is_dead = vm.at("vm") == "dead";
        CHECK(vm.at("outcome") == (is_dead ? "skipped" : "upgraded"));
        CHECK(vm.at("code") == (is_dead ? "stale_socket" : ""));
        if (is_dead) {
            CHECK(vm.at("next_step").get<std::string>().find("rm " + socket) != std::string::npos);
        }
    }
    const Ran named = host.ctl({"--json", "upgrade", "--yes", "dead", "--to", "new"});
    CHECK(named.status == 6);
    CHECK(json::parse(named.out).at("vms").at(0).at("code") == "stale_socket");
    CHECK(host.ctl({"check", "dead", "--to", "new"}).out.find("has ended") != std::string::npos);
}

TEST_CASE("a VM that was started just now can be checked", "[daemon][discovery]") {
    Host host(1);
    host.serve();
    REQUIRE(host.start_daemon());
    REQUIRE(host.ctl({"list"}).status == 0);
    FakeQemuOptions late = host.options(0);
    late.qmp_path = host.dir() / "q/late.qmp";
    late.vm.name = "late";
    late.vm.uuid = "99999999-2222-3333-4444-555555555555";
    const FakeQemu qemu(late);
    const Ran check = host.ctl({"check", "late", "--to", "new"});
    INFO(check.err << check.out);
    CHECK(check.status == 0);
}
