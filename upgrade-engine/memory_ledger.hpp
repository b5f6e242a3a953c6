// SPDX-License-Identifier: GPL-2.0-or-later
//
// Who may start a second QEMU now, when several VMs are in work at once: each has room alone, but
// together they may not. Pure: bytes in, answers out. Whether one VM has room by itself is a
// blocker of its own (blockers.cpp).
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>

namespace qhup::upgrade {

class MemoryLedger {
public:
    using Id = std::uint64_t;

    /// @param reserve  bytes of the host that shall stay free
    explicit MemoryLedger(std::uint64_t reserve) noexcept : reserve_(reserve) {}

    /// A VM wants to begin, and takes its place: the first is the first who is admitted, so that a
    /// large one is not overtaken for ever. Again, it keeps its place.
    void enqueue(Id vm);

    /// May it begin now? Takes its place, if it has none.
    ///
    /// @param need       bytes that its second process does not share
    /// @param available  bytes of the host, now
    /// @return  true: it may, and has its bytes until on_gone(). A VM that is alone always may.
    [[nodiscard]] bool ask(Id vm, std::uint64_t need, std::uint64_t available);

    /// The VM has one process again, or does not want to begin any more.
    void on_gone(Id vm);

    /// Bytes of all that were admitted.
    [[nodiscard]] std::uint64_t promised() const noexcept;

private:
    std::uint64_t reserve_;
    std::map<Id, std::uint64_t> admitted_;
    std::deque<Id> waiting_; // in the order in which they asked
};

} // namespace qhup::upgrade
