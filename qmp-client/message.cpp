// SPDX-License-Identifier: GPL-2.0-or-later
#include "qmp-client/message.hpp"

#include <limits>

namespace qhup::qmp {
namespace {

Failure make_protocol_error(std::string message, std::string_view line) {
    // why: cut here; the quoting later is bounded, but the copy should be, too.
    constexpr std::size_t max_kept_bytes = 1024;
    return make_failure(
        Errc::protocol_error, std::move(message), std::string(line.substr(0, max_kept_bytes))
    );
}

const Json* find_member(const Json& object, const char* key) {
    if (!object.is_object()) {
        return nullptr;
    }
    const auto it = object.find(key);
    return it == object.end() ? nullptr : &*it;
}

/// Text of a member, or "" if it is absent or no string: for fields that are only shown.
std::string text_or_empty(const Json& object, const char* key) {
    const Json* member = find_member(object, key);
    const auto* text = member == nullptr ? nullptr : member->get_ptr<const Json::string_t*>();
    return text == nullptr ? std::string() : *text;
}

std::int64_t int_or_zero(const Json& object, const char* key) {
    const Result<std::int64_t> value = get_int(object, key);
    return value.has_value() ? *value : 0;
}

/// Our ids are strings. Whatever else comes back becomes text that no command of ours has.
std::optional<std::string> to_id(const Json& message) {
    const Json* id = find_member(message, "id");
    if (id == nullptr) {
        return std::nullopt;
    }
    const auto* text = id->get_ptr<const Json::string_t*>();
    return text == nullptr ? "not a string" : *text;
}

Greeting to_greeting(const Json& hello) {
    Greeting greeting;
    if (const Json* version = find_member(hello, "version"); version != nullptr) {
        greeting.package = text_or_empty(*version, "package");
        if (const Json* qemu = find_member(*version, "qemu"); qemu != nullptr) {
            greeting.version = std::to_string(int_or_zero(*qemu, "major")) + "." +
                               std::to_string(int_or_zero(*qemu, "minor")) + "." +
                               std::to_string(int_or_zero(*qemu, "micro"));
        }
    }
    if (Result<std::vector<std::string>> names = get_strings(hello, "capabilities");
        names.has_value()) {
        greeting.capabilities = std::move(*names);
    }
    if (const Json* hot_upgrade = find_member(hello, "hot-upgrade"); hot_upgrade != nullptr) {
        const Result<std::int64_t> protocol = get_int(*hot_upgrade, "protocol");
        if (protocol.has_value()) {
            greeting.protocol = *protocol;
        }
        greeting.role = text_or_empty(*hot_upgrade, "role");
    }
    return greeting;
}

ErrorReply to_error_reply(const Json& message, const Json& error) {
    ErrorReply reply;
    reply.id = to_id(message);
    reply.error_class = text_or_empty(error, "class");
    reply.desc = text_or_empty(error, "desc");
    if (std::string code = text_or_empty(error, "code"); !code.empty()) {
        reply.code = std::move(code);
    }
    return reply;
}

Event to_event(Json& message, std::string name) {
    Event event;
    event.name = std::move(name);
    if (const auto it = message.find("data"); it != message.end() && it->is_object()) {
        event.data = std::move(*it);
    } else {
        event.data = Json::object();
    }
    if (const Json* time = find_member(message, "timestamp"); time != nullptr) {
        // qemu: seconds and microseconds, -1 if the host's clock failed
        constexpr std::int64_t us_per_s = 1'000'000;
        constexpr std::int64_t max_s = std::numeric_limits<std::int64_t>::max() / us_per_s - 1;
        const std::int64_t seconds = int_or_zero(*time, "seconds");
        const std::int64_t microseconds = int_or_zero(*time, "microseconds");
        if (seconds >= 0 && seconds <= max_s && microseconds >= 0 && microseconds < us_per_s) {
            event.timestamp_us = seconds * us_per_s + microseconds;
        }
    }
    return event;
}

Failure make_bad_reply(const char* key, const char* wanted) {
    return make_failure(
        Errc::bad_reply, std::string("QEMU's answer has no ") + wanted + " \"" + key + "\""
    );
}

/// The member if it is there and passes; nullptr if it may be absent and is.
template <class Predicate>
Result<const Json*> get_member(
    const Json& object, const char* key, const char* wanted, bool may_lack, Predicate is_ok
) {
    const Json* member = find_member(object, key);
    const bool is_absent = member == nullptr || member->is_null();
    if (is_absent && may_lack && object.is_object()) {
        return static_cast<const Json*>(nullptr);
    }
    if (is_absent || !is_ok(*member)) {
        return make_bad_reply(key, wanted);
    }
    return member;
}

bool is_uint64(const Json& value) {
    // why: a parsed number is unsigned already; one made by us may be a signed 5
    return value.is_number_unsigned() ||
           (value.is_number_integer() && value.get<std::int64_t>() >= 0);
}

bool is_int64(const Json& value) {
    if (value.is_number_unsigned()) {
        return value.get<std::uint64_t>() <=
               static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max());
    }
    return value.is_number_integer();
}

Result<const Json*> get_string_member(const Json& object, const char* key, bool may_lack) {
    return get_member(object, key, "text", may_lack, [](const Json& v) { return v.is_string(); });
}
Result<const Json*> get_int_member(const Json& object, const char* key, bool may_lack) {
    return get_member(object, key, "integer", may_lack, is_int64);
}
Result<const Json*> get_uint_member(const Json& object, const char* key, bool may_lack) {
    return get_member(object, key, "unsigned integer", may_lack, is_uint64);
}
Result<const Json*> get_bool_member(const Json& object, const char* key, bool may_lack) {
    return get_member(object, key, "truth value", may_lack, [](const Json& v) {
        return v.is_boolean();
    });
}
Result<const Json*> get_object_member(const Json& object, const char* key, bool may_lack) {
    return get_member(object, key, "object", may_lack, [](const Json& v) { return v.is_object(); });
}
Result<const Json*> get_array_member(const Json& object, const char* key, bool may_lack) {
    return get_member(object, key, "list", may_lack, [](const Json& v) { return v.is_array(); });
}

template <class T>
Result<T> to_value(const Result<const Json*>& member) {
    if (member.has_error()) {
        return member.error();
    }
    return (*member)->template get<T>(); // invariant: the type was checked
}

template <class T>
Result<std::optional<T>> to_optional(const Result<const Json*>& member) {
    if (member.has_error()) {
        return member.error();
    }
    if (*member == nullptr) {
        return std::optional<T>();
    }
    return std::optional<T>((*member)->template get<T>());
}

} // namespace

Result<void> check_bounds(std::string_view text, std::size_t max_depth, std::size_t max_values) {
    std::size_t depth = 0;
    std::size_t values = 1;
    bool is_in_string = false;
    for (std::size_t i = 0; i < text.size(); ++i) {
        const char byte = text[i];
        if (is_in_string) {
            if (byte == '\\') {
                ++i; // why: the escaped byte cannot end the string
            } else if (byte == '"') {
                is_in_string = false;
            }
            continue;
        }
        switch (byte) {
        case '"': is_in_string = true; break;
        case '[':
        case '{':
            ++depth;
            ++values;
            break;
        case ',': ++values; break;
        case ']':
        case '}': depth -= depth > 0 ? 1 : 0; break;
        default: break;
        }
        if (depth > max_depth || values > max_values) {
            return make_failure(
                Errc::too_deep,
                depth > max_depth ? "the JSON text is nested too deep"
                                  : "the JSON text has too many values"
            );
        }
    }
    return {};
}

Result<Json> parse_json(std::string_view text) {
    if (const Result<void> bounds = check_bounds(text); bounds.has_error()) {
        return bounds.error();
    }
    Json value = Json::parse(text, nullptr, /*allow_exceptions=*/false);
    if (value.is_discarded()) {
        return make_protocol_error("the text is not JSON", text);
    }
    return value;
}

Result<Message> parse_message(std::string_view line) {
    Result<Json> parsed = parse_json(line);
    if (parsed.has_error()) {
        return with_context(parsed.error(), "reading a line from QEMU");
    }
    Json& message = *parsed;
    if (const Json* hello = find_member(message, "QMP"); hello != nullptr) {
        return Message(to_greeting(*hello));
    }
    if (const Json* event = find_member(message, "event"); event != nullptr) {
        if (!event->is_string()) {
            return make_protocol_error("QEMU sent an event without a name", line);
        }
        return Message(to_event(message, event->get<std::string>()));
    }
    if (const Json* error = find_member(message, "error"); error != nullptr) {
        return Message(to_error_reply(message, *error));
    }
    if (const auto value = message.find("return"); message.is_object() && value != message.end()) {
        std::optional<std::string> id = to_id(message);
        if (!id.has_value()) {
            return make_protocol_error("QEMU sent a reply without id", line);
        }
        return Message(Reply{std::move(*id), std::move(*value)});
    }
    return make_protocol_error("QEMU sent JSON that is not QMP", line);
}

std::string format_json(const Json& value) {
    return value.dump(-1, ' ', /*ensure_ascii=*/false, Json::error_handler_t::replace);
}

Result<std::string>
format_command(std::string_view name, const Json& arguments, std::string_view id) {
    Json command = {{"execute", name}, {"id", id}};
    if (!arguments.is_null()) {
        command["arguments"] = arguments;
    }
    std::string line = format_json(command) + "\r\n";
    if (line.size() > kMaxCommandBytes) {
        return make_failure(
            Errc::command_too_long,
            "the command " + std::string(name) + " would be longer than QEMU accepts"
        );
    }
    return line;
}

Failure to_failure(const ErrorReply& error, std::string_view command) {
    error_code code = Errc::refused;
    if (error.error_class == "CommandNotFound") {
        code = Errc::command_not_found;
    }
    std::string message = "QEMU refused " + std::string(command);
    if (error.code.has_value()) {
        if (const std::optional<PeerErrc> known = parse_peer_code(*error.code)) {
            code = *known;
            message += ": " + std::string(to_peer_code(*known));
        }
    }
    return make_failure(code, std::move(message), error.desc);
}

Result<std::string> get_string(const Json& object, const char* key) {
    return to_value<std::string>(get_string_member(object, key, false));
}
Result<std::int64_t> get_int(const Json& object, const char* key) {
    return to_value<std::int64_t>(get_int_member(object, key, false));
}
Result<std::uint64_t> get_uint(const Json& object, const char* key) {
    return to_value<std::uint64_t>(get_uint_member(object, key, false));
}
Result<bool> get_bool(const Json& object, const char* key) {
    return to_value<bool>(get_bool_member(object, key, false));
}
Result<const Json*> get_object(const Json& object, const char* key) {
    return get_object_member(object, key, false);
}
Result<const Json*> get_array(const Json& object, const char* key) {
    return get_array_member(object, key, false);
}

Result<std::vector<std::string>> get_strings(const Json& object, const char* key) {
    const Result<const Json*> list = get_array_member(object, key, false);
    if (list.has_error()) {
        return list.error();
    }
    std::vector<std::string> strings;
    strings.reserve((*list)->size());
    for (const Json& item : **list) {
        if (!item.is_string()) {
            return make_bad_reply(key, "list of texts");
        }
        strings.push_back(item.get<std::string>());
    }
    return strings;
}

Result<std::optional<std::string>> get_optional_string(const Json& object, const char* key) {
    return to_optional<std::string>(get_string_member(object, key, true));
}
Result<std::optional<std::int64_t>> get_optional_int(const Json& object, const char* key) {
    return to_optional<std::int64_t>(get_int_member(object, key, true));
}
Result<std::optional<std::uint64_t>> get_optional_uint(const Json& object, const char* key) {
    return to_optional<std::uint64_t>(get_uint_member(object, key, true));
}
Result<std::optional<bool>> get_optional_bool(const Json& object, const char* key) {
    return to_optional<bool>(get_bool_member(object, key, true));
}
Result<const Json*> get_optional_object(const Json& object, const char* key) {
    return get_object_member(object, key, true);
}
Result<const Json*> get_optional_array(const Json& object, const char* key) {
    return get_array_member(object, key, true);
}

} // namespace qhup::qmp
