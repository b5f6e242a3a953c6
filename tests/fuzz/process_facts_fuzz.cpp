// SPDX-License-Identifier: GPL-2.0-or-later
//
// Texts of /proc: a process chooses its own name, and more.
#include "tests/fuzz/fuzz.hpp"
#include "upgrade-engine/vm_facts.hpp"

using namespace qhup;
using namespace qhup::upgrade;

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    fuzz::Input input(data, size);
    const std::string_view stat = input.until('\0');
    const std::string_view other = input.take(size);
    (void)parse_process_facts(1, stat, other);
    (void)parse_link_counters(other);
    (void)find_number(other, "RssAnon:");
    (void)parse_available_memory(other);
    (void)parse_memlock_limit(other);
    const std::string group = parse_cgroup_path(other);
    fuzz::require(group.empty() || group.front() == '/', "a group has a path");
    return 0;
}
