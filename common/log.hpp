// SPDX-License-Identifier: GPL-2.0-or-later
//
// The process's log. Levels:
//   critical  the process stops              error  a person has to look (needs_operator)
//   warn      something was rolled back or a peer misbehaved
//   info      an upgrade changed its phase, the daemon started or stopped: a few lines per upgrade
//   debug     every command and reply, bounded; off in production
// Peer text goes through quote_peer_text() (common/text.hpp), always.
#pragma once

#include "common/result.hpp"

#include <spdlog/spdlog.h>

#include <memory>
#include <string_view>

namespace qhup {

/// The logger of the process. Before setup_log(): standard error, level info.
[[nodiscard]] spdlog::logger& log();

/// Sends the log to standard error at this level: with the priority prefixes of sd-daemon(3) when
/// systemd reads it (JOURNAL_STREAM is set), with time and level otherwise.
///
/// @param level  critical, error, warn, info or debug
/// Errors:       Errc::invalid_argument for another level name; nothing changes then
[[nodiscard]] Result<void> setup_log(std::string_view level);

/// How the log writes a line, as setup_log() says.
[[nodiscard]] std::unique_ptr<spdlog::formatter> make_log_formatter();

/// Logs a failure at the level that its severity asks for.
void log_failure(std::string_view doing, const Failure& failure);

} // namespace qhup
