// SPDX-License-Identifier: GPL-2.0-or-later
//
// QMP lines to values and back. The border where JSON of a peer comes in: bounded in bytes, depth
// and number of values before any tree is built, parsed without exceptions, read by typed getters.
// Pure: no Asio, clock, files, logging.
#pragma once

#include "qmp-client/errors.hpp"

#include <nlohmann/json.hpp>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace qhup::qmp {

using Json = nlohmann::json;

/// Bounds of one received line.
inline constexpr std::size_t kMaxLineBytes = 1U << 20U;
inline constexpr std::size_t kMaxDepth = 32;
inline constexpr std::size_t kMaxValues = 200'000;

/// Bounds of one sent line: what QEMU accepts.
inline constexpr std::size_t kMaxCommandBytes = 1U << 20U;

/// First message of a server.
struct Greeting {
    std::string version;                   ///< "10.0.13"; "" if absent
    std::string package;                   ///< distribution's version string, as QEMU gives it
    std::vector<std::string> capabilities; ///< "oob"
    std::optional<std::int64_t> protocol;  ///< hot-upgrade protocol; control sockets only
    std::string role;                      ///< "source" or "target"; control sockets only, else ""
};

/// A command was done.
struct Reply {
    std::string id; ///< as we sent it
    Json value;     ///< `return`
};

/// A command was refused.
struct ErrorReply {
    std::optional<std::string> id;   ///< none: QEMU did not understand a line of ours
    std::string error_class;         ///< "GenericError", "CommandNotFound", ...
    std::string desc;                ///< for people
    std::optional<std::string> code; ///< stable; control sockets only
};

/// Something happened. A hint to ask, never the only evidence.
struct Event {
    std::string name;              ///< "HOT_UPGRADE_STATE"
    Json data;                     ///< an object; empty if the event has none
    std::int64_t timestamp_us = 0; ///< host's wall clock at QEMU; 0 if absent
};

using Message = std::variant<Greeting, Reply, ErrorReply, Event>;

/// Checks the bounds without building anything.
///
/// Errors: Errc::too_deep
[[nodiscard]] Result<void> check_bounds(
    std::string_view text, std::size_t max_depth = kMaxDepth, std::size_t max_values = kMaxValues
);

/// Parses JSON text within the bounds.
///
/// Errors: Errc::too_deep, Errc::protocol_error
[[nodiscard]] Result<Json> parse_json(std::string_view text);

/// Parses one line from a server, without its line end.
///
/// Errors: Errc::too_deep, Errc::protocol_error. An id that is not a string of ours is not an
///         error: it becomes text that no command has.
[[nodiscard]] Result<Message> parse_message(std::string_view line);

/// JSON text on one line; invalid UTF-8 is replaced by U+FFFD.
[[nodiscard]] std::string format_json(const Json& value);

/// One command line, with its line end.
///
/// @param arguments  an object, or null for none
/// Errors: Errc::command_too_long
[[nodiscard]] Result<std::string>
format_command(std::string_view name, const Json& arguments, std::string_view id);

/// Failure for an error reply: PeerErrc for a code that we know, otherwise Errc::command_not_found
/// or Errc::refused by class.
[[nodiscard]] Failure to_failure(const ErrorReply& error, std::string_view command);

/// Typed getters for a member of an object that a peer sent. Pointers live as long as `object`.
///
/// Errors: Errc::bad_reply when `object` is no object, the member is absent or has another type
[[nodiscard]] Result<std::string> get_string(const Json& object, const char* key);
[[nodiscard]] Result<std::int64_t> get_int(const Json& object, const char* key);
[[nodiscard]] Result<std::uint64_t> get_uint(const Json& object, const char* key);
[[nodiscard]] Result<bool> get_bool(const Json& object, const char* key);
[[nodiscard]] Result<const Json*> get_object(const Json& object, const char* key);
[[nodiscard]] Result<const Json*> get_array(const Json& object, const char* key);
[[nodiscard]] Result<std::vector<std::string>> get_strings(const Json& object, const char* key);

/// The same for members that may be absent; null counts as absent, a wrong type is an error.
[[nodiscard]] Result<std::optional<std::string>>
get_optional_string(const Json& object, const char* key);
[[nodiscard]] Result<std::optional<std::int64_t>>
get_optional_int(const Json& object, const char* key);
[[nodiscard]] Result<std::optional<std::uint64_t>>
get_optional_uint(const Json& object, const char* key);
[[nodiscard]] Result<std::optional<bool>> get_optional_bool(const Json& object, const char* key);
/// nullptr if absent.
[[nodiscard]] Result<const Json*> get_optional_object(const Json& object, const char* key);
[[nodiscard]] Result<const Json*> get_optional_array(const Json& object, const char* key);

} // namespace qhup::qmp
