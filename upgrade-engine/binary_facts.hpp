// SPDX-License-Identifier: GPL-2.0-or-later
//
// What a QEMU binary says of itself when it is started without a machine: the machine types and
// types that it knows, the options that it refuses, the form of the device state that it writes and
// reads. Pure: binary_probe.hpp asks, this reads the answers. A binary of root's is believed, and
// its words are bounded and typed all the same: it may not be a QEMU.
#pragma once

#include "common/result.hpp"
#include "upgrade-engine/errors.hpp"

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>

namespace qhup::upgrade {

/// How the state of a device is written, from -dump-vmstate. Parts that are written only sometimes
/// (subsections) are not in it.
struct StateFormat {
    std::string section;      ///< its name in the state
    std::int64_t version = 0; ///< that is written, and the newest that is read
    std::int64_t oldest = 0;  ///< the oldest that is read

    bool operator==(const StateFormat&) const = default;
};

/// By the type of the device. Types that write no state of their own are not there.
using StateFormats = std::map<std::string, StateFormat, std::less<>>;

/// Names, for look-ups by text.
using Names = std::set<std::string, std::less<>>;

/// What one binary is.
struct BinaryFacts {
    bool is_patched = false; ///< it has query-hot-upgrade-blocker-classes
    Names machines;          ///< machine types that it builds, aliases included
    Names types;             ///< every type that it can make something of: devices, objects, CPUs
    Names refused_options;   ///< of qemu_options(), those that it does not take; without dashes
    StateFormats states;     ///< none: could not be told
};

/// What is written to the monitor of the binary: one command a line, and the end.
[[nodiscard]] std::string format_questions();

/// Reads what the monitor said to format_questions(); `refused_options` and `states` are empty.
///
/// Errors: Errc::unexpected_answer, if it is not what a QEMU says, or not all of it
[[nodiscard]] Result<BinaryFacts> parse_answers(std::string_view output);

/// Reads the file that -dump-vmstate writes.
///
/// Errors: Errc::unexpected_answer
[[nodiscard]] Result<StateFormats> parse_state_formats(std::string_view text);

/// The option that a QEMU did not take, without dashes, from its last words; "" if it is none.
[[nodiscard]] std::string find_refused_option(std::string_view stderr_text);

/// Why a release that reads the one form cannot read what is written in the other, as part of a
/// sentence; "" if it can, as far as can be told before a VM is there.
[[nodiscard]] std::string judge_state(const StateFormat& written, const StateFormat& read);

} // namespace qhup::upgrade
