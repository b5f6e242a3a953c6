// SPDX-License-Identifier: GPL-2.0-or-later
//
// Turns the command line of the source into that of the target. Pure: argv in, argv out.
// It never reads a file and never looks at the host; relative paths stay as they are, because the
// target starts in the directory in which the source started. The result is a fixed point: planning
// it again for the same release changes nothing, so a VM may hop any number of times.
#pragma once

#include "upgrade-engine/qemu_version.hpp"

#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace qhup::upgrade {

/// One option of QEMU's command line. Derived from qemu-options.hx of 7.2 and 10.0.
struct QemuOption {
    std::string_view name; ///< without dashes
    bool has_argument;     ///< the next element of argv belongs to it
    QemuVersion since;     ///< first release that knows it; {} if 7.2 does
    QemuVersion until;     ///< first release that no longer knows it; {} if 10.0 still does
};

/// Every option that QEMU 7.2 or 10.0 knows.
[[nodiscard]] std::span<const QemuOption> qemu_options() noexcept;

/// The option with that name (no dashes), or null.
[[nodiscard]] const QemuOption* find_qemu_option(std::string_view name) noexcept;

/// True when QEMU of that version knows the option.
[[nodiscard]] bool is_known_to(const QemuOption& option, const QemuVersion& version) noexcept;

/// What the plan is made from.
struct ArgvRequest {
    std::vector<std::string> source_argv; ///< as the source was started, argv[0] included
    std::string machine;                  ///< concrete machine type of the source; never an alias
    QemuVersion target;                   ///< version of the target's binary
    std::string program;                  ///< argv[0] of the target
    std::vector<std::string> tail;        ///< arguments of the release itself (-L, extra options)
    /// Tails of all releases that are configured: one of them at the end of source_argv is taken
    /// off before the new one is added, so that tails do not pile up from hop to hop.
    std::vector<std::vector<std::string>> known_tails;
    std::string release; ///< name of the release, for what is wrong in its tail
};

/// One reason why a command line cannot be planned.
struct ArgvProblem {
    std::string option; ///< as written, for example "-snapshot"; "" if it is about the whole line
    std::string reason; ///< a sentence that says what is true and what to do
};

/// The plan, or why there is none.
struct ArgvPlan {
    std::vector<std::string> argv;     ///< the target's command line; meaningless with problems
    std::vector<ArgvProblem> problems; ///< all of them, in the order of the command line
    /// Options in `argv`, as QemuOption names them, each once, in its order.
    std::vector<std::string_view> options{};

    [[nodiscard]] bool is_usable() const noexcept { return problems.empty(); }
};

/// Plans the target's command line.
///
/// Drops what belongs to the start of the source only: -S, -loadvm X, -daemonize, -pidfile X,
/// -runas X (-run-with user=X), -incoming X. Refuses what a target could not honour: -chroot,
/// -snapshot, -preconfig. Translates what the two releases spell differently. Makes the machine
/// type concrete. Keeps the rest in its order.
[[nodiscard]] ArgvPlan plan_argv(const ArgvRequest& request);

/// The pidfile that the command line names (the last one wins), or "". Relative as written.
[[nodiscard]] std::string pidfile_of(std::span<const std::string> argv);

} // namespace qhup::upgrade
