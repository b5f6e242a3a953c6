// SPDX-License-Identifier: GPL-2.0-or-later
//
// Text made fit for a log line or a terminal, and sentences. Pure: no Asio, clock, files.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace qhup {

/// Bytes of peer text that a message shows.
inline constexpr std::size_t kMaxQuotedBytes = 400;

/// Puts the text into double quotes: control characters, quotes, backslashes and everything outside
/// ASCII are escaped, so that a peer cannot forge a log line or drive a terminal; what is longer
/// than max_bytes is cut, and the cut is visible.
[[nodiscard]] std::string
quote_peer_text(std::string_view text, std::size_t max_bytes = kMaxQuotedBytes);

/// The text with a full stop at its end, and not with two.
[[nodiscard]] std::string with_stop(std::string text);

} // namespace qhup
