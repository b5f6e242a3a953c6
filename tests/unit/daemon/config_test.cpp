// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/config.hpp"
#include "tests/support/catch.hpp"

#include <fstream>
#include <iterator>

using namespace qhup;
using namespace qhup::daemon;
using namespace std::chrono_literals;

namespace {

std::string message_of(std::string_view text) {
    const auto config = parse_config(text, "qhupd.toml");
    return config.has_error() ? config.error().message : "no error";
}

} // namespace

TEST_CASE("an empty file is the default configuration", "[daemon][config]") {
    const auto config = parse_config("", "qhupd.toml");
    REQUIRE(config.has_value());
    CHECK(config->parallel == 4);
    CHECK(config->discovery.qmp == std::vector<std::string>{"/run/qhup-vm/*/qmp"});
}

TEST_CASE("every key of the example file has its default value", "[daemon][config]") {
    std::ifstream file(QHUP_SOURCE_DIR "/systemd/qhupd.toml");
    const std::string text(
        (std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>()
    );
    const auto config = parse_config(text, "qhupd.toml");
    INFO((config.has_error() ? config.error().message : ""));
    REQUIRE(config.has_value());
    const Config defaults;
    CHECK(config->control_dir == defaults.control_dir);
    CHECK(config->releases_dirs == defaults.releases_dirs);
    CHECK(config->state_dir == defaults.state_dir);
    CHECK(config->parallel == defaults.parallel);
    CHECK(config->pause_slots == defaults.pause_slots);
    CHECK(config->memory_reserve_mib == defaults.memory_reserve_mib);
    CHECK(config->probe_user == defaults.probe_user);
    CHECK(config->log_level == defaults.log_level);
    CHECK(config->discovery.interval == defaults.discovery.interval);
    CHECK(config->api.socket == defaults.api.socket);
    CHECK(config->api.group == defaults.api.group);
    CHECK(config->api.mode == defaults.api.mode);
    CHECK(config->api.max_connections == defaults.api.max_connections);
    CHECK(config->api.read_socket == defaults.api.read_socket);
    CHECK(config->api.read_group == defaults.api.read_group);
    CHECK(config->api.event_ring == defaults.api.event_ring);
    CHECK(config->leases.prepared == defaults.leases.prepared);
    CHECK(config->leases.frozen == defaults.leases.frozen);
    CHECK(config->deadlines.probe == defaults.deadlines.probe);
    CHECK(config->deadlines.prepare == defaults.deadlines.prepare);
    CHECK(config->deadlines.drain == defaults.deadlines.drain);
    CHECK(config->deadlines.pause_budget == defaults.deadlines.pause_budget);
    CHECK(config->deadlines.verify == defaults.deadlines.verify);
    CHECK(config->deadlines.request == defaults.deadlines.request);
}

TEST_CASE("values of every kind are read", "[daemon][config]") {
    const auto config = parse_config(
        "parallel = 9\nlog_level = \"debug\"\n[discovery]\nqmp = [\"/a/*\", \"/b\"]\n"
        "[api]\nmode = \"0600\"\n[leases]\nfrozen = \"500ms\"\n[deadlines]\nprepare = \"15s\"\n",
        "qhupd.toml"
    );
    REQUIRE(config.has_value());
    CHECK(config->parallel == 9);
    CHECK(config->discovery.qmp.size() == 2);
    CHECK(config->api.mode == 0600);
    CHECK(config->leases.frozen == 500ms);
    CHECK(config->deadlines.prepare == 15s);
}

TEST_CASE("an unknown key is named with file, line and the nearest known key", "[daemon][config]") {
    CHECK(message_of("\n\nparalel = 3\n").rfind("qhupd.toml:3: unknown key 'paralel'", 0) == 0);
    CHECK(message_of("paralel = 3").find("Did you mean 'parallel'?") != std::string::npos);
    CHECK(message_of("[deadlines]\nprob = \"1s\"").find("in [deadlines]") != std::string::npos);
    CHECK(message_of("[deadlines]\nprob = \"1s\"").find("'probe'") != std::string::npos);
    CHECK(message_of("[api]\nsocket = \"/a\"\n[leasse]\n").rfind("qhupd.toml:3:", 0) == 0);
}

TEST_CASE("a bad value is named with file, line and what it must be", "[daemon][config]") {
    const auto bad = GENERATE(
        "parallel = 0",
        "parallel = \"4\"",
        "parallel = 1.5",
        "pause_slots = -1",
        "log_level = \"loud\"",
        "control_dir = \"relative\"",
        "control_dir = 7",
        "discovery = 3",
        "[discovery]\nqmp = \"/a\"",
        "[discovery]\nqmp = [\"relative\"]",
        "[api]\nmode = \"0666\"",
        "[api]\nmode = 660",
        "[leases]\nfrozen = 1",
        "[leases]\nfrozen = \"1\"",
        "[leases]\nfrozen = \"1 s\"",
        "[leases]\nfrozen = \"99999999999999999999s\"",
        "[leases]\nfrozen = \"1ms\""
    );
    const std::string message = message_of(bad);
    INFO(message);
    CHECK(message.rfind("qhupd.toml:", 0) == 0);
    CHECK(message.find("must be") != std::string::npos);
}

TEST_CASE("a time that QEMU would not wait for is refused with the reason", "[daemon][config]") {
    const std::string verify = message_of("[deadlines]\nverify = \"11s\"");
    CHECK(verify.find("qhupd.toml:2: 'verify' must be") == 0);
    CHECK(verify.find("to \"10s\"") != std::string::npos);
    CHECK(verify.find("the old process waits 30s") != std::string::npos);
    const std::string prepare = message_of("[deadlines]\nprepare = \"21s\"");
    CHECK(prepare.find("to \"20s\"") != std::string::npos);
    CHECK(prepare.find("QEMU gives up") != std::string::npos);
    CHECK(message_of("[deadlines]\nverify = \"10s\"\nprepare = \"20s\"") == "no error");
}

TEST_CASE("policies are read in the order of the file", "[daemon][config]") {
    const auto config = parse_config(
        "[[policy]]\nvms = [\"*\"]\nrehearse = \"all\"\nwindow = [\"22:00-06:00\", "
        "\"12:00-13:00\"]\n"
        "[[policy]]\nvms = [\"web-*\", \"db\"]\npriority = -3\nskip = true\n"
        "pause_budget = \"50ms\"\nwindow = []\nprobe = [\"/bin/check\", \"{vm}\"]\nprobe_limit = "
        "\"2s\"\n"
        "after_failed_verify = \"revert\"\n",
        "qhupd.toml"
    );
    REQUIRE(config.has_value());
    REQUIRE(config->policies.size() == 2);
    CHECK(config->policies[0].vms == std::vector<std::string>{"*"});
    CHECK(config->policies[0].rehearse == "all");
    CHECK(config->policies[0].window->size() == 2);
    CHECK_FALSE(config->policies[0].priority.has_value());
    CHECK_FALSE(config->policies[0].skip.has_value());
    CHECK(config->policies[1].vms == std::vector<std::string>{"web-*", "db"});
    CHECK(config->policies[1].priority == -3);
    CHECK(config->policies[1].skip == true);
    CHECK(config->policies[1].pause_budget == 50ms);
    CHECK(config->policies[1].window->empty());
    CHECK(config->policies[1].probe == std::vector<std::string>{"/bin/check", "{vm}"});
    CHECK(config->policies[1].probe_limit == 2s);
    CHECK(config->policies[1].after_failed_verify == "revert");
}

TEST_CASE("a mistake in a policy is named with its line", "[daemon][config]") {
    const std::string head = "[[policy]]\nvms = [\"*\"]\n";
    const auto bad = GENERATE(
        "priority = 1001",
        "priority = \"1\"",
        "skip = 1",
        "pause_budget = \"1ms\"",
        "rehearse = \"never\"",
        "window = \"22:00-06:00\"",
        "window = [\"22-6\"]",
        "probe = \"/bin/true\"",
        "probe = [\"true\"]",
        "probe_limit = \"11s\"",
        "after_failed_verify = \"ignore\"",
        "vms = \"*\"",
        "vms = [7]"
    );
    const bool is_vms = std::string_view(bad).starts_with("vms");
    const std::string message =
        message_of(is_vms ? std::string("[[policy]]\n\n") + bad : head + bad);
    INFO(message);
    CHECK(message.rfind("qhupd.toml:3: ", 0) == 0);
    CHECK(message.find("must be") != std::string::npos);
    CHECK(message_of(head + "skp = true").find("Did you mean 'skip'?") != std::string::npos);
    CHECK(message_of("[[policy]]\nskip = true").find("must say which 'vms'") != std::string::npos);
    CHECK(message_of("[policy]\nskip = true").find("[[policy]]") != std::string::npos);
    CHECK(message_of("policy = [1]").find("[[policy]]") != std::string::npos);
}

TEST_CASE("text that is no TOML is an error with its line", "[daemon][config]") {
    CHECK(message_of("a = 1\nb = [").rfind("qhupd.toml:2:", 0) == 0);
}

TEST_CASE("a key of very many parts is an error with its line", "[daemon][config]") {
    std::string key = "a";
    for (int i = 0; i < 20'000; ++i) {
        key += i % 2 == 0 ? ".a" : R"(."\"b.")";
    }
    const std::string text = GENERATE_COPY(as<std::string>(), "[" + key + "]", key + " = 1");
    CHECK(message_of("# a.b\n" + text).rfind("qhupd.toml:2:", 0) == 0);
    CHECK(message_of("# " + key) == "no error");
}

TEST_CASE("a mistyped section is an error with its line, in every build", "[daemon][config]") {
    const std::string text = GENERATE(
        as<std::string>(), "[[", "[\n", "[ \n", "[.a]\n", "[=]\n", "\xC3\xA4 = 1", "a = \xC3\xA4"
    );
    INFO(text);
    CHECK(message_of("parallel = 4\n" + text).rfind("qhupd.toml:2: cannot be read: ", 0) == 0);
}

namespace {

std::string origin_of(const Config& config, const std::string& key) {
    for (const ConfigValue& value : describe_config(config)) {
        if (value.key == key) {
            return value.value + " from " + value.origin;
        }
    }
    return "no such key";
}

const std::vector<ConfigText> kLayers{
    {"/usr/lib/a.toml", "parallel = 2\nkept_binaries = 1\n[api]\nmode = \"0600\"\n"},
    {"/etc/b.toml", "parallel = 3\n[[policy]]\nvms = [\"*\"]\nskip = true\n"},
    {"/run/c.toml", "[api]\n\nsocket = \"/c\"\n[[policy]]\nvms = [\"c\"]\npriority = 7\n"},
};

} // namespace

TEST_CASE("a later file replaces the keys that it sets and no other one", "[daemon][config]") {
    const auto config = parse_config(kLayers);
    REQUIRE(config.has_value());
    CHECK(config->parallel == 3);
    CHECK(config->kept_binaries == 1);
    CHECK(config->api.mode == 0600);
    CHECK(config->api.socket == "/c");
    REQUIRE(config->policies.size() == 2);
    CHECK(config->policies[1].priority == 7);
}

TEST_CASE("each value knows the file and line that set it", "[daemon][config]") {
    const auto config = parse_config(kLayers);
    REQUIRE(config.has_value());
    CHECK(origin_of(*config, "parallel") == "3 from /etc/b.toml:1");
    CHECK(origin_of(*config, "kept_binaries") == "1 from /usr/lib/a.toml:2");
    CHECK(origin_of(*config, "api.mode") == "\"0600\" from /usr/lib/a.toml:4");
    CHECK(origin_of(*config, "api.socket") == "\"/c\" from /run/c.toml:3");
    CHECK(origin_of(*config, "leases.frozen") == "\"1s\" from default");
    CHECK(origin_of(*config, "policy.1.skip") == "true from /etc/b.toml:2");
    CHECK(origin_of(*config, "policy.2.priority") == "7 from /run/c.toml:4");
    CHECK(origin_of(*config, "policy.2.skip") == "no such key");
}

TEST_CASE("a mistake in a later file is named with that file", "[daemon][config]") {
    auto layers = kLayers;
    layers[1].text += "\nparalel = 4\n";
    const auto config = parse_config(layers);
    REQUIRE(config.has_error());
    CHECK(config.error().message.rfind("/etc/b.toml:", 0) == 0);
}

TEST_CASE("what is printed reads as the same configuration", "[daemon][config]") {
    auto layers = kLayers;
    layers[2].text +=
        "probe = [\"/bin/x\", \"a \\\"b\\\" \\\\ \\n\"]\nwindow = [\"22:00-06:00\"]\n";
    const auto config = parse_config(layers);
    REQUIRE(config.has_value());
    const std::string text = format_config(*config);
    INFO(text);
    const auto again = parse_config(text, "printed");
    INFO((again.has_error() ? again.error().message : ""));
    REQUIRE(again.has_value());
    const auto before = describe_config(*config);
    const auto after = describe_config(*again);
    REQUIRE(before.size() == after.size());
    for (std::size_t i = 0; i < before.size(); ++i) {
        CHECK(before[i].key == after[i].key);
        CHECK(before[i].value == after[i].value);
    }
}

TEST_CASE("folders of releases are one or several", "[daemon][config]") {
    CHECK(parse_config("releases_dir = \"/a\"", "f")->releases_dirs.size() == 1);
    CHECK(parse_config("releases_dir = [\"/a\", \"/b\"]", "f")->releases_dirs.size() == 2);
    CHECK(message_of("releases_dir = []").find("must be") != std::string::npos);
    CHECK(message_of("releases_dir = [\"a\"]").find("must be") != std::string::npos);
    CHECK(message_of("releases_dir = 7").find("must be") != std::string::npos);
}

TEST_CASE("a running daemon takes what it can of a new configuration", "[daemon][config]") {
    const Config running = *parse_config("parallel = 2\n[api]\nsocket = \"/a\"\n", "old");
    const Config wanted = *parse_config(
        "parallel = 3\nkept_binaries = 1\n[api]\nsocket = \"/b\"\n[deadlines]\nverify = \"1s\"\n",
        "new"
    );
    const Reloaded reloaded = merge_reloaded(running, wanted);
    CHECK(reloaded.kept == std::vector<std::string>{"parallel", "api.socket"});
    CHECK(reloaded.config.parallel == 2);
    CHECK(reloaded.config.api.socket == "/a");
    CHECK(reloaded.config.kept_binaries == 1);
    CHECK(reloaded.config.deadlines.verify == 1s);
    CHECK(origin_of(reloaded.config, "parallel") == "2 from old:1");
    CHECK(origin_of(reloaded.config, "kept_binaries") == "1 from new:2");
    CHECK(merge_reloaded(running, running).kept.empty());
}

TEST_CASE("the socket that may only read is beside the other one", "[daemon][config]") {
    const auto path = [](const std::string& socket) {
        return read_socket_of(parse_config("[api]\nsocket = \"" + socket + "\"", "f")->api);
    };
    CHECK(read_socket_of({}) == "/run/qhupd/qhupd-ro.sock");
    CHECK(path("/a.b/api") == "/a.b/api-ro");
    CHECK(path("/a/x.y.sock") == "/a/x.y-ro.sock");
    CHECK(read_socket_of(parse_config("[api]\nread_socket = \"/r\"", "f")->api) == "/r");
}

TEST_CASE("there is one pause slot per two cores and at least one", "[daemon][config]") {
    Config config;
    CHECK(pause_slots_for(config, 0) == 1);
    CHECK(pause_slots_for(config, 1) == 1);
    CHECK(pause_slots_for(config, 2) == 1);
    CHECK(pause_slots_for(config, 9) == 4);
    config.pause_slots = 7;
    CHECK(pause_slots_for(config, 2) == 7);
}

TEST_CASE("VMs have labels, and policies choose by them", "[daemon][config]") {
    const auto config = parse_config(
        "[[vm]]\nvms = [\"db-*\"]\nlabels = { tier = \"db\", rack = \"7\" }\n"
        "[[policy]]\nlabels = { tier = \"db\" }\nskip = true\n",
        "qhupd.toml"
    );
    REQUIRE(config.has_value());
    REQUIRE(config->labels.size() == 1);
    CHECK(config->labels[0].labels == VmLabels{{"rack", "7"}, {"tier", "db"}});
    CHECK(config->policies[0].labels == VmLabels{{"tier", "db"}});
    const std::string written = format_config(*config);
    CHECK(written.find("labels = { \"rack\" = \"7\", \"tier\" = \"db\" }") != std::string::npos);
    CHECK(message_of("[[policy]]\nskip = true\n").find("which 'labels'") != std::string::npos);
    CHECK(message_of("[[vm]]\nvms = [\"*\"]\n").find("which 'labels'") != std::string::npos);
    CHECK(
        message_of("[[vm]]\nvms = [\"*\"]\nlabels = { a = 1 }\n").find("'labels' must") !=
        std::string::npos
    );
}
