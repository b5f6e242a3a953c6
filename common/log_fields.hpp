// SPDX-License-Identifier: GPL-2.0-or-later
//
// What messages of the log are about, for programs that read it. Used where a message is written,
// and by the sink that gives it to journald.
#pragma once

#include <string>
#include <vector>

namespace qhup {

/// One field of a message.
struct LogField {
    std::string name;  ///< upper case, as QHUPD_VM
    std::string value; ///< any text
};

/// While it lives, messages of this thread carry these fields. Not across a co_await.
class LogFields {
public:
    explicit LogFields(std::vector<LogField> fields);
    ~LogFields();
    LogFields(const LogFields&) = delete;
    LogFields& operator=(const LogFields&) = delete;

    /// Those of the innermost one of this thread; none if there is none.
    [[nodiscard]] static const std::vector<LogField>& current() noexcept;

private:
    std::vector<LogField> fields_;
    const std::vector<LogField>* outer_;
};

} // namespace qhup
