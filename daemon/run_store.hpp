// SPDX-License-Identifier: GPL-2.0-or-later
//
// Keeps what was asked and what came of it: one JSON file per run, replaced as a whole, so that a
// daemon that starts again can finish what it finds and tell who asked. The pair of processes stays
// the truth about a VM; a record only says what was wanted.
// All functions block: call them on the disk pool.
#pragma once

#include "common/result.hpp"
#include "daemon/api_types.hpp"

#include <cstddef>
#include <string>
#include <vector>

namespace qhup::daemon {

class RunStore {
public:
    /// @param folder  made by save() if it is missing
    explicit RunStore(std::string folder) : folder_(std::move(folder)) {}

    /// Every record that can be read, oldest first; older ones than the newest `keep` are deleted
    /// if they are finished. A file that cannot be read is left alone and logged.
    /// Blocking: reads the folder
    std::vector<RunView> load(std::size_t keep) const;

    /// Writes the record so that it survives a crash of the host.
    /// Errors:        Errc::system_error
    /// After failure: the record is what it was before
    /// Blocking:      two fsyncs
    Result<void> save(const RunView& run) const;

private:
    std::string folder_;
};

} // namespace qhup::daemon
