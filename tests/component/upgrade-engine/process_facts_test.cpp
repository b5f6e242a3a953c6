// SPDX-License-Identifier: GPL-2.0-or-later
#include "common/unique_fd.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/temp_dir.hpp"
#include "upgrade-engine/process_facts.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <stdexcept>
#include <vector>

using namespace qhup;
using namespace qhup::upgrade;

namespace {

void write(const std::string& path, const std::string& text) {
    std::ofstream(path) << text;
}

/// Files that this process has open as if it were a QEMU with disks.
class Disks {
public:
    const test::TempDir folder;
    VmFacts facts;

    void open(const std::string& file, const std::string& name) {
        write(folder / file, file);
        UniqueFd fd(::open((folder / file).c_str(), O_RDWR | O_CLOEXEC));
        struct stat info {};
        if (!fd || ::fstat(fd.get(), &info) != 0) {
            throw std::runtime_error("cannot open " + file);
        }
        facts.images.push_back({fd.get(), {info.st_dev, info.st_ino}});
        facts.image_names.insert(name);
        open_.push_back(std::move(fd));
    }
    void open(const std::string& file) { open(file, folder / file); }
    void rename(const std::string& from, const std::string& to) const {
        std::filesystem::rename(folder / from, folder / to);
    }
    void remove(const std::string& file) const { std::filesystem::remove(folder / file); }
    [[nodiscard]] std::vector<LostImage> lost() const {
        return observe_lost_images(::getpid(), facts);
    }

private:
    std::vector<UniqueFd> open_;
};

using Lost = std::vector<LostImage>;

} // namespace

TEST_CASE("a process that may lock all memory has no limit of it", "[upgrade][facts]") {
    CHECK(may_lock_anything("Name:\tq\nCapEff:\t0000000000004000\nCapBnd:\t0\n"));
    CHECK(may_lock_anything("Name:\tq\nCapEff:\t00000000a80455fb\n"));
    CHECK_FALSE(may_lock_anything("Name:\tq\nCapEff:\t0000000000000000\nCapBnd:\t4000\n"));
    CHECK_FALSE(may_lock_anything("Name:\tq\nCapEff:\t00000000ffffbfff\n"));
    CHECK_FALSE(may_lock_anything(""));
}

TEST_CASE("the tightest control group on the way up counts", "[upgrade][process]") {
    const test::TempDir root;
    const std::string slice = root / "vms.slice";
    const std::string group = slice + "/vm1.service";
    std::filesystem::create_directories(group);
    write(group + "/memory.max", "max\n");
    write(group + "/memory.current", "500\n");
    write(group + "/pids.max", "64\n");
    write(group + "/pids.current", "7\n");
    CHECK_FALSE(observe_headroom(root.path(), "/vms.slice/vm1.service").memory_bytes);
    CHECK(observe_headroom(root.path(), "/vms.slice/vm1.service").tasks == 57U);

    write(slice + "/memory.max", "1000\n");
    write(slice + "/memory.current", "900\n");
    write(slice + "/memory.stat", "anon 300\nfile 600\nshmem 400\n");
    write(slice + "/pids.max", "10\n");
    write(slice + "/pids.current", "12\n");
    const Headroom headroom = observe_headroom(root.path(), "/vms.slice/vm1.service");
    CHECK(headroom.memory_bytes == 300U); // 200 of the 900 are file cache, and no memfd
    CHECK(headroom.tasks == 0U);
}

TEST_CASE("no control group, or one that is gone, is no limit", "[upgrade][process]") {
    const test::TempDir root;
    for (const char* path : {"", "/", "/gone"}) {
        const Headroom headroom = observe_headroom(root.path(), path);
        CHECK_FALSE(headroom.memory_bytes);
        CHECK_FALSE(headroom.tasks);
    }
}

TEST_CASE("a process that lives has memory and threads of its own", "[upgrade][process]") {
    const Result<ProcessFacts> facts = observe_process(::getpid());
    REQUIRE(facts.has_value());
    CHECK(facts->private_bytes > 0);
    CHECK(facts->threads >= 1);
}

TEST_CASE("a disk that has its name is not lost, by whichever way", "[upgrade][process]") {
    Disks disks;
    SECTION("by its name") {
        disks.open("a");
    }
    SECTION("by a link, by two, and through another folder") {
        std::filesystem::create_symlink("a", disks.folder / "link");
        std::filesystem::create_symlink(disks.folder / "b", disks.folder / "other");
        std::filesystem::create_directory(disks.folder / "sub");
        disks.open("a", disks.folder / "link");
        disks.open("b", disks.folder / "other");
        disks.open("c", disks.folder / "sub/../c");
    }
    SECTION("by a name that looks as if it were gone") {
        disks.open("a (deleted)");
    }
    SECTION("by a name that it was given again") {
        disks.open("a");
        std::filesystem::create_hard_link(disks.folder / "a", disks.folder / "spare");
        disks.remove("a");
        std::filesystem::create_hard_link(disks.folder / "spare", disks.folder / "a");
    }
    SECTION("by a name that another file had for a while") {
        disks.open("a");
        disks.rename("a", "spare");
        write(disks.folder / "a", "another");
        disks.rename("spare", "a");
    }
    CHECK(disks.lost().empty());
}

TEST_CASE("a disk that was deleted, replaced or moved is lost", "[upgrade][process]") {
    Disks disks;
    disks.open("kept");
    disks.open("a");
    const std::string name = disks.folder / "a";
    SECTION("deleted") {
        disks.remove("a");
        CHECK(disks.lost() == Lost{{name, ""}});
    }
    SECTION("deleted, and known by a relative name that nobody can follow") {
        disks.facts.image_names = {disks.folder / "kept", "a"};
        disks.remove("a");
        CHECK(disks.lost() == Lost{{name, ""}});
    }
    SECTION("replaced") {
        write(disks.folder / "new", "new");
        disks.rename("new", "a");
        CHECK(disks.lost() == Lost{{name, ""}});
    }
    SECTION("moved, and another file in its place") {
        disks.rename("a", "old");
        write(disks.folder / "a", "new");
        CHECK(disks.lost() == Lost{{name, disks.folder / "old"}});
    }
    SECTION("moved, and nothing in its place") {
        disks.rename("a", "old");
        (void)std::filesystem::exists(name); // why: the kernel has to have looked once
        CHECK(disks.lost() == Lost{{name, disks.folder / "old"}});
    }
    SECTION("behind a link that leads elsewhere now") {
        std::filesystem::create_symlink("b", disks.folder / "link");
        disks.open("b", disks.folder / "link");
        disks.remove("link");
        std::filesystem::create_symlink("kept", disks.folder / "link");
        (void)std::filesystem::exists(disks.folder / "link");
        CHECK(disks.lost() == Lost{{disks.folder / "link", disks.folder / "b"}});
    }
    SECTION("one of each kind") {
        disks.open("b");
        disks.remove("a");
        disks.rename("b", "old");
        write(disks.folder / "b", "new");
        CHECK(disks.lost() == Lost{{name, ""}, {disks.folder / "b", disks.folder / "old"}});
    }
    SECTION("moved to the name of another, which is told of that one") {
        disks.open("b");
        disks.rename("a", "b");
        CHECK(disks.lost() == Lost{{disks.folder / "b", ""}});
    }
}

TEST_CASE("what cannot be told of a disk is not held against it", "[upgrade][process]") {
    Disks disks;
    disks.open("a");
    SECTION("it came by descriptor") {
        for (const char* const name : {"/dev/fdset/7", "/dev/fd/9", "/proc/self/fd/9"}) {
            disks.facts.image_names = {name};
            CHECK(disks.lost().empty());
        }
        disks.remove("a");
    }
    SECTION("QEMU names no files") {
        disks.facts.image_names = {};
    }
    SECTION("the number is of another file by now, or of another process") {
        disks.facts.images[0].file.inode += 1;
        disks.remove("a");
    }
    SECTION("the name is relative to nothing that is known") {
        disks.facts.image_names = {"a"};
    }
    SECTION("the process has gone, or was never known") {
        CHECK(observe_lost_images(0, disks.facts).empty());
        CHECK(observe_lost_images(4194304, disks.facts).empty());
    }
    CHECK(disks.lost().empty());
}
