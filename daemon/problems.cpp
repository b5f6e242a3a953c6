// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/problems.hpp"

#include <utility>

namespace qhup::daemon {
namespace {

struct Row {
    std::string_view word;
    int status;
    std::string_view title;
};

Row row_of(ProblemCode code) noexcept {
    switch (code) {
    case ProblemCode::bad_request: return {"bad_request", 400, "The request is not understood"};
    case ProblemCode::not_permitted: return {"not_permitted", 403, "Not permitted"};
    case ProblemCode::no_such_path: return {"no_such_path", 404, "No such path"};
    case ProblemCode::vm_not_found: return {"vm_not_found", 404, "No such VM"};
    case ProblemCode::release_not_found: return {"release_not_found", 404, "No such release"};
    case ProblemCode::run_not_found: return {"run_not_found", 404, "No such run"};
    case ProblemCode::hold_not_found: return {"hold_not_found", 404, "The VM is not held"};
    case ProblemCode::method_not_allowed:
        return {"method_not_allowed", 405, "The path does not take this method"};
    case ProblemCode::request_too_slow:
        return {"request_too_slow", 408, "The request did not arrive in time"};
    case ProblemCode::vm_busy: return {"vm_busy", 409, "The VM is in a run"};
    case ProblemCode::request_id_reused:
        return {"request_id_reused", 409, "Another request had this id"};
    case ProblemCode::not_abortable: return {"not_abortable", 409, "The run cannot be aborted"};
    case ProblemCode::too_large: return {"too_large", 413, "The request is too large"};
    case ProblemCode::release_unusable:
        return {"release_unusable", 422, "The release must not be used"};
    case ProblemCode::vm_unreachable: return {"vm_unreachable", 422, "The VM does not answer"};
    case ProblemCode::too_many_runs: return {"too_many_runs", 429, "Too many runs"};
    case ProblemCode::internal_error: return {"internal_error", 500, "qhupd has a bug"};
    case ProblemCode::journal_failed:
        return {"journal_failed", 507, "The journal cannot be written"};
    case ProblemCode::stopping: return {"stopping", 503, "qhupd is stopping"};
    }
    return {"internal_error", 500, "qhupd has a bug"};
}

} // namespace

std::string_view to_string(ProblemCode code) noexcept {
    return row_of(code).word;
}

int http_status_of(ProblemCode code) noexcept {
    return row_of(code).status;
}

Problem make_problem(ProblemCode code, std::string detail, std::string next_step) {
    const Row row = row_of(code);
    return {
        .status = row.status,
        .code = std::string(row.word),
        .title = std::string(row.title),
        .detail = std::move(detail),
        .next_step = std::move(next_step),
    };
}

} // namespace qhup::daemon
