// SPDX-License-Identifier: GPL-2.0-or-later
//
// What clients can ask for: starts and stops runs, checks, holds, ways back. It puts together the
// parts that do it, and decides nothing about a VM: the engine and the pair do.
//
//   RunBook       what is known of runs, the journal, followers
//   VmUpgrades    one VM of a run        VmAdmission   when it may begin
//   StageRunner   canaries and batches   RunRecovery   what a daemon before us left
//   HoldStore     holds                  KeptBinaries, WaysBack, WayBackRehearsals   the way back
#pragma once

#include "common/async.hpp"
#include "common/task_group.hpp"
#include "daemon/api_types.hpp"
#include "daemon/api_types_selftest.hpp"
#include "daemon/config.hpp"
#include "daemon/history_store.hpp"
#include "daemon/hold_store.hpp"
#include "daemon/journal.hpp"
#include "daemon/kept_binaries.hpp"
#include "daemon/release_shelf.hpp"
#include "daemon/run_book.hpp"
#include "daemon/run_recovery.hpp"
#include "daemon/stage_runner.hpp"
#include "daemon/vm_registry.hpp"
#include "daemon/vm_upgrades.hpp"
#include "daemon/way_back_rehearsals.hpp"
#include "daemon/ways_back.hpp"
#include "upgrade-engine/slot_gate.hpp"

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <variant>
#include <vector>

namespace qhup::daemon {

/// Thread: all members on the daemon's home strand. Each VM's upgrade runs on the VM's strand.
class UpgradeRuns {
public:
    UpgradeRuns(
        asio::io_context& context,
        Strand home,
        asio::thread_pool& disk,
        TaskGroup& tasks,
        VmRegistry& registry,
        ReleaseShelf& shelf,
        EventHub& events,
        const Config& config,
        std::string fault
    );
    UpgradeRuns(const UpgradeRuns&) = delete;
    UpgradeRuns& operator=(const UpgradeRuns&) = delete;
    ~UpgradeRuns();

    /// Starts a run. It is in the journal before a VM is touched.
    /// @param uid    who asked
    /// @param asked  its entry of the history, which stands before those of its VMs; none: it has
    ///               none
    /// A request with an id that was seen before starts nothing: it gets the run that it started
    /// then, across restarts, as long as that is remembered.
    /// Errors: a Problem; nothing was started then
    struct Started {
        RunView run;
        bool is_new = true;                      ///< false: the same request had started it before
        std::optional<std::uint64_t> entry = {}; ///< of the history, to be signed
    };
    [[nodiscard]] awaitable<std::variant<Started, Problem>>
    start(RunRequest request, uid_t uid, std::optional<HistoryView> asked = std::nullopt);

    /// Finds the selftest that has passed for a pair of binaries, by their build ids. Until it is
    /// set, nobody is warned.
    using FindSelftest =
        std::function<std::optional<SelftestView>(const std::string& from, const std::string& to)>;
    void set_find_selftest(FindSelftest find) { find_selftest_ = std::move(find); }

    /// No further VM of the run is begun, and one that is not paused yet is given up: these end
    /// refused with the code `stopped`. A VM in its pause finishes or rolls back. Asking again, or
    /// asking about a run that has finished, changes nothing.
    ///
    /// @param id   of a run that is known
    /// @param uid  who asked
    /// Errors: a Problem, not_abortable: the run only finishes what a daemon before us began
    std::variant<RunView, Problem> abort(const std::string& id, uid_t uid);

    /// Whether a VM can go back to the binary that it came from.
    WayBack way_back(const std::string& vm) const;
    /// Of each, in their order.
    std::vector<WayBack> ways_back(const std::vector<VmView>& vms) const;

    /// What the configuration says about a VM, and whether an upgrade of it may begin now.
    struct Policy {
        VmPolicy policy;
        bool is_window_open = true;
        // What holds for the VM, of its policy or else of the whole configuration.
        std::chrono::milliseconds pause_budget{0};
        std::string rehearse = {};
        std::string rehearse_back = {};
    };
    Policy policy(const std::string& vm) const;

    /// From here on no run touches the VM; one that is being upgraded now is finished.
    ///
    /// @return  the hold as it holds; it is in the journal
    /// Errors:        a Problem: no such VM, an end that is over, the journal
    /// After failure: the VM is held as it was before
    [[nodiscard]] awaitable<std::variant<HoldView, Problem>> hold(HoldView hold);

    /// Takes the hold off, also of a VM that is not there any more.
    ///
    /// @return  the hold that it was
    /// Errors:        a Problem: it is not held, the journal
    /// After failure: the VM is held as it was before
    [[nodiscard]] awaitable<std::variant<HoldView, Problem>> unhold(std::string vm, uid_t uid);

    /// Remembers what somebody asked for.
    [[nodiscard]] awaitable<void> record(HistoryView entry) {
        return history_.sign(history_.note(std::move(entry)));
    }
    /// The entry of a run that was started: who asked for it.
    [[nodiscard]] awaitable<void> sign(std::uint64_t entry) { return history_.sign(entry); }
    const History& history() const noexcept { return history_.history(); }

    /// VMs that need an operator and are not there; of the others, what the registry says of them
    /// says it.
    std::vector<AttentionView> gone() const;
    /// How many need one.
    std::size_t needing_operator() const { return book_.attention().list().size(); }

    std::optional<HoldView> hold_of(const std::string& vm) const;
    std::vector<HoldView> holds() const;

    /// May this VM go to that release? Touches nothing.
    /// @param allow  code of a refusal that is overruled
    [[nodiscard]] awaitable<std::variant<CheckView, Problem>>
    check(std::string vm, std::string to, std::string allow = {});

    /// All runs that are remembered, newest first.
    std::vector<RunView> list() const;
    std::optional<RunView> find(const std::string& id) const;

    using Progress = RunBook::Progress;
    /// Waits for events of a run.
    /// Cancellation: ends the wait
    [[nodiscard]] awaitable<Progress>
    next_events(std::string id, std::uint64_t after, Deadline deadline);

    /// Looks for what a daemon before us left, and starts to finish or undo it. Returns as soon as
    /// every VM that is concerned is marked as busy.
    [[nodiscard]] awaitable<void> start_recovery();
    bool is_recovering() const noexcept;

    /// No further VM is touched; those in their pause finish it.
    void request_stop();

    /// Writes what is left to the journal. Call when no upgrade is in work any more.
    [[nodiscard]] awaitable<void> close_journal();

    /// Counts for the status line.
    std::size_t running() const noexcept;

    using InProgress = RunBook::InProgress;
    [[nodiscard]] InProgress in_progress() const noexcept;

private:
    [[nodiscard]] std::optional<Problem> find_problem(const RunRequest& request) const;
    [[nodiscard]] awaitable<std::optional<std::variant<Started, Problem>>>
    find_same(RunRequest request);
    using SourceFacts = std::map<std::string, BinaryCatalog::Facts>;
    [[nodiscard]] awaitable<SourceFacts> facts_of_sources(std::vector<std::string> names);
    void add_vm(
        Run& run,
        const std::string& name,
        const std::optional<ReleaseShelf::Picked>& picked,
        const std::string& way_back
    ) const;
    [[nodiscard]] awaitable<void> pick_kept(RunPtr run);
    [[nodiscard]] awaitable<std::variant<Started, Problem>>
    begin(RunPtr run, std::optional<HistoryView> asked);
    void end_start(const RunPtr& run);
    [[nodiscard]] awaitable<std::string> start_way_back(RunRequest request);
    std::vector<std::string> select(const RunRequest& request) const;
    void put_again();
    bool
    needs_selftest(const std::string& vm, const std::string& from, const std::string& to) const;
    [[nodiscard]] awaitable<void> warn_of_untested(RunPtr run);
    [[nodiscard]] awaitable<std::vector<std::string>>
    find_untried(std::string vm, SelftestView selftest);

    Strand home_;
    Journal journal_;
    upgrade::SlotGate gate_;
    RunServices services_;
    HistoryStore history_;
    RunBook book_;
    HoldStore holds_;
    KeptBinaries kept_;
    WaysBack ways_back_;
    VmUpgrades upgrades_;
    StageRunner stages_;
    RunRecovery recovery_;
    WayBackRehearsals rehearsals_;
    std::size_t asked_ = 0; // requests of clients that are about to become runs
    FindSelftest find_selftest_;
    bool is_stopping_ = false;
};

} // namespace qhup::daemon
