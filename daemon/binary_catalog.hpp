// SPDX-License-Identifier: GPL-2.0-or-later
//
// What the binaries of releases say of themselves, each asked once, when it is first wanted, and
// remembered by its hash. It decides nothing: a binary that cannot be asked is one of which nothing
// is known, and what it lacks shows at prepare, as it did before anybody asked.
#pragma once

#include "common/async.hpp"
#include "upgrade-engine/binary_facts.hpp"
#include "upgrade-engine/binary_store.hpp"

#include <chrono>
#include <map>
#include <memory>
#include <string>
#include <vector>

namespace qhup::daemon {

/// Thread: the daemon's home strand.
class BinaryCatalog {
public:
    /// null: nothing is known
    using Facts = std::shared_ptr<const upgrade::BinaryFacts>;

    /// What the binary says of itself: at once if it is known, else after some 100 ms, and after
    /// seconds if the binary hangs. Whoever asks while it is being asked gets the same answer.
    ///
    /// @param key  probe_key() of the binary, as of now
    /// Cancellation: not cancellable
    [[nodiscard]] awaitable<Facts>
    ask(std::shared_ptr<const upgrade::PinnedBinary> binary, std::string key);

    /// The same for a binary that was asked before; null if none with that build id was.
    [[nodiscard]] Facts find(const std::string& build_id) const;

private:
    struct Entry {
        Facts facts;
        std::string build_id;
        bool is_asking = true;
        std::chrono::steady_clock::time_point asked; ///< when it was answered, or was not
        std::vector<std::shared_ptr<Notifier>> waiting;
    };

    void make_room();

    // why: one of its own, since a binary that hangs must not keep others from the disk; a process
    // ends with the thread that started it, and this one lives as long as the daemon.
    asio::thread_pool pool_{1};
    std::map<std::string, std::shared_ptr<Entry>> entries_; // by probe_key()
};

} // namespace qhup::daemon
