// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/vm_not_found.hpp"
#include "tests/support/catch.hpp"

using namespace qhup::daemon;

TEST_CASE("a name that no VM has may be one that has not answered", "[daemon][vm_not_found]") {
    VmView one;
    one.name = "vm1";
    one.reachable = true;
    const Problem sure = make_vm_not_found("vm2", {one});
    CHECK(sure.code == "vm_not_found");
    CHECK(sure.detail == "There is no VM 'vm2'.");
    CHECK(sure.next_step == "Did you mean 'vm1'? 'qhupd-ctl list' shows all.");
    // a socket that a dead QEMU left has no VM behind it
    VmView stale;
    stale.stale = true;
    CHECK(make_vm_not_found("vm2", {one, stale}).detail == sure.detail);
    const VmView silent;
    CHECK(
        make_vm_not_found("vm2", {one, silent}).detail ==
        "There is no VM 'vm2' among those that have answered; 1 monitor has not, so the name may "
        "be one of theirs."
    );
    CHECK_THAT(
        make_vm_not_found("vm2", {silent, silent}).detail, Catch::Contains("2 monitors have not")
    );
    CHECK_THAT(
        make_vm_not_found("vm2", {silent}).next_step, Catch::Contains("why they do not answer")
    );
}
