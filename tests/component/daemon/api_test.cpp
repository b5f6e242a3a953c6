// SPDX-License-Identifier: GPL-2.0-or-later
#include "tests/component/daemon/harness.hpp"
#include "tests/support/catch.hpp"

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

} // namespace

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
    host.serve();
    REQUIRE(host.start_daemon());
    const Ran list = host.ctl({"releases"});
    CHECK(list.status == 0);
    CHECK(has(list.out, "bad"));
    CHECK(has(list.out, "broken"));
    const Ran ran = host.ctl({"upgrade", "--yes", "--all", "--to", "bad"});
    CHECK(ran.status == 6);
    CHECK(has(ran.err, "must not be used"));
}
