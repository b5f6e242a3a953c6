// SPDX-License-Identifier: GPL-2.0-or-later
//
// Which VM of each kind is rehearsed in a run: the first of the run's order that can be, whoever
// gets ready first. The others wait for it. Pure: indices of VMs in, what each does out.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace qhup::upgrade {

/// What a VM does about the rehearsal of its kind, now.
enum class RehearsalTurn : std::uint8_t {
    wait,     ///< another one of its kind is asked first
    rehearse, ///< it is the one
    go_on,    ///< nothing more is wanted of it: the release can take its kind
    give_up,  ///< the release cannot take its kind
};

/// What a rehearsal says about the kind.
enum class RehearsalFinding : std::uint8_t {
    passed,  ///< the release can take it
    failed,  ///< the release cannot take it
    nothing, ///< it failed for a reason of that VM alone
};

class RehearsalOrder {
public:
    /// Adds a VM at the end of the order of its kind.
    void add(std::size_t vm, const std::string& kind);

    /// True for a VM that was added.
    [[nodiscard]] bool contains(std::size_t vm) const noexcept;

    /// go_on for a VM that was not added.
    [[nodiscard]] RehearsalTurn turn_of(std::size_t vm) const;

    /// The VM whose turn it was has been rehearsed. Says nothing if it was not its turn.
    void on_rehearsed(std::size_t vm, RehearsalFinding finding);

    /// The VM ended before its turn, or left the run: the next one is asked in its place.
    void on_gone(std::size_t vm);

    /// The VM whose rehearsal decided about the kind of this one; none while that is open.
    [[nodiscard]] std::optional<std::size_t> decided_by(std::size_t vm) const;

private:
    struct Kind {
        std::vector<std::size_t> candidates; // in order; the first one's turn it is
        std::optional<RehearsalFinding> finding;
        std::optional<std::size_t> decided_by;
    };
    [[nodiscard]] const Kind* kind_of(std::size_t vm) const noexcept;

    std::map<std::string, Kind> kinds_;
    std::map<std::size_t, std::string> names_; // of the kind, by VM
};

} // namespace qhup::upgrade
