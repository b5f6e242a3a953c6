// SPDX-License-Identifier: GPL-2.0-or-later
//
// The binaries that VMs came from, kept for the way back: which there are, why one is not, and what
// a run gets of them. How one is kept and opened is upgrade-engine/kept_binary's business.
#pragma once

#include "daemon/binary_catalog.hpp"
#include "daemon/run.hpp"

#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>

namespace qhup::daemon {

/// Thread: all members on the home strand.
class KeptBinaries {
public:
    explicit KeptBinaries(RunServices services);

    /// Looks for those that daemons before us have kept. The log says why one cannot be used.
    [[nodiscard]] awaitable<void> load();

    /// It can be gone back to, as far as could be seen when it was looked at last.
    bool is_kept(const std::string& build_id) const { return kept_.contains(build_id); }
    /// Why it cannot be used, or was not kept the last time; "" if nothing is known against it.
    std::string why_not_kept(const std::string& build_id) const;

    /// What the binary says of itself that a VM runs, if it is one that we have.
    [[nodiscard]] awaitable<BinaryCatalog::Facts> facts_of(std::string build_id);

    /// Opens a kept binary; none: it cannot be used any more, and is not kept from here on.
    [[nodiscard]] awaitable<std::optional<ReleaseShelf::Picked>> open(std::string build_id);
    /// The same, with what the binary says of itself.
    [[nodiscard]] awaitable<std::optional<ReleaseShelf::Picked>> pick(std::string build_id);

    /// The binary of a release, or a kept one, is told how kept ones are called on command lines.
    void add_tails(ReleaseShelf::Picked& picked) const;

    /// Keeps what the VM runs now, before it leaves it. An upgrade does not fail for that.
    /// @param needed  binaries that must not make room for it
    [[nodiscard]] awaitable<void>
    keep(VmView vm, std::string build_id, std::set<std::string> needed);

private:
    [[nodiscard]] awaitable<BinaryCatalog::Facts>
    ask(std::string build_id, std::shared_ptr<const upgrade::PinnedBinary> binary);
    [[nodiscard]] awaitable<void> look_at(std::string build_id);
    [[nodiscard]] awaitable<bool> make_room(std::set<std::string> needed);

    RunServices services_;
    std::string root_;
    std::set<std::string> kept_;                 // build ids
    std::map<std::string, std::string> keeping_; // those that are being kept, or why they cannot be
};

} // namespace qhup::daemon
