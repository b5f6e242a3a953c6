// SPDX-License-Identifier: GPL-2.0-or-later
//
// GET /v1/events: what followers are told, across restarts and however slow they read.
#include "tests/component/daemon/harness.hpp"
#include "tests/support/catch.hpp"

#include <nlohmann/json.hpp>

#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <string>
#include <vector>

using namespace qhup::test;
using nlohmann::json;

namespace {

/// A client that follows events, and reads when it is told to.
class Follower {
public:
    Follower(const Host& host, const std::string& query, const std::string& headers = "") {
        fd_ = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        sockaddr_un address{};
        address.sun_family = AF_UNIX;
        host.api_socket().copy(&address.sun_path[0], sizeof(address.sun_path) - 1);
        is_there_ =
            ::connect(fd_, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0;
        const std::string request =
            "GET /v1/events" + query + " HTTP/1.1\r\nHost: q\r\n" + headers + "\r\n";
        (void)::send(fd_, request.data(), request.size(), MSG_NOSIGNAL);
    }
    ~Follower() { ::close(fd_); }
    Follower(const Follower&) = delete;
    Follower& operator=(const Follower&) = delete;

    /// Reads until there is an event of this type, not counting those that were taken before.
    /// @return  the event; null if it did not come
    json next(const std::string& type) {
        json found;
        (void)wait_until([&] {
            const auto event = std::find_if(
                events_.begin() + static_cast<std::ptrdiff_t>(taken_),
                events_.end(),
                [&type](const json& each) { return each.at("type") == type; }
            );
            if (event != events_.end()) {
                found = *event;
                taken_ = static_cast<std::size_t>(event - events_.begin()) + 1;
                return true;
            }
            return !read_some();
        });
        return found;
    }

    /// Reads until the other side closes. False if it does not.
    bool read_to_end() {
        return wait_until([&] { return !read_some(); });
    }

    const std::vector<json>& events() const { return events_; }
    const std::string& bytes() const { return bytes_; }

private:
    /// @return  false: the stream is over
    bool read_some() {
        pollfd entry{fd_, POLLIN, 0};
        if (::poll(&entry, 1, 20) == 0) {
            return true;
        }
        std::array<char, 65536> buffer{};
        const ssize_t got = is_there_ ? ::recv(fd_, buffer.data(), buffer.size(), 0) : 0;
        if (got <= 0) {
            return false;
        }
        bytes_.append(buffer.data(), static_cast<std::size_t>(got));
        take_events();
        return true;
    }

    /// Frames are cut out of the chunks without looking at these: a frame has no line "data: "
    /// inside, and a chunk ends where a frame ends.
    void take_events() {
        for (;;) {
            const auto begin = bytes_.find("\ndata: ", parsed_);
            const auto end = bytes_.find("\n\n", begin);
            if (begin == std::string::npos || end == std::string::npos) {
                return;
            }
            events_.push_back(json::parse(bytes_.substr(begin + 7, end - begin - 7)));
            parsed_ = end;
        }
    }

    int fd_ = -1;
    bool is_there_ = false;
    std::string bytes_;
    std::size_t parsed_ = 0;
    std::size_t taken_ = 0;
    std::vector<json> events_;
};

std::vector<std::string> words(const Follower& follower, const std::string& key) {
    std::vector<std::string> list;
    for (const json& event : follower.events()) {
        if (event.contains("upgrade")) {
            list.push_back(event.at("upgrade").at(key).get<std::string>());
        }
    }
    return list;
}

void hold(Host& host, const std::string& reason) {
    const std::string body = R"({"reason": ")" + reason + "\"}";
    const std::string answer = host.raw_request(
        "PUT /v1/vms/vm0/hold HTTP/1.1\r\nHost: q\r\nConnection: close\r\nContent-Length: " +
        std::to_string(body.size()) + "\r\n\r\n" + body
    );
    REQUIRE(answer.find(" 200 ") != std::string::npos);
}

} // namespace

TEST_CASE("a follower is told of a whole upgrade, in order", "[daemon][events]") {
    Host host(1);
    host.serve();
    REQUIRE(host.start_daemon());
    Follower follower(host, "?after=0");
    const json hello = follower.next("hello");
    CHECK(hello.at("version").at("status") == "ready");
    CHECK(follower.bytes().find("Content-Type: text/event-stream") != std::string::npos);
    CHECK(follower.next("vm_found").at("vm") == "vm0");
    CHECK(follower.next("daemon_ready").at("id").is_number());
    REQUIRE(host.ctl({"upgrade", "vm0", "--to", "new", "--yes"}).status == 0);
    const json begin = follower.next("run_started");
    CHECK(begin.at("run_summary").at("vm_count") == 1);
    CHECK(begin.at("run_summary").at("by_uid") == ::getuid());
    const json end = follower.next("upgrade_ended");
    CHECK(end.at("run") == begin.at("run"));
    CHECK(end.at("vm") == "vm0");
    CHECK(end.at("upgrade").at("outcome") == "upgraded");
    CHECK(end.at("upgrade").at("steps").size() > 3);
    const json finish = follower.next("run_finished");
    CHECK(finish.at("run_summary").at("outcomes") == json{{"upgraded", 1}});
    const std::vector<std::string> phases{
        "preflight", "prepare", "await_pause", "switch_over", "verify", "commit", "upgraded"};
    const auto seen = words(follower, "phase");
    auto next = seen.begin();
    for (const std::string& phase : phases) {
        INFO(phase);
        next = std::find(next, seen.end(), phase);
        REQUIRE(next != seen.end());
    }
    // the VM runs on another binary now, which the daemon learns by itself
    Follower changes(host, "?after=0&type=vm_changed&vm=vm0");
    const json change = changes.next("vm_changed");
    REQUIRE(change.is_object());
    CHECK(change.at("vm_state").at("build_id") == end.at("upgrade").at("to_build_id"));
    std::uint64_t last = 0;
    for (const json& event : follower.events()) {
        if (event.at("type") != "hello") {
            CHECK(event.at("id").get<std::uint64_t>() > last);
            last = event.at("id").get<std::uint64_t>();
        }
    }
}

TEST_CASE("a follower who comes back goes on where he was", "[daemon][events]") {
    Host host(1);
    host.serve();
    REQUIRE(host.start_daemon());
    REQUIRE(host.ctl({"list"}).status == 0);
    hold(host, "one");
    std::uint64_t seen = 0;
    {
        Follower follower(host, "?after=0&type=hold_set");
        seen = follower.next("hold_set").at("id").get<std::uint64_t>();
    }
    hold(host, "two");
    hold(host, "three");
    Follower again(host, "", "Last-Event-ID: " + std::to_string(seen) + "\r\n");
    CHECK(again.next("hold_set").at("hold").at("reason") == "two");
    CHECK(again.next("hold_set").at("hold").at("reason") == "three");
    CHECK(again.events().at(0).at("id") == seen);
    // whoever says nothing gets what comes from now on
    Follower fresh(host, "");
    CHECK_FALSE(fresh.next("hello").is_null());
    hold(host, "four");
    CHECK(fresh.next("hold_set").at("hold").at("reason") == "four");
    Follower wrong(host, "", "Last-Event-ID: soon\r\n");
    CHECK(wrong.read_to_end());
    CHECK(wrong.bytes().find("\"code\":\"bad_request\"") != std::string::npos);
}

TEST_CASE("ids do not go back when the daemon is started again", "[daemon][events]") {
    Host host(1);
    host.serve();
    REQUIRE(host.start_daemon());
    hold(host, "one");
    std::uint64_t seen = 0;
    {
        Follower follower(host, "?after=0");
        seen = follower.next("hold_set").at("id").get<std::uint64_t>();
    }
    host.kill_daemon();
    REQUIRE(host.start_daemon());
    Follower again(host, "", "Last-Event-ID: " + std::to_string(seen) + "\r\n");
    const json missed = again.next("missed");
    CHECK(missed.at("missed").at("reason") == "restart");
    CHECK(missed.at("missed").at("first") == seen + 1);
    CHECK(missed.at("missed").at("count").is_null());
    CHECK(again.next("daemon_ready").at("id").get<std::uint64_t>() > seen);
    // a regular end is told, and the stream ends with it
    CHECK(host.stop_daemon() == 0);
    CHECK_FALSE(again.next("daemon_stopping").is_null());
    CHECK(again.read_to_end());
}

TEST_CASE(
    "a follower who does not read delays nobody and learns what he missed", "[daemon][events]"
) {
    Host host(40);
    host.extra_api = "event_ring = 100\n";
    host.serve();
    REQUIRE(host.start_daemon());
    Follower slow(host, "?after=0");
    CHECK_FALSE(slow.next("hello").is_null());
    // far more than a socket holds
    for (int i = 0; i < 12; ++i) {
        const Ran ran = host.ctl({"upgrade", "--all", "--to", "new", "--dry-run", "--yes"});
        REQUIRE(ran.status == 0);
    }
    Follower quick(host, "?after=0");
    CHECK_FALSE(quick.next("run_finished").is_null());
    const json missed = slow.next("missed");
    INFO(slow.events().size());
    REQUIRE(missed.is_object());
    CHECK(missed.at("missed").at("reason") == "slow");
    const auto first = missed.at("missed").at("first").get<std::uint64_t>();
    const auto last = missed.at("missed").at("last").get<std::uint64_t>();
    CHECK(missed.at("missed").at("count") == last - first + 1);
    CHECK(missed.at("id") == last);
    // nothing is told twice, and every id is either told or missed
    std::uint64_t expected = 0;
    for (const json& event : slow.events()) {
        const auto id = event.at("id").get<std::uint64_t>();
        if (event.at("type") == "hello") {
            continue;
        }
        const bool is_gap = event.at("type") == "missed";
        const auto begin = is_gap ? event.at("missed").at("first").get<std::uint64_t>() : id;
        if (expected != 0) {
            CHECK(begin == expected);
        }
        expected = id + 1;
    }
}

TEST_CASE("a follower who read slowly and went delays no stop", "[daemon][events]") {
    Host host(40);
    host.serve();
    REQUIRE(host.start_daemon());
    {
        // given one for whom the daemon had to wait
        // whom nothing is told at the stop
        Follower slow(host, "?after=0&type=upgrade_phase&type=upgrade_ended&type=run_finished");
        CHECK_FALSE(slow.next("hello").is_null());
        std::string run;
        for (int i = 0; i < 12; ++i) {
            const Ran ran =
                host.ctl({"--json", "upgrade", "--all", "--to", "new", "--dry-run", "--yes"});
            REQUIRE(ran.status == 0);
            run = json::parse(ran.out).at("id").get<std::string>();
        }
        json last;
        do {
            last = slow.next("run_finished");
        } while (last.is_object() && last.at("run") != run);
        REQUIRE(last.is_object());
    } // when it goes, then the daemon notices it when it ends
    const auto began = std::chrono::steady_clock::now();
    CHECK(host.stop_daemon() == 0);
    CHECK(std::chrono::steady_clock::now() - began < std::chrono::seconds(5));
}
