// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/vm_policy.hpp"

#include <algorithm>
#include <charconv>
#include <cstddef>
#include <utility>

namespace qhup::daemon {
namespace {

using std::chrono::milliseconds;
using std::chrono::minutes;

constexpr minutes kDay{24 * 60};

bool is_for(const PolicyRule& rule, const std::string& vm, const VmLabels& labels) {
    return (rule.vms.empty() || is_meant(rule.vms, vm)) && has_labels(labels, rule.labels);
}

template <class T, class U>
void take(const std::optional<T>& said, U& target) {
    if (said) {
        target = *said;
    }
}

/// Two digits below `limit`.
std::optional<int> parse_two_digits(std::string_view text, int limit) {
    int value = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    const bool is_number = error == std::errc{} && end == text.data() + text.size();
    return text.size() == 2 && is_number && value >= 0 && value < limit ? std::optional(value)
                                                                        : std::nullopt;
}

std::optional<minutes> parse_time_of_day(std::string_view text) {
    if (text.size() != 5 || text[2] != ':') {
        return std::nullopt;
    }
    const auto hour = parse_two_digits(text.substr(0, 2), 24);
    const auto minute = parse_two_digits(text.substr(3), 60);
    return hour && minute ? std::optional(minutes(*hour * 60 + *minute)) : std::nullopt;
}

bool contains(const DayWindow& window, minutes time) noexcept {
    if (window.from == window.to) {
        return true;
    }
    return window.from < window.to ? time >= window.from && time < window.to
                                   : time >= window.from || time < window.to;
}

} // namespace

VmPolicy
policy_of(const std::vector<PolicyRule>& rules, std::string_view vm, const VmLabels& labels) {
    VmPolicy policy;
    const std::string name(vm);
    for (const PolicyRule& rule : rules) {
        if (!is_for(rule, name, labels)) {
            continue;
        }
        take(rule.priority, policy.priority);
        take(rule.skip, policy.skip);
        take(rule.pause_budget, policy.pause_budget);
        take(rule.rehearse, policy.rehearse);
        take(rule.rehearse_back, policy.rehearse_back);
        take(rule.window, policy.window);
        take(rule.probe, policy.probe);
        take(rule.probe_limit, policy.probe_limit);
        take(rule.after_failed_verify, policy.after_failed_verify);
    }
    return policy;
}

Result<DayWindow> parse_day_window(std::string_view text) {
    const auto dash = text.find('-');
    const auto from = parse_time_of_day(text.substr(0, dash));
    const auto to = parse_time_of_day(
        dash == std::string_view::npos ? std::string_view() : text.substr(dash + 1)
    );
    if (!from || !to) {
        return make_failure(
            Errc::invalid_argument, "a window is two times of day with a dash: 22:00-06:00"
        );
    }
    return DayWindow{*from, *to};
}

std::string format_time_of_day(minutes time_of_day) {
    const auto two_digits = [](std::int64_t value) {
        return (value < 10 ? "0" : "") + std::to_string(value);
    };
    const std::int64_t count = (time_of_day % kDay).count();
    return two_digits(count / 60) + ":" + two_digits(count % 60);
}

std::string format_day_window(const DayWindow& window) {
    return format_time_of_day(window.from) + "-" + format_time_of_day(window.to);
}

bool is_open(const VmPolicy& policy, minutes time_of_day) noexcept {
    return policy.window.empty() ||
           std::any_of(
               policy.window.begin(),
               policy.window.end(),
               [time_of_day](const DayWindow& window) { return contains(window, time_of_day); }
           );
}

std::string
describe_window(std::string_view vm, const VmPolicy& policy, std::chrono::minutes time_of_day) {
    std::string windows;
    for (const DayWindow& window : policy.window) {
        windows += (windows.empty() ? "" : ", ") + format_day_window(window);
    }
    return "The policy of VM " + std::string(vm) + " lets upgrades begin at " + windows +
           " only, and it is " + format_time_of_day(time_of_day);
}

std::vector<std::string> in_order(
    std::vector<std::string> names,
    const std::vector<PolicyRule>& rules,
    const std::map<std::string, VmLabels>& labels
) {
    std::vector<std::pair<std::int32_t, std::string>> keyed;
    for (std::string& name : names) {
        const auto found = labels.find(name);
        const VmLabels own = found == labels.end() ? VmLabels() : found->second;
        const auto priority = policy_of(rules, name, own).priority;
        keyed.emplace_back(-priority, std::move(name));
    }
    std::sort(keyed.begin(), keyed.end());
    std::vector<std::string> ordered;
    for (auto& [priority, name] : keyed) {
        ordered.push_back(std::move(name));
    }
    return ordered;
}

milliseconds
choose_pause_budget(std::optional<milliseconds> asked, const VmPolicy& policy, milliseconds usual) {
    if (asked && policy.pause_budget) {
        return std::min(*asked, *policy.pause_budget);
    }
    return asked ? *asked : policy.pause_budget.value_or(usual);
}

} // namespace qhup::daemon
