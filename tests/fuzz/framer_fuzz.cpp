// SPDX-License-Identifier: GPL-2.0-or-later
//
// Bytes in pieces of any size give the same lines as all at once, and nothing is held for ever.
#include "qmp-client/framer.hpp"
#include "tests/fuzz/fuzz.hpp"

#include <algorithm>
#include <vector>

using namespace qhup;
using fuzz::require;

namespace {

constexpr std::size_t kLimit = 64;

struct Seen {
    std::vector<std::string> lines;
    bool is_over = false; ///< a line was too long
};

/// @param piece  bytes that are pushed at once
Seen feed(std::string_view bytes, std::size_t piece) {
    qmp::Framer framer;
    Seen seen;
    while (!bytes.empty() && !seen.is_over) {
        const std::size_t size = std::min(piece, bytes.size());
        framer.push(bytes.substr(0, size));
        bytes.remove_prefix(size);
        while (!seen.is_over) {
            const auto line = framer.next_line(kLimit);
            if (line.has_error()) {
                require(line.error().code == qmp::Errc::line_too_long, "the one error");
                seen.is_over = true;
                break;
            }
            if (!line->has_value()) {
                break;
            }
            const std::string& text = **line;
            require(!text.empty(), "an empty line is skipped");
            require(text.size() <= kLimit, "a line is within the limit");
            require(text.find('\n') == std::string::npos, "a line has no line end");
            seen.lines.push_back(text);
        }
        require(seen.is_over || framer.size() <= kLimit + piece + 2, "memory is bounded");
    }
    return seen;
}

} // namespace

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    fuzz::Input input(data, size);
    const std::size_t piece = 1U + input.byte() % 32U;
    const std::string_view bytes = input.take(size);
    const Seen at_once = feed(bytes, std::max<std::size_t>(1, bytes.size()));
    const Seen in_pieces = feed(bytes, piece);
    require(at_once.is_over == in_pieces.is_over, "a long line is long in any pieces");
    require(at_once.lines == in_pieces.lines, "the lines are the same in any pieces");
    return 0;
}
