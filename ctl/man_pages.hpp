// SPDX-License-Identifier: GPL-2.0-or-later
//
// Pages of the manual in troff (man(7)), made from what the programs and the documentation say
// already. Pure: values in, text out.
#pragma once

#include "ctl/command_line.hpp"
#include "ctl/manual.hpp"

#include <string>
#include <string_view>
#include <vector>

namespace qhup::ctl {

/// qhupd-ctl(1), from the description of its command line.
/// @param footer  what the help of the program ends with: the exit statuses
std::string make_ctl_page(const CommandSpec& program, std::string_view footer);

/// qhupd(8), from what 'qhupd --help' prints.
std::string make_daemon_page(std::string_view help);

/// qhupd.toml(5), from the example file that explains each key.
std::string make_config_page(std::string_view example);

/// qhup-codes(7).
std::string make_codes_page(const std::vector<ManualEntry>& entries);

/// Text that troff prints as it is.
std::string troff_escaped(std::string_view text);

} // namespace qhup::ctl
