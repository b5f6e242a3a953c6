// SPDX-License-Identifier: GPL-2.0-or-later
//
// The holds of this daemon: asked for by clients, kept in the journal. Holds decides which hold.
#pragma once

#include "daemon/holds.hpp"
#include "daemon/journal.hpp"
#include "daemon/problems.hpp"
#include "daemon/run.hpp"

#include <optional>
#include <string>
#include <variant>
#include <vector>

namespace qhup::daemon {

/// Thread: all members on the home strand.
class HoldStore {
public:
    HoldStore(RunServices services, Journal& journal)
        : services_(std::move(services)), journal_(journal) {}

    /// Those of a daemon before us.
    void load(std::vector<HoldView> holds);

    /// As UpgradeRuns says.
    [[nodiscard]] awaitable<std::variant<HoldView, Problem>> hold(HoldView hold);
    [[nodiscard]] awaitable<std::variant<HoldView, Problem>> unhold(std::string vm, uid_t uid);

    std::optional<HoldView> find(const std::string& vm) const;
    std::vector<HoldView> list() const;

    /// The journal was damaged and is empty now: what we know goes into it again.
    void put_again();

private:
    [[nodiscard]] awaitable<std::optional<Problem>>
    write_hold(JournalChange change, std::string doing);

    RunServices services_;
    Journal& journal_;
    Holds holds_;
};

} // namespace qhup::daemon
