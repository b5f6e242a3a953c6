// SPDX-License-Identifier: GPL-2.0-or-later
#include "common/read_file.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/temp_dir.hpp"

#include <fcntl.h>

#include <cerrno>
#include <filesystem>
#include <fstream>
#include <string>
#include <system_error>

using namespace qhup;
using qhup::test::TempDir;

TEST_CASE("a file is read to its end or to a bound", "[read_file]") {
    const TempDir folder;
    const std::string path = folder / "text";
    const std::string text(100'000, 'x');
    std::ofstream(path) << text;
    const auto whole = read_file(path);
    REQUIRE(whole.has_value());
    CHECK(*whole == text);
    const auto part = read_file(path, 10);
    REQUIRE(part.has_value());
    CHECK(part->size() >= 10);
    CHECK(part->size() < text.size());
    const auto ours = read_file("/proc/self/maps");
    REQUIRE(ours.has_value());
    CHECK(ours->find("[stack]") != std::string::npos);
}

TEST_CASE("a file that cannot be opened or read is a failure, not an exception", "[read_file]") {
    const TempDir folder;
    std::filesystem::create_symlink("/proc/self/maps", folder / "link");
    struct Row {
        std::string path;
        int flags;
        int error;
    };
    for (const Row& row : {
             Row{folder / "missing", 0, ENOENT},
             Row{folder / "link", O_NOFOLLOW, ELOOP},
             Row{folder / "", 0, EISDIR},   // it opens, and cannot be read
             Row{"/proc/self/mem", 0, EIO}, // nothing is mapped at 0
         }) {
        INFO(row.path);
        const auto read = read_file(row.path, 100, row.flags);
        REQUIRE(read.has_error());
        CHECK(read.error().peer_text == std::generic_category().message(row.error));
    }
}
