// SPDX-License-Identifier: GPL-2.0-or-later
//
// Bytes to lines. Bounded: a line that is longer than the limit of the moment ends the session.
// Pure: no Asio, clock, files, logging.
#pragma once

#include "qmp-client/errors.hpp"

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>

namespace qhup::qmp {

class Framer {
public:
    /// Takes received bytes. Memory stays below the limit plus what was pushed at once, if lines
    /// are taken after each push.
    void push(std::string_view bytes);

    /// The next complete line without its line end (\n or \r\n); empty lines are skipped; none if
    /// more bytes are needed.
    ///
    /// @param max_line_bytes  limit of this line; the session knows it (it depends on what was
    /// asked) Errors:        Errc::line_too_long After failure: the stream is useless; end the
    /// session
    [[nodiscard]] Result<std::optional<std::string>> next_line(std::size_t max_line_bytes);

    /// Bytes held.
    [[nodiscard]] std::size_t size() const noexcept { return buffer_.size() - start_; }

private:
    std::string buffer_;
    std::size_t start_ = 0; // first byte that was not handed out
    std::size_t scan_ = 0;  // no line end between start_ and here
};

} // namespace qhup::qmp
