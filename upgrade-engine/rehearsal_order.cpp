// SPDX-License-Identifier: GPL-2.0-or-later
#include "upgrade-engine/rehearsal_order.hpp"

#include <algorithm>

namespace qhup::upgrade {

void RehearsalOrder::add(std::size_t vm, const std::string& kind) {
    if (names_.emplace(vm, kind).second) {
        kinds_[kind].candidates.push_back(vm);
    }
}

bool RehearsalOrder::contains(std::size_t vm) const noexcept {
    return names_.contains(vm);
}

const RehearsalOrder::Kind* RehearsalOrder::kind_of(std::size_t vm) const noexcept {
    const auto name = names_.find(vm);
    if (name == names_.end()) {
        return nullptr;
    }
    const auto kind = kinds_.find(name->second);
    return kind == kinds_.end() ? nullptr : &kind->second;
}

RehearsalTurn RehearsalOrder::turn_of(std::size_t vm) const {
    const Kind* kind = kind_of(vm);
    if (kind == nullptr || kind->finding == RehearsalFinding::passed) {
        return RehearsalTurn::go_on;
    }
    if (kind->finding == RehearsalFinding::failed) {
        return RehearsalTurn::give_up;
    }
    const bool is_first = !kind->candidates.empty() && kind->candidates.front() == vm;
    return is_first ? RehearsalTurn::rehearse : RehearsalTurn::wait;
}

void RehearsalOrder::on_rehearsed(std::size_t vm, RehearsalFinding finding) {
    if (turn_of(vm) != RehearsalTurn::rehearse) {
        return;
    }
    if (finding == RehearsalFinding::nothing) {
        on_gone(vm);
        return;
    }
    Kind& kind = kinds_[names_[vm]];
    kind.finding = finding;
    kind.decided_by = vm;
}

void RehearsalOrder::on_gone(std::size_t vm) {
    const auto name = names_.find(vm);
    if (name == names_.end()) {
        return;
    }
    std::vector<std::size_t>& candidates = kinds_[name->second].candidates;
    candidates.erase(std::remove(candidates.begin(), candidates.end(), vm), candidates.end());
}

std::optional<std::size_t> RehearsalOrder::decided_by(std::size_t vm) const {
    const Kind* kind = kind_of(vm);
    return kind == nullptr ? std::nullopt : kind->decided_by;
}

} // namespace qhup::upgrade
