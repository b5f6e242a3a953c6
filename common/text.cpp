// SPDX-License-Identifier: GPL-2.0-or-later
#include "common/text.hpp"

#include <array>

namespace qhup {
namespace {

void append_escaped(std::string& out, unsigned char byte) {
    constexpr std::array digits{
        '0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'a', 'b', 'c', 'd', 'e', 'f'};
    switch (byte) {
    case '\n': out += "\\n"; return;
    case '\r': out += "\\r"; return;
    case '\t': out += "\\t"; return;
    case '"': out += "\\\""; return;
    case '\\': out += "\\\\"; return;
    default: break;
    }
    if (byte >= 0x20 && byte < 0x7f) {
        out += static_cast<char>(byte);
        return;
    }
    out += "\\x";
    out += digits.at(byte >> 4U);
    out += digits.at(byte & 0xfU);
}

} // namespace

std::string quote_peer_text(std::string_view text, std::size_t max_bytes) {
    std::string out = "\"";
    for (const char byte : text.substr(0, max_bytes)) {
        append_escaped(out, static_cast<unsigned char>(byte));
    }
    out += text.size() > max_bytes ? "…\"" : "\"";
    return out;
}

std::string with_stop(std::string text) {
    return text.ends_with('.') ? text : text + ".";
}

} // namespace qhup
