// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/problems.hpp"

#include "common/code_catalog.hpp"

#include <utility>

namespace qhup::daemon {
namespace {

constexpr std::string_view word_of(ProblemCode code) noexcept {
    switch (code) {
    case ProblemCode::bad_request: return "bad_request";
    case ProblemCode::not_permitted: return "not_permitted";
    case ProblemCode::read_only: return "read_only";
    case ProblemCode::no_such_path: return "no_such_path";
    case ProblemCode::vm_not_found: return "vm_not_found";
    case ProblemCode::release_not_found: return "release_not_found";
    case ProblemCode::run_not_found: return "run_not_found";
    case ProblemCode::upgrade_not_found: return "upgrade_not_found";
    case ProblemCode::selftest_not_found: return "selftest_not_found";
    case ProblemCode::hold_not_found: return "hold_not_found";
    case ProblemCode::method_not_allowed: return "method_not_allowed";
    case ProblemCode::request_too_slow: return "request_too_slow";
    case ProblemCode::vm_busy: return "vm_busy";
    case ProblemCode::request_id_reused: return "request_id_reused";
    case ProblemCode::not_abortable: return "not_abortable";
    case ProblemCode::too_large: return "too_large";
    case ProblemCode::release_unusable: return "release_unusable";
    case ProblemCode::vm_unreachable: return "vm_unreachable";
    case ProblemCode::too_many_runs: return "too_many_runs";
    case ProblemCode::too_many_requests: return "too_many_requests";
    case ProblemCode::headers_too_large: return "headers_too_large";
    case ProblemCode::internal_error: return "internal_error";
    case ProblemCode::journal_failed: return "journal_failed";
    case ProblemCode::stopping: return "stopping";
    }
    return "internal_error";
}

constexpr bool every_code_has_a_row() noexcept {
    for (const ProblemCode code : kAllProblemCodes) {
        if (find_code(CodeKind::problem, word_of(code)) == nullptr) {
            return false;
        }
    }
    return true;
}
static_assert(every_code_has_a_row(), "a problem is not in the catalogue");

const CodeRow& row_of(ProblemCode code) noexcept {
    return *find_code(CodeKind::problem, word_of(code));
}

} // namespace

std::string_view to_string(ProblemCode code) noexcept {
    return row_of(code).word;
}

int http_status_of(ProblemCode code) noexcept {
    return row_of(code).status;
}

Problem make_problem(ProblemCode code, std::string detail, std::string next_step) {
    const CodeRow& row = row_of(code);
    return {
        .status = row.status,
        .code = std::string(row.word),
        .title = std::string(row.sentence),
        .detail = std::move(detail),
        .next_step = next_step.empty() ? std::string(row.next_step) : std::move(next_step),
    };
}

} // namespace qhup::daemon
