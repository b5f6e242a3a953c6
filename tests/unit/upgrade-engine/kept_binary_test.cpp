// SPDX-License-Identifier: GPL-2.0-or-later
#include "tests/support/catch.hpp"
#include "upgrade-engine/kept_binary.hpp"

#include <fstream>
#include <iterator>

using namespace qhup::upgrade;

TEST_CASE("mapped files are found once, also those that are gone", "[upgrade][kept_binary]") {
    const auto files = parse_mapped_files(
        "55d0-55e0 r--p 00000000 fe:01 77                         /usr/bin/qemu (deleted)\n"
        "55e0-55f0 r-xp 00010000 fe:01 77                         /usr/bin/qemu (deleted)\n"
        "7f00-7f10 rw-p 00000000 00:00 0 \n"
        "7f10-7f20 r--p 00000000 fe:01 78                         /usr/lib/with space.so.1\n"
        "7f20-7f30 rw-s 00000000 00:01 9                          [heap]\n"
        "nonsense\n"
    );
    REQUIRE(files.size() == 2);
    CHECK(files[0] == MappedFile{"55d0-55e0", "/usr/bin/qemu", 77, true});
    CHECK(files[1] == MappedFile{"7f10-7f20", "/usr/lib/with space.so.1", 78, false});
    CHECK(parse_mapped_files("").empty());
}

TEST_CASE("a library says by which name it is looked for", "[upgrade][kept_binary]") {
    std::ifstream file("/lib/x86_64-linux-gnu/libc.so.6", std::ios::binary);
    const std::string bytes(
        (std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>()
    );
    CHECK(find_soname(bytes) == "libc.so.6");
    CHECK(find_soname("").empty());
    CHECK(find_soname("not a library").empty());
    for (std::size_t size = 0; size < 4096; size += 13) {
        CHECK(find_soname(std::string_view(bytes).substr(0, size)).empty());
    }
}

TEST_CASE("only a kept binary is started by its loader", "[upgrade][kept_binary]") {
    Release release;
    release.name = ReleaseName("deb12");
    release.path = "/opt/bin/qemu";
    CHECK(loader_words(release).empty());
    release.name = ReleaseName("kept/ab12");
    release.path = "/k/ab12/bin/qemu";
    CHECK(
        loader_words(release) ==
        std::vector<std::string>{
            "--library-path", "/k/ab12/lib", "--argv0", "qemu-system-x86_64", "/k/ab12/bin/qemu"}
    );
    CHECK(kept_tail("/k", "ab12") == std::vector<std::string>{"-L", "/k/ab12/share/qemu"});
}

TEST_CASE("what is no build id, or another file, is not kept", "[upgrade][kept_binary]") {
    KeepRequest request;
    request.root = "/nonexistent/kept";
    request.build_id = "../etc";
    CHECK(keep_binary(request).has_error());
    request.build_id = "ab12";
    request.pid = 1;
    CHECK(keep_binary(request).has_error());
    CHECK_FALSE(is_kept(request.root, "ab12"));
    CHECK(list_kept(request.root).empty());
    CHECK(pin_kept(request.root, "ab12").has_error());
}
