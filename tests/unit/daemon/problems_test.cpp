// SPDX-License-Identifier: GPL-2.0-or-later
#include "common/code_catalog.hpp"
#include "daemon/problems.hpp"
#include "tests/support/catch.hpp"
#include "upgrade-engine/errors.hpp"

#include <fstream>
#include <iterator>
#include <set>

using namespace qhup;
using namespace qhup::daemon;

namespace {

std::string read_page() {
    std::ifstream file(QHUP_SOURCE_DIR "/docs/api.md");
    return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

} // namespace

TEST_CASE("every problem code is in docs/api.md with its status", "[daemon][problems]") {
    const std::string page = read_page();
    for (const ProblemCode code : kAllProblemCodes) {
        const std::string row = "| `" + std::string(to_string(code)) + "` | " +
                                std::to_string(http_status_of(code)) + " |";
        INFO(row);
        CHECK(page.find(row) != std::string::npos);
    }
}

TEST_CASE("every code of an upgrade is in docs/api.md", "[daemon][problems]") {
    const std::string page = read_page();
    for (const upgrade::Errc code : upgrade::kAllErrcs) {
        const std::string row = "| `" + wire_code_of(make_error_code(code)) + "` |";
        INFO(row);
        CHECK(page.find(row) != std::string::npos);
    }
}

TEST_CASE("problem codes differ from each other", "[daemon][problems]") {
    std::set<std::string_view> words;
    for (const ProblemCode code : kAllProblemCodes) {
        words.insert(to_string(code));
    }
    CHECK(words.size() == kAllProblemCodes.size());
}

TEST_CASE("docs/api.md says of every code what the catalogue says", "[daemon][problems]") {
    const std::string page = read_page();
    for (const CodeRow& row : kCodeCatalog) {
        std::string severity(to_string(row.severity));
        const std::string middle =
            row.kind == CodeKind::problem ? std::to_string(row.status) : severity;
        const std::string line = "| `" + std::string(row.word) + "` | " + middle + " | " +
                                 std::string(row.sentence) + " |\n";
        INFO(line);
        CHECK(page.find(line) != std::string::npos);
        CHECK_FALSE(meaning_of(row).meaning.empty());
        CHECK((row.kind == CodeKind::upgrade || !row.next_step.empty()));
    }
}

TEST_CASE("no code is twice in the catalogue", "[daemon][problems]") {
    std::set<std::pair<CodeKind, std::string_view>> words;
    for (const CodeRow& row : kCodeCatalog) {
        words.insert({row.kind, row.word});
    }
    CHECK(words.size() == kCodeCatalog.size());
    const CodeMeaning busy = meaning_of(*find_code(CodeKind::upgrade, "busy"));
    CHECK(busy.meaning == "Another run works on this VM");
    CHECK(busy.next_step == "wait until it has finished.");
    CHECK(find_code(CodeKind::upgrade, "bad_request") == nullptr);
}
