// SPDX-License-Identifier: GPL-2.0-or-later
#include "qmp-client/session.hpp"
#include "tests/support/catch.hpp"

#include <functional>
#include <map>

namespace qhup::qmp {
namespace {

constexpr std::string_view kGreeting =
    R"({"QMP": {"version": {"qemu": {"micro": 0, "minor": 2, "major": 7}}, "capabilities": []}})";

std::string reply_to(CommandId id, const std::string& value = "{}") {
    return R"({"return": )" + value + R"(, "id": ")" + format_id(id) + "\"}";
}

std::string error_to(CommandId id) {
    return R"({"error": {"class": "GenericError", "desc": "no"}, "id": ")" + format_id(id) + "\"}";
}

/// Takes what the session wants written, and returns the ids.
std::vector<CommandId> write_all(Session& session) {
    std::vector<CommandId> ids;
    while (auto outgoing = session.take_outgoing()) {
        ids.push_back(outgoing->id);
    }
    return ids;
}

template <class T>
std::vector<T> only(Actions actions) {
    std::vector<T> found;
    for (Action& action : actions) {
        if (auto* each = std::get_if<T>(&action); each != nullptr) {
            found.push_back(std::move(*each));
        }
    }
    return found;
}

Session make_ready(std::uint64_t connection = 1) {
    Session session(connection);
    REQUIRE(session.on_line(kGreeting).empty());
    const std::vector<CommandId> ids = write_all(session);
    REQUIRE(ids.size() == 1);
    REQUIRE(only<BecomeReady>(session.on_line(reply_to(ids[0]))).size() == 1);
    return session;
}

CommandId submit(Session& session, std::string name = "stop") {
    Result<CommandId> id = session.submit(Command{std::move(name)});
    REQUIRE(id.has_value());
    return *id;
}

Failure closed_by_peer() {
    return make_failure(Errc::closed_by_peer, "end of file");
}

} // namespace

TEST_CASE("session negotiates before it is ready", "[qmp][session]") {
    Session session(1);
    CHECK(session.submit(Command{"stop"}).error().code == Errc::not_connected);
    CHECK(session.on_line(kGreeting).empty());
    CHECK(session.state() == Session::State::negotiating);
    const auto outgoing = session.take_outgoing();
    REQUIRE(outgoing.has_value());
    CHECK(outgoing->line.find("qmp_capabilities") != std::string::npos);
    const auto ready = only<BecomeReady>(session.on_line(reply_to(outgoing->id)));
    REQUIRE(ready.size() == 1);
    CHECK(ready[0].greeting.version == "7.2.0");
}

TEST_CASE("session completes a command with its reply", "[qmp][session]") {
    Session session = make_ready();
    const CommandId first = submit(session, "a");
    const CommandId second = submit(session, "b");
    write_all(session);
    // when the answers come out of order
    const auto done = only<CompleteCommand>(session.on_line(reply_to(second, "2")));
    REQUIRE(done.size() == 1);
    CHECK(done[0].id == second);
    CHECK(done[0].result.value() == 2);
    CHECK(only<CompleteCommand>(session.on_line(reply_to(first)))[0].id == first);
    CHECK(session.pending() == 0);
}

TEST_CASE("session gives a refusal to the command that was refused", "[qmp][session]") {
    Session session = make_ready();
    const CommandId id = submit(session);
    write_all(session);
    const auto done = only<CompleteCommand>(session.on_line(error_to(id)));
    REQUIRE(done.size() == 1);
    CHECK(done[0].result.error().code == Errc::refused);
    CHECK(session.state() == Session::State::ready);
}

TEST_CASE("session drops a reply whose id was abandoned", "[qmp][session]") {
    Session session = make_ready();
    const CommandId id = submit(session);
    write_all(session);
    const auto given_up = only<CompleteCommand>(session.abandon(id, Session::Why::timed_out));
    REQUIRE(given_up.size() == 1);
    CHECK(answer_of(given_up[0].result.error()) == Answer::unknown);
    CHECK(given_up[0].result.error().code == Errc::timed_out);
    CHECK(session.pending() == 1);
    // when the late reply arrives
    CHECK(session.on_line(reply_to(id)).empty());
    CHECK(session.pending() == 0);
    CHECK(session.state() == Session::State::ready);
}

TEST_CASE("session withdraws a command that was not written", "[qmp][session]") {
    for (const auto why : {Session::Why::timed_out, Session::Why::cancelled}) {
        Session session = make_ready();
        const CommandId id = submit(session);
        const auto done = only<CompleteCommand>(session.abandon(id, why));
        REQUIRE(done.size() == 1);
        CHECK(answer_of(done[0].result.error()) == Answer::could_not_ask);
        CHECK_FALSE(session.take_outgoing().has_value());
        CHECK(session.pending() == 0);
    }
}

TEST_CASE("session completes nothing twice", "[qmp][session]") {
    Session session = make_ready();
    const CommandId id = submit(session);
    write_all(session);
    CHECK(only<CompleteCommand>(session.on_line(reply_to(id))).size() == 1);
    CHECK(only<CompleteCommand>(session.on_line(reply_to(id))).empty());
    CHECK(session.abandon(id, Session::Why::cancelled).empty());
    CHECK(only<CompleteCommand>(session.on_closed(closed_by_peer())).empty());
}

TEST_CASE("session drops replies to unknown ids and says so, not for ever", "[qmp][session]") {
    Session session = make_ready(7);
    const CommandId id = submit(session);
    write_all(session);
    std::size_t notes = 0;
    for (const char* strange :
         {R"("q-7-99")",
          R"("q-8-2")",
          R"("")",
          R"("q-7-")",
          R"("q--2")",
          R"("q-7-2x")",
          "2",
          "null",
          R"({"a": 1})",
          R"("q-7-18446744073709551616")",
          R"("q-7- 2")",
          R"("Q-7-2")"}) {
        const Actions actions =
            session.on_line(std::string(R"({"return": {}, "id": )") + strange + "}");
        CHECK(only<CompleteCommand>(actions).empty());
        notes += only<Note>(actions).size();
    }
    CHECK(notes == Session::kMaxNotes);
    CHECK(only<CompleteCommand>(session.on_line(reply_to(id))).size() == 1);
}

TEST_CASE("a reply to a command that was not written yet is no reply", "[qmp][session]") {
    Session session = make_ready();
    const CommandId id = submit(session);
    CHECK(only<CompleteCommand>(session.on_line(reply_to(id))).empty());
    CHECK(session.pending() == 1);
}

TEST_CASE("ids of two connections never meet", "[qmp][session]") {
    Session old_session = make_ready(1);
    Session session = make_ready(2);
    const CommandId old_id = submit(old_session);
    const CommandId id = submit(session);
    write_all(session);
    CHECK(old_id != id);
    CHECK(only<CompleteCommand>(session.on_line(reply_to(old_id))).empty());
}

TEST_CASE("an error without id ends the session, and nothing is known", "[qmp][session]") {
    Session session = make_ready();
    const CommandId id = submit(session);
    write_all(session);
    Actions actions = session.on_line(R"({"error": {"class": "GenericError", "desc": "JSON"}})");
    const auto ended = only<EndSession>(actions);
    REQUIRE(ended.size() == 1);
    CHECK(ended[0].reason.code == Errc::not_understood);
    const auto done = only<CompleteCommand>(std::move(actions));
    REQUIRE(done.size() == 1);
    CHECK(done[0].id == id);
    CHECK(done[0].result.error().code == Errc::connection_lost);
}

TEST_CASE("lines that are not QMP end the session", "[qmp][session]") {
    for (const std::string& line :
         {std::string("garbage"),
          std::string("{}"),
          std::string(1000, '['),
          std::string(kGreeting)}) {
        Session session = make_ready();
        CHECK(only<EndSession>(session.on_line(line)).size() == 1);
        CHECK(session.state() == Session::State::closed);
        CHECK(session.on_line(kGreeting).empty());
    }
}

TEST_CASE("a greeting that does not come ends the session by its own deadline", "[qmp][session]") {
    Session session(1);
    const auto ended = only<EndSession>(session.on_greeting_timeout());
    REQUIRE(ended.size() == 1);
    CHECK(ended[0].reason.code == Errc::greeting_timed_out);
    CHECK(answer_of(ended[0].reason) == Answer::could_not_ask);
}

TEST_CASE("the greeting's deadline means nothing once the session is ready", "[qmp][session]") {
    Session session = make_ready();
    CHECK(session.on_greeting_timeout().empty());
    CHECK(session.state() == Session::State::ready);
}

TEST_CASE("whatever goes wrong before ready is: could not ask", "[qmp][session]") {
    for (const char* line :
         {"garbage", R"({"return": {}})", R"({"error": {"class": "GenericError"}})"}) {
        Session session(1);
        const auto ended = only<EndSession>(session.on_line(line));
        REQUIRE(ended.size() == 1);
        CHECK(answer_of(ended[0].reason) == Answer::could_not_ask);
    }
    Session session(1);
    (void)session.on_line(kGreeting);
    const auto id = write_all(session).at(0);
    const auto refused = only<EndSession>(session.on_line(error_to(id)));
    REQUIRE(refused.size() == 1);
    CHECK(refused[0].reason.code == Errc::negotiation_failed);
}

TEST_CASE("events are delivered in every state", "[qmp][session]") {
    Session session(1);
    CHECK(only<DeliverEvent>(session.on_line(R"({"event": "STOP"})")).size() == 1);
    CHECK(session.on_line(kGreeting).empty());
    CHECK(only<DeliverEvent>(session.on_line(R"({"event": "STOP"})")).size() == 1);
}

TEST_CASE("commands without answer are bounded, abandoned ones included", "[qmp][session]") {
    Session session = make_ready();
    std::vector<CommandId> ids;
    for (std::size_t i = 0; i < Session::kMaxPending; ++i) {
        ids.push_back(submit(session));
    }
    write_all(session);
    (void)session.abandon(ids[0], Session::Why::timed_out);
    CHECK(session.submit(Command{"stop"}).error().code == Errc::too_many_pending);
    CHECK(session.on_line(reply_to(ids[0])).empty());
    CHECK(session.submit(Command{"stop"}).has_value());
}

TEST_CASE("the limit of a line follows what was asked", "[qmp][session]") {
    Session session = make_ready();
    CHECK(session.max_line_bytes() == kMaxLineBytes);
    Command command{"query-qmp-schema"};
    command.max_reply_bytes = 8U << 20U;
    const CommandId id = *session.submit(std::move(command));
    CHECK(session.max_line_bytes() == kMaxLineBytes);
    write_all(session);
    CHECK(session.max_line_bytes() == 8U << 20U);
    (void)session.abandon(id, Session::Why::timed_out);
    CHECK(session.max_line_bytes() == 8U << 20U);
    (void)session.on_line(reply_to(id));
    CHECK(session.max_line_bytes() == kMaxLineBytes);
}

TEST_CASE("wherever the connection ends, each command is completed once", "[qmp][session]") {
    // given a dialogue with every kind of input
    struct Run {
        Session session{1};
        std::vector<CommandId> submitted;
        std::map<CommandId, std::vector<Result<Json>>> completed;
        std::size_t ends = 0;
        void take(Actions actions) {
            for (Action& action : actions) {
                CHECK(ends == 0); // nothing follows the end
                if (auto* done = std::get_if<CompleteCommand>(&action); done != nullptr) {
                    completed[done->id].push_back(std::move(done->result));
                } else if (std::holds_alternative<EndSession>(action)) {
                    ++ends;
                }
            }
        }
        void ask() {
            const Result<CommandId> id = session.submit(Command{"stop"});
            if (id.has_value()) {
                submitted.push_back(*id);
            }
        }
    };
    using Step = std::function<void(Run&)>;
    const std::vector<Step> steps{
        [](Run& run) { run.take(run.session.on_line(kGreeting)); },
        [](Run& run) { write_all(run.session); },
        [](Run& run) {
            run.take(run.session.on_line(reply_to({1, 1})));
        },
        [](Run& run) { run.ask(); },
        [](Run& run) { run.ask(); },
        [](Run& run) { write_all(run.session); },
        [](Run& run) { run.ask(); },
        [](Run& run) {
            run.take(run.session.on_line(reply_to({1, 3})));
        },
        [](Run& run) {
            run.take(run.session.abandon({1, 2}, Session::Why::cancelled));
        },
        [](Run& run) { run.take(run.session.on_line(R"({"event": "STOP"})")); },
        [](Run& run) { write_all(run.session); },
        [](Run& run) {
            run.take(run.session.on_line(reply_to({1, 2})));
        },
        [](Run& run) {
            run.take(run.session.abandon({1, 4}, Session::Why::timed_out));
        },
    };
    using End = std::function<Actions(Session&)>;
    const std::vector<End> faults{
        [](Session& session) { return session.on_closed(closed_by_peer()); },
        [](Session& session) { return session.on_line("garbage"); },
        [](Session& session) { return session.on_line(R"({"error": {"class": "X"}})"); },
    };
    for (const End& fault : faults) {
        for (std::size_t count = 0; count <= steps.size(); ++count) {
            Run run;
            for (std::size_t i = 0; i < count; ++i) {
                steps[i](run);
            }
            // when the connection ends here
            run.take(fault(run.session));
            // then
            CHECK(run.ends == 1);
            CHECK(run.session.state() == Session::State::closed);
            CHECK(run.completed.size() == run.submitted.size());
            for (const CommandId id : run.submitted) {
                CHECK(run.completed[id].size() == 1);
            }
            CHECK(run.session.on_closed(closed_by_peer()).empty());
            CHECK_FALSE(run.session.take_outgoing().has_value());
        }
    }
}

TEST_CASE("a command cut off is unknown if it was written, not asked if not", "[qmp][session]") {
    Session session = make_ready();
    const CommandId written = submit(session);
    write_all(session);
    const CommandId queued = submit(session);
    const auto done = only<CompleteCommand>(session.on_closed(closed_by_peer()));
    REQUIRE(done.size() == 2);
    CHECK(done[0].id == written);
    CHECK(answer_of(done[0].result.error()) == Answer::unknown);
    CHECK(done[0].result.error().also.at(0).code == Errc::closed_by_peer);
    CHECK(done[1].id == queued);
    CHECK(answer_of(done[1].result.error()) == Answer::could_not_ask);
}

} // namespace qhup::qmp
