// SPDX-License-Identifier: GPL-2.0-or-later
//
// Reads members of JSON documents that a peer wrote: what is missing or of another type is the
// default, and nothing throws. For the api_types_*.cpp files.
#pragma once

#include "common/result.hpp"

#include <nlohmann/json.hpp>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace qhup::daemon::read {

/// Up to it every integer can be told from its neighbours, in whatever language (RFC 8259, 6).
inline constexpr std::uint64_t kMaxExactInteger = (1ULL << 53U) - 1;

/// The number if it is a whole one, from 0 to kMaxExactInteger. 1000.0 is one: JSON has one kind of
/// number, and some clients write all of them so.
inline std::optional<std::uint64_t> whole_number(const nlohmann::json& value) {
    if (value.is_number_float()) {
        const double number = value.get<double>();
        const bool is_in_range = number >= 0 && number <= static_cast<double>(kMaxExactInteger);
        const auto whole = is_in_range ? static_cast<std::uint64_t>(number) : 0;
        const bool is_whole = is_in_range && !(static_cast<double>(whole) < number);
        return is_whole ? std::optional(whole) : std::nullopt;
    }
    // why: -0 is the only number that is signed and not negative.
    if (!value.is_number_integer() ||
        (!value.is_number_unsigned() && value.get<std::int64_t>() < 0)) {
        return std::nullopt;
    }
    const auto whole = value.get<std::uint64_t>();
    return whole <= kMaxExactInteger ? std::optional(whole) : std::nullopt;
}

/// The body of a request as JSON. A member that is there twice is refused: some readers take the
/// first one and some the last.
/// Errors: as parse_json()
[[nodiscard]] Result<nlohmann::json> parse_request(std::string_view body);

/// The member, or a null value.
inline const nlohmann::json& member(const nlohmann::json& object, const char* key) {
    static const nlohmann::json null;
    const auto found = object.is_object() ? object.find(key) : object.end();
    return !object.is_object() || found == object.end() ? null : *found;
}

/// The member if it is an array, or an empty one.
inline const nlohmann::json& elements(const nlohmann::json& object, const char* key) {
    static const nlohmann::json none = nlohmann::json::array();
    const nlohmann::json& value = member(object, key);
    return value.is_array() ? value : none;
}

inline std::string text(const nlohmann::json& object, const char* key) {
    const nlohmann::json& value = member(object, key);
    return value.is_string() ? value.get_ref<const std::string&>() : std::string();
}

inline bool flag(const nlohmann::json& object, const char* key) {
    const nlohmann::json& value = member(object, key);
    return value.is_boolean() && value.get<bool>();
}

template <class T>
T integer(const nlohmann::json& object, const char* key) {
    const nlohmann::json& value = member(object, key);
    return value.is_number_integer() ? value.get<T>() : T{};
}

} // namespace qhup::daemon::read
