// SPDX-License-Identifier: GPL-2.0-or-later
#include "tests/support/catch.hpp"
#include "upgrade-engine/blockers.hpp"

#include <algorithm>
#include <memory>
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

TEST_CASE("a file of a disk that lost its name blocks", "[upgrade][blockers]") {
    VmFacts facts = make_facts();
    ProcessFacts process;
    process.lost_images = {{"/a", ""}, {"/b", "/b.old"}, {"/c", "/c"}};
    const Verdict verdict = find_blockers(facts, process, kRelease, {});
    CHECK(ids(verdict) == Ids{"engine/image/a", "engine/image/b", "engine/image/c"});
    CHECK_THAT(verdict.blockers[0].reason, Catch::Contains("/a was deleted or replaced"));
    CHECK_THAT(verdict.blockers[0].reason, Catch::Contains("blockdev-backup"));
    CHECK_THAT(verdict.blockers[1].reason, Catch::Contains("/b is now /b.old"));
    CHECK_THAT(verdict.blockers[2].reason, Catch::Contains("move it back"));

    // but one that was temporary from the beginning has its own
    facts.blockers = {{"block/d0", "snapshot", "It goes to a temporary file; do not."}};
    CHECK(ids(find_blockers(facts, process, kRelease, {})) == Ids{"block/d0"});
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
    process.lost_images = {{"/a", ""}};
    VmFacts facts = make_facts();
    facts.state = PairState::prepared;
    facts.machine = "pc-q35-99.0";
    ArgvPlan plan;
    plan.problems = {{"-snapshot", "Because."}};
    std::vector<Blocker> found = find_blockers(facts, process, kRelease, plan).blockers;
    const Verdict other = find_blockers(make_facts(), {}, {"r", {}, "bb"}, {});
    found.insert(found.end(), other.blockers.begin(), other.blockers.end());
    ReleaseFacts bare = kRelease;
    bare.binary = std::make_shared<const BinaryFacts>();
    facts = make_facts();
    facts.types = {
        {UsedType::Kind::device, "d", "d"},
        {UsedType::Kind::object, "o", "o"},
        {UsedType::Kind::cpu, "", "c"},
    };
    const Verdict lacking = find_blockers(facts, {}, bare, {});
    found.insert(found.end(), lacking.blockers.begin(), lacking.blockers.end());
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

namespace {

/// A release whose binary has just what make_facts_with_types() needs.
BinaryFacts make_binary() {
    BinaryFacts binary;
    binary.is_patched = true;
    binary.machines = {"pc-i440fx-7.2"};
    binary.types = {"igb", "igb-part", "rng-random", "qemu64-x86_64-cpu"};
    binary.states = {{"igb", {"igb", 2, 1}}, {"igb-part", {"part", 1, 1}}};
    return binary;
}

VmFacts make_facts_with_types() {
    using Kind = UsedType::Kind;
    VmFacts facts = make_facts();
    facts.types = {
        {Kind::device, "nic9", "igb"},
        {Kind::part, "nic9/part", "igb-part"},
        {Kind::object, "rng0", "rng-random"},
        {Kind::cpu, "", "qemu64-x86_64-cpu"},
    };
    return facts;
}

/// What blocks if the release and the VM's own QEMU say so of themselves.
Verdict
judge_binaries(const BinaryFacts& release, const BinaryFacts& source, const ArgvPlan& plan = {}) {
    ReleaseFacts facts = kRelease;
    facts.binary = std::make_shared<const BinaryFacts>(release);
    facts.source_binary = std::make_shared<const BinaryFacts>(source);
    return find_blockers(make_facts_with_types(), {}, facts, plan);
}

} // namespace

TEST_CASE("what the release has does not block", "[upgrade][blockers]") {
    CHECK(judge_binaries(make_binary(), make_binary()).may_upgrade());
}

TEST_CASE("nothing is known of a release that cannot be asked", "[upgrade][blockers]") {
    CHECK(find_blockers(make_facts_with_types(), {}, kRelease, {}).may_upgrade());
}

TEST_CASE("what the release does not have blocks, all of it, by name", "[upgrade][blockers]") {
    // given
    BinaryFacts release;
    release.refused_options = {"spice", "m"};
    ArgvPlan plan;
    plan.options = {"m", "smp", "spice"};
    plan.problems = {{"-spice", "It is in the way."}};

    // when
    const Verdict verdict = judge_binaries(release, make_binary(), plan);

    // then: what is named already is not named twice, and a part goes with its device
    CHECK(
        ids(verdict) ==
        Ids{
            "engine/machine",
            "engine/release-not-patched",
            "engine/device/nic9",
            "engine/object/rng0",
            "engine/cpu",
            "engine/argv/-m",
            "engine/argv/-spice",
        }
    );
    std::vector<std::string> known;
    for (const BlockerClass& each : blocker_classes()) {
        known.emplace_back(each.name);
    }
    for (const Blocker& blocker : verdict.blockers) {
        CHECK(std::find(known.begin(), known.end(), blocker.klass) != known.end());
    }
    CHECK_THAT(
        verdict.blockers[2].reason,
        Catch::Contains("qemu-10") && Catch::Contains("igb") && Catch::Contains("; unplug")
    );
    CHECK_THAT(verdict.blockers[4].reason, Catch::Contains("qemu64-x86_64-cpu"));
}

TEST_CASE("what the release says of its machine types is believed", "[upgrade][blockers]") {
    ReleaseFacts release = kRelease;
    release.version = {7, 1, 0}; // older than the machine type, as its number says
    release.binary = std::make_shared<const BinaryFacts>(make_binary());
    CHECK(find_blockers(make_facts(), {}, release, {}).may_upgrade());
}

TEST_CASE("device state that the release cannot read blocks", "[upgrade][blockers]") {
    struct Row {
        StateFormats written;
        StateFormats read;
        Ids blocking;
    };
    const StateFormats both = make_binary().states;
    const StateFormats other{{"igb-part", {"part", 1, 1}}};
    for (const Row& row : {
             Row{both, both, {}},
             Row{{}, both, {}},
             Row{both, {}, {}}, // it could not be told
             Row{{{"igb", {"igb", 3, 1}}}, both, {"engine/device/nic9"}},
             Row{{{"igb", {"igb", 0, 0}}}, both, {"engine/device/nic9"}},
             Row{{{"igb", {"other", 2, 1}}}, both, {"engine/device/nic9"}},
             Row{{{"igb-part", {"part", 2, 1}}}, both, {"engine/device/nic9/part"}},
             Row{both, other, {"engine/device/nic9"}},
             Row{{{"e1000", {"e1000", 3, 1}}}, both, {}}, // not in this VM
         }) {
        BinaryFacts source = make_binary();
        source.states = row.written;
        BinaryFacts release = make_binary();
        release.states = row.read;
        const Verdict verdict = judge_binaries(release, source);
        CHECK(ids(verdict) == row.blocking);
        for (const Blocker& blocker : verdict.blockers) {
            CHECK_THAT(blocker.reason, Catch::Contains("state of the device nic9"));
        }
    }
}
