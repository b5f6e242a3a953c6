// SPDX-License-Identifier: GPL-2.0-or-later
#include "common/log.hpp"

#include <spdlog/pattern_formatter.h>
#include <spdlog/sinks/stdout_sinks.h>

#include <cstdlib>
#include <memory>

namespace qhup {
namespace {

/// %J: the priority prefix of sd-daemon(3).
class PriorityFlag final : public spdlog::custom_flag_formatter {
public:
    void format(
        const spdlog::details::log_msg& message, const std::tm& /*time*/, spdlog::memory_buf_t& out
    ) override {
        const std::string_view prefix = to_prefix(message.level);
        out.append(prefix.data(), prefix.data() + prefix.size());
    }
    std::unique_ptr<custom_flag_formatter> clone() const override {
        return std::make_unique<PriorityFlag>();
    }

private:
    static std::string_view to_prefix(spdlog::level::level_enum level) {
        switch (level) {
        case spdlog::level::critical: return "<2>";
        case spdlog::level::err: return "<3>";
        case spdlog::level::warn: return "<4>";
        case spdlog::level::info: return "<6>";
        default: return "<7>";
        }
    }
};

spdlog::logger make_logger() {
    auto sink = std::make_shared<spdlog::sinks::stderr_sink_mt>();
    spdlog::logger logger("qhup", std::move(sink));
    logger.set_formatter(make_log_formatter());
    logger.flush_on(spdlog::level::info);
    return logger;
}

spdlog::level::level_enum to_level(Severity severity) {
    switch (severity) {
    case Severity::refused:
    case Severity::transient: return spdlog::level::info;
    case Severity::rolled_back: return spdlog::level::warn;
    case Severity::needs_operator: return spdlog::level::err;
    }
    return spdlog::level::err;
}

} // namespace

std::unique_ptr<spdlog::formatter> make_log_formatter() {
    auto formatter = std::make_unique<spdlog::pattern_formatter>();
    formatter->add_flag<PriorityFlag>('J');
    const bool is_journal = std::getenv("JOURNAL_STREAM") != nullptr;
    formatter->set_pattern(is_journal ? "%J%v" : "%Y-%m-%dT%H:%M:%S.%e%z %l: %v");
    return formatter;
}

spdlog::logger& log() {
    static spdlog::logger logger = make_logger();
    return logger;
}

Result<void> setup_log(std::string_view level) {
    using Entry = std::pair<std::string_view, spdlog::level::level_enum>;
    constexpr Entry levels[] = {
        {"critical", spdlog::level::critical},
        {"error", spdlog::level::err},
        {"warn", spdlog::level::warn},
        {"info", spdlog::level::info},
        {"debug", spdlog::level::debug},
    };
    for (const auto& [name, value] : levels) {
        if (name == level) {
            log().set_formatter(make_log_formatter());
            log().set_level(value);
            return {};
        }
    }
    return make_failure(
        Errc::invalid_argument,
        "the log level must be one of critical, error, warn, info, debug",
        std::string(level)
    );
}

void log_failure(std::string_view doing, const Failure& failure) {
    log().log(
        to_level(severity_of(failure.code)),
        "{}: {} [{}]",
        doing,
        to_text(failure),
        wire_code_of(failure.code)
    );
}

} // namespace qhup
