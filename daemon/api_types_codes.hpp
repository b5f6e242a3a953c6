// SPDX-License-Identifier: GPL-2.0-or-later
//
// The rows of common/code_catalog as values of GET /v1/codes, and the mapping from and to JSON.
// Pure. The daemon writes them and qhupd-ctl reads them, so that 'explain' knows what a newer
// daemon says.
#pragma once

#include <nlohmann/json_fwd.hpp>

#include <string>
#include <vector>

namespace qhup::daemon {

/// One code that a client can meet.
struct CodeView {
    std::string code;      ///< stable, lower_snake; a word can be of both kinds
    std::string kind;      ///< "problem" of an error answer, or "upgrade" of a VM in a run or check
    int status = 0;        ///< of HTTP; 0 for upgrades
    std::string severity;  ///< word of Severity
    std::string meaning;   ///< what is true, without a full stop
    std::string next_step; ///< what to do, as the end of a sentence; "" if nothing

    bool operator==(const CodeView&) const = default;
};

/// The whole catalogue of this program, in its order.
std::vector<CodeView> known_codes();

/// {"codes": […]}
nlohmann::json to_json(const std::vector<CodeView>& value);

/// What a daemon said; rows without a word are left out, missing members keep their default.
std::vector<CodeView> codes_from_json(const nlohmann::json& value);

} // namespace qhup::daemon
