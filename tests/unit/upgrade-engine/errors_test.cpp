// SPDX-License-Identifier: GPL-2.0-or-later
#include "tests/support/catch.hpp"
#include "upgrade-engine/errors.hpp"

#include <set>
#include <string>

using namespace qhup::upgrade;

TEST_CASE("every code has a word of its own and a sentence", "[upgrade][errors]") {
    std::set<std::string> words;
    for (const Errc code : kAllErrcs) {
        const std::string word = qhup::wire_code_of(make_error_code(code));
        INFO(word);
        CHECK(words.insert(word).second);
        CHECK(word.find_first_not_of("abcdefghijklmnopqrstuvwxyz_") == std::string::npos);
        CHECK(explain(code).ends_with("."));
        CHECK(make_error_code(code).message() == explain(code));
    }
}

TEST_CASE("every code of docs/qmp.md is known by the word that QEMU uses", "[upgrade][errors]") {
    for (const char* const word :
         {"wrong-state",
          "blocked",
          "bad-argument",
          "spawn-failed",
          "target-died",
          "target-timeout",
          "protocol-mismatch",
          "shape-differs",
          "stale",
          "retry",
          "drain-timeout",
          "budget-exceeded",
          "save-failed",
          "load-failed",
          "takeover-failed",
          "lease-expired",
          "rolled-back",
          "fault-injected"}) {
        INFO(word);
        CHECK(parse_qemu_code(word) != Errc::unknown_qemu_code);
    }
}

TEST_CASE("QEMU cannot use the engine's own codes", "[upgrade][errors]") {
    CHECK(parse_qemu_code("vm-gone") == Errc::unknown_qemu_code);
    CHECK(parse_qemu_code("not-patched") == Errc::unknown_qemu_code);
    CHECK(parse_qemu_code("") == Errc::unknown_qemu_code);
    CHECK(parse_qemu_code("wrong_state") == Errc::unknown_qemu_code);
}

TEST_CASE("only codes that leave the pair prepared are worth another try", "[upgrade][errors]") {
    for (const Errc code : kAllErrcs) {
        CHECK(is_worth_another_try(code) == (code == Errc::retry || code == Errc::drain_timeout));
    }
}
