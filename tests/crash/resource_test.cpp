// SPDX-License-Identifier: GPL-2.0-or-later
//
// A host that has run out of something: a real file system without room, no more descriptors, a
// disk that takes five seconds for each write, a wall clock that jumps. The daemon lives, says what
// it could not do, and does it when it can again; the guest runs once all the while.
#include "tests/component/daemon/harness.hpp"
#include "tests/support/catch.hpp"

#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include <chrono>
#include <filesystem>
#include <fstream>

using namespace qhup::test;
using nlohmann::json;
using namespace std::chrono_literals;
namespace fs = std::filesystem;

namespace {

using Clock = std::chrono::steady_clock;

std::string version_of(Host& host) {
    std::string version;
    host.qemu().with_vm([&version](FakeVm& fake) { version = fake.version(); });
    return version;
}

std::size_t sides_of(Host& host) {
    std::size_t sides = 0;
    host.qemu().with_vm([&sides](FakeVm& fake) { sides = fake.running_sides().size(); });
    return sides;
}

Ran upgrade(Host& host) {
    return host.ctl({"--json", "upgrade", "--yes", "vm0", "--to", "new"});
}

/// A small file system of its own for the daemon's state; gone with it.
class SmallDisk {
public:
    explicit SmallDisk(const Host& host) : path_(host.dir() / "state") {
        fs::create_directories(path_);
        fs::permissions(path_, fs::perms::owner_all);
        // why: a namespace of this thread and what it starts, so that nothing is left on the host.
        is_there_ = ::unshare(CLONE_NEWNS) == 0 &&
                    ::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0 &&
                    ::mount("qhup", path_.c_str(), "tmpfs", 0, "size=512k,mode=700") == 0;
    }
    ~SmallDisk() {
        if (is_there_) {
            (void)::umount2(path_.c_str(), MNT_DETACH);
        }
    }
    SmallDisk(const SmallDisk&) = delete;
    SmallDisk& operator=(const SmallDisk&) = delete;

    bool is_there() const { return is_there_; }
    void fill() const {
        std::ofstream ballast(path_ + "/ballast", std::ios::binary);
        const std::string page(4096, 'x');
        while (ballast.write(page.data(), static_cast<std::streamsize>(page.size())).flush()) {
        }
    }
    void make_room() const { fs::remove(path_ + "/ballast"); }

private:
    std::string path_;
    bool is_there_ = false;
};

std::size_t open_files(const Host& host) {
    const fs::path folder = "/proc/" + std::to_string(host.daemon_pid()) + "/fd";
    return static_cast<std::size_t>(
        std::distance(fs::directory_iterator(folder), fs::directory_iterator())
    );
}

void limit_files(const Host& host, rlim_t most) {
    const rlimit limit{most, 1024};
    REQUIRE(::prlimit(host.daemon_pid(), RLIMIT_NOFILE, &limit, nullptr) == 0);
}

void set_clock_offset(const Host& host, const std::string& seconds) {
    std::ofstream(host.dir() / "offset.new") << seconds;
    fs::rename(host.dir() / "offset.new", host.dir() / "offset");
}

bool can_trace() {
    return std::system("strace -f -qq -o /dev/null -e inject=getpid:error=EIO true 2>/dev/null") ==
           0;
}

constexpr const char* kTenYears = "315576000";

} // namespace

TEST_CASE("a file system without room refuses upgrades until it has some", "[daemon][crash]") {
    Host host(1);
    const SmallDisk disk(host);
    if (!disk.is_there()) {
        WARN("skipped: this host does not let us mount");
        return;
    }
    host.serve();
    SECTION("it becomes full while the daemon runs") {
        REQUIRE(host.start_daemon());
        REQUIRE(host.ctl({"upgrade", "--yes", "vm0", "--to", "new", "--dry-run"}).status == 0);
        disk.fill();
    }
    SECTION("it is full when the daemon starts") {
        disk.fill();
        REQUIRE(host.start_daemon());
    }
    CHECK(host.ctl({"list"}).status == 0);
    const Ran refused = upgrade(host);
    INFO(refused.out << refused.err << host.daemon_log());
    CHECK(refused.status != 0);
    CHECK_FALSE(has_command(host, "source hot-upgrade-switch"));
    CHECK(version_of(host) == "7.2.22");
    CHECK(sides_of(host) == 1);
    // when there is room again
    disk.make_room();
    CHECK(wait_until([&] { return upgrade(host).status == 0; }));
    CHECK(version_of(host) == "10.0.13");
    CHECK(host.stop_daemon() == 0);
    REQUIRE(host.start_daemon());
    CHECK_FALSE(host.newest_run().empty());
}

TEST_CASE("a daemon without descriptors waits until it has some", "[daemon][crash]") {
    for (const std::size_t spare : {0U, 1U, 2U, 3U, 5U}) {
        DYNAMIC_SECTION(spare << " to spare") {
            Host host(1);
            host.serve();
            REQUIRE(host.start_daemon());
            REQUIRE(host.ctl({"list"}).status == 0);
            limit_files(host, open_files(host) + spare);
            const pid_t ctl = host.start_ctl({"--json", "upgrade", "--yes", "vm0", "--to", "new"});
            const bool has_ended = wait_until(
                [&] {
                    siginfo_t info{};
                    return ::waitid(
                               P_PID, static_cast<id_t>(ctl), &info, WEXITED | WNOHANG | WNOWAIT
                           ) == 0 &&
                           info.si_pid == ctl;
                },
                1s
            );
            INFO("the command had ended: " << has_ended << "\n" << host.daemon_log());
            CHECK(sides_of(host) == 1);
            limit_files(host, 1024);
            const Ran ran = host.finish_ctl(ctl, 60s);
            INFO(ran.out << ran.err);
            CHECK(ran.status != -1);
            CHECK(wait_until([&] {
                const int status = upgrade(host).status;
                return status == 0 || status == 2;
            }));
            CHECK(version_of(host) == "10.0.13");
            CHECK(sides_of(host) == 1);
            CHECK(host.stop_daemon() == 0);
        }
    }
}

TEST_CASE("a daemon that gets none of its threads says so and ends", "[daemon][crash]") {
    if (!can_trace()) {
        WARN("skipped: strace cannot trace here");
        return;
    }
    for (const char* when : {"1", "2", "3"}) {
        DYNAMIC_SECTION("from thread " << when) {
            Host host(1);
            host.serve();
            host.wrapper = {
                "/usr/bin/strace",
                "-D",
                "-f",
                "-qq",
                "-o",
                host.dir() / "trace",
                "-e",
                "trace=clone,clone3",
                "-e",
                std::string("inject=clone,clone3:error=EAGAIN:when=") + when + "+"};
            CHECK_FALSE(host.start_daemon());
            CHECK(host.wait_for_daemon() == 1);
            INFO(host.daemon_log());
            CHECK(host.daemon_log().find("the system refuses") != std::string::npos);
        }
    }
}

TEST_CASE("a disk that takes five seconds keeps nobody's guest waiting", "[daemon][crash]") {
    if (!can_trace()) {
        WARN("skipped: strace cannot trace here");
        return;
    }
    // why 5+: the first ones are those of the start.
    for (const char* when : {"1+", "5+"}) {
        DYNAMIC_SECTION("from write " << when) {
            Host host(1);
            host.serve();
            host.wrapper = {
                "/usr/bin/strace",
                "-D",
                "-f",
                "-qq",
                "-o",
                host.dir() / "trace",
                "-e",
                "trace=fsync,fdatasync",
                "-e",
                std::string("inject=fsync,fdatasync:delay_enter=5000000:when=") + when};
            REQUIRE(host.start_daemon());
            const pid_t ctl = host.start_ctl({"--json", "upgrade", "--yes", "vm0", "--to", "new"});
            const auto began = Clock::now();
            CHECK(host.ctl({"list"}).status == 0);
            CHECK(Clock::now() - began < 4s);
            const Ran ran = host.finish_ctl(ctl, 60s);
            INFO(ran.out << ran.err << host.daemon_log());
            CHECK((ran.status == 0 || ran.status == 75)); // or it was told to try later
            const std::string late = " in time, so nothing was begun. Ask again when";
            CHECK((ran.status == 0 || ran.err.find(late) != std::string::npos));
            CHECK(version_of(host) == (ran.status == 0 ? "10.0.13" : "7.2.22"));
            CHECK(sides_of(host) == 1);
            host.kill_daemon();
            REQUIRE(host.start_daemon());
            CHECK(wait_until([&] {
                const int status = upgrade(host).status;
                return status == 0 || status == 2;
            }));
            CHECK(version_of(host) == "10.0.13");
        }
    }
}

TEST_CASE("a wall clock that jumps ends no deadline and loses no run", "[daemon][crash]") {
    const std::vector<std::string> preload{
        "/usr/bin/env", "LD_PRELOAD=" QHUP_JUMPING_CLOCK, "QHUP_CLOCK_OFFSET="};
    for (const char* sign : {"", "-"}) {
        DYNAMIC_SECTION("by ten years, first " << (*sign == '-' ? "back" : "forward")) {
            Host host(1);
            host.options(0).vm.reactions["hot-upgrade-switch"].delay = 400ms;
            host.serve();
            const std::string there = std::string(sign) + kTenYears;
            const std::string back = *sign == '-' ? kTenYears : std::string("-") + kTenYears;
            const auto start = [&] {
                host.wrapper = preload;
                host.wrapper.back() += host.dir() / "offset";
                return host.start_daemon();
            };
            set_clock_offset(host, "0");
            REQUIRE(start());
            // when it jumps while the guest is paused, and back
            const pid_t ctl = host.start_ctl({"--json", "upgrade", "--yes", "vm0", "--to", "new"});
            REQUIRE(wait_until([&] { return has_command(host, "source hot-upgrade-switch"); }));
            set_clock_offset(host, there);
            const Ran ran = host.finish_ctl(ctl);
            INFO(ran.out << ran.err << host.daemon_log());
            CHECK(ran.status == 0);
            const json run = json::parse(ran.out);
            CHECK(run.at("vms").at(0).at("outcome") == "upgraded");
            CHECK(run.at("vms").at(0).at("total_ms").get<double>() < 60'000);
            CHECK(sides_of(host) == 1);
            // then a daemon of another time finds the run
            set_clock_offset(host, back);
            host.kill_daemon();
            REQUIRE(start());
            CHECK(host.newest_run() == run.at("id"));
            CHECK(host.ctl({"--json", "list"}).status == 0);
            CHECK(host.stop_daemon() == 0);
        }
    }
}
