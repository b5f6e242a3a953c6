// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/history_store.hpp"

#include "common/log.hpp"
#include "daemon/wall_clock.hpp"

#include <pwd.h>

#include <algorithm>
#include <chrono>
#include <deque>
#include <string>
#include <utility>

namespace qhup::daemon {
namespace {

constexpr std::chrono::milliseconds kEntryIsWritten{2000}; // whoever asks does not wait longer

/// Asks the name service, which can block. "" if it knows no name.
std::string user_name(std::int64_t uid) {
    std::vector<char> buffer(16U * 1024U);
    passwd entry{};
    passwd* found = nullptr;
    const int error =
        ::getpwuid_r(static_cast<uid_t>(uid), &entry, buffer.data(), buffer.size(), &found);
    return error == 0 && found != nullptr ? std::string(found->pw_name) : std::string();
}

} // namespace

std::vector<JournalChange> HistoryStore::add(HistoryView entry) {
    const std::uint64_t oldest = history_.oldest();
    entry.time_unix_ms = unix_ms_now();
    std::vector<JournalChange> changes;
    changes.push_back({JournalChange::Kind::put, make_history_row(history_.add(std::move(entry)))});
    if (history_.oldest() > oldest && oldest > 0) {
        changes.push_back(forget_history(history_.oldest() - 1));
    }
    return changes;
}

std::uint64_t HistoryStore::note(HistoryView entry) {
    journal_.put(add(std::move(entry)));
    return history_.entries().back().id;
}

awaitable<void> HistoryStore::sign(std::uint64_t id) {
    const std::deque<HistoryView>& entries = history_.entries();
    const auto entry = std::find_if(entries.rbegin(), entries.rend(), [id](const auto& each) {
        return each.id == id;
    });
    if (entry == entries.rend() || !entry->by) {
        co_return;
    }
    auto look = [uid = entry->by->uid] { return user_name(uid); };
    std::string user = co_await blocking(disk_, std::move(look));
    const HistoryView* const signed_entry = history_.name_asker(id, std::move(user));
    if (signed_entry == nullptr) {
        co_return;
    }
    std::vector<JournalChange> changes;
    changes.push_back({JournalChange::Kind::put, make_history_row(*signed_entry)});
    const Deadline patience = Deadline::in(kEntryIsWritten);
    auto writing = journal_.write(std::move(changes), Journal::IfNotWritten::keep, patience);
    const Result<void> written = co_await std::move(writing);
    if (written.has_error()) {
        log_failure("writing the history", written.error());
    }
}

void HistoryStore::put_again() {
    for (const HistoryView& entry : history_.entries()) {
        journal_.put({{JournalChange::Kind::put, make_history_row(entry)}});
    }
}

} // namespace qhup::daemon
