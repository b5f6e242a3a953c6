// SPDX-License-Identifier: GPL-2.0-or-later
//
// Asks a pinned binary what it is, by starting it without a machine. It runs as we do but without
// any capability and without descriptors of ours, with no environment, in a process group of its
// own, for a bounded time, and with nobody left behind. What it says is read by binary_facts.
#pragma once

#include "common/deadline.hpp"
#include "common/result.hpp"
#include "upgrade-engine/binary_facts.hpp"
#include "upgrade-engine/binary_store.hpp"

#include <string>

namespace qhup::upgrade {

/// Asks a binary: what it is, which options it takes, which device state it reads and writes. What
/// only the last two would have told is missing if they fail.
///
/// @param deadline  of all of it
/// Errors:        Errc::unexpected_answer (it is no QEMU, it died, it said too much),
///                qhup::Errc::timed_out, qhup::Errc::system_error; the message names the binary
/// After failure: no process of it is left
/// Thread:        any that does not end before the deadline: its end would end the binary
/// Blocking:      until the deadline; a QEMU takes some 100 ms
[[nodiscard]] Result<BinaryFacts> probe_binary(const PinnedBinary& binary, Deadline deadline);

/// Equal for two binaries that say the same of themselves: the hash, and the state of the folders
/// in which QEMU looks for its modules. Blocking: two stats
[[nodiscard]] std::string probe_key(const PinnedBinary& binary);

} // namespace qhup::upgrade
