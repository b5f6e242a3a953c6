// SPDX-License-Identifier: GPL-2.0-or-later
#include "tests/support/catch.hpp"
#include "upgrade-engine/memory_ledger.hpp"

using qhup::upgrade::MemoryLedger;

TEST_CASE("what is admitted together fits together", "[upgrade][memory]") {
    MemoryLedger ledger(100);
    CHECK(ledger.ask(1, 300, 1000));
    CHECK(ledger.ask(2, 600, 1000));
    CHECK(ledger.promised() == 900);
    CHECK_FALSE(ledger.ask(3, 1, 1000));
    CHECK(ledger.ask(1, 300, 1000)); // asked again, it has what it has
    CHECK(ledger.promised() == 900);
    ledger.on_gone(1);
    CHECK(ledger.ask(3, 300, 1000));
    CHECK(ledger.promised() == 900);
}

TEST_CASE("a VM that is alone is not kept waiting", "[upgrade][memory]") {
    MemoryLedger ledger(1'000'000);
    CHECK(ledger.ask(1, 500, 1000));
    CHECK_FALSE(ledger.ask(2, 1, 1000));
    ledger.on_gone(1);
    CHECK(ledger.ask(2, 1, 1000));
    CHECK(ledger.promised() == 1);
}

TEST_CASE("a large VM is not overtaken by small ones", "[upgrade][memory]") {
    MemoryLedger ledger(0);
    CHECK(ledger.ask(1, 500, 1000));
    CHECK_FALSE(ledger.ask(2, 900, 1000));
    CHECK_FALSE(ledger.ask(3, 10, 1000));
    ledger.on_gone(1);
    CHECK_FALSE(ledger.ask(3, 10, 1000)); // not its turn, although nobody is in work
    CHECK(ledger.ask(2, 900, 1000));
    CHECK(ledger.ask(3, 10, 1000));
}

TEST_CASE("who takes its place first is admitted first, whoever asks first", "[upgrade][memory]") {
    MemoryLedger ledger(0);
    ledger.enqueue(1);
    ledger.enqueue(2);
    ledger.enqueue(1);
    CHECK_FALSE(ledger.ask(2, 10, 1000));
    CHECK(ledger.ask(1, 10, 1000));
    CHECK(ledger.ask(2, 10, 1000));
    ledger.enqueue(2); // it has what it has
    CHECK(ledger.ask(3, 10, 1000));
}

TEST_CASE("who gives up leaves its place to the next", "[upgrade][memory]") {
    MemoryLedger ledger(0);
    CHECK(ledger.ask(1, 500, 1000));
    CHECK_FALSE(ledger.ask(2, 900, 1000));
    CHECK_FALSE(ledger.ask(3, 10, 1000));
    ledger.on_gone(2);
    CHECK(ledger.ask(3, 10, 1000));
    ledger.on_gone(7); // nobody
    CHECK(ledger.promised() == 510);
}
