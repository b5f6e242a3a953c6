// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/binary_catalog.hpp"

#include "common/log.hpp"
#include "upgrade-engine/binary_probe.hpp"

#include <algorithm>
#include <optional>
#include <utility>

namespace qhup::daemon {
namespace {

constexpr std::chrono::seconds kPatience{5};  // with one binary
constexpr std::chrono::minutes kAskAgain{10}; // one that could not be asked
constexpr std::size_t kMaxEntries = 32;       // far more than releases and kept binaries
using upgrade::BinaryFacts;
using upgrade::PinnedBinary;

} // namespace

BinaryCatalog::Facts BinaryCatalog::find(const std::string& build_id) const {
    const auto found =
        std::find_if(entries_.begin(), entries_.end(), [&build_id](const auto& entry) {
            return !build_id.empty() && entry.second->build_id == build_id && entry.second->facts;
        });
    return found == entries_.end() ? nullptr : found->second->facts;
}

/// Forgets the one that was asked longest ago.
void BinaryCatalog::make_room() {
    auto oldest = entries_.end();
    for (auto it = entries_.begin(); it != entries_.end(); ++it) {
        const bool is_older = oldest == entries_.end() || it->second->asked < oldest->second->asked;
        oldest = !it->second->is_asking && is_older ? it : oldest;
    }
    if (entries_.size() >= kMaxEntries && oldest != entries_.end()) {
        entries_.erase(oldest);
    }
}

awaitable<BinaryCatalog::Facts>
BinaryCatalog::ask(std::shared_ptr<const PinnedBinary> binary, std::string key) {
    const auto known = entries_.find(key);
    if (known != entries_.end()) {
        const std::shared_ptr<Entry> entry = known->second;
        while (entry->is_asking) {
            const auto executor = co_await asio::this_coro::executor;
            const auto answered = std::make_shared<Notifier>(executor);
            entry->waiting.push_back(answered);
            co_await answered->wait_uncancelled();
        }
        const auto age = std::chrono::steady_clock::now() - entry->asked;
        if (entry->facts || age < kAskAgain) {
            co_return entry->facts;
        }
    }
    make_room();
    const auto entry = std::make_shared<Entry>();
    entry->build_id = binary->build_id;
    entries_[key] = entry;
    auto work = [binary] { return upgrade::probe_binary(*binary, Deadline::in(kPatience)); };
    Result<BinaryFacts> facts = co_await blocking(pool_, std::move(work));
    if (facts.has_value()) {
        log().info(
            "{} was asked what it is: {} machine types, {} types{}",
            binary->release.path,
            facts->machines.size(),
            facts->types.size(),
            facts->is_patched ? "" : ", without hot upgrades"
        );
        entry->facts = std::make_shared<const BinaryFacts>(std::move(*facts));
    } else {
        log_failure("what the release cannot do will show at prepare", facts.error());
    }
    entry->asked = std::chrono::steady_clock::now();
    entry->is_asking = false;
    for (const auto& each : entry->waiting) {
        each->notify();
    }
    co_return entry->facts;
}

} // namespace qhup::daemon
