// SPDX-License-Identifier: GPL-2.0-or-later
#include "ctl/terminal.hpp"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>

namespace qhup::ctl {
namespace {

constexpr std::size_t kLeastColumns = 20; // less is no width to work with

bool is_set(const char* name) {
    const char* value = std::getenv(name);
    return value != nullptr && *value != '\0';
}

/// Bytes of the escape sequence or character that begins here, and its columns.
struct Piece {
    std::size_t bytes = 1;
    std::size_t columns = 1;
};

Piece piece_at(std::string_view text, std::size_t at) {
    if (text[at] == '\x1b') {
        const std::size_t end = text.find('m', at);
        return {end == std::string_view::npos ? text.size() - at : end - at + 1, 0};
    }
    std::size_t bytes = 1;
    while (at + bytes < text.size() &&
           (static_cast<unsigned char>(text[at + bytes]) & 0xC0U) == 0x80U) {
        ++bytes;
    }
    return {bytes, 1};
}

/// One line without its end, at most so many columns wide where it has spaces to break at.
std::string wrap_line(std::string_view line, std::size_t columns) {
    const std::size_t indent = std::min(line.find_first_not_of(' '), line.size());
    if (line.starts_with("    qhupd-ctl ") || width_of(line) <= columns) {
        return std::string(line);
    }
    const std::string hanging(indent + 2, ' ');
    std::string wrapped;
    std::string current(line.substr(0, indent));
    bool has_words = false;
    for (std::size_t at = indent; at < line.size();) {
        const std::size_t end = std::min(line.find(' ', at), line.size());
        const std::size_t next = std::min(line.find_first_not_of(' ', end), line.size());
        const std::string_view word = line.substr(at, end - at);
        if (has_words && width_of(current) + width_of(word) > columns) {
            wrapped += current.substr(0, current.find_last_not_of(' ') + 1) + "\n";
            current = hanging;
        }
        current += std::string(word) + std::string(line.substr(end, next - end));
        has_words = true;
        at = next;
    }
    return wrapped + current;
}

} // namespace

Terminal observe_terminal(int descriptor) {
    Terminal terminal;
    terminal.is_terminal = ::isatty(descriptor) == 1;
    const char* kind = std::getenv("TERM");
    terminal.is_dumb = kind == nullptr || std::string_view(kind) == "dumb" || *kind == '\0';
    terminal.wants_color = !is_set("NO_COLOR");
    winsize size{};
    if (terminal.is_terminal && ::ioctl(descriptor, TIOCGWINSZ, &size) == 0 &&
        size.ws_col >= kLeastColumns) {
        terminal.columns = size.ws_col;
        terminal.rows = size.ws_row;
    }
    return terminal;
}

ProgressMode choose_progress(ProgressMode asked, const Terminal& err, bool is_json) noexcept {
    if (asked != ProgressMode::automatic) {
        return asked;
    }
    if (is_json) {
        return ProgressMode::none;
    }
    return err.is_terminal && !err.is_dumb ? ProgressMode::live : ProgressMode::plain;
}

bool choose_color(ColorMode asked, const Terminal& output) noexcept {
    if (asked != ColorMode::automatic) {
        return asked == ColorMode::always;
    }
    return output.is_terminal && !output.is_dumb && output.wants_color;
}

std::string Style::paint(std::string_view code, std::string_view text) const {
    if (!has_color || text.empty()) {
        return std::string(text);
    }
    return "\x1b[" + std::string(code) + "m" + std::string(text) + "\x1b[0m";
}

std::string Style::outcome(std::string_view outcome, std::string_view text) const {
    if (outcome == "upgraded" || outcome == "checked" || outcome == "rehearsed") {
        return good(text);
    }
    if (outcome == "refused" || outcome == "rolled_back") {
        return warn(text);
    }
    if (outcome == "unchanged" || outcome == "skipped") {
        return faint(text);
    }
    return outcome.empty() ? std::string(text) : bad(text);
}

std::size_t width_of(std::string_view text) {
    std::size_t width = 0;
    for (std::size_t at = 0; at < text.size();) {
        const Piece piece = piece_at(text, at);
        width += piece.columns;
        at += piece.bytes;
    }
    return width;
}

std::string cut(std::string_view line, std::size_t columns) {
    if (columns == 0 || width_of(line) <= columns) {
        return std::string(line);
    }
    std::string shown;
    bool has_color = false;
    std::size_t width = 0;
    for (std::size_t at = 0; at < line.size();) {
        const Piece piece = piece_at(line, at);
        if (width + piece.columns > columns - 1) {
            break;
        }
        has_color = has_color || piece.columns == 0;
        shown += line.substr(at, piece.bytes);
        width += piece.columns;
        at += piece.bytes;
    }
    return shown + "…" + (has_color ? "\x1b[0m" : "");
}

std::string wrap(std::string_view text, std::size_t columns) {
    if (columns == 0) {
        return std::string(text);
    }
    std::string wrapped;
    while (!text.empty()) {
        const std::size_t end = text.find('\n');
        wrapped += wrap_line(text.substr(0, end), columns);
        wrapped += end == std::string_view::npos ? "" : "\n";
        text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
    }
    return wrapped;
}

} // namespace qhup::ctl
