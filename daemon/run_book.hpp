// SPDX-License-Identifier: GPL-2.0-or-later
//
// The runs that are known: what becomes of their VMs, told to followers and written to the journal.
// It works on no VM. Used by all that do.
#pragma once

#include "common/async.hpp"
#include "daemon/attention.hpp"
#include "daemon/history_store.hpp"
#include "daemon/journal.hpp"
#include "daemon/pause_history.hpp"
#include "daemon/run.hpp"

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace qhup::daemon {

/// Thread: all members on the home strand.
class RunBook {
public:
    RunBook(RunServices services, Journal& journal, HistoryStore& history)
        : services_(std::move(services)), journal_(journal), history_(history) {}

    /// A run that is not in the journal yet. The oldest one may be forgotten for it.
    RunPtr make_run(std::string id, std::string kind);
    /// Takes it out again, also of the journal: nothing of it was begun.
    void drop_run(const std::string& id);

    RunPtr find_run(const std::string& id) const;               ///< nullptr: it is not known
    RunPtr run_of_request(const std::string& request_id) const; ///< nullptr: none was started by it
    std::vector<RunPtr> runs() const;                           ///< oldest first
    std::vector<RunView> list() const;                          ///< newest first
    RunHistory history() const;                                 ///< newest first; use at once

    std::size_t running() const noexcept;

    /// How far the runs that are in progress are, together.
    struct InProgress {
        std::size_t runs = 0; ///< in progress
        std::size_t vms = 0;  ///< in these
        std::size_t done = 0; ///< of them, whose outcome is known
    };
    InProgress in_progress() const noexcept;

    bool is_recovering() const noexcept;

    /// No further VM of the run is begun. It is in the journal before the ends of its VMs are.
    /// @param by  as RunView::stopped_by
    void stop_run(const RunPtr& run, std::string by, std::string reason = {});

    /// Tells it to those who follow the run, and to those who follow everything.
    void add_event(const RunPtr& run, RunEvent event);
    /// The same for those who follow the run alone: it is no news.
    static void remember_event(const RunPtr& run, RunEvent event);
    /// Tells those who follow everything: one of run_*.
    void tell(EventType type, const RunPtr& run);

    /// Is notified whenever a run has finished, until it is forgotten.
    void tell_when_finished(std::shared_ptr<Notifier> who);
    void forget_who_waits(const std::shared_ptr<Notifier>& who);

    /// What followers get: events after that number, or none if nothing came before the deadline.
    struct Progress {
        bool is_known = true;         ///< there is such a run
        std::vector<RunEvent> events; ///< in order; the last one of a run has `run`
    };
    /// Waits for events of a run.
    /// Cancellation: ends the wait
    [[nodiscard]] awaitable<Progress>
    next_events(std::string id, std::uint64_t after, Deadline deadline);

    /// For the engine: called on the VM's strand, they bring what it says here.
    upgrade::UpgradeObserver make_observer(const RunPtr& run, std::size_t index);
    upgrade::IntentWriter make_intent_writer(const RunPtr& run, std::size_t index);

    /// The VM has this outcome, and is free for others. The last VM ends the run.
    [[nodiscard]] awaitable<void> end_vm(RunPtr run, std::size_t index, RunVmView view);

    /// Which VMs need an operator. What ends that without a run is told with on_look().
    const Attention& attention() const noexcept { return attention_; }
    void on_look(const std::string& vm, const VmProbe& probe);
    /// A VM of a run of a daemon before us has its outcome.
    void note_end(const Run& run, std::size_t index);

    /// Writes the run, or one of its VMs, as it is now, and does not wait.
    void put_run(const RunPtr& run);
    void put_whole_run(const RunPtr& run);
    /// Writes the VM as it is now; after a while nobody waits for it any more.
    [[nodiscard]] awaitable<Result<void>> write_vm(RunPtr run, std::size_t index);
    /// Writes a run that is asked for: what cannot be written is not begun.
    /// @param asked  what is written with it, all or nothing: who asked
    [[nodiscard]] awaitable<Result<void>>
    write_request(RunPtr run, std::vector<JournalChange> asked);

    /// The journal was damaged and is empty now: what we know goes into it again.
    void put_again();

private:
    void forget_old();
    bool is_needed(const std::string& id) const;
    [[nodiscard]] std::vector<JournalChange> settle(const std::optional<RunRow>& row);
    void on_view(const RunPtr& run, std::size_t index, RunVmView view);
    [[nodiscard]] awaitable<Result<void>>
    write_intent(RunPtr run, std::size_t index, RunVmView view, Deadline deadline);

    RunServices services_;
    Journal& journal_;
    HistoryStore& history_;
    Attention attention_;
    std::map<std::string, RunPtr> runs_;
    std::vector<std::string> order_;                 // of ids, oldest first
    std::vector<std::shared_ptr<Notifier>> waiting_; // for runs to finish
    std::uint64_t next_number_ = 1;
};

} // namespace qhup::daemon
