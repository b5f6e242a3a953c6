// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/api_types_codes.hpp"

#include "common/code_catalog.hpp"
#include "daemon/api_types_read.hpp"

#include <nlohmann/json.hpp>

#include <utility>

namespace qhup::daemon {

using nlohmann::json;

std::vector<CodeView> known_codes() {
    std::vector<CodeView> codes;
    for (const CodeRow& row : kCodeCatalog) {
        const CodeMeaning meaning = meaning_of(row);
        codes.push_back(
            {.code = std::string(row.word),
             .kind = row.kind == CodeKind::problem ? "problem" : "upgrade",
             .status = row.status,
             .severity = std::string(to_string(row.severity)),
             .meaning = std::string(meaning.meaning),
             .next_step = std::string(meaning.next_step)}
        );
    }
    return codes;
}

json to_json(const std::vector<CodeView>& value) {
    json codes = json::array();
    for (const CodeView& code : value) {
        codes.push_back(
            {{"code", code.code},
             {"kind", code.kind},
             {"status", code.status},
             {"severity", code.severity},
             {"meaning", code.meaning},
             {"next_step", code.next_step}}
        );
    }
    json document = json::object();
    document["codes"] = std::move(codes);
    return document;
}

std::vector<CodeView> codes_from_json(const json& value) {
    std::vector<CodeView> codes;
    const json& rows = read::member(value, "codes");
    for (const json& row : rows.is_array() ? rows : json::array()) {
        CodeView code{
            .code = read::text(row, "code"),
            .kind = read::text(row, "kind"),
            .status = read::integer<int>(row, "status"),
            .severity = read::text(row, "severity"),
            .meaning = read::text(row, "meaning"),
            .next_step = read::text(row, "next_step")};
        if (!code.code.empty()) {
            codes.push_back(std::move(code));
        }
    }
    return codes;
}

} // namespace qhup::daemon
