// SPDX-License-Identifier: GPL-2.0-or-later
#include "qmp-client/framer.hpp"

namespace qhup::qmp {

void Framer::push(std::string_view bytes) {
    buffer_.erase(0, start_);
    scan_ -= start_;
    start_ = 0;
    buffer_.append(bytes);
}

Result<std::optional<std::string>> Framer::next_line(std::size_t max_line_bytes) {
    while (true) {
        const std::size_t end = buffer_.find('\n', scan_);
        const bool is_complete = end != std::string::npos;
        const std::size_t stop = is_complete ? end : buffer_.size();
        if (stop - start_ > max_line_bytes) {
            return make_failure(
                Errc::line_too_long,
                "QEMU sent a line of more than " + std::to_string(max_line_bytes) + " bytes"
            );
        }
        if (!is_complete) {
            scan_ = stop;
            return std::optional<std::string>();
        }
        std::string line = buffer_.substr(start_, end - start_);
        start_ = end + 1;
        scan_ = start_;
        if (!line.empty() && line.back() == '\r') {
            line.pop_back();
        }
        if (!line.empty()) {
            return std::optional(std::move(line));
        }
    }
}

} // namespace qhup::qmp
