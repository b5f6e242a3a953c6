// SPDX-License-Identifier: GPL-2.0-or-later
#include "tests/support/catch.hpp"
#include "upgrade-engine/blockers.hpp"

#include <algorithm>
#include <string>

using namespace qhup::upgrade;

namespace {

VmFacts make_facts() {
    VmFacts facts;
    facts.protocol = kProtocol;
    facts.machine = "pc-i440fx-7.2";
    facts.build_id = "aa";
    facts.run_state = "running";
    return facts;
}

const ReleaseFacts kRelease{"qemu-10", {10, 0, 13}, "bb"};

std::vector<std::string> ids(const Verdict& verdict) {
    std::vector<std::string> result;
    for (const Blocker& blocker : verdict.blockers) {
        CHECK_FALSE(blocker.klass.empty());
        CHECK(blocker.reason.ends_with("."));
        result.push_back(blocker.id);
    }
    return result;
}

using Ids = std::vector<std::string>;

} // namespace

TEST_CASE("a VM without a reason against it may be upgraded", "[upgrade][blockers]") {
    const Verdict verdict = find_blockers(make_facts(), {}, kRelease, {});
    CHECK(verdict.may_upgrade());
    CHECK(verdict.blockers.empty());
}

TEST_CASE("QEMU's own blockers block", "[upgrade][blockers]") {
    VmFacts facts = make_facts();
    facts.blockers = {{"chardev/s0", "chardev", "It uses TLS."}};
    CHECK(ids(find_blockers(facts, {}, kRelease, {})) == Ids{"chardev/s0"});
}

TEST_CASE("another protocol blocks, and nothing else is believed", "[upgrade][blockers]") {
    VmFacts facts = make_facts();
    facts.protocol = 2;
    facts.blockers = {{"x", "y", "z."}};
    CHECK(ids(find_blockers(facts, {}, kRelease, {})) == Ids{"engine/protocol"});
}

TEST_CASE("an upgrade in progress blocks", "[upgrade][blockers]") {
    for (const PairState state : kAllPairStates) {
        VmFacts facts = make_facts();
        facts.state = state;
        const bool is_free = find_blockers(facts, {}, kRelease, {}).may_upgrade();
        CHECK(is_free == (state == PairState::none));
    }
    VmFacts facts = make_facts();
    facts.role = Role::target;
    CHECK(ids(find_blockers(facts, {}, kRelease, {})) == Ids{"engine/in-progress"});
}

TEST_CASE("a VM that runs the binary already has nothing to do", "[upgrade][blockers]") {
    VmFacts facts = make_facts();
    facts.build_id = kRelease.build_id;
    const Verdict verdict = find_blockers(facts, {}, kRelease, {});
    CHECK(verdict.is_already_there);
    CHECK(verdict.blockers.empty());
    CHECK_FALSE(verdict.may_upgrade());
}

TEST_CASE("two binaries without a build id are not taken for the same", "[upgrade][blockers]") {
    VmFacts facts = make_facts();
    facts.build_id.clear();
    CHECK(find_blockers(facts, {}, {"r", {10, 0, 13}, ""}, {}).may_upgrade());
}

TEST_CASE("QEMU as process 1 of a namespace blocks", "[upgrade][blockers]") {
    ProcessFacts process;
    process.is_pid1_of_namespace = true;
    CHECK(ids(find_blockers(make_facts(), process, kRelease, {})) == Ids{"engine/supervisor"});
}

TEST_CASE("limits that leave no room for a second QEMU block, one by one", "[upgrade][blockers]") {
    constexpr std::uint64_t kMib = 1 << 20;
    ProcessFacts process;
    process.private_bytes = 100 * kMib;
    process.threads = 6;
    process.locked_bytes = 256 * kMib;
    CHECK(find_blockers(make_facts(), process, kRelease, {}).may_upgrade());

    process.headroom = {132 * kMib, 10, 256 * kMib};
    CHECK(find_blockers(make_facts(), process, kRelease, {}).may_upgrade());

    process.headroom = {131 * kMib, 9, 255 * kMib, 131 * kMib};
    const Verdict verdict = find_blockers(make_facts(), process, kRelease, {});
    CHECK(
        ids(verdict) ==
        Ids{"engine/memory", "engine/host-memory", "engine/tasks", "engine/mem-lock"}
    );
    CHECK_THAT(
        verdict.blockers[0].reason, Catch::Contains("131 MiB") && Catch::Contains("132 MiB")
    );
}

TEST_CASE(
    "what would end the VM with its process blocks, and names a remedy", "[upgrade][blockers]"
) {
    ProcessFacts process;
    process.pid = 7;
    process.supervision.unit = "machine-qemu.scope";
    process.has_other_files = true;
    const Verdict verdict = find_blockers(make_facts(), process, kRelease, {});
    CHECK(ids(verdict) == Ids{"engine/supervisor", "engine/mount-namespace"});
    process.has_other_files = false;
    CHECK(find_blockers(make_facts(), process, kRelease, {}, {"machine-*"}).may_upgrade());
}

TEST_CASE(
    "every blocker of the engine is of a class that is listed with a remedy", "[upgrade][blockers]"
) {
    ProcessFacts process;
    process.supervision.is_in_container = true;
    process.has_other_files = true;
    process.private_bytes = 1;
    process.headroom.host_bytes = 0;
    VmFacts facts = make_facts();
    facts.state = PairState::prepared;
    facts.machine = "pc-q35-99.0";
    ArgvPlan plan;
    plan.problems = {{"-snapshot", "Because."}};
    std::vector<Blocker> found = find_blockers(facts, process, kRelease, plan).blockers;
    const Verdict other = find_blockers(make_facts(), {}, {"r", {}, "bb"}, {});
    found.insert(found.end(), other.blockers.begin(), other.blockers.end());
    found.push_back(make_not_patched_blocker());
    for (const Blocker& blocker : found) {
        INFO(blocker.id);
        const auto classes = blocker_classes();
        CHECK(std::any_of(classes.begin(), classes.end(), [&](const BlockerClass& known) {
            return known.name == blocker.klass && !known.remedy.empty();
        }));
    }
    CHECK(found.size() >= blocker_classes().size());
}

TEST_CASE("every reason against the command line is a blocker", "[upgrade][blockers]") {
    ArgvPlan plan;
    plan.problems = {{"-snapshot", "Because."}, {"", "Because not."}};
    CHECK(
        ids(find_blockers(make_facts(), {}, kRelease, plan)) ==
        Ids{"engine/argv/-snapshot", "engine/argv"}
    );
}

TEST_CASE("a release of unknown version blocks", "[upgrade][blockers]") {
    CHECK(
        ids(find_blockers(make_facts(), {}, {"r", {}, "bb"}, {})) == Ids{"engine/release-version"}
    );
}

TEST_CASE("a machine type that the release does not have blocks", "[upgrade][blockers]") {
    struct Row {
        const char* machine;
        QemuVersion release;
        bool may;
    };
    for (const Row& row : {
             Row{"pc-i440fx-7.2", {10, 0, 13}, true},
             Row{"pc-q35-10.0", {10, 0, 0}, true},
             Row{"pc-q35-10.0", {7, 2, 22}, false},
             Row{"pc-q35-7.2", {7, 2, 0}, true},
             Row{"pc-q35-4.0.1", {7, 2, 0}, true},
             Row{"pc-i440fx-2.3", {10, 0, 13}, false},
             Row{"pc-i440fx-2.3", {7, 2, 22}, true},
             Row{"pc-i440fx-2.4", {10, 0, 13}, true},
             Row{"microvm", {10, 0, 13}, true},
             Row{"virt-10.0", {7, 2, 22}, false},
         }) {
        INFO(row.machine << " to " << to_string(row.release));
        VmFacts facts = make_facts();
        facts.machine = row.machine;
        const Verdict verdict = find_blockers(facts, {}, {"r", row.release, "bb"}, {});
        CHECK(verdict.may_upgrade() == row.may);
    }
}

TEST_CASE("the blocker of a stock QEMU says to restart once", "[upgrade][blockers]") {
    CHECK_THAT(make_not_patched_blocker().reason, Catch::Contains("restart"));
}
