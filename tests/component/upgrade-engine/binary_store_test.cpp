// SPDX-License-Identifier: GPL-2.0-or-later
#include "tests/support/catch.hpp"
#include "upgrade-engine/binary_store.hpp"

#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>

using namespace qhup;
using namespace qhup::upgrade;
namespace fs = std::filesystem;

namespace {

/// A folder beside the tests, since every folder above it must be trustworthy, too.
class Folder {
public:
    Folder() {
        std::string path = (fs::current_path() / "binary_store_XXXXXX").string();
        REQUIRE(::mkdtemp(path.data()) != nullptr);
        path_ = path;
    }
    Folder(const Folder&) = delete;
    Folder& operator=(const Folder&) = delete;
    ~Folder() {
        std::error_code error;
        fs::remove_all(path_, error);
    }

    [[nodiscard]] fs::path operator/(const char* name) const { return path_ / name; }
    [[nodiscard]] const fs::path& path() const { return path_; }

    /// A copy of this program, which is an ELF file with a build id or without.
    fs::path add_program(const char* name = "qemu", const std::string& extra = {}) const {
        const fs::path path = path_ / name;
        fs::copy_file("/proc/self/exe", path);
        std::ofstream(path, std::ios::app | std::ios::binary) << extra;
        REQUIRE(::chmod(path.c_str(), 0755) == 0);
        return path;
    }

private:
    fs::path path_;
};

Release make_release(const fs::path& path) {
    Release release;
    release.name = ReleaseName("r1");
    release.path = path.string();
    return release;
}

/// The sentence with which a path is refused.
std::string refusal(const Release& release) {
    const auto pinned = pin_binary(release);
    REQUIRE(pinned.has_error());
    CHECK(pinned.error().code == make_error_code(upgrade::Errc::binary_refused));
    CHECK(pinned.error().message.ends_with("."));
    return pinned.error().message;
}

const std::string kMark = "QEMU emulator version 10.0.13 (Debian)\n";

} // namespace

TEST_CASE("a good binary is pinned with hash and version", "[upgrade][binary_store]") {
    const Folder folder;
    const auto pinned = pin_binary(make_release(folder.add_program("qemu", "..." + kMark)));
    REQUIRE(pinned.has_value());
    CHECK((*pinned)->fd.get() >= 0);
    CHECK((*pinned)->sha256.size() == 64);
    CHECK((*pinned)->version == QemuVersion{10, 0, 13});
    CHECK((*pinned)->is_qemu);
    CHECK(check_unchanged(**pinned).has_value());
}

TEST_CASE("the version is found wherever it lies", "[upgrade][binary_store]") {
    const Folder folder;
    const auto size = static_cast<std::size_t>(fs::file_size("/proc/self/exe"));
    const std::size_t chunk = 1U << 20U;
    const std::size_t to_border = (size / chunk + 2) * chunk - size;
    for (const std::size_t before : {std::size_t{0}, std::size_t{10}, std::size_t{30}}) {
        const std::string padding(to_border - before, '.');
        const std::string name = "qemu" + std::to_string(before);
        const fs::path path = folder.add_program(name.c_str(), padding + kMark);
        const auto pinned = pin_binary(make_release(path));
        REQUIRE(pinned.has_value());
        CHECK((*pinned)->version == QemuVersion{10, 0, 13});
        CHECK((*pinned)->is_qemu);
    }
}

TEST_CASE(
    "without a version in the binary the release's word is taken", "[upgrade][binary_store]"
) {
    const Folder folder;
    const fs::path path = folder / "qemu";
    fs::copy_file("/bin/true", path);
    Release release = make_release(path);
    release.version = "7.2.22";
    const auto pinned = pin_binary(release);
    REQUIRE(pinned.has_value());
    CHECK((*pinned)->version == QemuVersion{7, 2, 22});
    CHECK_FALSE((*pinned)->is_qemu);
    CHECK_FALSE((*pinned)->build_id.empty());
}

TEST_CASE("the hash must be the release's, if it has one", "[upgrade][binary_store]") {
    const Folder folder;
    Release release = make_release(folder.add_program());
    const auto pinned = pin_binary(release);
    REQUIRE(pinned.has_value());
    release.sha256 = (*pinned)->sha256;
    CHECK(pin_binary(release).has_value());
    release.sha256[0] = release.sha256[0] == '0' ? '1' : '0';
    CHECK_THAT(refusal(release), Catch::Contains("hash"));
}

TEST_CASE("the hash is SHA-256", "[upgrade][binary_store]") {
    const Folder folder;
    const fs::path path = folder.add_program();
    const auto pinned = pin_binary(make_release(path));
    REQUIRE(pinned.has_value());
    const fs::path sum = folder / "sum";
    const std::string command = "sha256sum " + path.string() + " > " + sum.string();
    REQUIRE(std::system(command.c_str()) == 0);
    std::string expected;
    std::ifstream(sum) >> expected;
    CHECK((*pinned)->sha256 == expected);
}

TEST_CASE("what is no usable binary is refused with what to do", "[upgrade][binary_store]") {
    const Folder folder;
    const fs::path program = folder.add_program();
    CHECK_THAT(refusal(make_release(folder / "absent")), Catch::Contains("missing"));
    CHECK_THAT(refusal(make_release(folder / "no" / "such")), Catch::Contains("missing"));
    CHECK_THAT(refusal(make_release(folder.path())), Catch::Contains("folder"));
    CHECK_THAT(refusal(make_release(program / "x")), Catch::Contains("cannot be reached"));
    CHECK_THAT(refusal(make_release(folder / "." / "qemu")), Catch::Contains(". or .."));
    CHECK_THAT(refusal(make_release("qemu")), Catch::Contains("absolute"));
    CHECK_THAT(refusal(make_release("/")), Catch::Contains("absolute"));

    std::ofstream(folder / "script") << "#!/bin/sh\n";
    fs::permissions(folder / "script", fs::perms(0755));
    CHECK_THAT(refusal(make_release(folder / "script")), Catch::Contains("script"));

    std::ofstream(folder / "empty").flush();
    fs::permissions(folder / "empty", fs::perms(0755));
    CHECK_THAT(refusal(make_release(folder / "empty")), Catch::Contains("not a program"));

    REQUIRE(::mkfifo((folder / "fifo").c_str(), 0755) == 0);
    CHECK_THAT(refusal(make_release(folder / "fifo")), Catch::Contains("not a file"));

    fs::permissions(program, fs::perms(0644));
    CHECK_THAT(refusal(make_release(program)), Catch::Contains("not executable"));
}

TEST_CASE("no link is followed, wherever it is in the path", "[upgrade][binary_store]") {
    const Folder folder;
    const fs::path program = folder.add_program();
    fs::create_symlink("qemu", folder / "link");
    CHECK_THAT(refusal(make_release(folder / "link")), Catch::Contains("symbolic link"));
    fs::create_directory_symlink(folder.path(), folder / "dir");
    CHECK_THAT(refusal(make_release(folder / "dir" / "qemu")), Catch::Contains("symbolic link"));
}

TEST_CASE("what others could change is not trusted", "[upgrade][binary_store]") {
    const Folder folder;
    const fs::path program = folder.add_program();
    fs::permissions(program, fs::perms(0775));
    CHECK_THAT(refusal(make_release(program)), Catch::Contains("written by others"));
    fs::permissions(program, fs::perms(0755));
    fs::permissions(folder.path(), fs::perms(01777));
    const std::string sticky = refusal(make_release(program));
    CHECK_THAT(sticky, Catch::Contains("written by others") && Catch::Contains("below /opt"));
    CHECK_THAT(sticky, !Catch::Contains("chmod"));
    fs::permissions(folder.path(), fs::perms(0777));
    CHECK_THAT(refusal(make_release(program)), Catch::Contains("chmod go-w"));
    fs::permissions(folder.path(), fs::perms(0755));
    if (::geteuid() == 0) {
        REQUIRE(::chown(program.c_str(), 12345, 0) == 0);
        CHECK_THAT(refusal(make_release(program)), Catch::Contains("user 12345"));
        REQUIRE(::chown(program.c_str(), 0, 0) == 0);
    }
    CHECK(pin_binary(make_release(program)).has_value());
}

TEST_CASE("a path is trusted as far as it is there", "[upgrade][binary_store]") {
    const Folder folder;
    CHECK(check_trusted(folder.path()).has_value());
    CHECK(check_trusted(folder.path() / "not" / "there").has_value());
    fs::create_directory(folder.path() / "open");
    fs::permissions(folder.path() / "open", fs::perms(01777));
    const auto open = check_trusted(folder.path() / "open" / "state");
    REQUIRE(open.has_error());
    CHECK(open.error().message.find("/open can be written by others") != std::string::npos);
    CHECK(open.error().message.find("chmod") == std::string::npos);
    fs::create_directory_symlink(folder.path(), folder / "link");
    CHECK(check_trusted(folder.path() / "link" / "state").has_error());
}

TEST_CASE("a pinned binary that is changed afterwards is noticed", "[upgrade][binary_store]") {
    const Folder folder;
    const fs::path program = folder.add_program();
    const auto pinned = pin_binary(make_release(program));
    REQUIRE(pinned.has_value());
    SECTION("written to") {
        std::ofstream(program, std::ios::app) << "x";
    }
    SECTION("made writable") {
        fs::permissions(program, fs::perms(0777));
    }
    SECTION("replaced") {
        fs::rename(folder.add_program("other"), program);
    }
    const auto unchanged = check_unchanged(**pinned);
    REQUIRE(unchanged.has_error());
    CHECK(unchanged.error().code == make_error_code(upgrade::Errc::binary_changed));
}
