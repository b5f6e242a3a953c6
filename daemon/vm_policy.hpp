// SPDX-License-Identifier: GPL-2.0-or-later
//
// What the operator's configuration says about single VMs, and what follows for a run: its order,
// who is left out, and when a VM may be begun. Pure: rules and names in, decisions out; the time of
// day is an input.
#pragma once

#include "common/result.hpp"
#include "daemon/vm_labels.hpp"

#include <chrono>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace qhup::daemon {

/// A span of every day. `to` before `from` goes over midnight; the same twice is the whole day.
struct DayWindow {
    std::chrono::minutes from{}; ///< from midnight; the first minute inside
    std::chrono::minutes to{};   ///< from midnight; the first minute outside

    bool operator==(const DayWindow&) const = default;
};

/// One [[policy]] of the configuration. What it does not set is left to the other ones.
struct PolicyRule {
    std::vector<std::string> vms; ///< names, in which * stands for anything; empty: all names
    VmLabels labels;              ///< that the VM must have; empty: it need not have any
    std::optional<std::int32_t> priority;                  ///< -1000 to 1000
    std::optional<bool> skip;                              ///< not in runs over all VMs
    std::optional<std::chrono::milliseconds> pause_budget; ///< 10 ms to 30 s
    std::optional<std::string> rehearse_back;              ///< none, first or all
    std::optional<std::string> rehearse;                   ///< none, first or all
    std::optional<std::vector<std::string>> probe;         ///< program and arguments; empty: none
    std::optional<std::chrono::milliseconds> probe_limit;  ///< 100 ms to 10 s
    std::optional<std::string> after_failed_verify;        ///< report or revert
    std::optional<std::vector<DayWindow>> window; ///< when upgrades may begin; empty: always
    std::string origin = {};                      ///< "FILE:LINE" where the rule begins
};

/// What holds for one VM.
struct VmPolicy {
    std::int32_t priority = 0;                             ///< the higher, the earlier in a run
    bool skip = false;                                     ///< left out where all VMs are meant
    std::optional<std::chrono::milliseconds> pause_budget; ///< of its pauses; none: the daemon's
    std::string rehearse;                                  ///< none, first, all; "": the daemon's
    std::string rehearse_back;                             ///< as rehearse, of the way back
    std::vector<std::string> probe;                        ///< is run after the switch; empty: none
    std::chrono::milliseconds probe_limit{5000};           ///< for the probe
    std::string after_failed_verify = "report"; ///< what becomes of a VM that is not well then
    std::vector<DayWindow> window;              ///< when an upgrade may begin; empty: always

    bool operator==(const VmPolicy&) const = default;
};

/// What the rules say about this VM. Of two rules that set the same, the later one holds.
VmPolicy
policy_of(const std::vector<PolicyRule>& rules, std::string_view vm, const VmLabels& labels = {});

/// "22:00-06:00".
///
/// Errors: another form, a time that does not exist
Result<DayWindow> parse_day_window(std::string_view text);
std::string format_day_window(const DayWindow& window);
/// "06:05".
std::string format_time_of_day(std::chrono::minutes time_of_day);

/// May an upgrade begin at that time of day?
bool is_open(const VmPolicy& policy, std::chrono::minutes time_of_day) noexcept;

/// "The policy of VM vm1 lets upgrades begin at 22:00-06:00 only, and it is 12:00": a sentence
/// without its full stop.
std::string
describe_window(std::string_view vm, const VmPolicy& policy, std::chrono::minutes time_of_day);

/// The names in the order of a run: by priority, the highest first, then by name.
/// @param labels  of the VMs that have any, by name
std::vector<std::string> in_order(
    std::vector<std::string> names,
    const std::vector<PolicyRule>& rules,
    const std::map<std::string, VmLabels>& labels = {}
);

/// The longest pause that a VM may have: what was asked for this run, but no more than its policy
/// allows; where only one of them says something, that; else `usual`.
std::chrono::milliseconds choose_pause_budget(
    std::optional<std::chrono::milliseconds> asked,
    const VmPolicy& policy,
    std::chrono::milliseconds usual
);

} // namespace qhup::daemon
