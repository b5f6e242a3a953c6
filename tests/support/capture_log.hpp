// SPDX-License-Identifier: GPL-2.0-or-later
//
// CaptureLog keeps what is logged while it lives, one "level: text" per line, so that tests can
// assert messages that operators see.
#pragma once

#include "common/log.hpp"

#include <spdlog/pattern_formatter.h>
#include <spdlog/sinks/ostream_sink.h>

#include <memory>
#include <sstream>
#include <string>
#include <vector>

namespace qhup::test {

class CaptureLog {
public:
    CaptureLog() : kept_(log().sinks()), kept_level_(log().level()) {
        auto sink = std::make_shared<spdlog::sinks::ostream_sink_mt>(stream_);
        sink->set_formatter(std::make_unique<spdlog::pattern_formatter>("%l: %v"));
        log().sinks() = {sink};
        log().set_level(spdlog::level::debug);
    }
    ~CaptureLog() {
        log().sinks() = kept_;
        log().set_level(kept_level_);
    }
    CaptureLog(const CaptureLog&) = delete;
    CaptureLog& operator=(const CaptureLog&) = delete;

    [[nodiscard]] std::string text() const { return stream_.str(); }
    [[nodiscard]] bool contains(const std::string& part) const {
        return text().find(part) != std::string::npos;
    }

private:
    std::ostringstream stream_;
    std::vector<spdlog::sink_ptr> kept_;
    spdlog::level::level_enum kept_level_;
};

} // namespace qhup::test
