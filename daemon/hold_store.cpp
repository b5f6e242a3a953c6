// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/hold_store.hpp"

#include "common/log.hpp"
#include "common/text.hpp"
#include "daemon/vm_not_found.hpp"
#include "daemon/wall_clock.hpp"

#include <chrono>
#include <utility>

namespace qhup::daemon {
namespace {

constexpr std::chrono::milliseconds kHoldIsWritten{5000}; // whoever asks does not wait longer

} // namespace

void HoldStore::load(std::vector<HoldView> holds) {
    holds_ = Holds(std::move(holds), unix_ms_now());
}

void HoldStore::put_again() {
    for (const HoldView& hold : list()) {
        journal_.put({{JournalChange::Kind::put, make_hold_row(hold)}});
    }
}

std::optional<HoldView> HoldStore::find(const std::string& vm) const {
    return holds_.find(vm, unix_ms_now());
}

std::vector<HoldView> HoldStore::list() const {
    return holds_.list(unix_ms_now());
}

/// It is on disk before anybody is told of it, and before it holds.
awaitable<std::optional<Problem>> HoldStore::write_hold(JournalChange change, std::string doing) {
    std::vector<JournalChange> changes;
    for (const std::string& vm : holds_.drop_expired(unix_ms_now())) {
        log().info("{}: its hold has expired", vm);
        changes.push_back(forget_hold(vm));
    }
    changes.push_back(std::move(change));
    const Deadline patience = Deadline::in(kHoldIsWritten);
    auto writing = journal_.write(std::move(changes), Journal::IfNotWritten::drop, patience);
    const Result<void> written = co_await std::move(writing);
    if (written.has_error()) {
        log_failure(doing, written.error());
        co_return make_problem(
            ProblemCode::journal_failed,
            "The hold cannot be written to the journal below " + services_.config.state_dir +
                ", so nothing was changed.",
            "Make room on that disk, or see the log of qhupd."
        );
    }
    co_return std::nullopt;
}

awaitable<std::variant<HoldView, Problem>> HoldStore::hold(HoldView hold) {
    co_await services_.registry.refresh_vm(hold.vm);
    if (!services_.registry.handle_of(hold.vm)) {
        co_return make_vm_not_found(hold.vm, services_.registry.list());
    }
    hold.since_unix_ms = unix_ms_now();
    if (hold.until_unix_ms != 0 && hold.until_unix_ms <= hold.since_unix_ms) {
        co_return make_problem(
            ProblemCode::bad_request, "The end of the hold is over.", "Name a time that is to come."
        );
    }
    auto writing =
        write_hold({JournalChange::Kind::put, make_hold_row(hold)}, "holding VM " + hold.vm);
    auto problem = co_await std::move(writing);
    if (problem) {
        co_return std::move(*problem);
    }
    log().info("{} by uid {}", quote_peer_text(describe(hold)), hold.by_uid);
    holds_.put(hold);
    services_.events.publish(make_hold_event(EventType::hold_set, hold));
    co_return hold;
}

awaitable<std::variant<HoldView, Problem>> HoldStore::unhold(std::string vm, uid_t uid) {
    const std::optional<HoldView> hold = find(vm);
    if (!hold) {
        co_return make_problem(
            ProblemCode::hold_not_found,
            "VM '" + vm + "' is not held.",
            "'qhupd-ctl list' shows which VMs are."
        );
    }
    auto writing = write_hold(forget_hold(vm), "taking the hold off VM " + vm);
    auto problem = co_await std::move(writing);
    if (problem) {
        co_return std::move(*problem);
    }
    log().info("VM {} is not held any longer, as uid {} asked", vm, uid);
    (void)holds_.remove(vm);
    services_.events.publish(make_hold_event(EventType::hold_removed, *hold));
    co_return *hold;
}

} // namespace qhup::daemon
