// SPDX-License-Identifier: GPL-2.0-or-later
#include "upgrade-engine/memory_ledger.hpp"

#include <algorithm>
#include <numeric>

namespace qhup::upgrade {

void MemoryLedger::enqueue(Id vm) {
    const bool is_new = !admitted_.contains(vm) &&
                        std::find(waiting_.begin(), waiting_.end(), vm) == waiting_.end();
    if (is_new) {
        waiting_.push_back(vm);
    }
}

bool MemoryLedger::ask(Id vm, std::uint64_t need, std::uint64_t available) {
    enqueue(vm);
    if (admitted_.contains(vm)) {
        return true;
    }
    // why: what was promised may be in use by now and missing in `available` already. To count it
    // twice makes somebody wait who need not; to count it once could leave somebody without.
    const std::uint64_t taken = reserve_ + promised();
    const bool has_room = available > taken && need <= available - taken;
    const bool is_next = waiting_.front() == vm;
    if (!is_next || !(has_room || admitted_.empty())) {
        return false;
    }
    waiting_.pop_front();
    admitted_.emplace(vm, need);
    return true;
}

void MemoryLedger::on_gone(Id vm) {
    admitted_.erase(vm);
    waiting_.erase(std::remove(waiting_.begin(), waiting_.end(), vm), waiting_.end());
}

std::uint64_t MemoryLedger::promised() const noexcept {
    return std::accumulate(
        admitted_.begin(),
        admitted_.end(),
        std::uint64_t{0},
        [](std::uint64_t sum, const auto& entry) { return sum + entry.second; }
    );
}

} // namespace qhup::upgrade
