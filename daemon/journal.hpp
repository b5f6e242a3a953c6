// SPDX-License-Identifier: GPL-2.0-or-later
//
// The journal: what was asked, what is about to be done and what came of it, on disk. It is the
// intention; the pair of processes stays the truth about a VM. Writing has a thread of its own, so
// nobody but who waits for it is delayed by a disk. A journal that cannot be read or written never
// stops the daemon: what cannot be written down is not begun, and results wait in memory.
#pragma once

#include "common/async.hpp"
#include "daemon/journal_rows.hpp"

#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace qhup::daemon {

/// What the journal remembers.
struct JournalContents {
    std::vector<RunView> runs;   ///< oldest first
    std::vector<HoldView> holds; ///< also those that have expired
    std::vector<HistoryView> history;
};

class Journal {
public:
    /// Called on `home` after a damaged journal was replaced while the daemon runs: the fresh one
    /// is empty, so put everything that shall be remembered.
    using OnReplaced = std::function<void()>;

    /// Other values than these are for tests.
    struct Options {
        std::chrono::milliseconds retry{1000}; ///< until what could not be written is tried again
        std::string fault; ///< fault point at which the process dies; "" for none
    };

    /// @param home  where members are called, and where `on_replaced` is
    Journal(asio::any_io_executor home, std::string path, OnReplaced on_replaced, Options options);
    ~Journal();
    Journal(const Journal&) = delete;
    Journal& operator=(const Journal&) = delete;

    /// Opens the file and gives what is in it. A file that is damaged or from a newer
    /// qhupd is set aside under another name, and a fresh one is made; one that cannot be opened is
    /// tried again with every write. The log says which. Begins at once, not when it is awaited.
    ///
    /// @return  nothing if there is nothing, or if it cannot be read before the deadline
    [[nodiscard]] awaitable<JournalContents> open(Deadline deadline);

    /// What becomes of changes that cannot be written.
    enum class IfNotWritten {
        drop, ///< an intent: it is not acted on
        keep, ///< a result: tried again until it is written, or replaced by a newer one
    };

    /// Writes the changes, all or none, after those of earlier calls.
    ///
    /// Errors:        JournalErrc, Errc::timed_out, Errc::cancelled
    /// After failure: with keep, they will be written; with drop, they may have been if the error
    ///                is timed_out or cancelled, else they were not
    /// Cancellation:  ends the wait
    [[nodiscard]] awaitable<Result<void>>
    write(std::vector<JournalChange> changes, IfNotWritten policy, Deadline deadline);

    /// Writes the changes, and does not wait; they are kept.
    void put(std::vector<JournalChange> changes);

    /// Writes what is left, if it can be written, and closes the file. Nothing is written after it.
    ///
    /// @return  how many changes could not be written
    [[nodiscard]] awaitable<std::size_t> close(Deadline deadline);

private:
    struct State;
    struct Opening;
    [[nodiscard]] static awaitable<JournalContents>
    wait_for(std::shared_ptr<Opening> opening, Deadline deadline);

    asio::any_io_executor home_;
    std::shared_ptr<State> state_; // touched on the thread only, but for what never changes
    asio::thread_pool thread_;
};

} // namespace qhup::daemon
