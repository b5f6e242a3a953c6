// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/run_ids.hpp"

#include <algorithm>

namespace qhup::daemon {

std::string make_run_id(std::uint32_t chance) {
    static constexpr std::string_view kDigits = "0123456789abcdef";
    std::string id = "r";
    for (int shift = 28; shift >= 0; shift -= 4) {
        id += kDigits[(chance >> static_cast<unsigned>(shift)) & 0xFU];
    }
    return id;
}

std::string upgrade_id_of(const std::string& run, std::size_t index) {
    return run + "." + std::to_string(index);
}

bool is_our_upgrade_id(std::string_view id) {
    const auto is_hex = [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); };
    const auto is_digit = [](char c) { return c >= '0' && c <= '9'; };
    return id.size() > 10 && id[0] == 'r' && id[9] == '.' &&
           std::all_of(id.begin() + 1, id.begin() + 9, is_hex) &&
           std::all_of(id.begin() + 10, id.end(), is_digit);
}

} // namespace qhup::daemon
