// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/nearest_name.hpp"
#include "tests/support/catch.hpp"

using namespace qhup::daemon;

TEST_CASE("a name with one wrong letter finds what was meant", "[daemon][nearest_name]") {
    CHECK(nearest_name("paralel", {"parallel", "pause_slots"}) == "parallel");
    CHECK(nearest_name("vm11", {"vm2", "vm1", "web"}) == "vm1");
    CHECK(nearest_name("mv1", {"vm1", "db"}) == "vm1");
}

TEST_CASE("a name that is like nothing finds nothing", "[daemon][nearest_name]") {
    CHECK_FALSE(nearest_name("x", {"parallel", "pause_slots"}));
    CHECK_FALSE(nearest_name("", {"a"}));
    CHECK_FALSE(nearest_name("vm1", {}));
    CHECK_FALSE(nearest_name(std::string(10'000, 'a'), {std::string(10'000, 'a')}));
}

TEST_CASE("of two names that are equally near the first in order wins", "[daemon][nearest_name]") {
    CHECK(nearest_name("vmx", {"vmb", "vma"}) == "vma");
}

TEST_CASE("a suggestion is a sentence with a space behind it", "[daemon][nearest_name]") {
    CHECK(did_you_mean("vmm1", {"vm1"}) == "Did you mean 'vm1'? ");
    CHECK(did_you_mean("unlike", {"vm1"}).empty());
}
