// SPDX-License-Identifier: GPL-2.0-or-later
#include "qmp-client/message.hpp"
#include "tests/support/catch.hpp"

#include <limits>

namespace qhup::qmp {
namespace {

template <class T>
T parse_as(std::string_view line) {
    Result<Message> message = parse_message(line);
    REQUIRE(message.has_value());
    REQUIRE(std::holds_alternative<T>(*message));
    return std::get<T>(std::move(*message));
}

error_code parse_error(std::string_view line) {
    const Result<Message> message = parse_message(line);
    REQUIRE(message.has_error());
    return message.error().code;
}

std::string nest(std::size_t depth) {
    return std::string(depth, '[') + std::string(depth, ']');
}

} // namespace

TEST_CASE("QEMU's greeting is read", "[qmp][message]") {
    const auto greeting =
        parse_as<Greeting>(R"({"QMP": {"version": {"qemu": {"micro": 13, "minor": 0, "major": 10},)"
                           R"( "package": "Debian 1:10.0.13"}, "capabilities": ["oob"]}})");
    CHECK(greeting.version == "10.0.13");
    CHECK(greeting.package == "Debian 1:10.0.13");
    CHECK(greeting.capabilities == std::vector<std::string>{"oob"});
    CHECK_FALSE(greeting.protocol.has_value());
}

TEST_CASE("a control socket's greeting tells protocol and role", "[qmp][message]") {
    const auto greeting =
        parse_as<Greeting>(R"({"QMP": {"version": {}, "capabilities": [], "hot-upgrade": )"
                           R"({"protocol": 1, "role": "target"}}})");
    CHECK(greeting.protocol == 1);
    CHECK(greeting.role == "target");
}

TEST_CASE("a greeting of wrong types is a greeting without details", "[qmp][message]") {
    const auto greeting = parse_as<Greeting>(
        R"({"QMP": {"version": 7, "capabilities": {}, "hot-upgrade": {"protocol": "1"}}})"
    );
    CHECK(greeting.version.empty());
    CHECK_FALSE(greeting.protocol.has_value());
}

TEST_CASE("a reply keeps its id and value", "[qmp][message]") {
    const auto reply = parse_as<Reply>(R"({"return": {"status": "running"}, "id": "q-1-2"})");
    CHECK(reply.id == "q-1-2");
    CHECK(reply.value["status"] == "running");
}

TEST_CASE("a reply without id is not QMP for a client that sends ids", "[qmp][message]") {
    CHECK(parse_error(R"({"return": {}})") == Errc::protocol_error);
}

TEST_CASE("an id of another type belongs to no command", "[qmp][message]") {
    CHECK(parse_as<Reply>(R"({"return": {}, "id": 7})").id == "not a string");
    CHECK(parse_as<Reply>(R"({"return": {}, "id": {"q-1-2": 1}})").id == "not a string");
}

TEST_CASE("an error keeps class, text and stable code", "[qmp][message]") {
    const auto error = parse_as<ErrorReply>(
        R"({"error": {"class": "GenericError", "desc": "x", "code": "stale"}, "id": "q-1-2"})"
    );
    CHECK(error.id == "q-1-2");
    const Failure failure = to_failure(error, "hot-upgrade-switch");
    CHECK(failure.code == PeerErrc::stale);
    CHECK(failure.peer_text == "x");
    CHECK(failure.message == "QEMU refused hot-upgrade-switch: stale");
}

TEST_CASE("an unknown stable code is a refusal and shows in no message", "[qmp][message]") {
    const Failure failure =
        to_failure(ErrorReply{"q-1-1", "GenericError", "no", "evil\ncode"}, "stop");
    CHECK(failure.code == Errc::refused);
    CHECK(failure.message == "QEMU refused stop");
}

TEST_CASE("a command that QEMU lacks is told by class", "[qmp][message]") {
    const Failure failure =
        to_failure(ErrorReply{"q-1-1", "CommandNotFound", "no", std::nullopt}, "stop");
    CHECK(failure.code == Errc::command_not_found);
}

TEST_CASE("the text of an error decides nothing", "[qmp][message]") {
    const Failure failure =
        to_failure(ErrorReply{"q-1-1", "GenericError", "CommandNotFound stale", {}}, "stop");
    CHECK(failure.code == Errc::refused);
}

TEST_CASE("an error without id is told apart", "[qmp][message]") {
    const auto error = parse_as<ErrorReply>(R"({"error": {"class": "GenericError"}})");
    CHECK_FALSE(error.id.has_value());
}

TEST_CASE("events are read, with and without data", "[qmp][message]") {
    const auto event =
        parse_as<Event>(R"({"event": "STOP", "timestamp": {"seconds": 2, "microseconds": 3}})");
    CHECK(event.name == "STOP");
    CHECK(event.data == Json::object());
    CHECK(event.timestamp_us == 2'000'003);
    CHECK(parse_as<Event>(R"({"event": "A", "data": {"x": 1}})").data["x"] == 1);
    CHECK(parse_as<Event>(R"({"event": "A", "data": [1]})").data == Json::object());
}

TEST_CASE("a timestamp that cannot be is zero", "[qmp][message]") {
    for (const char* time :
         {R"({"seconds": -1, "microseconds": -1})",
          R"({"seconds": 9223372036854775807})",
          R"({"seconds": 1, "microseconds": 9223372036854775807})",
          R"([])",
          R"("now")"}) {
        const auto event =
            parse_as<Event>(std::string(R"({"event": "A", "timestamp": )") + time + "}");
        CHECK((event.timestamp_us == 0 || event.timestamp_us == 9223372036854775807LL));
    }
}

TEST_CASE("what is not a QMP object is a protocol error", "[qmp][message]") {
    for (const char* line :
         {"",
          "x",
          "{",
          "[]",
          "7",
          "null",
          "\"QMP\"",
          "{}",
          "{\"id\": \"q\"}",
          "{\"event\": 1}",
          "{\"return\": {}} x",
          "\xff\xfe"}) {
        CHECK(parse_error(line) == Errc::protocol_error);
    }
}

TEST_CASE("depth is bounded before a tree is built", "[qmp][message]") {
    CHECK(parse_json(nest(kMaxDepth)).has_value());
    const Result<Json> deep = parse_json(nest(kMaxDepth + 1));
    REQUIRE(deep.has_error());
    CHECK(deep.error().code == Errc::too_deep);
    CHECK(parse_json(std::string(1U << 20U, '[')).error().code == Errc::too_deep);
    CHECK(parse_json(std::string(1U << 20U, '{')).error().code == Errc::too_deep);
}

TEST_CASE("brackets inside strings are not depth", "[qmp][message]") {
    CHECK(parse_json("\"" + std::string(1000, '[') + "\"").has_value());
    CHECK(parse_json(R"(["\"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[", 1])").has_value());
    CHECK(parse_json(R"(["\\", )" + nest(kMaxDepth) + "]").error().code == Errc::too_deep);
}

TEST_CASE("the number of values is bounded", "[qmp][message]") {
    std::string many = "[";
    for (std::size_t i = 0; i < kMaxValues; ++i) {
        many += "0,";
    }
    CHECK(parse_json(many + "0]").error().code == Errc::too_deep);
}

TEST_CASE("invalid UTF-8 is replaced when written", "[qmp][message]") {
    const Json value = {{"text", "a\xff"}};
    CHECK(format_json(value) == "{\"text\":\"a\xef\xbf\xbd\"}");
}

TEST_CASE("a command is one line with its id", "[qmp][message]") {
    CHECK(
        format_command("stop", Json(), "q-1-2").value() ==
        "{\"execute\":\"stop\",\"id\":\"q-1-2\"}\r\n"
    );
    const std::string line = format_command("x", {{"a", "b\nc"}}, "q-1-2").value();
    CHECK(line == "{\"arguments\":{\"a\":\"b\\nc\"},\"execute\":\"x\",\"id\":\"q-1-2\"}\r\n");
}

TEST_CASE("a command longer than QEMU reads is not sent", "[qmp][message]") {
    const auto line = format_command("x", {{"a", std::string(kMaxCommandBytes, 'x')}}, "q-1-2");
    CHECK(line.error().code == Errc::command_too_long);
}

TEST_CASE("typed getters take the right type and nothing else", "[qmp][message]") {
    const Json object = {
        {"text", "a"},
        {"int", -5},
        {"uint", 5},
        {"big", std::numeric_limits<std::uint64_t>::max()},
        {"real", 1.0},
        {"bool", true},
        {"list", {"a", "b"}},
        {"mixed", {"a", 1}},
        {"null", nullptr},
        {"object", Json::object()}};
    CHECK(get_string(object, "text").value() == "a");
    CHECK(get_int(object, "int").value() == -5);
    CHECK(get_int(object, "uint").value() == 5);
    CHECK(get_uint(object, "uint").value() == 5);
    CHECK(get_uint(object, "big").value() == std::numeric_limits<std::uint64_t>::max());
    CHECK(get_bool(object, "bool").value());
    CHECK(get_strings(object, "list").value() == std::vector<std::string>{"a", "b"});
    CHECK(get_object(object, "object").value()->empty());
    CHECK(get_array(object, "list").value()->size() == 2);

    CHECK(get_int(object, "big").has_error());
    CHECK(get_int(object, "real").has_error());
    CHECK(get_int(object, "bool").has_error());
    CHECK(get_int(object, "text").has_error());
    CHECK(get_uint(object, "int").has_error());
    CHECK(get_bool(object, "int").has_error());
    CHECK(get_string(object, "null").has_error());
    CHECK(get_strings(object, "mixed").has_error());
    CHECK(get_object(object, "list").has_error());
    CHECK(get_array(object, "object").has_error());
    CHECK(get_string(object, "absent").error().code == Errc::bad_reply);
}

TEST_CASE("typed getters take any JSON for object without harm", "[qmp][message]") {
    for (const Json& value : {Json(), Json(1), Json("x"), Json::array(), Json(true)}) {
        CHECK(get_string(value, "a").has_error());
        CHECK(get_optional_string(value, "a").has_error());
    }
}

TEST_CASE("an optional member may be absent or null, but not of a wrong type", "[qmp][message]") {
    const Json object = {{"null", nullptr}, {"int", 1}, {"text", "a"}, {"bool", false}};
    CHECK(get_optional_string(object, "absent").value() == std::nullopt);
    CHECK(get_optional_string(object, "null").value() == std::nullopt);
    CHECK(get_optional_string(object, "text").value() == "a");
    CHECK(get_optional_string(object, "int").has_error());
    CHECK(get_optional_int(object, "int").value() == 1);
    CHECK(get_optional_uint(object, "int").value() == 1U);
    CHECK(get_optional_bool(object, "bool").value() == false);
    CHECK(get_optional_bool(object, "int").has_error());
    CHECK(get_optional_object(object, "absent").value() == nullptr);
    CHECK(get_optional_object(object, "int").has_error());
    CHECK(get_optional_array(object, "absent").value() == nullptr);
}

} // namespace qhup::qmp
