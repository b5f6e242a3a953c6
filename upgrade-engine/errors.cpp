// SPDX-License-Identifier: GPL-2.0-or-later
#include "upgrade-engine/errors.hpp"

#include "common/code_catalog.hpp"

#include <algorithm>

namespace qhup::upgrade {
namespace {

/// A code and its row of the catalogue.
struct Row {
    Errc code;
    const CodeRow* said; ///< stable name, severity, what is true and what to do
};

constexpr Row row_of(Errc code, std::string_view word) noexcept {
    return {code, find_code(CodeKind::upgrade, word)};
}

constexpr std::array kRows{
    row_of(Errc::wrong_state, "wrong_state"),
    row_of(Errc::blocked, "blocked"),
    row_of(Errc::bad_argument, "bad_argument"),
    row_of(Errc::spawn_failed, "spawn_failed"),
    row_of(Errc::target_died, "target_died"),
    row_of(Errc::target_timeout, "target_timeout"),
    row_of(Errc::protocol_mismatch, "protocol_mismatch"),
    row_of(Errc::shape_differs, "shape_differs"),
    row_of(Errc::stale, "stale"),
    row_of(Errc::retry, "retry"),
    row_of(Errc::drain_timeout, "drain_timeout"),
    row_of(Errc::budget_exceeded, "budget_exceeded"),
    row_of(Errc::save_failed, "save_failed"),
    row_of(Errc::load_failed, "load_failed"),
    row_of(Errc::takeover_failed, "takeover_failed"),
    row_of(Errc::lease_expired, "lease_expired"),
    row_of(Errc::rolled_back, "rolled_back"),
    row_of(Errc::fault_injected, "fault_injected"),
    row_of(Errc::unknown_qemu_code, "unknown_qemu_code"),
    row_of(Errc::not_answering, "not_answering"),
    row_of(Errc::not_patched, "not_patched"),
    row_of(Errc::already_on_release, "already_on_release"),
    row_of(Errc::binary_refused, "binary_refused"),
    row_of(Errc::binary_changed, "binary_changed"),
    row_of(Errc::release_invalid, "release_invalid"),
    row_of(Errc::stopped, "stopped"),
    row_of(Errc::wrong_target, "wrong_target"),
    row_of(Errc::guest_changed, "guest_changed"),
    row_of(Errc::target_remains, "target_remains"),
    row_of(Errc::source_remains, "source_remains"),
    row_of(Errc::split, "split"),
    row_of(Errc::vm_gone, "vm_gone"),
    row_of(Errc::lost_contact, "lost_contact"),
    row_of(Errc::unexpected_answer, "unexpected_answer"),
    row_of(Errc::rollback_stuck, "rollback_stuck"),
    row_of(Errc::guest_lost, "guest_lost"),
    row_of(Errc::journal_failed, "journal_failed"),
    row_of(Errc::recovery_given_up, "recovery_given_up"),
    row_of(Errc::budget, "budget"),
    row_of(Errc::rehearsal_failed, "rehearsal_failed"),
    row_of(Errc::probe_failed, "probe_failed"),
    row_of(Errc::held, "held"),
    row_of(Errc::outside_window, "outside_window"),
};

static_assert(kRows.size() == kAllErrcs.size(), "a code has no row");

constexpr const Row* find_row(int value) noexcept {
    for (const Row& row : kRows) {
        if (static_cast<int>(row.code) == value) {
            return &row;
        }
    }
    return nullptr;
}

constexpr bool every_code_has_a_row() noexcept {
    return std::all_of(kAllErrcs.begin(), kAllErrcs.end(), [](Errc code) {
        const Row* row = find_row(static_cast<int>(code));
        return row != nullptr && row->said != nullptr;
    });
}
static_assert(every_code_has_a_row(), "a code has no row");

class UpgradeCategory final : public Category {
public:
    constexpr UpgradeCategory() noexcept : Category(0x51e8f3a7c20b9d44U) {}

    const char* name() const noexcept override { return "qhup.upgrade"; }

    std::string message(int value) const override {
        const Row* row = find_row(value);
        return row == nullptr ? "unknown error" : std::string(row->said->sentence);
    }

    Severity severity(int value) const noexcept override {
        const Row* row = find_row(value);
        return row == nullptr ? Severity::needs_operator : row->said->severity;
    }

    const char* wire_code(int value) const noexcept override {
        const Row* row = find_row(value);
        return row == nullptr ? "internal_error" : row->said->word.data();
    }
};

} // namespace

const Category& upgrade_category() noexcept {
    static const UpgradeCategory category;
    return category;
}

error_code make_error_code(Errc value) noexcept {
    return {static_cast<int>(value), upgrade_category()};
}

Errc parse_qemu_code(std::string_view text) noexcept {
    for (const Errc code : kAllErrcs) {
        if (code == Errc::unknown_qemu_code) {
            break; // what follows are our own codes
        }
        const std::string_view wire = find_row(static_cast<int>(code))->said->word;
        const bool is_same = std::equal(
            wire.begin(),
            wire.end(),
            text.begin(),
            text.end(),
            [](char ours, char theirs) { return (ours == '_' ? '-' : ours) == theirs; }
        );
        if (is_same) {
            return code;
        }
    }
    return Errc::unknown_qemu_code;
}

std::string_view explain(Errc code) noexcept {
    const Row* row = find_row(static_cast<int>(code));
    return row == nullptr ? std::string_view() : row->said->sentence;
}

} // namespace qhup::upgrade
