// SPDX-License-Identifier: GPL-2.0-or-later
//
// Reads members of JSON documents that a peer wrote: what is missing or of another type is the
// default, and nothing throws. For the api_types_*.cpp files.
#pragma once

#include <nlohmann/json.hpp>

#include <string>

namespace qhup::daemon::read {

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
