// SPDX-License-Identifier: GPL-2.0-or-later
//
// The history of this daemon: what was asked by whom and what became of VMs, kept in the journal.
#pragma once

#include "common/async.hpp"
#include "daemon/api_types_history.hpp"
#include "daemon/journal.hpp"

#include <cstdint>
#include <vector>

namespace qhup::daemon {

/// Thread: all members on the home strand.
class HistoryStore {
public:
    HistoryStore(asio::thread_pool& disk, Journal& journal) : disk_(disk), journal_(journal) {}

    /// What daemons before us did.
    void load(std::vector<HistoryView> entries) { history_ = History(std::move(entries)); }

    /// Remembers the entry, with the present time.
    /// @return  what has to be written to the journal
    [[nodiscard]] std::vector<JournalChange> add(HistoryView entry);

    /// Remembers what was asked, at once; before what comes of it. Whoever asked has no name yet.
    /// @return  id of the entry
    std::uint64_t note(HistoryView entry);

    /// What was asked was not to be begun, and is not remembered as it was added.
    void take_back(std::uint64_t id) { history_.take_back(id); }

    /// Finds the name of who asked, and waits a moment until the entry is on disk.
    [[nodiscard]] awaitable<void> sign(std::uint64_t id);

    const History& history() const noexcept { return history_; }

    /// The journal was damaged and is empty now: what we know goes into it again.
    void put_again();

private:
    asio::thread_pool& disk_;
    Journal& journal_;
    History history_;
};

} // namespace qhup::daemon
