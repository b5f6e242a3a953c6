// SPDX-License-Identifier: GPL-2.0-or-later
//
// Which VMs may start, and which may be paused, now. Pure: inputs are what happened, output is who
// may go on. Two limits hold for the whole host (prepare slots, pause slots), two for each batch
// (how many VMs are in work at once, after how many failures no further VM is touched).
// The order is that in which the VMs were added, so the same inputs give the same run.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <vector>

namespace qhup::upgrade {

/// Limits of the host. Zero counts as one.
struct SchedulerLimits {
    std::uint32_t prepare_slots = 2; ///< VMs in preflight or prepare at once
    std::uint32_t pause_slots = 1;   ///< VMs in their pause at once
};

/// Limits of one batch.
struct BatchLimits {
    std::uint32_t parallel = 1;            ///< VMs in work at once; zero counts as one
    std::uint32_t stop_after_failures = 0; ///< no further VM is touched after that many; 0: never
};

enum class BatchId : std::uint64_t {};
enum class Ticket : std::uint64_t {};

/// What a VM is told.
enum class GrantKind : std::uint8_t {
    start, ///< it may enter preflight
    pause, ///< it may be paused
    stop,  ///< its batch was stopped before it was paused: give up
};

struct Grant {
    Ticket ticket;
    GrantKind kind;

    bool operator==(const Grant&) const = default;
};

class Scheduler {
public:
    explicit Scheduler(SchedulerLimits limits) noexcept;

    /// A new batch, which has no VM yet.
    [[nodiscard]] BatchId add_batch(BatchLimits limits);

    /// Adds a VM at the end of the order. It waits to start.
    [[nodiscard]] Ticket add_vm(BatchId batch);

    /// The VM is prepared: it gives its prepare slot back and waits to be paused.
    void on_prepared(Ticket ticket);

    /// The guest runs again, here or there: the pause slot is free.
    void on_pause_over(Ticket ticket);

    /// The VM is done and gives back whatever it has. A second call does nothing.
    /// @param is_failure  counts towards stop_after_failures
    void on_finished(Ticket ticket, bool is_failure);

    /// No VM of this batch is touched any more; those in their pause finish it.
    void on_stop(BatchId batch);

    /// Everybody who may go on now, each told once, in order.
    [[nodiscard]] std::vector<Grant> next_grants();

    /// True when the batch was stopped, by on_stop() or by too many failures.
    [[nodiscard]] bool is_stopped(BatchId batch) const noexcept;

private:
    enum class Stage : std::uint8_t {
        queued,
        preparing,
        waiting,
        pausing,
        after_pause,
        told_to_stop
    };
    struct Batch {
        BatchLimits limits;
        std::uint32_t failures = 0;
        std::uint32_t in_work = 0;
        bool is_stopped = false;
    };
    struct Entry {
        BatchId batch;
        Stage stage;
        bool is_in_work = false; // counts towards its batch's `parallel`
    };

    [[nodiscard]] std::uint32_t count(Stage stage) const noexcept;

    SchedulerLimits limits_;
    std::map<BatchId, Batch> batches_;
    std::map<Ticket, Entry> entries_; // invariant: ordered by number, which is the order of arrival
    std::uint64_t next_batch_ = 1;
    std::uint64_t next_ticket_ = 1;
};

} // namespace qhup::upgrade
