// SPDX-License-Identifier: GPL-2.0-or-later
//
// The operator's probe: as a program of its own, in verify, and in a soak.
#include "daemon/probe_command.hpp"
#include "tests/component/daemon/harness.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/run_coroutine.hpp"
#include "upgrade-engine/errors.hpp"

#include <linux/capability.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <optional>

using namespace qhup::test;
using namespace qhup::daemon;
using nlohmann::json;
using namespace std::chrono_literals;

namespace {

ProbeCommand make_command(const std::string& script, std::chrono::milliseconds limit = 5s) {
    return {
        .argv = {"/bin/sh", "-c", script, "{vm}"}, .vm = "vm1", .user = "nobody", .limit = limit};
}

qhup::Result<void> run_probe(const ProbeCommand& command) {
    std::optional<qhup::Result<void>> result;
    run_coroutine([&](const qhup::Strand&) -> qhup::awaitable<void> {
        result = co_await run_probe_command(command);
    });
    return *result;
}

std::string words_of(const std::string& script) {
    const auto result = run_probe(make_command(script + "; exit 3"));
    return result.has_error() ? result.error().peer_text : "no error";
}

/// Takes CAP_KILL from this thread, which even root needs to signal another user's process, as our
/// unit does.
class WithoutKill {
public:
    WithoutKill() : before_(load()) {
        Sets less = before_;
        less[0].effective &= ~(1U << CAP_KILL);
        store(less);
    }
    ~WithoutKill() { store(before_); }
    WithoutKill(const WithoutKill&) = delete;
    WithoutKill& operator=(const WithoutKill&) = delete;

private:
    using Sets = std::array<__user_cap_data_struct, 2>;

    static Sets load() {
        __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
        Sets sets{};
        ::syscall(SYS_capget, &header, sets.data());
        return sets;
    }
    static void store(const Sets& sets) {
        __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
        ::syscall(SYS_capset, &header, sets.data());
    }

    Sets before_;
};

json only_vm(const Ran& ran) {
    return json::parse(ran.out).at("vms").at(0);
}

} // namespace

TEST_CASE("a probe says how the VM is by its exit status", "[daemon][probe]") {
    CHECK(run_probe(make_command("exit 0")).has_value());
    const auto failed = run_probe(make_command("echo no answer >&2; exit 7"));
    REQUIRE(failed.has_error());
    CHECK(failed.error().code == make_error_code(qhup::upgrade::Errc::probe_failed));
    CHECK(failed.error().message.find("ended with status 7") != std::string::npos);
    CHECK(failed.error().peer_text == "no answer");
    const auto killed = run_probe(make_command("kill -TERM $$"));
    REQUIRE(killed.has_error());
    CHECK(killed.error().message.find("signal 15") != std::string::npos);
    ProbeCommand missing = make_command("");
    missing.argv = {"/no/such/program"};
    CHECK(run_probe(missing).has_error());
    ProbeCommand nobody = make_command("exit 0");
    nobody.user = "no-such-user";
    CHECK(run_probe(nobody).has_error() == (::geteuid() == 0));
}

TEST_CASE("a probe that does not end is killed with all it started", "[daemon][probe]") {
    std::optional<WithoutKill> as_in_our_unit;
    if (GENERATE(false, true)) {
        as_in_our_unit.emplace();
    }
    const TempDir dir;
    ::chmod(std::string(dir / "").c_str(), 0777);
    const std::string pid_file = dir / "pid";
    const auto begin = std::chrono::steady_clock::now();
    const auto result =
        run_probe(make_command("sleep 100 & echo $! > " + pid_file + "; wait", 500ms));
    CHECK(std::chrono::steady_clock::now() - begin < 5s);
    REQUIRE(result.has_error());
    CHECK(result.error().message.find("did not end within 500 ms") != std::string::npos);
    pid_t child = 0;
    std::ifstream(pid_file) >> child;
    REQUIRE(child > 0);
    CHECK(wait_until([child] {
        std::ifstream stat("/proc/" + std::to_string(child) + "/stat");
        const std::string text(
            (std::istreambuf_iterator<char>(stat)), std::istreambuf_iterator<char>()
        );
        return text.empty() || text.find(") Z ") != std::string::npos;
    }));
}

TEST_CASE("a probe has no rights, and gets nothing of ours", "[daemon][probe]") {
    CHECK(words_of("echo $0 $QHUP_VM") == "vm1 vm1");
    CHECK(words_of("grep NoNewPrivs /proc/self/status") == "NoNewPrivs:\t1");
    CHECK(words_of("grep CapEff /proc/self/status") == "CapEff:\t0000000000000000");
    CHECK(words_of("pwd") == "/");
    CHECK(words_of("ls /proc/self/fd | wc -l") == "4"); // its three, and that of ls
    CHECK(
        words_of("env | grep -v -e ^PATH= -e ^QHUP_VM= -e ^PWD= -e ^_= -e ^SHLVL= | wc -l") == "0"
    );
    if (::geteuid() == 0) {
        CHECK(words_of("id -un") == "nobody");
    }
}

TEST_CASE("a probe may write without end, and its first words are kept", "[daemon][probe]") {
    // its output is no file of ours, which would grow with it
    const auto much = run_probe(make_command(
        "head -c 32000000 /dev/zero >&2; test $(stat -Lc %s /proc/self/fd/2) -lt 1000000"
    ));
    INFO((much.has_error() ? much.error().message : ""));
    CHECK(much.has_value());
    CHECK(words_of("echo first; yes | head -c 1000000").starts_with("first\ny\ny\n"));
    CHECK(words_of("printf %0500d 7").size() == 400);
    // who is left behind does not keep it open
    CHECK(words_of("echo said; setsid sleep 5 & exit 3") == "said");
}

TEST_CASE("a VM is upgraded when its probe is content", "[daemon][probe]") {
    Host host(1);
    host.extra_sections = "[[policy]]\nvms = [\"*\"]\nprobe = [\"/bin/sh\", \"-c\", "
                          "\"test $QHUP_VM = vm0\"]\n";
    host.serve();
    REQUIRE(host.start_daemon());
    const Ran ran = host.ctl({"--json", "upgrade", "--yes", "--all", "--to", "new"});
    INFO(ran.err << ran.out << host.daemon_log());
    CHECK(ran.status == 0);
    CHECK(host.ctl({"show", "vm0"}).out.find("probe /bin/sh") != std::string::npos);
}

TEST_CASE("a VM whose probe fails is reported, and left on the new QEMU", "[daemon][probe]") {
    Host host(1);
    host.extra_sections = "[[policy]]\nvms = [\"*\"]\nprobe = [\"/bin/sh\", \"-c\", "
                          "\"echo no web server; exit 1\"]\n";
    host.serve();
    REQUIRE(host.start_daemon());
    const Ran ran = host.ctl({"--json", "upgrade", "--yes", "--all", "--to", "new"});
    INFO(ran.err << ran.out << host.daemon_log());
    CHECK(ran.status == 5);
    CHECK(only_vm(ran).at("outcome") == "needs_operator");
    CHECK(only_vm(ran).at("code") == "probe_failed");
    CHECK(only_vm(ran).at("peer_text") == "no web server");
    const std::string message = only_vm(ran).at("message").get<std::string>();
    CHECK(message.find("keep it, or take it back with 'qhupd-ctl revert vm0'") < 100);
    CHECK(ran.err.find("rolling_back") == std::string::npos);
    CHECK(only_vm(ran).at("steps").back().at("phase") == "verify");
    host.qemu().with_vm([](FakeVm& vm) {
        CHECK(vm.running_sides() == std::vector<std::string>{"target"});
    });
}

TEST_CASE("a VM that cannot be taken back says so", "[daemon][probe]") {
    Host host(1); // keeps no binary
    host.extra_sections = "[[policy]]\nvms = [\"*\"]\nprobe = [\"/bin/false\"]\n"
                          "after_failed_verify = \"revert\"\n";
    host.serve();
    REQUIRE(host.start_daemon());
    const Ran ran = host.ctl({"--json", "upgrade", "--yes", "--all", "--to", "new"});
    INFO(ran.err << ran.out << host.daemon_log());
    CHECK(ran.status == 5);
    CHECK(only_vm(ran).at("code") == "probe_failed");
    CHECK(only_vm(ran).at("message").get<std::string>().find("is not kept") != std::string::npos);
    // the upgrade itself was finished: nothing hangs between the two
    host.qemu().with_vm([](FakeVm& vm) {
        CHECK(vm.version() == "10.0.13");
        CHECK(vm.state(FakeSide::source) == "none");
    });
}

TEST_CASE("a canary whose probe fails in the soak stops the run", "[daemon][probe]") {
    Host host(2);
    ::chmod(std::string(host.dir() / "").c_str(), 0755);
    const std::string flag = host.dir() / "well";
    std::ofstream(flag) << "yes";
    host.extra_sections =
        "[[policy]]\nvms = [\"*\"]\nprobe = [\"/usr/bin/test\", \"-e\", \"" + flag + "\"]\n";
    host.serve();
    REQUIRE(host.start_daemon());
    const pid_t ctl = host.start_ctl(
        {"--json", "upgrade", "--yes", "--all", "--to", "new", "--canaries", "1", "--soak", "2s"}
    );
    REQUIRE(wait_until([&] { return host.daemon_log().find("is soaking") != std::string::npos; }));
    ::unlink(flag.c_str());
    const Ran ran = host.finish_ctl(ctl);
    INFO(ran.err << ran.out << host.daemon_log());
    const json run = json::parse(ran.out);
    CHECK(run.at("stopped_by") == "soak");
    CHECK(run.at("stop_reason").get<std::string>().find("probe") != std::string::npos);
    CHECK(run.at("vms").at(1).at("code") == "stopped");
}

TEST_CASE("a daemon that is started again in verify runs the probe", "[daemon][probe]") {
    Host host(1);
    host.verify = "2s";
    ::chmod(std::string(host.dir() / "").c_str(), 0755);
    const std::string flag = host.dir() / "well";
    host.extra_sections =
        "[[policy]]\nvms = [\"*\"]\nprobe = [\"/usr/bin/test\", \"-e\", \"" + flag + "\"]\n";
    host.serve();
    REQUIRE(host.start_daemon());
    const pid_t ctl = host.start_ctl({"upgrade", "--yes", "--all", "--to", "new"});
    REQUIRE(wait_until([&] {
        return host.ctl({"--json", "status"}).out.find("\"verify\"") != std::string::npos;
    }));
    host.kill_daemon();
    (void)host.finish_ctl(ctl);
    REQUIRE(host.start_daemon());
    const Ran status = host.ctl({"--json", "status"});
    INFO(status.out << status.err << host.daemon_log());
    const std::string run = host.newest_run();
    REQUIRE(wait_until([&] {
        return host.ctl({"--json", "status", run, "--once"}).out.find("\"finished\"") !=
               std::string::npos;
    }));
    const json vm = only_vm(host.ctl({"--json", "status", run, "--once"}));
    INFO(vm.dump() << host.daemon_log());
    CHECK(vm.at("outcome") == "needs_operator");
    CHECK(vm.at("code") == "probe_failed");
    CHECK(vm.at("recoveries") == 1);
}

TEST_CASE("what was not well can be reverted, by its name and by its run", "[daemon][probe]") {
    Host host(1); // keeps no binary
    host.extra_sections = "[[policy]]\nvms = [\"*\"]\nprobe = [\"/bin/false\"]\n";
    host.serve();
    REQUIRE(host.start_daemon());
    const Ran ran = host.ctl({"--json", "upgrade", "--yes", "--all", "--to", "new"});
    INFO(ran.err << ran.out << host.daemon_log());
    CHECK(ran.status == 5);
    for (const std::string& what : {std::string("vm0"), host.newest_run()}) {
        const Ran reverted = host.ctl({"--json", "revert", "--yes", what});
        INFO(what << reverted.err << reverted.out);
        const json vm = only_vm(reverted);
        CHECK(vm.at("vm") == "vm0");
        CHECK(vm.at("code") == "no_way_back");
        CHECK(vm.at("message").get<std::string>().find("is not kept") != std::string::npos);
    }
    // that run moved nobody, and it says so
    const Ran nobody = host.ctl({"revert", "--yes", host.newest_run()});
    CHECK(nobody.status != 0);
    CHECK(nobody.err.find("has moved no VM") != std::string::npos);
}

TEST_CASE("a revert goes by what its VMs run now", "[daemon][probe]") {
    Host host(1);
    host.serve();
    REQUIRE(host.start_daemon());
    REQUIRE(host.ctl({"upgrade", "--yes", "vm0", "--to", "new"}).status == 0);
    REQUIRE(host.ctl({"list"}).status == 0);
    // when: its user starts it again, on the old QEMU
    host.qemu().hang_up(0);
    std::filesystem::remove(host.qemu().path(0));
    const FakeQemu again(host.options(0));
    // and what the daemon knows of it is so old that it asks again
    const auto known = std::chrono::steady_clock::now();
    REQUIRE(wait_until([known] { return std::chrono::steady_clock::now() - known > 250ms; }));
    // then
    const Ran reverted = host.ctl({"--json", "revert", "--yes", "vm0"});
    INFO(reverted.err << reverted.out << host.daemon_log());
    CHECK(only_vm(reverted).at("code") == "no_way_back");
    CHECK(only_vm(reverted).at("to_build_id") == "");
    CHECK(only_vm(reverted).at("message").get<std::string>().find("No run") != std::string::npos);
}
