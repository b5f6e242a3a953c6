// SPDX-License-Identifier: GPL-2.0-or-later
//
// The runs: starts upgrades of many VMs through the engine, collects what becomes of each, tells
// followers, and after a restart finishes or undoes what a daemon before us began.
// It decides nothing about a VM: the engine and the pair do.
#pragma once

#include "common/async.hpp"
#include "common/task_group.hpp"
#include "daemon/api_types.hpp"
#include "daemon/config.hpp"
#include "daemon/control_folders.hpp"
#include "daemon/holds.hpp"
#include "daemon/journal.hpp"
#include "daemon/pause_history.hpp"
#include "daemon/probe_command.hpp"
#include "daemon/release_shelf.hpp"
#include "daemon/vm_registry.hpp"
#include "upgrade-engine/memory_ledger.hpp"
#include "upgrade-engine/qmp_vm_port.hpp"
#include "upgrade-engine/recovery.hpp"
#include "upgrade-engine/rehearsal_order.hpp"
#include "upgrade-engine/runner.hpp"
#include "upgrade-engine/slot_gate.hpp"

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
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
        const Config& config,
        std::string fault
    );
    UpgradeRuns(const UpgradeRuns&) = delete;
    UpgradeRuns& operator=(const UpgradeRuns&) = delete;
    ~UpgradeRuns();

    /// Starts a run. It is in the journal before a VM is touched.
    /// @param uid  who asked
    /// A request with an id that was seen before starts nothing: it gets the run that it started
    /// then, across restarts, as long as that is remembered.
    /// Errors: a Problem; nothing was started then
    struct Started {
        RunView run;
        bool is_new = true; ///< false: the same request had started it before
    };
    [[nodiscard]] awaitable<std::variant<Started, Problem>> start(RunRequest request, uid_t uid);

    /// No further VM of the run is begun, and one that is not paused yet is given up: these end
    /// refused with the code `stopped`. A VM in its pause finishes or rolls back. Asking again, or
    /// asking about a run that has finished, changes nothing.
    ///
    /// @param id   of a run that is known
    /// @param uid  who asked
    /// Errors: a Problem, not_abortable: the run only finishes what a daemon before us began
    std::variant<RunView, Problem> abort(const std::string& id, uid_t uid);

    /// Whether a VM can go back to the binary that it came from.
    struct WayBack {
        bool is_open = false;
        std::string version;  ///< that it would go back to; "" if it came from nowhere
        std::string build_id; ///< of that binary
        std::string reason;   ///< why it is not open
    };
    WayBack way_back(const std::string& vm) const;

    /// What the configuration says about a VM, and whether an upgrade of it may begin now.
    struct Policy {
        VmPolicy policy;
        bool is_window_open = true;
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

    std::optional<HoldView> hold_of(const std::string& vm) const;
    std::vector<HoldView> holds() const;

    /// May this VM go to that release? Touches nothing.
    [[nodiscard]] awaitable<std::variant<CheckView, Problem>> check(std::string vm, std::string to);

    /// All runs that are remembered, newest first.
    std::vector<RunView> list() const;
    std::optional<RunView> find(const std::string& id) const;

    /// What followers get: events after that number, or none if nothing came before the deadline.
    struct Progress {
        bool is_known = true;         ///< there is such a run
        std::vector<RunEvent> events; ///< in order; the last one of a run has `run`
    };
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

private:
    struct Run;
    struct OrphanLooks;
    using RunPtr = std::shared_ptr<Run>;

    RunPtr make_run(std::string id, std::string kind);
    upgrade::RunnerConfig runner_config() const;
    upgrade::UpgradeObserver make_observer(const RunPtr& run, std::size_t index);
    upgrade::Admission make_admission(const RunPtr& run, std::size_t index);
    [[nodiscard]] awaitable<Result<void>> admit(RunPtr run, std::size_t index);
    [[nodiscard]] awaitable<Result<void>>
    wait_for_memory(RunPtr run, std::size_t index, pid_t source);
    void release_memory(const Run& run, std::size_t index);
    upgrade::GuestProbe make_probe(const Run& run, std::size_t index) const;
    std::optional<ProbeCommand> probe_of(const Run& run, std::size_t index) const;
    upgrade::IntentWriter make_intent_writer(const RunPtr& run, std::size_t index);
    void on_view(const RunPtr& run, std::size_t index, RunVmView view);
    [[nodiscard]] awaitable<void> end_vm(RunPtr run, std::size_t index, RunVmView view);
    void add_event(const RunPtr& run, RunEvent event);
    [[nodiscard]] awaitable<Result<void>>
    write_intent(RunPtr run, std::size_t index, RunVmView view, Deadline deadline);
    void put_again();
    RunPtr run_of_request(const std::string& request_id) const;
    [[nodiscard]] awaitable<std::optional<std::variant<Started, Problem>>>
    find_same(RunRequest request);
    void end_start(const RunPtr& run);
    void stop_run(const RunPtr& run, std::string by, std::string reason = {});
    [[nodiscard]] awaitable<std::optional<Problem>> find_problem(const RunRequest& request);
    void add_policy(Run& run, const std::string& vm) const;
    std::vector<std::string> select(const RunRequest& request) const;
    using Picks = std::vector<std::optional<ReleaseShelf::Picked>>; // by index; none: no way back
    void open_batch(const RunPtr& run);
    void start_vms(const RunPtr& run, std::uint32_t stage);
    void plan_run(Run& run) const;
    void look_again(Run& run, std::uint32_t stage) const;
    void set_stage(const RunPtr& run, StageView stage);
    [[nodiscard]] awaitable<void> run_stages(RunPtr run);
    [[nodiscard]] awaitable<bool> soak(RunPtr run);
    [[nodiscard]] awaitable<std::optional<std::string>> look_at_soaking(RunPtr run);
    [[nodiscard]] awaitable<void> end_unbegun(RunPtr run);
    [[nodiscard]] awaitable<void> resume_stages(RunPtr run);
    [[nodiscard]] awaitable<std::optional<Problem>>
    write_hold(JournalChange change, std::string doing);
    std::optional<RunVmView> take_vm(const Run& run, std::size_t index, bool has_pick);
    std::map<std::string, CameFrom> choose_ways_back(RunRequest& request) const;
    [[nodiscard]] awaitable<std::optional<ReleaseShelf::Picked>> open_kept(std::string build_id);
    [[nodiscard]] awaitable<void> pick_kept(std::string build_id, Run& run);
    [[nodiscard]] awaitable<BinaryCatalog::Facts>
    ask_kept(std::string build_id, std::shared_ptr<const upgrade::PinnedBinary> binary);
    [[nodiscard]] awaitable<BinaryCatalog::Facts> source_facts(std::string build_id);
    void add_kept_tails(ReleaseShelf::Picked& picked) const;
    [[nodiscard]] awaitable<void> keep_source(RunPtr run, std::size_t index);
    [[nodiscard]] awaitable<bool> make_room_for_kept();
    std::set<std::string> needed_binaries() const;
    RunHistory history() const;
    void choose_kinds(Run& run) const;
    bool is_rehearsed(const Run& run, std::size_t index) const;
    void end_rehearsal(const RunPtr& run, std::size_t index, const RunVmView& view);
    void leave_rehearsals(const RunPtr& run, std::size_t index);
    [[nodiscard]] awaitable<upgrade::RehearsalTurn> wait_to_rehearse(RunPtr run, std::size_t index);
    [[nodiscard]] awaitable<std::optional<RunVmView>> rehearse_first(
        RunPtr run, std::size_t index, VmHandle vm, ReleaseShelf::Picked picked, std::string folder
    );
    [[nodiscard]] awaitable<upgrade::UpgradeReport> run_engine(
        RunPtr run,
        std::size_t index,
        VmHandle vm,
        ReleaseShelf::Picked picked,
        std::string folder,
        std::shared_ptr<upgrade::SlotGate::Turn> turn,
        upgrade::Goal goal
    );
    [[nodiscard]] awaitable<void> run_vm(
        RunPtr run,
        std::size_t index,
        VmHandle vm,
        ReleaseShelf::Picked picked,
        std::shared_ptr<upgrade::SlotGate::Turn> turn
    );
    [[nodiscard]] awaitable<RunVmView>
    take_back(RunPtr run, std::size_t index, VmHandle vm, std::string folder, RunVmView unwell);
    [[nodiscard]] awaitable<std::optional<RunVmView>>
    revert_vm(RunPtr run, std::size_t index, VmHandle vm, std::string folder);
    [[nodiscard]] awaitable<void> end_stray(VmHandle vm, std::string folder);
    void resume_run(RunView record, std::vector<FoundUpgrade>& found);
    [[nodiscard]] awaitable<void>
    look_at_orphan(FoundUpgrade entry, std::shared_ptr<OrphanLooks> looks);
    [[nodiscard]] awaitable<void> adopt_orphans(std::vector<FoundUpgrade> found);
    [[nodiscard]] awaitable<void>
    recover_vm(RunPtr run, std::size_t index, std::optional<FoundUpgrade> found);
    [[nodiscard]] awaitable<void> count_recovery(RunPtr run, std::size_t index);
    std::uint32_t recoveries_of(const std::string& upgrade) const;
    RunVmView view_without_pair(const Run& run, std::size_t index) const;
    std::string vm_of_folder(const std::string& folder) const;
    void forget_old();

    asio::io_context& context_;
    Strand home_;
    asio::thread_pool& disk_;
    TaskGroup& tasks_;
    VmRegistry& registry_;
    ReleaseShelf& shelf_;
    const Config& config_;
    Journal journal_;
    std::uint32_t pause_slots_;
    upgrade::SlotGate gate_;
    upgrade::MemoryLedger memory_;
    std::vector<std::shared_ptr<Notifier>> waiting_for_memory_;
    std::map<std::string, RunPtr> runs_;
    std::vector<std::string> order_; // of ids, oldest first
    std::string kept_root_;
    std::set<std::string> kept_;                 // build ids of binaries that VMs can go back to
    std::map<std::string, std::string> keeping_; // those that are being kept, or why they cannot be
    Holds holds_;
    std::uint64_t next_number_ = 1;
    bool is_stopping_ = false;
};

} // namespace qhup::daemon
