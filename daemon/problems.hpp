// SPDX-License-Identifier: GPL-2.0-or-later
//
// The error answers of the API: every code with its HTTP status and title. Pure.
// What is fixed about them is in common/code_catalog.hpp; docs/api.md has the same table.
#pragma once

#include "daemon/api_types.hpp"

#include <array>
#include <cstdint>
#include <string>
#include <string_view>

namespace qhup::daemon {

enum class ProblemCode : std::uint8_t {
    bad_request,        ///< the request is not understood
    not_permitted,      ///< the peer may not act
    read_only,          ///< this peer, or this socket, may only read
    no_such_path,       ///< the API has no such path
    vm_not_found,       ///< no VM of that name
    release_not_found,  ///< no release of that name
    run_not_found,      ///< no run of that name
    upgrade_not_found,  ///< no upgrade with that id
    selftest_not_found, ///< no selftest with that id
    hold_not_found,     ///< the VM is not held
    method_not_allowed, ///< the path exists, the method does not
    request_too_slow,   ///< the request did not arrive in time
    vm_busy,            ///< the VM is in a run
    request_id_reused,  ///< another request had this id
    not_abortable,      ///< the run only finishes what was begun
    too_large,          ///< the request has too many bytes
    release_unusable,   ///< the release's binary must not be used
    vm_unreachable,     ///< the VM does not answer
    too_many_runs,      ///< wait until one has finished
    too_many_requests,  ///< this user has too many requests or connections open
    headers_too_large,  ///< the header has too many bytes
    internal_error,     ///< a bug
    journal_failed,     ///< what was asked cannot be written down, so it is not begun
    stopping,           ///< the daemon is going away
};

inline constexpr std::array kAllProblemCodes{
    ProblemCode::bad_request,       ProblemCode::not_permitted,
    ProblemCode::read_only,         ProblemCode::no_such_path,
    ProblemCode::vm_not_found,      ProblemCode::release_not_found,
    ProblemCode::run_not_found,     ProblemCode::upgrade_not_found,
    ProblemCode::hold_not_found,    ProblemCode::method_not_allowed,
    ProblemCode::request_too_slow,  ProblemCode::vm_busy,
    ProblemCode::request_id_reused, ProblemCode::not_abortable,
    ProblemCode::too_large,         ProblemCode::release_unusable,
    ProblemCode::vm_unreachable,    ProblemCode::too_many_runs,
    ProblemCode::too_many_requests, ProblemCode::headers_too_large,
    ProblemCode::internal_error,    ProblemCode::journal_failed,
    ProblemCode::stopping,          ProblemCode::selftest_not_found,
};

/// The stable word of the code.
std::string_view to_string(ProblemCode code) noexcept;

/// Its HTTP status.
int http_status_of(ProblemCode code) noexcept;

/// The answer. `detail` says what is true in this case, `next_step` what to do; "": as the
/// catalogue says.
Problem make_problem(ProblemCode code, std::string detail, std::string next_step = {});

} // namespace qhup::daemon
