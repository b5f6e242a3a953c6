// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/vm_labels.hpp"

#include <fnmatch.h>

#include <algorithm>
#include <cstddef>

namespace qhup::daemon {
namespace {

constexpr std::size_t kMostCharacters = 63;

bool is_letter_or_digit(char c) noexcept {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
}

std::string_view trimmed(std::string_view text) noexcept {
    const auto is_space = [](char c) { return c == ' ' || c == '\t' || c == '\r'; };
    while (!text.empty() && is_space(text.front())) {
        text.remove_prefix(1);
    }
    while (!text.empty() && is_space(text.back())) {
        text.remove_suffix(1);
    }
    return text;
}

} // namespace

bool is_label_word(std::string_view text) noexcept {
    return !text.empty() && text.size() <= kMostCharacters && is_letter_or_digit(text.front()) &&
           std::all_of(text.begin(), text.end(), [](char c) {
               return is_letter_or_digit(c) || c == '.' || c == '_' || c == '-' || c == '/';
           });
}

Result<VmLabels> parse_labels(std::string_view text) {
    VmLabels labels;
    for (int number = 1; !text.empty(); ++number) {
        const std::size_t end = std::min(text.find('\n'), text.size());
        const std::string_view line = trimmed(text.substr(0, std::min(text.find('#'), end)));
        text.remove_prefix(std::min(end + 1, text.size()));
        if (line.empty()) {
            continue;
        }
        const std::size_t equals = std::min(line.find('='), line.size());
        const std::string_view key = trimmed(line.substr(0, equals));
        const std::string_view value = trimmed(line.substr(std::min(equals + 1, line.size())));
        if (!is_label_word(key) || !is_label_word(value)) {
            return make_failure(
                Errc::invalid_argument,
                "line " + std::to_string(number) +
                    " is no label: write key = value, of letters, digits and . _ - /"
            );
        }
        labels.insert_or_assign(std::string(key), std::string(value));
    }
    return labels;
}

VmLabels
labels_of(const std::vector<LabelRule>& rules, std::string_view vm, const VmLabels& of_file) {
    VmLabels labels;
    const std::string name(vm);
    for (const LabelRule& rule : rules) {
        if (is_meant(rule.vms, name)) {
            for (const auto& [key, value] : rule.labels) {
                labels.insert_or_assign(key, value);
            }
        }
    }
    for (const auto& [key, value] : of_file) {
        labels.insert_or_assign(key, value);
    }
    return labels;
}

bool has_labels(const VmLabels& labels, const VmLabels& wanted) noexcept {
    return std::all_of(wanted.begin(), wanted.end(), [&labels](const auto& one) {
        const auto found = labels.find(one.first);
        return found != labels.end() && found->second == one.second;
    });
}

bool is_meant(const std::vector<std::string>& patterns, const std::string& vm) {
    return std::any_of(patterns.begin(), patterns.end(), [&vm](const std::string& pattern) {
        return ::fnmatch(pattern.c_str(), vm.c_str(), 0) == 0;
    });
}

} // namespace qhup::daemon
