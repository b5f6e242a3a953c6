// SPDX-License-Identifier: GPL-2.0-or-later
#include "common/toml_keys.hpp"

namespace qhup {
namespace {

constexpr std::size_t kMostDots = 64;

/// Dots of a line outside of strings and comments. A part of a string over several lines may be
/// taken for something else, and is no harm: that many dots are in no line of ours.
std::size_t dots_of(std::string_view line) noexcept {
    std::size_t dots = 0;
    char quote = '\0';
    for (std::size_t i = 0; i < line.size(); ++i) {
        const char c = line[i];
        if (quote == '"' && c == '\\') {
            ++i;
        } else if (quote != '\0') {
            quote = c == quote ? '\0' : quote;
        } else if (c == '#') {
            return dots;
        } else if (c == '"' || c == '\'') {
            quote = c;
        } else if (c == '.') {
            ++dots;
        }
    }
    return dots;
}

} // namespace

std::size_t line_of_too_deep_key(std::string_view toml) noexcept {
    for (std::size_t number = 1; !toml.empty(); ++number) {
        const std::size_t end = toml.find('\n');
        if (dots_of(toml.substr(0, end)) > kMostDots) {
            return number;
        }
        toml.remove_prefix(end == std::string_view::npos ? toml.size() : end + 1);
    }
    return 0;
}

} // namespace qhup
