// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/journal_rows.hpp"

#include "upgrade-engine/phase.hpp"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <map>
#include <string_view>
#include <tuple>
#include <utility>

namespace qhup::daemon {
namespace {

using nlohmann::json;

constexpr const char* kVmCount = "vm_count";

Failure damaged(const JournalRow& row, std::string_view what) {
    const std::string name =
        row.history != 0 ? "entry " + std::to_string(row.history) + " of the history"
        : row.hold.empty()
            ? row.run + (row.number ? "." + std::to_string(*row.number) : std::string())
            : "the hold of " + row.hold;
    return make_failure(Errc::invalid_argument, "the record of " + name + " " + std::string(what));
}

/// FNV-1a: any flipped bit changes it.
class Checksum {
public:
    void add(std::string_view bytes) noexcept {
        for (const char c : bytes) {
            add_byte(static_cast<unsigned char>(c));
        }
        add_byte(0xFF); // in no UTF-8 text: keeps the parts apart
    }
    std::int64_t value() const noexcept { return static_cast<std::int64_t>(value_); }

private:
    void add_byte(unsigned char byte) noexcept {
        value_ ^= byte;
        value_ *= 0x100000001B3ULL;
    }
    std::uint64_t value_ = 0xCBF29CE484222325ULL;
};

/// A run that is being put together.
struct Parts {
    RunView run;
    std::size_t vm_count = 0;
    std::map<std::uint32_t, RunVmView> vms;
    bool has_head = false;
};

Result<void> add_head(const JournalRow& row, const json& record, Parts& parts) {
    parts.run = run_from_json(record);
    const auto count = record.find(kVmCount);
    const bool has_count = count != record.end() && count->is_number_unsigned();
    const bool is_run = parts.run.id == row.run && is_valid_name(row.run) && has_count &&
                        (parts.run.state == "running" || parts.run.state == "finished");
    if (!is_run) {
        return damaged(row, "is not that of a run");
    }
    parts.vm_count = count->get<std::size_t>();
    parts.has_head = true;
    return {};
}

Result<void> add_upgrade(const JournalRow& row, const json& record, Parts& parts) {
    RunVmView vm = run_vm_from_json(record);
    if (!is_valid_name(vm.vm) || !upgrade::parse_phase(vm.phase)) {
        return damaged(row, "is not that of an upgrade");
    }
    parts.vms.emplace(*row.number, std::move(vm));
    return {};
}

/// Unfinished upgrades in a finished run, or numbers that are missing, are a damage.
Result<RunView> complete(const std::string& id, Parts parts) {
    const bool is_whole = parts.has_head && parts.vms.size() == parts.vm_count &&
                          (parts.vms.empty() || parts.vms.rbegin()->first + 1 == parts.vm_count);
    if (!is_whole) {
        return damaged({.run = id, .number = {}, .record = {}, .hold = {}}, "is not complete");
    }
    for (auto& [number, vm] : parts.vms) {
        parts.run.vms.push_back(std::move(vm));
    }
    return std::move(parts.run);
}

} // namespace

JournalRow make_run_row(const RunView& run) {
    RunView head = run;
    head.vms.clear();
    json record = to_json(head);
    record.erase("vms");
    record[kVmCount] = run.vms.size();
    return {.run = run.id, .number = std::nullopt, .record = format_json(record), .hold = {}};
}

JournalRow make_upgrade_row(const std::string& run, std::uint32_t number, const RunVmView& vm) {
    return {.run = run, .number = number, .record = format_json(to_json(vm)), .hold = {}};
}

JournalRow make_hold_row(const HoldView& hold) {
    return {
        .run = {}, .number = std::nullopt, .record = format_json(to_json(hold)), .hold = hold.vm};
}

JournalRow make_history_row(const HistoryView& entry) {
    JournalRow row;
    row.record = format_json(to_json(entry));
    row.history = entry.id;
    return row;
}

JournalChange forget_history(std::uint64_t last) {
    JournalChange change;
    change.kind = JournalChange::Kind::forget_history;
    change.row.history = last;
    return change;
}

JournalChange forget_hold(const std::string& vm) {
    return {
        JournalChange::Kind::forget_hold,
        {.run = {}, .number = std::nullopt, .record = {}, .hold = vm}};
}

std::vector<JournalChange> put_whole(const RunView& run) {
    std::vector<JournalChange> changes;
    changes.push_back({JournalChange::Kind::put, make_run_row(run)});
    for (std::size_t i = 0; i < run.vms.size(); ++i) {
        const auto number = static_cast<std::uint32_t>(i);
        changes.push_back({JournalChange::Kind::put, make_upgrade_row(run.id, number, run.vms[i])});
    }
    return changes;
}

std::int64_t checksum_of(const JournalRow& row) noexcept {
    Checksum sum;
    sum.add(row.run);
    if (row.number) {
        std::uint32_t rest = *row.number;
        for (int i = 0; i < 4; ++i, rest >>= 8U) {
            const char byte = static_cast<char>(rest & 0xFFU);
            sum.add({&byte, 1});
        }
    }
    sum.add(row.record);
    if (!row.hold.empty()) {
        sum.add(row.hold);
    }
    if (row.history != 0) {
        sum.add(std::to_string(row.history));
    }
    return sum.value();
}

Result<std::vector<RunView>> assemble_runs(const std::vector<JournalRow>& rows) {
    std::map<std::string, Parts> all;
    for (const JournalRow& row : rows) {
        const auto record = parse_json(row.record);
        if (record.has_error() || !record->is_object()) {
            return damaged(row, "is no JSON object");
        }
        Parts& parts = all[row.run];
        const Result<void> added =
            row.number ? add_upgrade(row, *record, parts) : add_head(row, *record, parts);
        if (added.has_error()) {
            return added.error();
        }
    }
    std::vector<RunView> runs;
    for (auto& [id, parts] : all) {
        auto run = complete(id, std::move(parts));
        if (run.has_error()) {
            return run.error();
        }
        runs.push_back(std::move(*run));
    }
    std::sort(runs.begin(), runs.end(), [](const RunView& a, const RunView& b) {
        return a.started_unix_ms != b.started_unix_ms ? a.started_unix_ms < b.started_unix_ms
                                                      : a.id < b.id;
    });
    return runs;
}

Result<std::vector<HoldView>> assemble_holds(const std::vector<JournalRow>& rows) {
    std::vector<HoldView> holds;
    for (const JournalRow& row : rows) {
        const auto record = parse_json(row.record);
        HoldView hold = record.has_value() ? hold_from_json(*record) : HoldView();
        if (!is_valid_name(row.hold) || hold.vm != row.hold || hold.until_unix_ms < 0) {
            return damaged(row, "is not that of a hold");
        }
        holds.push_back(std::move(hold));
    }
    return holds;
}

Result<std::vector<HistoryView>> assemble_history(const std::vector<JournalRow>& rows) {
    std::vector<HistoryView> entries;
    for (const JournalRow& row : rows) {
        const auto record = parse_json(row.record);
        HistoryView entry = record.has_value() ? history_from_json(*record) : HistoryView();
        if (row.history == 0 || entry.id != row.history || entry.action.empty()) {
            return damaged(row, "is not that of its id");
        }
        entries.push_back(std::move(entry));
    }
    return entries;
}

std::vector<JournalChange> merged(std::vector<JournalChange> changes) {
    using Key = std::tuple<std::string, std::optional<std::uint32_t>, std::string, std::uint64_t>;
    const auto key_of = [](const JournalRow& row) {
        return Key(row.run, row.number, row.hold, row.history);
    };
    std::map<Key, std::size_t> newest;
    std::map<std::string, std::size_t> forgotten; // the last forget_run of each run
    for (std::size_t i = 0; i < changes.size(); ++i) {
        const JournalChange& change = changes[i];
        if (change.kind == JournalChange::Kind::forget_run) {
            forgotten[change.row.run] = i;
        } else {
            newest[key_of(change.row)] = i;
        }
    }
    std::vector<JournalChange> kept;
    for (std::size_t i = 0; i < changes.size(); ++i) {
        const JournalRow& row = changes[i].row;
        const auto end = forgotten.find(row.run);
        const bool is_of_run = row.hold.empty() && row.history == 0;
        const bool is_gone = is_of_run && end != forgotten.end() && i < end->second;
        const bool is_last =
            changes[i].kind == JournalChange::Kind::forget_run || newest[key_of(row)] == i;
        if (!is_gone && is_last) {
            kept.push_back(std::move(changes[i]));
        }
    }
    return kept;
}

std::vector<std::string> outdated_runs(const std::vector<RunView>& runs, JournalBounds bounds) {
    std::vector<std::string> outdated;
    std::size_t kept_runs = 0;
    std::size_t kept_upgrades = 0;
    for (auto run = runs.rbegin(); run != runs.rend(); ++run) {
        if (run->state != "finished") {
            continue;
        }
        ++kept_runs;
        kept_upgrades += run->vms.size();
        const bool is_newest = kept_runs == 1;
        if (!is_newest && (kept_runs > bounds.runs || kept_upgrades > bounds.upgrades)) {
            outdated.push_back(run->id);
        }
    }
    return outdated;
}

} // namespace qhup::daemon
