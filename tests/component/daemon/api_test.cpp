// SPDX-License-Identifier: GPL-2.0-or-later
#include "tests/component/daemon/harness.hpp"
#include "tests/support/catch.hpp"

#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <csignal>
#include <cstring>
#include <filesystem>
#include <fstream>

using namespace qhup::test;

namespace {

std::string get(const std::string& target) {
    return "GET " + target + " HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
}

std::string post(const std::string& body) {
    return "POST /v1/runs HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: " +
           std::to_string(body.size()) + "\r\n\r\n" + body;
}

bool has(const std::string& answer, const std::string& text) {
    return answer.find(text) != std::string::npos;
}

int listen_on(const std::string& path) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::memcpy(address.sun_path, path.c_str(), path.size());
    const int fd = ::socket(AF_UNIX, SOCK_STREAM, 0);
    const bool is_bound =
        ::bind(fd, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0;
    return is_bound && ::listen(fd, 5) == 0 ? fd : -1;
}

/// A process listens and ends; one that it has started has its descriptors still.
/// @return  the one that is left
pid_t leave_listener(const std::string& path) {
    std::array<int, 2> ends{};
    REQUIRE(::pipe(ends.data()) == 0);
    const pid_t child = ::fork();
    if (child == 0) {
        const bool listens = listen_on(path) >= 0;
        const pid_t heir = listens ? ::fork() : -1;
        if (heir == 0) {
            ::pause();
        }
        const bool is_told = ::write(ends[1], &heir, sizeof(heir)) == sizeof(heir);
        ::_exit(is_told ? 0 : 1);
    }
    pid_t heir = -1;
    CHECK(::read(ends[0], &heir, sizeof(heir)) == sizeof(heir));
    CHECK(::waitpid(child, nullptr, 0) == child);
    ::close(ends[0]);
    ::close(ends[1]);
    REQUIRE(heir > 0);
    return heir;
}

} // namespace

TEST_CASE("a socket is left to another daemon that listens on it", "[daemon][api]") {
    Host host(1);
    const int fd = listen_on(host.api_socket());
    REQUIRE(fd >= 0);
    CHECK_FALSE(host.start_daemon());
    CHECK(has(host.daemon_log(), "one is enough"));
    CHECK(host.wait_for_daemon() == 1);
    // the journal is the other one's: it is not even opened
    CHECK_FALSE(std::filesystem::exists(host.journal_path()));
    ::close(fd);
    CHECK(host.start_daemon());
}

TEST_CASE("a socket is taken from a daemon that was killed", "[daemon][api]") {
    // also while a process that it had just started has its descriptors
    Host host(1);
    const pid_t heir = leave_listener(host.api_socket());
    CHECK(host.start_daemon());
    CHECK(has(host.raw_request(get("/healthz")), "200 OK"));
    ::kill(heir, SIGKILL);
}

TEST_CASE("the API answers problems with a stable code", "[daemon][api]") {
    Host host(1);
    host.serve();
    REQUIRE(host.start_daemon());
    CHECK(has(host.raw_request(get("/healthz")), "200 OK"));
    CHECK(has(host.raw_request(get("/v1/version")), "\"status\":\"ready\""));
    CHECK(has(host.raw_request(get("/v1/vms/x")), "\"code\":\"vm_not_found\""));
    CHECK(has(host.raw_request(get("/v1/nothing")), "\"code\":\"no_such_path\""));
    CHECK(has(host.raw_request(get("/v1/runs/r0/events")), "\"code\":\"run_not_found\""));
    CHECK(has(host.raw_request(get("/v1/vms")), "application/json"));
    CHECK(has(host.raw_request(get("/v1/vms/x")), "application/problem+json"));
    CHECK(has(host.raw_request("DELETE /v1/vms HTTP/1.1\r\nConnection: close\r\n\r\n"), " 405 "));
}

TEST_CASE("a request that is wrong in any way starts nothing", "[daemon][api]") {
    Host host(1);
    host.serve();
    REQUIRE(host.start_daemon());
    CHECK(has(host.raw_request(post("{")), "\"code\":\"bad_request\""));
    CHECK(has(host.raw_request(post(R"({"all": true, "to": "new", "dryrun": true})")), " 400 "));
    CHECK(has(host.raw_request(post(R"({"all": true, "to": "/usr/bin/true"})")), " 400 "));
    CHECK(has(host.raw_request(post(R"({"vms": ["x"], "to": "new"})")), "vm_not_found"));
    CHECK(has(host.raw_request(post(std::string(3U << 20U, 'x'))), " 413 "));
    CHECK(has(host.raw_request("nonsense\r\n\r\n"), " 400 "));
    CHECK(has(host.raw_request("GET /" + std::string(100'000, 'a') + " HTTP/1.1\r\n\r\n"), " 431 ")
    );
    CHECK(host.newest_run().empty());
}

TEST_CASE("a client that sends nothing is dropped and disturbs nobody", "[daemon][api]") {
    Host host(1);
    host.serve();
    REQUIRE(host.start_daemon());
    CHECK(host.ctl({"list"}).status == 0);
    (void)host.raw_request("GET /v1/vms HT"); // returns when the server closes
    CHECK(host.ctl({"list"}).status == 0);
}

TEST_CASE("an unknown key ends the start with 78 and names the file", "[daemon][api]") {
    Host host(0);
    host.extra_config = "paralel = 3";
    CHECK_FALSE(host.start_daemon());
    CHECK(has(host.daemon_log(), "conf:4: unknown key 'paralel'. Did you mean 'parallel'?"));
}

TEST_CASE("without a daemon every command ends with 69 and says why", "[daemon][api]") {
    Host host(0);
    const Ran ran = host.ctl({"list"});
    CHECK(ran.status == 69);
    CHECK(has(ran.err, "systemctl status qhupd"));
}

TEST_CASE("a socket of a dead daemon is replaced, that of a live one is not", "[daemon][api]") {
    Host host(0);
    REQUIRE(host.start_daemon());
    host.kill_daemon();
    REQUIRE(host.start_daemon());
    CHECK(host.ctl({"version"}).status == 0);
    CHECK(host.stop_daemon() == 0);
}

TEST_CASE("a release whose binary must not be used says so", "[daemon][api]") {
    Host host(1);
    std::ofstream(host.dir() / "releases/bad.toml") << "path = \"/nonexistent/qemu\"\n";
    std::ofstream(host.dir() / "releases/broken.toml") << "pat = 1\n";
    std::filesystem::copy_file(host.dir() / "releases/new.toml", host.dir() / "releases/bare.toml");
    std::ofstream(host.dir() / "releases/bare.toml", std::ios::app) << "firmware = [\"/nope\"]\n";
    host.serve();
    REQUIRE(host.start_daemon());
    const Ran list = host.ctl({"releases"});
    CHECK(list.status == 0);
    CHECK(has(list.out, "bad"));
    CHECK(has(list.out, "broken"));
    const Ran ran = host.ctl({"upgrade", "--yes", "--all", "--to", "bad"});
    CHECK(ran.status == 6);
    CHECK(has(ran.err, "must not be used"));
    // what is no folder is found by whoever looks
    CHECK(has(host.ctl({"--json", "releases"}).out, "there is no folder /nope"));
    for (const char* verb : {"check", "upgrade"}) {
        std::vector<std::string> words{verb, "vm0", "--to", "bare"};
        words.insert(words.end(), verb[0] == 'u', "--yes");
        const Ran bare = host.ctl(words);
        INFO(verb << bare.err);
        CHECK(bare.status == 6);
        CHECK(has(bare.err, "there is no folder /nope"));
        CHECK_FALSE(has(bare.err, ".."));
    }
}

TEST_CASE("a log that nobody reads keeps nobody waiting", "[daemon][api]") {
    // given: standard error is a pipe of one page, which is never emptied
    Host host(1);
    const std::string path = host.dir() / "log";
    REQUIRE(::mkfifo(path.c_str(), 0600) == 0);
    const int pipe = ::open(path.c_str(), O_RDWR | O_CLOEXEC);
    REQUIRE(pipe >= 0);
    REQUIRE(::fcntl(pipe, F_SETPIPE_SZ, 4096) == 4096);
    host.serve();
    host.wrapper = {"/bin/sh", "-c", "exec \"$0\" \"$@\" 2>" + path};
    REQUIRE(host.start_daemon());

    // when: far more is logged than the pipe takes
    for (int i = 0; i < 60; ++i) {
        CHECK(host.ctl({"hold", "vm0", "--reason", "number " + std::to_string(i)}).status == 0);
    }

    // then
    int waiting = 0;
    REQUIRE(::ioctl(pipe, FIONREAD, &waiting) == 0);
    CHECK(waiting > 3500); // it is full
    CHECK(host.ctl({"list"}).status == 0);
    CHECK(host.stop_daemon() == 0);
    ::close(pipe);
}
