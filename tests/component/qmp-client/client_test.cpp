// SPDX-License-Identifier: GPL-2.0-or-later
//
// Client against FakeQemu over a real socket: every reply fault, and every byte at which the
// connection can end.
#include "common/task_group.hpp"
#include "qmp-client/client.hpp"
#include "tests/support/capture_log.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/fake_qemu.hpp"
#include "tests/support/run_coroutine.hpp"
#include "tests/support/temp_dir.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <filesystem>

namespace qhup::qmp {
namespace {

using std::chrono::milliseconds;
using test::FakeQemu;
using test::FakeQemuOptions;
using test::FaultScript;
using test::run_coroutine;

constexpr std::chrono::seconds kLong{8};
constexpr milliseconds kShort{40};

FakeQemuOptions make_options(const test::TempDir& folder, FaultScript script = {}) {
    FakeQemuOptions options;
    options.qmp_path = folder / "qmp.sock";
    options.main_script = std::move(script);
    return options;
}

awaitable<Result<Client>> connect_to(Strand strand, std::string path) {
    return Client::connect(strand, std::move(path), ConnectOptions(), Deadline::in(kLong));
}

/// Connects, and must succeed.
awaitable<Client> make_client(Strand strand, std::string path) {
    Result<Client> client = co_await connect_to(strand, std::move(path));
    if (client.has_error()) {
        throw std::runtime_error(to_text(client.error()));
    }
    co_return std::move(*client);
}

std::size_t count_descriptors() {
    std::size_t count = 0;
    for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
        count += entry.path().empty() ? 0 : 1;
    }
    return count;
}

/// What a connect and one command end with, under a script.
Result<Json> ask_under(FaultScript script, milliseconds patience = kLong) {
    const test::TempDir folder;
    FakeQemu fake(make_options(folder, std::move(script)));
    std::optional<Result<Json>> result;
    run_coroutine([&](Strand strand) -> awaitable<void> {
        Result<Client> client = co_await connect_to(strand, fake.path());
        if (client.has_error()) {
            result = client.error();
            co_return;
        }
        result = co_await client->execute("query-status", Json(), Deadline::in(patience));
    });
    return std::move(*result);
}

} // namespace

TEST_CASE("a client greets, negotiates and asks", "[qmp][client]") {
    const test::TempDir folder;
    FakeQemu fake(make_options(folder));
    run_coroutine([&](Strand strand) -> awaitable<void> {
        Client client = co_await make_client(strand, fake.path());
        CHECK(client.greeting().version == "7.2.22");
        CHECK(client.peer().pid == ::getpid());
        CHECK(client.peer().uid == ::getuid());
        const Result<Json> status =
            co_await client.execute("query-status", Json(), Deadline::in(kLong));
        REQUIRE(status.has_value());
        CHECK(get_string(*status, "status").value() == "running");
    });
    CHECK(
        fake.commands() == std::vector<std::string>{"main qmp_capabilities", "main query-status"}
    );
}

TEST_CASE("the client is reached through a path longer than the kernel takes", "[qmp][client]") {
    const test::TempDir folder;
    const std::string deep = folder / std::string(120, 'd');
    std::filesystem::create_directory(deep);
    FakeQemu fake(make_options(folder));
    std::filesystem::rename(fake.path(), deep + "/qmp.sock");
    run_coroutine([&](Strand strand) -> awaitable<void> {
        const Result<Client> client = co_await connect_to(strand, deep + "/qmp.sock");
        CHECK(client.has_value());
    });
}

TEST_CASE("where nobody listens, nothing was asked", "[qmp][client]") {
    const test::TempDir folder;
    run_coroutine([&](Strand strand) -> awaitable<void> {
        const std::string too_long = folder / std::string(300, 'x');
        const std::string no_folder = folder / ("absent/" + std::string(100, 'x'));
        for (const std::string& path :
             {folder / "absent", folder.path(), no_folder, std::string(), too_long}) {
            const Result<Client> client = co_await connect_to(strand, path);
            REQUIRE(client.has_error());
            const bool has_no_path = path.empty() || path == too_long;
            CHECK(
                client.error().code == (has_no_path ? Errc::connect_failed : Errc::nobody_listens)
            );
            CHECK(answer_of(client.error()) == Answer::could_not_ask);
        }
    });
}

TEST_CASE("a peer that is not the expected one is told nothing", "[qmp][client]") {
    const test::TempDir folder;
    FakeQemu fake(make_options(folder));
    run_coroutine([&](Strand strand) -> awaitable<void> {
        ConnectOptions options;
        options.check_peer = [](const Peer&) -> Result<void> {
            return make_failure(qhup::Errc::not_found, "another pid");
        };
        const Result<Client> client =
            co_await Client::connect(strand, fake.path(), options, Deadline::in(kLong));
        REQUIRE(client.has_error());
        CHECK(client.error().code == Errc::peer_rejected);
        CHECK(client.error().also.at(0).code == qhup::Errc::not_found);
    });
    CHECK(fake.commands().empty());
}

TEST_CASE("a monitor that serves another client does not greet", "[qmp][client]") {
    const test::TempDir folder;
    FakeQemu fake(make_options(folder));
    run_coroutine([&](Strand strand) -> awaitable<void> {
        const Client first = co_await make_client(strand, fake.path());
        ConnectOptions options;
        options.greeting_timeout = kShort;
        const Result<Client> second =
            co_await Client::connect(strand, fake.path(), options, Deadline::in(kLong));
        REQUIRE(second.has_error());
        CHECK(second.error().code == Errc::greeting_timed_out);
        CHECK(first.is_open());
    });
}

TEST_CASE("a full backlog is waited for, no longer than the deadline", "[qmp][client]") {
    const test::TempDir folder;
    FakeQemuOptions options = make_options(folder);
    options.backlog = 0;
    FakeQemu fake(std::move(options));
    run_coroutine([&](Strand strand) -> awaitable<void> {
        Client first = co_await make_client(strand, fake.path());
        ConnectOptions short_greeting;
        short_greeting.greeting_timeout = kLong;
        const auto connect_later = [&] {
            return Client::connect(strand, fake.path(), short_greeting, Deadline::in(kShort));
        };
        // given a second connection that fills the backlog
        TaskGroup group(strand);
        auto fill = [](awaitable<Result<Client>> connecting) -> awaitable<void> {
            ignore(co_await std::move(connecting), "it only fills the backlog");
        };
        group.spawn(
            "fill", fill(Client::connect(strand, fake.path(), short_greeting, Deadline::in(kLong)))
        );
        ignore(co_await sleep_until(Deadline::in(milliseconds(5))), "let it connect");
        // when a third one comes
        const Result<Client> third = co_await connect_later();
        // then
        REQUIRE(third.has_error());
        CHECK(third.error().code == Errc::monitor_busy);
        CHECK(answer_of(third.error()) == Answer::could_not_ask);
        first.request_stop();
        group.request_stop();
        co_await group.join();
    });
}

TEST_CASE("a late greeting within its deadline is as good as any", "[qmp][client]") {
    FaultScript script;
    script.greeting_delay = kShort;
    CHECK(ask_under(script).has_value());
}

TEST_CASE("bytes that come one by one make the same reply", "[qmp][client]") {
    FaultScript script;
    script.chunk_bytes = 1;
    CHECK(ask_under(script).has_value());
}

TEST_CASE("replies to nobody and replies twice are dropped", "[qmp][client]") {
    const test::CaptureLog captured;
    FaultScript script;
    script.sends_unknown_id = true;
    script.replies_twice = true;
    CHECK(ask_under(script).has_value());
    CHECK(captured.contains("dropped a reply to a command that is not in flight"));
}

TEST_CASE("a reply that breaks QMP ends the session and leaves the outcome open", "[qmp][client]") {
    const auto code_after = [](const FaultScript& script) {
        const Result<Json> result = ask_under(script);
        REQUIRE(result.has_error());
        CHECK(result.error().code == Errc::connection_lost);
        CHECK(answer_of(result.error()) == Answer::unknown);
        return result.error().also.at(0).code;
    };
    FaultScript garbage;
    garbage.raw_reply = "\x01\x02 no QMP at all\r\n";
    CHECK(code_after(garbage) == Errc::protocol_error);
    FaultScript deep;
    deep.deep_json_depth = 100'000;
    CHECK(code_after(deep) == Errc::too_deep);
    FaultScript huge;
    huge.huge_line_bytes = kMaxLineBytes + 1;
    CHECK(code_after(huge) == Errc::line_too_long);
    FaultScript without_id;
    without_id.sends_error_without_id = true;
    CHECK(code_after(without_id) == Errc::not_understood);
}

TEST_CASE("a greeting that is not QMP is: could not ask", "[qmp][client]") {
    FaultScript script;
    script.greeting = "SSH-2.0-OpenSSH_9.2\r\n";
    const Result<Json> result = ask_under(script);
    REQUIRE(result.has_error());
    CHECK(result.error().code == Errc::negotiation_failed);
}

TEST_CASE("silence is a timeout with unknown outcome", "[qmp][client]") {
    FaultScript script;
    script.is_silent = true;
    const Result<Json> result = ask_under(script, kShort);
    REQUIRE(result.has_error());
    CHECK(result.error().code == Errc::timed_out);
    CHECK(answer_of(result.error()) == Answer::unknown);
}

TEST_CASE("a reply longer than usual passes where it was asked for", "[qmp][client]") {
    const test::TempDir folder;
    FaultScript script;
    script.huge_line_bytes = 3U << 20U;
    FakeQemu fake(make_options(folder, script));
    run_coroutine([&](Strand strand) -> awaitable<void> {
        Client client = co_await make_client(strand, fake.path());
        Command command{"query-qmp-schema"};
        command.max_reply_bytes = 4U << 20U;
        const Result<Json> reply = co_await client.execute(std::move(command), Deadline::in(kLong));
        REQUIRE(reply.has_value());
        CHECK(reply->get<std::string>().size() == 3U << 20U);
    });
}

TEST_CASE(
    "wherever the connection ends, the command has one known kind of outcome", "[qmp][client]"
) {
    // given the length of a dialogue without fault
    const std::string greeting = R"({"QMP":)";
    std::size_t asked = 0;
    std::size_t answered = 0;
    bool has_seen_unknown = false;
    bool is_ended = false;
    for (std::size_t bytes = 0; !is_ended; ++bytes) {
        REQUIRE(bytes < 1000);
        FaultScript script;
        script.hang_up_after_bytes = bytes;
        // when the peer hangs up after so many bytes
        const Result<Json> result = ask_under(script);
        // then
        if (result.has_value()) {
            ++answered;
            is_ended = true;
            continue;
        }
        const Answer answer = answer_of(result.error());
        CHECK(answer != Answer::refused);
        has_seen_unknown = has_seen_unknown || answer == Answer::unknown;
        asked += answer == Answer::unknown ? 1 : 0;
    }
    CHECK(has_seen_unknown);
    CHECK(asked > 10);
    CHECK(answered == 1);
}

TEST_CASE("descriptors that a peer attaches do not stay with us", "[qmp][client]") {
    const test::TempDir folder;
    FaultScript script;
    script.attaches_descriptor = true;
    FakeQemu fake(make_options(folder, script));
    run_coroutine([&](Strand strand) -> awaitable<void> {
        Client client = co_await make_client(strand, fake.path());
        const std::size_t before = count_descriptors();
        for (int i = 0; i < 20; ++i) {
            const Result<Json> reply =
                co_await client.execute("query-status", Json(), Deadline::in(kLong));
            CHECK(reply.has_value());
        }
        CHECK(count_descriptors() <= before + 1); // one may be on its way in the fake
    });
}

TEST_CASE("a descriptor reaches QEMU with its command, and ours stays ours", "[qmp][client]") {
    const test::TempDir folder;
    FakeQemu fake(make_options(folder));
    run_coroutine([&](Strand strand) -> awaitable<void> {
        Client client = co_await make_client(strand, fake.path());
        const UniqueFd binary(::open("/proc/self/exe", O_RDONLY | O_CLOEXEC));
        const Result<void> sent =
            co_await client.send_descriptor("binary", binary, Deadline::in(kLong));
        CHECK(sent.has_value());
        CHECK(::fcntl(binary.get(), F_GETFD) >= 0);
        const Result<void> none =
            co_await client.send_descriptor("none", UniqueFd(), Deadline::in(kLong));
        CHECK(none.error().code == qhup::Errc::system_error);
    });
    CHECK(fake.descriptors_received() == 1);
}

TEST_CASE("a refusal keeps the session", "[qmp][client]") {
    const test::TempDir folder;
    FakeQemu fake(make_options(folder));
    run_coroutine([&](Strand strand) -> awaitable<void> {
        Client client = co_await make_client(strand, fake.path());
        const Result<Json> refused =
            co_await client.execute("no-such-command", Json(), Deadline::in(kLong));
        CHECK(refused.error().code == Errc::command_not_found);
        const Result<Json> status =
            co_await client.execute("query-status", Json(), Deadline::in(kLong));
        CHECK(status.has_value());
    });
}

TEST_CASE("commands side by side get their own replies", "[qmp][client]") {
    const test::TempDir folder;
    FakeQemu fake(make_options(folder));
    int right = 0;
    run_coroutine([&](Strand strand) -> awaitable<void> {
        Client client = co_await make_client(strand, fake.path());
        auto ask = [](Client& on, std::string name, std::string key, int& count
                   ) -> awaitable<void> {
            const Result<Json> reply = co_await on.execute(name, Json(), Deadline::in(kLong));
            count += reply.has_value() && reply->contains(key) ? 1 : 0;
        };
        TaskGroup group(strand);
        for (int i = 0; i < 10; ++i) {
            group.spawn("ask", ask(client, "query-status", "status", right));
            group.spawn("ask", ask(client, "query-name", "name", right));
            group.spawn("ask", ask(client, "query-uuid", "UUID", right));
        }
        co_await group.join();
    });
    CHECK(right == 30);
}

TEST_CASE("a late reply after a timeout is swallowed, the session goes on", "[qmp][client]") {
    const test::TempDir folder;
    FakeQemuOptions options = make_options(folder);
    options.vm.reactions["query-name"].delay = 2 * kShort;
    FakeQemu fake(std::move(options));
    run_coroutine([&](Strand strand) -> awaitable<void> {
        Client client = co_await make_client(strand, fake.path());
        const Result<Json> late =
            co_await client.execute("query-name", Json(), Deadline::in(kShort));
        CHECK(late.error().code == Errc::timed_out);
        const Result<Json> status =
            co_await client.execute("query-status", Json(), Deadline::in(kLong));
        REQUIRE(status.has_value());
        CHECK(status->contains("status"));
    });
}

TEST_CASE("a caller that gives up learns whether QEMU was asked", "[qmp][client]") {
    const test::TempDir folder;
    FaultScript script;
    script.is_silent = true;
    FakeQemu fake(make_options(folder, script));
    std::optional<Result<Json>> first;
    std::optional<Result<Json>> second;
    run_coroutine([&](Strand strand) -> awaitable<void> {
        Client client = co_await make_client(strand, fake.path());
        auto ask = [](Client& on,
                      std::optional<Result<Json>>& out,
                      std::optional<Result<Json>>& again) -> awaitable<void> {
            out = co_await on.execute("stop", Json(), Deadline::in(kLong));
            again = co_await on.execute("cont", Json(), Deadline::in(kLong));
        };
        TaskGroup group(strand);
        group.spawn("ask", ask(client, first, second));
        ignore(co_await sleep_until(Deadline::in(kShort)), "let it be sent");
        group.request_stop();
        co_await group.join();
    });
    CHECK(first->error().code == Errc::cancelled);
    CHECK(second->error().code == Errc::not_sent_cancelled);
    CHECK(fake.commands().back() == "main stop");
}

TEST_CASE("a QEMU that stops reading delays its own commands only", "[qmp][client]") {
    const test::TempDir folder;
    FaultScript script;
    script.stops_reading = true;
    FakeQemu fake(make_options(folder, script));
    run_coroutine([&](Strand strand) -> awaitable<void> {
        Client client = co_await make_client(strand, fake.path());
        const Json big = {{"text", std::string(900'000, 'x')}};
        const Result<Json> first = co_await client.execute("a", big, Deadline::in(kShort));
        CHECK(answer_of(first.error()) == Answer::unknown);
        // the line before is still on its way, so this one has not left
        const Result<Json> second = co_await client.execute("b", big, Deadline::in(kShort));
        CHECK(second.error().code == Errc::not_sent_timed_out);
    });
}

TEST_CASE("events reach those who asked for them, in order", "[qmp][client]") {
    const test::TempDir folder;
    FakeQemu fake(make_options(folder));
    run_coroutine([&](Strand strand) -> awaitable<void> {
        Client client = co_await make_client(strand, fake.path());
        EventSubscription some = client.subscribe({"STOP"});
        EventSubscription all = client.subscribe({});
        fake.emit("RTC_CHANGE", {{"offset", 1}});
        fake.emit("STOP", Json::object());
        const Result<Event> stop = co_await some.next(Deadline::in(kLong));
        CHECK(stop.value().name == "STOP");
        const Result<Event> first = co_await all.next(Deadline::in(kLong));
        CHECK(first.value().data["offset"] == 1);
        const Result<Event> none = co_await some.next(Deadline::in(kShort));
        CHECK(none.error().code == qhup::Errc::timed_out);
    });
}

TEST_CASE(
    "a subscriber that does not keep up ends the session, with events in order", "[qmp][client]"
) {
    const test::TempDir folder;
    FaultScript script;
    script.events_before_reply = 100;
    FakeQemu fake(make_options(folder, script));
    run_coroutine([&](Strand strand) -> awaitable<void> {
        Client client = co_await make_client(strand, fake.path());
        EventSubscription events = client.subscribe({}, 10);
        const Result<Json> status =
            co_await client.execute("query-status", Json(), Deadline::in(kLong));
        CHECK(status.error().code == Errc::connection_lost);
        for (int i = 0; i < 10; ++i) {
            const Result<Event> event = co_await events.next(Deadline::in(kLong));
            CHECK(event.value().data["offset"] == i);
        }
        const Result<Event> end = co_await events.next(Deadline::in(kLong));
        CHECK(end.error().code == Errc::events_overflowed);
    });
}

TEST_CASE("an event storm that nobody subscribed to costs no reply", "[qmp][client]") {
    FaultScript script;
    script.events_before_reply = 5'000;
    CHECK(ask_under(script).has_value());
}

TEST_CASE("the end of a connection is noticed without asking", "[qmp][client]") {
    const test::TempDir folder;
    FakeQemu fake(make_options(folder));
    run_coroutine([&](Strand strand) -> awaitable<void> {
        Client client = co_await make_client(strand, fake.path());
        const Result<void> open = co_await client.wait_closed(Deadline::in(kShort));
        CHECK(open.error().code == qhup::Errc::timed_out);
        fake.hang_up();
        const Result<void> closed = co_await client.wait_closed(Deadline::in(kLong));
        CHECK(closed.has_value());
        CHECK(client.end_reason()->code == Errc::closed_by_peer);
        const Result<Json> status =
            co_await client.execute("query-status", Json(), Deadline::in(kLong));
        CHECK(status.error().code == Errc::not_connected);
        EventSubscription events = client.subscribe({});
        const Result<Event> event = co_await events.next(Deadline::in(kLong));
        CHECK(event.error().code == Errc::closed_by_peer);
    });
}

TEST_CASE("stopping a client ends its commands and leaves nothing behind", "[qmp][client]") {
    const test::TempDir folder;
    FaultScript script;
    script.is_silent = true;
    FakeQemu fake(make_options(folder, script));
    std::optional<Result<Json>> result;
    run_coroutine([&](Strand strand) -> awaitable<void> {
        Client client = co_await make_client(strand, fake.path());
        auto ask = [](Client& on, std::optional<Result<Json>>& out) -> awaitable<void> {
            out = co_await on.execute("stop", Json(), Deadline::in(kLong));
        };
        TaskGroup group(strand);
        group.spawn("ask", ask(client, result));
        ignore(co_await sleep_until(Deadline::in(kShort)), "let it be sent");
        client.request_stop();
        co_await client.join();
        co_await group.join();
        CHECK_FALSE(client.is_open());
    });
    CHECK(result->error().code == Errc::connection_lost);
    CHECK(result->error().also.at(0).code == Errc::closed_by_us);
}

} // namespace qhup::qmp
