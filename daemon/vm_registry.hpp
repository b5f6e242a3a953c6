// SPDX-License-Identifier: GPL-2.0-or-later
//
// Which VMs there are: finds their QMP sockets, asks each one who it is, and remembers the answer.
// A socket that is dead, silent, slow or full of garbage costs nobody but its own entry.
// It changes nothing in a VM. Used by the API handlers and by the runs.
#pragma once

#include "common/async.hpp"
#include "common/task_group.hpp"
#include "daemon/api_types_events.hpp"
#include "daemon/config.hpp"
#include "daemon/vm_view.hpp"

#include <chrono>
#include <cstddef>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace qhup::daemon {

/// What a run needs to know to work on a VM.
struct VmHandle {
    std::string name;       ///< of the VM
    std::string socket;     ///< its QMP socket
    Strand strand;          ///< where everything about this VM happens
    pid_t listener_pid = 0; ///< who made the socket
    uid_t listener_uid = 0; ///< as which user
    pid_t claimed_pid = 0;  ///< who QEMU says that it is
    std::string unfinished; ///< upgrade that QEMU was in when it was asked last; else ""
};

/// Thread: all members on the daemon's home strand.
class VmRegistry {
public:
    /// @param home  the daemon's strand
    /// @param disk  a pool for blocking calls
    VmRegistry(
        asio::io_context& context,
        Strand home,
        asio::thread_pool& disk,
        TaskGroup& tasks,
        const Config& config
    );
    VmRegistry(const VmRegistry&) = delete;
    VmRegistry& operator=(const VmRegistry&) = delete;
    ~VmRegistry();

    /// From now on this configuration holds, as far as it is about finding VMs.
    void use(const Config& config);

    /// Called with vm_found, vm_changed or vm_gone when what is known of a VM is not what it was.
    /// Age and run of the VM do not count. It must not call the registry.
    using OnChange = std::function<void(EventType type, const VmView& vm)>;
    void set_on_change(OnChange on_change) { on_change_ = std::move(on_change); }

    /// Whether a VM needs an operator, and whom to tell when one was asked that is in no run.
    /// Neither may call the registry.
    using FindAttention = std::function<std::optional<AttentionView>(const std::string& vm)>;
    using OnLook = std::function<void(const std::string& vm, const VmProbe& probe)>;
    void set_attention(FindAttention find, OnLook on_look);
    /// Tells of all that were asked, as on_look would have been.
    void tell_looks() const;

    /// Looks for sockets and asks every VM that is in no run, all at once.
    ///
    /// Returns when all have answered that answered the last time; the others get a short grace,
    /// and their answers come in later. Never takes longer than the probe deadline and a little.
    [[nodiscard]] awaitable<void> refresh();

    /// The same for who only wants to look: of many VMs, those whose turn does not come within a
    /// moment are not waited for. They are asked in the background; list() says how old they are.
    [[nodiscard]] awaitable<void> refresh_some();

    /// Asks one VM again. Returns when it has answered or its deadline is over.
    [[nodiscard]] awaitable<void> refresh_vm(std::string name);

    /// All VMs as they were when they were asked last, by name.
    std::vector<VmView> list() const;
    std::optional<VmView> find(std::string_view name) const;
    std::vector<std::string> names() const;
    VmLabels labels_of_vm(std::string_view name) const; ///< none for a VM that is not there
    std::optional<VmHandle> handle_of(std::string_view name) const;

    /// A run takes the VM: nobody else asks it from here on. False if another one has it.
    bool acquire(std::string_view name, const std::string& run);
    /// Waits until no probe of the VM is under way. Call after acquire().
    [[nodiscard]] awaitable<void> wait_quiet(std::string name);
    /// Asks a VM that a run has, and nobody works on: what find() says then is from after the call.
    /// Returns when the VM has answered or its deadline is over, however many are asked at once.
    [[nodiscard]] awaitable<void> look_at_acquired(std::string name);
    /// The run is done with the VM.
    void release(std::string_view name);
    /// The run that has the VM, or "".
    std::string run_of(std::string_view name) const;

    /// Looks again and again until cancelled.
    [[nodiscard]] awaitable<void> run_rescans();

private:
    struct Entry;
    struct Asked;

    [[nodiscard]] awaitable<void> rescan();
    void start_probe(const std::shared_ptr<Entry>& entry);
    bool is_named_elsewhere(const Entry& entry, const VmProbe& probe) const;
    void queue_probe(const std::shared_ptr<Entry>& entry);
    void start_waiting_probes();
    /// Begins no probe for a moment, unless somebody needs one.
    [[nodiscard]] awaitable<void> rest_from_probes();
    void end_rest();
    [[nodiscard]] awaitable<void> run_probe(std::shared_ptr<Entry> entry, bool is_silent);
    /// Asks all that are in no run and were not asked a moment ago.
    Asked ask_all();
    [[nodiscard]] awaitable<void> wait_for_probes(
        std::vector<std::shared_ptr<Entry>> entries, std::chrono::milliseconds patience
    );
    void rename_all();
    void tell_look(const Entry& entry) const;
    void tell_change(Entry& entry) const;
    void tell_gone(Entry& entry) const;
    VmView view_of(const Entry& entry) const;
    void take_labels(Entry& entry, const Result<VmLabels>& read) const;
    std::shared_ptr<Entry> entry_of(std::string_view name) const;

    asio::io_context& context_;
    Strand home_;
    asio::thread_pool& disk_;
    TaskGroup& tasks_;
    OnChange on_change_;
    FindAttention find_attention_;
    OnLook on_look_;
    Config::Discovery discovery_;
    std::string selftest_guests_; // glob of sockets that are found whatever is configured
    std::vector<LabelRule> label_rules_;
    std::chrono::milliseconds probe_deadline_;
    std::map<std::string, std::shared_ptr<Entry>> entries_; // by socket path
    std::map<std::string, std::string> names_;              // VM name to socket path
    std::vector<std::shared_ptr<Notifier>> waiters_;

    /// Probes that may be under way at once, and those that wait for that.
    struct Lane {
        std::deque<std::shared_ptr<Entry>> waiting;
        std::size_t under_way = 0;
    };
    Lane answering_; // VMs that answered the last time, and new ones
    Lane silent_;    // the others: they wait for each other, and for nobody else
    std::chrono::steady_clock::time_point rest_until_; // waiting probes do not begin before
    bool is_renaming_due_ = false;
};

} // namespace qhup::daemon
