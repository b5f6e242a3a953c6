// SPDX-License-Identifier: GPL-2.0-or-later
#include "tests/support/catch.hpp"
#include "upgrade-engine/vm_facts.hpp"

#include <nlohmann/json.hpp>

#include <string>

using namespace qhup::upgrade;
using Json = nlohmann::json;
using namespace std::chrono_literals;

namespace {

/// An answer with every member of docs/qmp.md.
Json make_full_answer() {
    return Json::parse(R"({
        "protocol": 1, "role": "source", "state": "rolling-back", "upgrade": "3f2a9c",
        "version": "7.2.22", "package": "Debian", "build-id": "ab12", "pid": 1234,
        "name": "vm1", "uuid": "u", "machine": "pc-i440fx-7.2", "enabled": true,
        "run-state": "paused", "argv": ["qemu", "-m", "1G"], "cwd": "/", "pidfile": "/run/p",
        "ram-bytes": 536870912, "lease-left": 59000000000,
        "blockers": [{"id": "chardev/serial0", "class": "chardev", "reason": "r."}],
        "generation": 3, "shape-digest": "dd", "descriptors": [{"id": "tap/net0/0", "fd": 12}],
        "links": [{"id": "netdev/net0", "ifname": "tap0", "queue-length": 1000}],
        "child-pid": 4321, "takeover-degraded": ["net0"],
        "last-error": {"code": "load-failed", "phase": "load", "message": "m", "stderr": "s"},
        "timings": {"flush": 1, "stop": 2, "drain": 3, "save": 4, "load": 5, "activate": 6,
                    "start": 7, "pause": 8, "state-bytes": 9},
        "shape": {
            "devices": [
                {"path": "/machine/peripheral/nic9", "id": "nic9", "type": "igb", "user": true},
                {"path": "/machine/peripheral/nic9/part", "type": "igb-part", "user": true},
                {"path": "/machine/peripheral-anon/device[0]", "type": "edu", "user": true},
                {"path": "/machine/unattached/device[1]", "type": "rtc", "user": false}],
            "objects": [{"id": "rng0", "type": "rng-random"}],
            "cpus": {"type": "qemu64-x86_64-cpu", "count": 2}},
        "rollback-waits-for": "a lock", "a-member-of-tomorrow": {}
    })");
}

Json make_least_answer() {
    return Json::parse(R"({
        "protocol": 1, "role": "source", "state": "none", "version": "7.2.22", "package": "",
        "build-id": "", "pid": 1, "name": "", "uuid": "", "machine": "pc", "enabled": false,
        "run-state": "running", "argv": ["qemu"], "cwd": "/", "ram-bytes": 0, "blockers": [],
        "generation": 0, "shape-digest": "", "descriptors": []
    })");
}

TEST_CASE("what a process needs and may have is read from the kernel's words", "[upgrade][facts]") {
    const auto facts = parse_process_facts(
        7,
        "7 (q) S 1 7 7 0 -1 4194560 1 0 0 0 1 1 0 0 20 0 6 0 4242 1 1",
        "Name:\tq\nUid:\t0\t0\t0\t65534\nNSpid:\t7\nVmLck:\t  2048 kB\nRssAnon:\t   1024 "
        "kB\nThreads:\t6\n"
    );
    REQUIRE(facts.has_value());
    CHECK(facts->private_bytes == 1U << 20);
    CHECK(facts->locked_bytes == 2U << 20);
    CHECK(facts->uid == 65534);
    CHECK(facts->threads == 6);

    CHECK(
        parse_memlock_limit("Limit  Soft\nMax locked memory         8388608    8388608   bytes\n"
        ) == 8388608
    );
    CHECK_FALSE(parse_memlock_limit("Max locked memory         unlimited  unlimited bytes\n"));
    CHECK_FALSE(parse_memlock_limit(""));

    const std::string_view stat = "file_mapped 7\nfile 600\nshmem 400\n";
    CHECK(find_number(stat, "file ") == 600U);
    CHECK(find_number(stat, "shmem ") == 400U);
    CHECK_FALSE(find_number(stat, "slab "));
    CHECK(find_number("64\n", "") == 64U);
    CHECK_FALSE(find_number("max\n", ""));

    CHECK(
        parse_cgroup_path("9:pids:/x\n0::/system.slice/vm.service\n") == "/system.slice/vm.service"
    );
    CHECK(parse_cgroup_path("0::/../other\n").empty());
    CHECK(parse_cgroup_path("1:cpu:/\n").empty());
}

} // namespace

TEST_CASE("every member of an answer is read", "[upgrade][vm_facts]") {
    const auto facts = parse_vm_facts(make_full_answer());
    REQUIRE(facts.has_value());
    CHECK(facts->role == Role::source);
    CHECK(facts->state == PairState::rolling_back);
    CHECK(facts->upgrade.text() == "3f2a9c");
    CHECK(facts->version == QemuVersion{7, 2, 22});
    CHECK(facts->build_id == "ab12");
    CHECK(facts->claimed_pid == 1234);
    CHECK(facts->machine == "pc-i440fx-7.2");
    CHECK(facts->is_enabled);
    CHECK(facts->run_state == "paused");
    CHECK(facts->argv == std::vector<std::string>{"qemu", "-m", "1G"});
    CHECK(facts->pidfile == "/run/p");
    CHECK(facts->ram_bytes == 536870912U);
    CHECK(facts->lease_left == 59s);
    CHECK(facts->blockers == std::vector<Blocker>{{"chardev/serial0", "chardev", "r."}});
    CHECK(facts->links == std::vector<Link>{{"netdev/net0", "tap0", 1000}});
    CHECK(facts->generation == 3);
    CHECK(facts->claimed_child_pid == 4321);
    CHECK(facts->takeover_degraded == std::vector<std::string>{"net0"});
    REQUIRE(facts->last_error.has_value());
    CHECK(facts->last_error->code == Errc::load_failed);
    CHECK(facts->last_error->stderr_text == "s");
    REQUIRE(facts->timings.has_value());
    CHECK(*facts->timings == SwitchTimings{1ns, 2ns, 3ns, 4ns, 5ns, 6ns, 7ns, 8ns, 9});
    CHECK(facts->rollback_waits_for == "a lock");
}

TEST_CASE("what a VM is made of is what its user added", "[upgrade][vm_facts]") {
    // given
    using Kind = UsedType::Kind;
    Json answer = make_full_answer();

    // then
    const auto facts = parse_vm_facts(answer);
    REQUIRE(facts.has_value());
    CHECK(
        facts->types ==
        std::vector<UsedType>{
            {Kind::device, "nic9", "igb"},
            {Kind::part, "nic9/part", "igb-part"},
            {Kind::device, "device[0]", "edu"},
            {Kind::object, "rng0", "rng-random"},
            {Kind::cpu, "", "qemu64-x86_64-cpu"},
        }
    );
    for (const char* list : {"devices", "objects", "cpus"}) {
        INFO(list);
        for (const Json& wrong :
             {Json(7), Json("x"), Json::array({7}), Json::array({Json::object()})}) {
            answer = make_full_answer();
            answer["shape"][list] = wrong;
            CHECK(parse_vm_facts(answer).has_error());
        }
    }
    answer = make_full_answer();
    for (int i = 0; i < 10'001; ++i) {
        answer["shape"]["objects"].push_back(Json{{"id", "o"}, {"type", "t"}});
    }
    CHECK(parse_vm_facts(answer).has_error());
}

TEST_CASE("files of disks are read with their names", "[upgrade][vm_facts]") {
    // given: two disks and a node of its own; a name may be relative, or not that of a file
    Json answer = make_full_answer();
    answer["cwd"] = "/srv";
    answer["descriptors"] = Json::parse(R"([
        {"id": "tap/net0/0", "fd": 12}, {"id": "image/fe00:10955112/rw", "fd": 11},
        {"id": "image/2f:7/ro/direct", "fd": 13}, {"id": "image/none", "fd": 14}])");
    answer["shape"]["block"] = Json::parse(R"([
        {"name": "d0", "root": {"driver": "qcow2", "children": [
            {"role": "backing", "node": {"driver": "file", "filename": "/base.raw"}},
            {"role": "file", "node": {"driver": "file", "filename": "vm/top.q"}}]}},
        {"name": "d1", "root": {"driver": "host_device", "filename": "/dev/vdb", "children": []}},
        {"name": "empty"}])");
    answer["shape"]["nodes"] = Json::parse(R"([
        {"name": "n", "root": {"driver": "nbd", "filename": "nbd://host/x"}},
        {"name": "d1", "root": {"driver": "host_device", "filename": "/dev/vdb"}}])");

    // then
    auto facts = parse_vm_facts(answer);
    REQUIRE(facts.has_value());
    CHECK(facts->images == std::vector<OpenImage>{{11, {0xfe00, 10955112}}, {13, {0x2f, 7}}});
    CHECK(facts->image_names == std::set<std::string>{"/base.raw", "/srv/vm/top.q", "/dev/vdb"});

    // and what is not as expected leads to no name, and to no mistake
    answer["shape"]["block"] = Json::parse(R"([7, {"root": []}, {"root": {"driver": 7,
        "children": [7, {"node": 7}, {"node": {"driver": "file", "filename": 7}}]}}])");
    answer["shape"]["nodes"] = 7;
    facts = parse_vm_facts(answer);
    REQUIRE(facts.has_value());
    CHECK(facts->image_names.empty());

    for (const char* const id :
         {"image/", "image/:7/rw", "image/fe00:/rw", "image/fe00:7", "ram/x"}) {
        INFO(id);
        CHECK_FALSE(parse_image_id(id));
    }
    CHECK_FALSE(parse_image_id("image/fe00:99999999999999999999/rw"));
    answer["descriptors"] = Json::array({{{"id", "image/1:2/rw"}}});
    CHECK(parse_vm_facts(answer).has_error());
}

TEST_CASE("an answer without its optional members is read", "[upgrade][vm_facts]") {
    const auto facts = parse_vm_facts(make_least_answer());
    REQUIRE(facts.has_value());
    CHECK_FALSE(facts->last_error.has_value());
    CHECK_FALSE(facts->timings.has_value());
    CHECK_FALSE(facts->lease_left.has_value());
    CHECK(facts->upgrade.empty());
}

TEST_CASE("an answer that lacks a member or has a wrong one is no answer", "[upgrade][vm_facts]") {
    for (const char* const key :
         {"protocol",
          "role",
          "state",
          "pid",
          "machine",
          "enabled",
          "run-state",
          "argv",
          "ram-bytes",
          "generation"}) {
        INFO(key);
        Json without = make_full_answer();
        without.erase(key);
        const auto facts = parse_vm_facts(without);
        REQUIRE(facts.has_error());
        CHECK(facts.error().code == make_error_code(Errc::unexpected_answer));
        for (const Json& wrong : {Json(nullptr), Json::object(), Json(1.5)}) {
            Json lie = make_full_answer();
            lie[key] = wrong;
            CHECK(parse_vm_facts(lie).has_error());
        }
    }
}

TEST_CASE("every member may be of any type without harm", "[upgrade][vm_facts]") {
    const Json full = make_full_answer();
    for (const auto& item : full.items()) {
        for (const Json& value :
             {Json(nullptr),
              Json(-1),
              Json("x"),
              Json(true),
              Json::array({1}),
              Json{{"code", 1}},
              Json(1e300),
              Json(~std::uint64_t{0})}) {
            Json lie = full;
            lie[item.key()] = value;
            (void)parse_vm_facts(lie);
        }
    }
    CHECK(parse_vm_facts(Json(nullptr)).has_error());
    CHECK(parse_vm_facts(Json::array()).has_error());
}

TEST_CASE("counters of links are those of what goes to the guest", "[upgrade][vm_facts]") {
    const std::string text = "Inter-|   Receive                            |  Transmit\n"
                             " face |bytes    packets errs drop fifo frame compressed "
                             "multicast|bytes packets errs drop\n"
                             "    lo: 100 1 0 0 0 0 0 0 100 1 0 0 0 0 0 0\n"
                             "  tap0: 900 7 0 0 0 0 0 0 5000 40 0 2 0 0 0 0\n"
                             "br0:1: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\n"
                             " short: 1 2 3\n"
                             "  text: a b c d e f g h i j k l\n";
    const LinkCounters counters = parse_link_counters(text);
    CHECK(counters == LinkCounters{{"lo", 1}, {"tap0", 42}, {"br0:1", 22}});
    CHECK(parse_link_counters("").empty());
}

TEST_CASE("what QEMU says is bounded", "[upgrade][vm_facts]") {
    Json big = make_full_answer();
    big["machine"] = std::string(100000, 'x');
    CHECK(parse_vm_facts(big).has_error());
    big = make_full_answer();
    big["argv"] = std::vector<std::string>(100000, "x");
    CHECK(parse_vm_facts(big).has_error());
    big = make_full_answer();
    big["pid"] = std::int64_t{1} << 40;
    CHECK(parse_vm_facts(big).has_error());
    big = make_full_answer();
    const Json blocker{{"id", "a"}, {"class", "b"}, {"reason", std::string(4000, 'x')}};
    big["blockers"] = std::vector<Json>(30, blocker);
    CHECK(parse_vm_facts(big).has_value());
    big["blockers"] = std::vector<Json>(40, blocker);
    CHECK(parse_vm_facts(big).has_error());
    big = make_full_answer();
    big["last-error"]["stderr"] = std::string(100000, 'x');
    const auto facts = parse_vm_facts(big);
    REQUIRE(facts.has_value());
    CHECK(facts->last_error->stderr_text.size() == 4096);
}

TEST_CASE("of another protocol only number and version are read", "[upgrade][vm_facts]") {
    const auto facts = parse_vm_facts(Json{{"protocol", 2}, {"version", "12.0.0"}});
    REQUIRE(facts.has_value());
    CHECK(facts->protocol == 2);
    CHECK(facts->version == QemuVersion{12, 0, 0});
}

TEST_CASE("a code of last-error that nobody knows is kept as unknown", "[upgrade][vm_facts]") {
    Json answer = make_full_answer();
    answer["last-error"]["code"] = "flux-capacitor";
    const auto facts = parse_vm_facts(answer);
    REQUIRE(facts.has_value());
    CHECK(facts->last_error->code == Errc::unknown_qemu_code);
}

TEST_CASE("only the one documented sentence tells an exit status", "[upgrade][vm_facts]") {
    CHECK(parse_exit_status("the target exited with status 0") == 0);
    CHECK(parse_exit_status("the target exited with status 127") == 127);
    for (const char* const message :
         {"",
          "the target was killed by signal 0",
          "the target exited with status ",
          "the target exited with status 0 or so",
          "the target exited with status 99999999999999999999",
          "it said that the target exited with status 0"}) {
        INFO(message);
        CHECK_FALSE(parse_exit_status(message).has_value());
    }
    Json answer = make_full_answer();
    answer["last-error"]["message"] = "the target exited with status 0";
    CHECK(parse_vm_facts(answer)->last_error->exit_status == 0);
}

TEST_CASE("every state has QEMU's word", "[upgrade][vm_facts]") {
    for (const PairState state : kAllPairStates) {
        CHECK(parse_pair_state(to_string(state)) == state);
    }
    CHECK(parse_pair_state("rolling-back") == PairState::rolling_back);
    CHECK_FALSE(parse_pair_state("rolling_back").has_value());
}

TEST_CASE("the kernel's words are read even if the program's name is odd", "[upgrade][vm_facts]") {
    const auto facts = parse_process_facts(
        4711,
        "4711 (qemu) R 1 (x)) S 815 1 1 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 987654 1 1 1\n",
        "Name:\tqemu\nNSpid:\t4711\t1\nNSpgid:\t1\n"
    );
    REQUIRE(facts.has_value());
    CHECK(facts->ppid == 815);
    CHECK(facts->start_ticks == 987654);
    CHECK(facts->innermost_pid == 1);
    CHECK(facts->is_pid1_of_namespace);
}

TEST_CASE("an ordinary process is not the first of its namespace", "[upgrade][vm_facts]") {
    const auto facts = parse_process_facts(
        4711, "4711 (q) S 1 1 1 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 5 1", "NSpid:\t4711\n"
    );
    REQUIRE(facts.has_value());
    CHECK_FALSE(facts->is_pid1_of_namespace);
    CHECK(parse_process_facts(1, "", "").has_error());
    CHECK(parse_process_facts(1, "1 (q) S 1", "").has_error());
}

TEST_CASE("VMs that were made alike are of one class", "[upgrade][vm_facts]") {
    const nlohmann::json one = {
        {"cpus", {{"type", "qemu64"}, {"count", 2}}},
        {"devices", {{{"type", "virtio-net-pci"}, {"id", "a"}}, {{"type", "ide-cd"}, {"id", "b"}}}},
        {"chardevs", {{{"type", "chardev-socket"}, {"address", "/a"}}}},
    };
    nlohmann::json other = one;
    other["devices"] = {
        {{"type", "ide-cd"}, {"id", "x"}}, {{"type", "virtio-net-pci"}, {"id", "y"}}};
    other["chardevs"][0]["address"] = "/b";
    const std::string name = make_shape_class("pc-i440fx-7.2", one);
    CHECK(name.size() == 16);
    CHECK(make_shape_class("pc-i440fx-7.2", other) == name);
    CHECK(make_shape_class("pc-q35-7.2", one) != name);
    other["devices"].push_back({{"type", "e1000"}});
    CHECK(make_shape_class("pc-i440fx-7.2", other) != name);
    other = one;
    other["cpus"]["count"] = 3;
    CHECK(make_shape_class("pc-i440fx-7.2", other) != name);
    // what QEMU says may be anything
    CHECK(make_shape_class("pc", nlohmann::json(7)) == make_shape_class("pc", nlohmann::json()));
    CHECK(make_shape_class("pc", {{"devices", {1, "x", nullptr}}}).size() == 16);
}

TEST_CASE("the section that a target refused is found in its words", "[upgrade][vm_facts]") {
    CHECK(
        parse_refused_section(
            "load of migration failed; error while loading state for instance 0x0 of device "
            "'0000:00:03.0/virtio-net'"
        ) == "0000:00:03.0/virtio-net"
    );
    CHECK(parse_refused_section("killed").empty());
    CHECK(parse_refused_section("of device '").empty());
    CHECK(parse_refused_section("of device '" + std::string(9999, 'x')).size() == 128);
}
