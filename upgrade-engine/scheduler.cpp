// SPDX-License-Identifier: GPL-2.0-or-later
#include "upgrade-engine/scheduler.hpp"

#include <algorithm>

namespace qhup::upgrade {

Scheduler::Scheduler(SchedulerLimits limits) noexcept
    : limits_{std::max(limits.prepare_slots, 1U), std::max(limits.pause_slots, 1U)} {}

BatchId Scheduler::add_batch(BatchLimits limits) {
    const BatchId id{next_batch_++};
    limits.parallel = std::max(limits.parallel, 1U);
    batches_[id].limits = limits;
    return id;
}

Ticket Scheduler::add_vm(BatchId batch) {
    const Ticket ticket{next_ticket_++};
    entries_.emplace(ticket, Entry{batch, Stage::queued});
    return ticket;
}

void Scheduler::on_prepared(Ticket ticket) {
    const auto found = entries_.find(ticket);
    if (found != entries_.end() && found->second.stage == Stage::preparing) {
        found->second.stage = Stage::waiting;
    }
}

void Scheduler::on_pause_over(Ticket ticket) {
    const auto found = entries_.find(ticket);
    if (found != entries_.end() && found->second.stage == Stage::pausing) {
        found->second.stage = Stage::after_pause;
    }
}

void Scheduler::on_finished(Ticket ticket, bool is_failure) {
    const auto found = entries_.find(ticket);
    if (found == entries_.end()) {
        return;
    }
    Batch& batch = batches_[found->second.batch];
    if (found->second.is_in_work) {
        --batch.in_work;
    }
    entries_.erase(found);
    if (!is_failure) {
        return;
    }
    ++batch.failures;
    if (batch.limits.stop_after_failures != 0 &&
        batch.failures >= batch.limits.stop_after_failures) {
        batch.is_stopped = true;
    }
}

void Scheduler::on_stop(BatchId batch) {
    batches_[batch].is_stopped = true;
}

bool Scheduler::is_stopped(BatchId batch) const noexcept {
    const auto found = batches_.find(batch);
    return found != batches_.end() && found->second.is_stopped;
}

std::uint32_t Scheduler::count(Stage stage) const noexcept {
    return static_cast<std::uint32_t>(std::count_if(
        entries_.begin(),
        entries_.end(),
        [&](const auto& item) { return item.second.stage == stage; }
    ));
}

std::vector<Grant> Scheduler::next_grants() {
    std::vector<Grant> grants;
    std::uint32_t preparing = count(Stage::preparing);
    std::uint32_t pausing = count(Stage::pausing);
    for (auto& [ticket, entry] : entries_) {
        Batch& batch = batches_[entry.batch];
        const bool is_waiting = entry.stage == Stage::queued || entry.stage == Stage::waiting;
        if (is_waiting && batch.is_stopped) {
            entry.stage = Stage::told_to_stop;
            grants.push_back({ticket, GrantKind::stop});
        } else if (entry.stage == Stage::queued && preparing < limits_.prepare_slots &&
                   batch.in_work < batch.limits.parallel) {
            entry.stage = Stage::preparing;
            entry.is_in_work = true;
            ++batch.in_work;
            ++preparing;
            grants.push_back({ticket, GrantKind::start});
        } else if (entry.stage == Stage::waiting && pausing < limits_.pause_slots) {
            entry.stage = Stage::pausing;
            ++pausing;
            grants.push_back({ticket, GrantKind::pause});
        }
    }
    return grants;
}

} // namespace qhup::upgrade
