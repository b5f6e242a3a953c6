// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/api_types_history.hpp"

#include "daemon/api_types_read.hpp"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <utility>

namespace qhup::daemon {
namespace {

using nlohmann::json;
using read::integer;
using read::member;
using read::text;

bool is_wanted(const HistoryView& entry, const HistoryFilter& filter) {
    return (filter.run.empty() || entry.run == filter.run) &&
           (filter.vm.empty() || entry.vm == filter.vm) &&
           (filter.action.empty() || entry.action == filter.action) &&
           (filter.before == 0 || entry.id < filter.before);
}

} // namespace

std::string_view to_string(HistoryAction action) noexcept {
    switch (action) {
    case HistoryAction::run_requested: return "run_requested";
    case HistoryAction::run_aborted: return "run_aborted";
    case HistoryAction::selftest_requested: return "selftest_requested";
    case HistoryAction::hold_set: return "hold_set";
    case HistoryAction::hold_removed: return "hold_removed";
    case HistoryAction::vm_ended: return "vm_ended";
    }
    return "vm_ended";
}

std::optional<HistoryAction> parse_history_action(std::string_view word) noexcept {
    for (const HistoryAction action : kAllHistoryActions) {
        if (to_string(action) == word) {
            return action;
        }
    }
    return std::nullopt;
}

json to_json(const HistoryView& value) {
    json document = {
        {"id", value.id},
        {"time_unix_ms", value.time_unix_ms},
        {"action", value.action},
        {"run", value.run},
        {"vm", value.vm},
        {"by", nullptr},
        {"outcome", value.outcome},
        {"code", value.code},
        {"message", value.message},
        {"from", value.from},
        {"to", value.to},
        {"pause_ms", value.pause_ms ? json(*value.pause_ms) : json(nullptr)},
    };
    if (!value.allow.empty()) {
        document["allow"] = value.allow;
    }
    if (value.by) {
        document["by"] = {{"uid", value.by->uid}, {"user", value.by->user}, {"pid", value.by->pid}};
    }
    return document;
}

HistoryView history_from_json(const json& value) {
    HistoryView entry;
    entry.id = integer<std::uint64_t>(value, "id");
    entry.time_unix_ms = integer<std::int64_t>(value, "time_unix_ms");
    entry.action = text(value, "action");
    entry.run = text(value, "run");
    entry.vm = text(value, "vm");
    if (const json& by = member(value, "by"); by.is_object()) {
        entry.by = AskerView{
            .uid = integer<std::int64_t>(by, "uid"),
            .user = text(by, "user"),
            .pid = integer<std::int64_t>(by, "pid"),
        };
    }
    entry.outcome = text(value, "outcome");
    entry.code = text(value, "code");
    entry.message = text(value, "message");
    entry.from = text(value, "from");
    entry.to = text(value, "to");
    if (const json& pause = member(value, "pause_ms"); pause.is_number()) {
        entry.pause_ms = pause.get<double>();
    }
    const json& allow = member(value, "allow");
    for (const json& code : allow.is_array() ? allow : json::array()) {
        if (code.is_string()) {
            entry.allow.push_back(code.get<std::string>());
        }
    }
    return entry;
}

HistoryView make_history_entry(const RunView& run, const RunVmView& vm) {
    HistoryView entry;
    entry.action = std::string(to_string(HistoryAction::vm_ended));
    entry.run = run.id;
    entry.vm = vm.vm;
    entry.outcome = vm.outcome;
    entry.code = vm.code;
    entry.message = vm.message;
    entry.from = vm.from;
    entry.to = vm.to;
    entry.pause_ms = vm.pause_ms;
    return entry;
}

History::History(std::vector<HistoryView> entries) {
    std::sort(entries.begin(), entries.end(), [](const HistoryView& a, const HistoryView& b) {
        return a.id < b.id;
    });
    for (HistoryView& entry : entries) {
        next_ = entry.id + 1;
        entries_.push_back(std::move(entry));
    }
    while (entries_.size() > kMaxEntries) {
        entries_.pop_front();
    }
}

const HistoryView& History::add(HistoryView entry) {
    entry.id = next_++;
    entries_.push_back(std::move(entry));
    if (entries_.size() > kMaxEntries) {
        entries_.pop_front();
    }
    return entries_.back();
}

void History::take_back(std::uint64_t id) {
    const auto entry = std::find_if(entries_.begin(), entries_.end(), [id](const auto& each) {
        return each.id == id;
    });
    if (entry == entries_.end()) {
        return;
    }
    entries_.erase(entry);
    // why: the next one then stands in its place in the journal, too, if a slow disk had it after
    // all.
    next_ = id + 1 == next_ ? id : next_;
}

const HistoryView* History::name_asker(std::uint64_t id, std::string user) {
    const auto entry = std::find_if(entries_.begin(), entries_.end(), [id](const auto& each) {
        return each.id == id;
    });
    if (entry == entries_.end() || !entry->by) {
        return nullptr;
    }
    entry->by->user = std::move(user);
    return &*entry;
}

std::vector<HistoryView> History::find(const HistoryFilter& filter) const {
    std::vector<HistoryView> found;
    for (auto entry = entries_.rbegin(); entry != entries_.rend() && found.size() < filter.limit;
         ++entry) {
        if (is_wanted(*entry, filter)) {
            found.push_back(*entry);
        }
    }
    return found;
}

} // namespace qhup::daemon
