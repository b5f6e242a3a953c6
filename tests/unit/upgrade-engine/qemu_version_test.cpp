// SPDX-License-Identifier: GPL-2.0-or-later
#include "tests/support/catch.hpp"
#include "upgrade-engine/qemu_version.hpp"

using namespace qhup::upgrade;

TEST_CASE("a version is read from the start of a text", "[upgrade][qemu_version]") {
    CHECK(parse_qemu_version("7.2") == QemuVersion{7, 2, 0});
    CHECK(parse_qemu_version("7.2.22") == QemuVersion{7, 2, 22});
    CHECK(parse_qemu_version("10.0.13 (Debian 1:10.0.13+ds-0+deb13u1)") == QemuVersion{10, 0, 13});
}

TEST_CASE("a text without a version has none", "[upgrade][qemu_version]") {
    for (const char* const text :
         {"", "7", "7.", "v7.2", "x", "-7.2", "7.-2", "0.9", "99999999999.1"}) {
        INFO(text);
        CHECK_FALSE(parse_qemu_version(text).has_value());
    }
}

TEST_CASE("10 is newer than 7", "[upgrade][qemu_version]") {
    CHECK(QemuVersion{10, 0, 0} > QemuVersion{7, 2, 22});
    CHECK(QemuVersion{7, 2, 0} < QemuVersion{7, 2, 1});
    CHECK_FALSE(QemuVersion{}.is_known());
    CHECK(to_string(QemuVersion{10, 0, 13}) == "10.0.13");
}
