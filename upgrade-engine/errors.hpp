// SPDX-License-Identifier: GPL-2.0-or-later
//
// Why an upgrade did not go the whole way. The first block are the stable codes of docs/qmp.md, the
// second one are the engine's own. Severity and wire name of each are in errors.cpp. Pure.
#pragma once

#include "common/result.hpp"

#include <array>
#include <string_view>

namespace qhup::upgrade {

enum class Errc {
    // QEMU's own codes; docs/qmp.md says when and what is true after them.
    wrong_state = 1,   ///< the command does not fit the state of the pair
    blocked,           ///< the VM has a blocker
    bad_argument,      ///< QEMU could not use a name, path, number or descriptor
    spawn_failed,      ///< the binary could not be started
    target_died,       ///< the target exited or was killed
    target_timeout,    ///< the target did not get ready in time
    protocol_mismatch, ///< the two sides speak different protocol numbers
    shape_differs,     ///< the target built another machine
    stale,             ///< the VM changed since prepare
    retry,             ///< the VM was resetting, shutting down or busy
    drain_timeout,     ///< I/O did not settle in time
    budget_exceeded,   ///< the pause would have become too long
    save_failed,       ///< device state could not be saved
    load_failed,       ///< the target refused the device state
    takeover_failed,   ///< the target could not take locks or back ends
    lease_expired,     ///< nobody renewed or acted in time
    rolled_back,       ///< somebody asked for a rollback
    fault_injected,    ///< a fault point of the tests fired
    unknown_qemu_code, ///< a QEMU that says a code which is not in docs/qmp.md

    // The engine's.
    not_answering,      ///< the VM's QMP cannot be reached or does not answer
    not_patched,        ///< QEMU has no query-hot-upgrade
    already_on_release, ///< nothing to do
    binary_refused,     ///< the release's binary must not be used
    binary_changed,     ///< the release's binary is no longer the one that was checked
    release_invalid,    ///< a release file that cannot be understood
    stopped,            ///< the run was stopped before this VM was paused
    wrong_target,       ///< the guest runs on a QEMU that is not the one that was asked for
    guest_changed,      ///< the guest does not run as it did before
    target_remains,     ///< rolled back, but the killed target hangs in the kernel
    source_remains,     ///< the guest runs on the target, but the old process does not end
    split,              ///< both sides say that they run the guest
    vm_gone,            ///< neither side is there any more
    lost_contact,       ///< nobody answers, and nothing can be said
    unexpected_answer,  ///< QEMU's answer does not have the form of docs/qmp.md
    rollback_stuck,     ///< the source cannot take the guest back
    guest_lost,         ///< the target ended after the guest had run on it
    journal_failed,     ///< what was about to be done could not be written down first
    recovery_given_up,  ///< the daemon ended too often while it finished this upgrade
    budget,             ///< the pause would probably become longer than allowed
    rehearsal_failed,   ///< a VM of the same kind could not be rehearsed
    probe_failed,       ///< the operator's own probe says that the guest is not well
    held,               ///< somebody wants the VM to be left alone
    outside_window,     ///< the VM's policy lets no upgrade begin now
};

/// Every code, in the order of the enumeration.
inline constexpr std::array kAllErrcs{
    Errc::wrong_state,
    Errc::blocked,
    Errc::bad_argument,
    Errc::spawn_failed,
    Errc::target_died,
    Errc::target_timeout,
    Errc::protocol_mismatch,
    Errc::shape_differs,
    Errc::stale,
    Errc::retry,
    Errc::drain_timeout,
    Errc::budget_exceeded,
    Errc::save_failed,
    Errc::load_failed,
    Errc::takeover_failed,
    Errc::lease_expired,
    Errc::rolled_back,
    Errc::fault_injected,
    Errc::unknown_qemu_code,
    Errc::not_answering,
    Errc::not_patched,
    Errc::already_on_release,
    Errc::binary_refused,
    Errc::binary_changed,
    Errc::release_invalid,
    Errc::stopped,
    Errc::wrong_target,
    Errc::guest_changed,
    Errc::target_remains,
    Errc::source_remains,
    Errc::split,
    Errc::vm_gone,
    Errc::lost_contact,
    Errc::unexpected_answer,
    Errc::rollback_stuck,
    Errc::guest_lost,
    Errc::journal_failed,
    Errc::recovery_given_up,
    Errc::budget,
    Errc::rehearsal_failed,
    Errc::probe_failed,
    Errc::held,
    Errc::outside_window,
};

[[nodiscard]] const Category& upgrade_category() noexcept;
[[nodiscard]] error_code make_error_code(Errc value) noexcept;

/// The code that QEMU wrote as `text` ("target-died"); unknown_qemu_code for a strange one.
[[nodiscard]] Errc parse_qemu_code(std::string_view text) noexcept;

/// What is true and what to do about it, as a sentence, when QEMU ended an upgrade with that code.
[[nodiscard]] std::string_view explain(Errc code) noexcept;

/// True when the pair is still prepared after this code, so that the switch may be tried again.
[[nodiscard]] constexpr bool is_worth_another_try(Errc code) noexcept {
    return code == Errc::retry || code == Errc::drain_timeout;
}

} // namespace qhup::upgrade

template <>
struct boost::system::is_error_code_enum<qhup::upgrade::Errc> : std::true_type {};
