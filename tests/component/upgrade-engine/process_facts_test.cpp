// SPDX-License-Identifier: GPL-2.0-or-later
#include "tests/support/catch.hpp"
#include "tests/support/temp_dir.hpp"
#include "upgrade-engine/process_facts.hpp"

#include <unistd.h>

#include <filesystem>
#include <fstream>

using namespace qhup;
using namespace qhup::upgrade;

namespace {

void write(const std::string& path, const std::string& text) {
    std::ofstream(path) << text;
}

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
