// SPDX-License-Identifier: GPL-2.0-or-later
//
// The entries of GET /v1/history as values, and the mapping from and to JSON. Pure.
// What was asked by whom, and what became of VMs. The daemon writes them, into its journal too, and
// qhupd-ctl reads them; docs/api.md explains them.
#pragma once

#include "daemon/api_types.hpp"

#include <nlohmann/json_fwd.hpp>

#include <array>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace qhup::daemon {

/// Who asked, as the kernel said when he connected.
struct AskerView {
    std::int64_t uid = 0;
    std::string user;     ///< his name then; "" if he had none
    std::int64_t pid = 0; ///< of the client
};

/// What was done.
enum class HistoryAction : std::uint8_t {
    run_requested,      ///< somebody asked for a run
    run_aborted,        ///< somebody aborted it
    selftest_requested, ///< somebody asked for a selftest
    hold_set,           ///< somebody holds a VM
    hold_removed,       ///< somebody took a hold off
    vm_ended,           ///< a VM of a run has its outcome
};

inline constexpr std::array kAllHistoryActions{
    HistoryAction::run_requested,
    HistoryAction::run_aborted,
    HistoryAction::selftest_requested,
    HistoryAction::hold_set,
    HistoryAction::hold_removed,
    HistoryAction::vm_ended,
};

/// The stable word.
std::string_view to_string(HistoryAction action) noexcept;
std::optional<HistoryAction> parse_history_action(std::string_view word) noexcept;

/// One entry.
struct HistoryView {
    std::uint64_t id = 0;           ///< from 1, rises
    std::int64_t time_unix_ms = 0;  ///< wall clock
    std::string action;             ///< word of HistoryAction; a newer daemon may have more
    std::string run;                ///< that it is about; "" for none
    std::string vm;                 ///< that it is about; "" for none
    std::optional<AskerView> by;    ///< who asked; none: of vm_ended
    std::string outcome;            ///< vm_ended: as in RUN
    std::string code;               ///< why not: of a problem, or of an upgrade; "" if it was done
    std::string message;            ///< one line for people
    std::string from;               ///< vm_ended: version before
    std::string to;                 ///< vm_ended: version after, or the release that was wanted
    std::optional<double> pause_ms; ///< vm_ended: for which the guest stood still
    std::vector<std::string> allow; ///< run_requested: refusals that were overruled
};

nlohmann::json to_json(const HistoryView& value);
/// What a daemon said; missing members keep their default.
HistoryView history_from_json(const nlohmann::json& value);

/// The entry of a VM that has its outcome.
HistoryView make_history_entry(const RunView& run, const RunVmView& vm);

/// Which entries are wanted; "" and 0: all.
struct HistoryFilter {
    std::string run;
    std::string vm;
    std::string action;
    std::uint64_t before = 0; ///< ids below it: the next page
    std::size_t limit = 1000; ///< the newest of them
};

/// The last entries, in the order of their ids.
class History {
public:
    static constexpr std::size_t kMaxEntries = 10'000;

    History() = default;
    /// @param entries  in any order
    explicit History(std::vector<HistoryView> entries);

    /// Gives the entry its id and remembers it; forgets the oldest if there are too many.
    const HistoryView& add(HistoryView entry);
    /// Forgets an entry again, as if it had not been added.
    void take_back(std::uint64_t id);
    /// Says by name who asked for it.
    /// @return  the entry; nullptr if it is forgotten, or nobody asked for it
    const HistoryView* name_asker(std::uint64_t id, std::string user);
    /// Id below which nothing is remembered.
    std::uint64_t oldest() const noexcept { return entries_.empty() ? next_ : entries_.front().id; }
    /// Newest first.
    std::vector<HistoryView> find(const HistoryFilter& filter) const;
    const std::deque<HistoryView>& entries() const noexcept { return entries_; }

private:
    std::deque<HistoryView> entries_;
    std::uint64_t next_ = 1;
};

} // namespace qhup::daemon
