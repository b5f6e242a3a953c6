// SPDX-License-Identifier: GPL-2.0-or-later
//
// Labels of VMs: what root says a VM is for, as tier = "db". Policies and requests choose VMs by
// them. Pure.
#pragma once

#include "common/result.hpp"

#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace qhup::daemon {

/// By key. Keys and values are label words.
using VmLabels = std::map<std::string, std::string>;

/// One [[vm]] of the configuration.
struct LabelRule {
    std::vector<std::string> vms; ///< names, in which * stands for anything
    VmLabels labels;              ///< that they have
    std::string origin;           ///< where it was set: "FILE:LINE"
};

/// 1 to 63 letters, digits and . _ - / of ASCII, beginning with a letter or digit.
bool is_label_word(std::string_view text) noexcept;

/// The text of a label file: a line "key = value" for each, empty lines, and comments after #.
///
/// Errors: Errc::invalid_argument, which line
Result<VmLabels> parse_labels(std::string_view text);

/// What a VM is labelled with: by the rules, the later one before, and before all by its file.
VmLabels
labels_of(const std::vector<LabelRule>& rules, std::string_view vm, const VmLabels& of_file);

/// Whether a VM with these labels has each of the wanted ones. Nothing wanted: it has.
bool has_labels(const VmLabels& labels, const VmLabels& wanted) noexcept;

/// Whether a pattern of the configuration means this VM.
bool is_meant(const std::vector<std::string>& patterns, const std::string& vm);

} // namespace qhup::daemon
