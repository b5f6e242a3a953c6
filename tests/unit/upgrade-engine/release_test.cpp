// SPDX-License-Identifier: GPL-2.0-or-later
#include "tests/support/catch.hpp"
#include "upgrade-engine/release.hpp"

#include <string>

using namespace qhup::upgrade;

TEST_CASE("a release file with every key is read", "[upgrade][release]") {
    const auto release = parse_release(
        "name = \"qemu-10\"\n"
        "path = \"/opt/qemu-10/bin/qemu-system-x86_64\"\n"
        "sha256 = \"ABCDEF0123456789abcdef0123456789abcdef0123456789abcdef0123456789\"\n"
        "version = \"10.0.13\"\n"
        "description = \"Debian 13\"\n"
        "firmware = [\"/opt/qemu-10/share/qemu\", \"/usr/share/seabios\"]\n"
        "options = [\"-nodefaults\"]\n",
        "file"
    );
    REQUIRE(release.has_value());
    CHECK(release->name.text() == "qemu-10");
    CHECK(release->path == "/opt/qemu-10/bin/qemu-system-x86_64");
    CHECK(release->sha256 == "abcdef0123456789abcdef0123456789abcdef0123456789abcdef0123456789");
    CHECK(release->version == "10.0.13");
    CHECK(release->description == "Debian 13");
    CHECK(
        release_tail(*release) ==
        std::vector<std::string>{
            "-L", "/opt/qemu-10/share/qemu", "-L", "/usr/share/seabios", "-nodefaults"}
    );
}

TEST_CASE("a release file needs a path only, and is named by its file", "[upgrade][release]") {
    const auto release = parse_release("path = \"/usr/bin/qemu\"", "debian-12");
    REQUIRE(release.has_value());
    CHECK(release->name.text() == "debian-12");
    CHECK(release_tail(*release).empty());
}

TEST_CASE("a wrong release file is refused with what is wrong in it", "[upgrade][release]") {
    struct Wrong {
        const char* text;
        const char* complaint;
    };
    for (const Wrong& wrong : {
             Wrong{"", "path"},
             Wrong{"path = ", "TOML"},
             Wrong{"path = \"/q\"\npath = \"/r\"", "TOML"},
             Wrong{"path = \"bin/qemu\"", "absolute"},
             Wrong{"path = 7", "line 1"},
             Wrong{"path = \"/q\"\n\nbinary = \"/r\"", "line 3"},
             Wrong{"path = \"/q\"\nname = \"../etc\"", "name"},
             Wrong{"path = \"/q\"\nname = \"\"", "name"},
             Wrong{"path = \"/q\"\nsha256 = \"abc\"", "sha256"},
             Wrong{"path = \"/q\"\nfirmware = \"/f\"", "list"},
             Wrong{"path = \"/q\"\nfirmware = [\"f\"]", "absolute"},
             Wrong{"path = \"/q\"\noptions = [1]", "text"},
             Wrong{"path = \"/q\\u0000r\"", "zero byte"},
         }) {
        INFO(wrong.text);
        const auto release = parse_release(wrong.text, "file");
        REQUIRE(release.has_error());
        CHECK(release.error().code == make_error_code(Errc::release_invalid));
        CHECK_THAT(release.error().message, Catch::Contains(wrong.complaint));
        CHECK(release.error().message.ends_with("."));
    }
}

TEST_CASE("a key of very many parts is refused with its line", "[upgrade][release]") {
    std::string key = "a";
    for (int i = 0; i < 20'000; ++i) {
        key += ".a";
    }
    const auto release = parse_release("path = \"/q\"\n" + key + " = 1", "file");
    REQUIRE(release.has_error());
    CHECK_THAT(release.error().message, Catch::Contains("line 2, has a key with too many parts"));
}

TEST_CASE("a mistyped table is refused with its line, in every build", "[upgrade][release]") {
    const std::string text = GENERATE(
        as<std::string>(), "[[", "[\n", "[ \n", "[.a]\n", "[=]\n", "\xC3\xA4 = 1", "a = \xC3\xA4"
    );
    INFO(text);
    const auto release = parse_release("path = \"/q\"\n" + text, "file");
    REQUIRE(release.has_error());
    CHECK(release.error().code == make_error_code(Errc::release_invalid));
    CHECK_THAT(release.error().message, Catch::Contains("line 2, is not valid TOML"));
}
