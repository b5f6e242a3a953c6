// SPDX-License-Identifier: GPL-2.0-or-later
//
// The messages of the log that programs may rely on: what they are called in journald and which
// fields they carry. systemd/qhupd.catalog explains each to people (journalctl -x). Pure.
#pragma once

#include "common/log_fields.hpp"
#include "daemon/api_types.hpp"

#include <string>
#include <string_view>
#include <vector>

namespace qhup::daemon {

/// A message with an id of its own. The ids never change.
struct LogEvent {
    std::string_view name; ///< as the API would say it
    std::string_view id;   ///< MESSAGE_ID, 32 hex digits
};

/// All of them.
const std::vector<LogEvent>& log_events();

/// MESSAGE_ID of this event; "" if there is none of that name.
std::string_view message_id_of(std::string_view name) noexcept;

/// Fields of a message about a run.
std::vector<LogField> run_fields(std::string_view event, const RunView& run);

/// Fields of a message about what became of a VM: QHUPD_VM, QHUPD_RUN, QHUPD_PHASE, QHUPD_OUTCOME,
/// QHUPD_CODE and, if it was paused, QHUPD_PAUSE_US. The phase of one that has its outcome is that
/// which decided it: of a success the last, else the last that did not go well.
std::vector<LogField> outcome_fields(const std::string& run, const RunVmView& vm);

} // namespace qhup::daemon
