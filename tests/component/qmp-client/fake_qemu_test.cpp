// SPDX-License-Identifier: GPL-2.0-or-later
//
// FakeQemu is what our tests trust, so it is tested itself: with a blocking client of a few lines
// that shares no code with qmp-client.
#include "tests/support/catch.hpp"
#include "tests/support/fake_qemu.hpp"
#include "tests/support/temp_dir.hpp"

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstring>
#include <stdexcept>

namespace qhup::test {
namespace {

using nlohmann::json;
using Strings = std::vector<std::string>;

/// A blocking QMP client.
class Plain {
public:
    explicit Plain(const std::string& path, bool negotiates = true)
        : fd_(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
        sockaddr_un name{};
        name.sun_family = AF_UNIX;
        path.copy(&name.sun_path[0], sizeof(name.sun_path) - 1);
        if (::connect(fd_, reinterpret_cast<sockaddr*>(&name), sizeof(name)) != 0) {
            throw std::runtime_error("cannot connect to " + path);
        }
        if (negotiates) {
            greeting = read();
            (void)ask("qmp_capabilities");
        }
    }
    ~Plain() { ::close(fd_); }
    Plain(const Plain&) = delete;
    Plain& operator=(const Plain&) = delete;

    json ask(const std::string& name, const json& arguments = json::object(), int fd = -1) {
        send(name, arguments, fd);
        return read_reply();
    }
    void send(const std::string& name, const json& arguments = json::object(), int fd = -1) {
        const json request = {{"execute", name}, {"arguments", arguments}, {"id", ++id_}};
        std::string line = request.dump() + "\n";
        alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
        iovec part{line.data(), line.size()};
        msghdr message{};
        message.msg_iov = &part;
        message.msg_iovlen = 1;
        if (fd >= 0) {
            message.msg_control = &control[0];
            message.msg_controllen = sizeof(control);
            cmsghdr* header = CMSG_FIRSTHDR(&message);
            header->cmsg_level = SOL_SOCKET;
            header->cmsg_type = SCM_RIGHTS;
            header->cmsg_len = CMSG_LEN(sizeof(int));
            std::memcpy(CMSG_DATA(header), &fd, sizeof(fd));
        }
        if (::sendmsg(fd_, &message, MSG_NOSIGNAL) != static_cast<ssize_t>(line.size())) {
            throw std::runtime_error("cannot send");
        }
    }
    /// The reply to the last command; events on the way are kept.
    json read_reply() {
        while (true) {
            json message = read();
            if (!message.contains("event")) {
                return message;
            }
            states.push_back(message["data"].value("state", message["event"].get<std::string>()));
        }
    }
    json read() {
        std::string line;
        char byte = 0;
        while (::recv(fd_, &byte, 1, 0) == 1) {
            if (byte == '\n') {
                return json::parse(line);
            }
            line += byte;
        }
        throw std::runtime_error("hung up after " + line);
    }
    bool is_hung_up() {
        char byte = 0;
        return ::recv(fd_, &byte, 1, 0) == 0;
    }

    json greeting;
    Strings states;

private:
    int fd_;
    int id_ = 0;
};

struct Rig {
    explicit Rig(const std::function<void(FakeVmOptions&)>& change = {})
        : fake(make_options(folder, change)) {}

    static FakeQemuOptions
    make_options(const TempDir& folder, const std::function<void(FakeVmOptions&)>& change) {
        FakeQemuOptions options;
        options.qmp_path = folder / "qmp.sock";
        if (change) {
            change(options.vm);
        }
        return options;
    }
    json
    prepare(Plain& main, const std::string& upgrade = "u1", std::int64_t lease = 60'000'000'000) {
        const int null = ::open("/dev/null", O_RDONLY | O_CLOEXEC);
        (void)main.ask("getfd", {{"fdname", "bin"}}, null);
        ::close(null);
        const json arguments = {
            {"upgrade", upgrade},
            {"binary", "bin"},
            {"argv", {"qemu", "-m", "512"}},
            {"control-dir", folder.path()},
            {"lease", lease}};
        return main.ask("hot-upgrade-prepare", arguments);
    }
    /// Asks until the state is the wanted one.
    json wait_for(Plain& main, const std::string& state) {
        while (true) {
            json info = main.ask("query-hot-upgrade")["return"];
            if (info["state"] == state) {
                return info;
            }
            ::poll(nullptr, 0, 1);
        }
    }
    Strings running() {
        Strings sides;
        fake.with_vm([&](FakeVm& vm) { sides = vm.running_sides(); });
        return sides;
    }

    TempDir folder;
    FakeQemu fake;
};

std::string code_of(const json& reply) {
    return reply["error"].value("code", "");
}

} // namespace

TEST_CASE("a whole upgrade goes through the documented states", "[fake]") {
    Rig rig;
    Plain main(rig.fake.path());
    CHECK(main.greeting["QMP"]["version"]["qemu"]["major"] == 7);
    const json reply = rig.prepare(main)["return"];
    CHECK(reply["control"] == rig.folder / "u1-source");
    const json prepared = rig.wait_for(main, "prepared");
    CHECK(prepared["child-pid"] == ::getpid());
    CHECK(prepared["lease-left"].get<std::int64_t>() > 50'000'000'000);

    Plain source(rig.folder / "u1-source");
    Plain target(rig.folder / "u1-target");
    CHECK(source.greeting["QMP"]["hot-upgrade"] == json({{"protocol", 1}, {"role", "source"}}));
    CHECK(target.ask("query-hot-upgrade")["return"]["state"] == "standby");
    CHECK(rig.running() == Strings{"source"});

    const json switched = source.ask("hot-upgrade-switch");
    CHECK(switched["return"]["timings"]["pause"].get<std::int64_t>() > 0);
    CHECK(source.states == Strings{"frozen", "ceded"});
    CHECK(rig.running() == Strings{"target"});
    // the main monitor keeps its session and is the target's now
    CHECK(main.ask("query-hot-upgrade")["return"]["version"] == "10.0.13");
    CHECK(code_of(source.ask("hot-upgrade-rollback")) == "wrong-state");

    CHECK(source.ask("hot-upgrade-commit")["return"] == json::object());
    CHECK(source.is_hung_up());
    const json after = rig.wait_for(main, "none");
    CHECK(after["role"] == "source");
    CHECK(after["build-id"] == "bbbb");
    CHECK(
        main.states ==
        Strings{
            "preparing",
            "standby",
            "prepared",
            "frozen",
            "loading",
            "loaded",
            "ceded",
            "running",
            "none"}
    );
    // and it can be upgraded again
    CHECK(rig.prepare(main, "u2").contains("return"));
    CHECK(rig.wait_for(main, "prepared")["upgrade"] == "u2");
}

TEST_CASE("the single steps lead the same way", "[fake]") {
    Rig rig;
    Plain main(rig.fake.path());
    (void)rig.prepare(main);
    (void)rig.wait_for(main, "prepared");
    Plain source(rig.folder / "u1-source");
    CHECK(code_of(source.ask("hot-upgrade-load")) == "wrong-state");
    CHECK(source.ask("hot-upgrade-freeze").contains("return"));
    CHECK(rig.running().empty());
    CHECK(code_of(source.ask("hot-upgrade-takeover")) == "wrong-state");
    CHECK(source.ask("hot-upgrade-load").contains("return"));
    CHECK(source.ask("hot-upgrade-takeover").contains("return"));
    CHECK(rig.running() == Strings{"target"});
}

TEST_CASE("the guest runs on exactly one side after every refusal of switch", "[fake]") {
    for (const char* code :
         {"retry",
          "drain-timeout",
          "stale",
          "budget-exceeded",
          "save-failed",
          "load-failed",
          "takeover-failed",
          "target-died"}) {
        Rig rig([&](FakeVmOptions& options) {
            options.reactions["hot-upgrade-switch"].error_code = code;
        });
        Plain main(rig.fake.path());
        (void)rig.prepare(main);
        (void)rig.wait_for(main, "prepared");
        Plain source(rig.folder / "u1-source");
        CHECK(code_of(source.ask("hot-upgrade-switch")) == code);
        CHECK(rig.running() == Strings{"source"});
        const bool stays = std::string(code) == "retry" || std::string(code) == "drain-timeout";
        const json info = main.ask("query-hot-upgrade")["return"];
        CHECK(info["state"] == (stays ? "prepared" : "none"));
        CHECK(info["last-error"]["code"] == code);
    }
}

TEST_CASE("rollback returns to none from every state before ceded", "[fake]") {
    Rig rig;
    Plain main(rig.fake.path());
    CHECK(main.ask("hot-upgrade-rollback")["return"] == json::object());
    (void)rig.prepare(main);
    CHECK(main.ask("hot-upgrade-rollback").contains("return"));
    (void)rig.prepare(main, "u2");
    (void)rig.wait_for(main, "prepared");
    Plain source(rig.folder / "u2-source");
    CHECK(source.ask("hot-upgrade-freeze").contains("return"));
    CHECK(source.ask("hot-upgrade-rollback").contains("return"));
    CHECK(rig.running() == Strings{"source"});
    CHECK(main.ask("query-hot-upgrade")["return"]["last-error"]["code"] == "rolled-back");
}

TEST_CASE("a lease that ends rolls back without the daemon", "[fake]") {
    Rig rig;
    Plain main(rig.fake.path());
    (void)rig.prepare(main, "u1", 20'000'000);
    const json info = rig.wait_for(main, "none");
    CHECK(info["last-error"]["code"] == "lease-expired");
    CHECK(rig.running() == Strings{"source"});
}

TEST_CASE("a renewed lease outlives the first", "[fake]") {
    Rig rig;
    Plain main(rig.fake.path());
    (void)rig.prepare(main, "u1", 200'000'000);
    (void)rig.wait_for(main, "prepared");
    Plain source(rig.folder / "u1-source");
    CHECK(source.ask("hot-upgrade-renew", {{"lease", 60'000'000'000}}).contains("return"));
    const json info = source.ask("query-hot-upgrade")["return"];
    CHECK(info["lease-left"].get<std::int64_t>() > 50'000'000'000);
}

TEST_CASE("a standby that cannot come up ends the upgrade with its code", "[fake]") {
    Rig rig([](FakeVmOptions& options) { options.standby_failure = "shape-differs"; });
    Plain main(rig.fake.path());
    CHECK(rig.prepare(main).contains("return"));
    const json info = rig.wait_for(main, "none");
    CHECK(info["last-error"]["code"] == "shape-differs");
    CHECK_FALSE(info.contains("child-pid"));
}

TEST_CASE("prepare is refused with blockers, bad arguments and in a wrong state", "[fake]") {
    Rig rig;
    Plain main(rig.fake.path());
    CHECK(main.ask("hot-upgrade-prepare", {{"upgrade", "u1"}}).contains("error"));
    CHECK(rig.prepare(main).contains("return"));
    CHECK(rig.prepare(main).contains("error"));
    rig.fake.with_vm([](FakeVm& vm) { vm.options().blockers = {{"a/b", "a", "do this"}}; });
    (void)main.ask("hot-upgrade-rollback");
    CHECK(rig.prepare(main).contains("error"));
    const json info = main.ask("query-hot-upgrade")["return"];
    CHECK(info["blockers"][0] == json({{"id", "a/b"}, {"class", "a"}, {"reason", "do this"}}));
    CHECK(info["last-error"]["code"] == "blocked");
}

TEST_CASE("a generation that moved makes switch stale", "[fake]") {
    Rig rig;
    Plain main(rig.fake.path());
    (void)rig.prepare(main);
    (void)rig.wait_for(main, "prepared");
    rig.fake.with_vm([](FakeVm& vm) { ++vm.options().generation; });
    Plain source(rig.folder / "u1-source");
    CHECK(code_of(source.ask("hot-upgrade-switch")) == "stale");
    CHECK(rig.running() == Strings{"source"});
}

TEST_CASE("a long switch does not delay a question on a control socket", "[fake]") {
    Rig rig([](FakeVmOptions& options) { options.switch_time = std::chrono::milliseconds(100); });
    Plain main(rig.fake.path());
    (void)rig.prepare(main);
    (void)rig.wait_for(main, "prepared");
    Plain source(rig.folder / "u1-source");
    source.send("hot-upgrade-switch");
    CHECK(source.ask("query-hot-upgrade")["return"]["state"] == "frozen");
    CHECK(source.read_reply()["return"].contains("timings"));
}

TEST_CASE(
    "killing either side leaves the guest with the other, or tells that it is lost", "[fake]"
) {
    Rig rig;
    Plain main(rig.fake.path());
    (void)rig.prepare(main);
    (void)rig.wait_for(main, "prepared");
    rig.fake.with_vm([](FakeVm& vm) { vm.kill_target(); });
    CHECK(rig.running() == Strings{"source"});
    CHECK(rig.wait_for(main, "none")["last-error"]["code"] == "target-died");

    (void)rig.prepare(main, "u2");
    (void)rig.wait_for(main, "prepared");
    Plain source(rig.folder / "u2-source");
    CHECK(source.ask("hot-upgrade-switch").contains("return"));
    rig.fake.with_vm([](FakeVm& vm) { vm.kill_source(); });
    CHECK(rig.running() == Strings{"source"}); // the former target
    CHECK(main.ask("query-hot-upgrade")["return"]["version"] == "10.0.13");
    rig.fake.with_vm([](FakeVm& vm) { vm.kill_source(); });
    CHECK(rig.running().empty());
}

TEST_CASE("a stock QEMU has none of the commands", "[fake]") {
    Rig rig([](FakeVmOptions& options) { options.is_patched = false; });
    Plain main(rig.fake.path());
    CHECK(main.ask("query-hot-upgrade")["error"]["class"] == "CommandNotFound");
    CHECK(main.ask("query-status")["return"]["status"] == "running");
}

TEST_CASE("control commands are not taken on the main monitor", "[fake]") {
    Rig rig;
    Plain main(rig.fake.path());
    CHECK(main.ask("hot-upgrade-switch")["error"]["class"] == "CommandNotFound");
    CHECK(main.ask("hot-upgrade-commit")["error"]["class"] == "CommandNotFound");
}

TEST_CASE("reactions delay, lie, hang up and end after their number", "[fake]") {
    Rig rig([](FakeVmOptions& options) {
        Reaction lie;
        lie.result = json{{"status", "lying"}};
        lie.times = 1;
        options.reactions["query-status"] = lie;
        options.reactions["query-name"].hangs_up = true;
    });
    Plain main(rig.fake.path());
    CHECK(main.ask("query-status")["return"]["status"] == "lying");
    CHECK(main.ask("query-status")["return"]["status"] == "running");
    main.send("query-name");
    CHECK(main.is_hung_up());
}

TEST_CASE("what is no QMP gets an error without id", "[fake]") {
    Rig rig;
    Plain main(rig.fake.path(), false);
    (void)main.read();
    CHECK(main.ask("query-status")["error"]["class"] == "CommandNotFound");
    (void)main.ask("qmp_capabilities");
    main.send("x\ny"); // valid: the line end is escaped
    CHECK(main.read_reply()["error"]["class"] == "CommandNotFound");
}

TEST_CASE("one process hosts many VMs", "[fake]") {
    const TempDir folder;
    std::vector<FakeQemuOptions> all(200);
    for (std::size_t i = 0; i < all.size(); ++i) {
        all[i].qmp_path = folder / (std::to_string(i) + ".sock");
        all[i].vm.name = "vm" + std::to_string(i);
    }
    FakeQemu fake(std::move(all));
    for (const std::size_t i : {0U, 99U, 199U}) {
        Plain main(fake.path(i));
        CHECK(main.ask("query-name")["return"]["name"] == "vm" + std::to_string(i));
        CHECK(fake.connections(i) == 1);
    }
}

TEST_CASE("scripts are read from JSON, and a wrong word is an error", "[fake]") {
    const FakeVmOptions vm = parse_fake_vm_options(json::parse(
        R"({"name": "a", "blockers": [{"id": "x", "class": "y", "reason": "z"}],
            "reactions": {"stop": {"delay_ms": 3, "times": 2}}, "switch_time_ms": 7})"
    ));
    CHECK(vm.name == "a");
    CHECK(vm.blockers.at(0).blocker_class == "y");
    CHECK(vm.reactions.at("stop").times == 2);
    CHECK_THROWS_AS(parse_fake_vm_options({{"nmae", "a"}}), std::runtime_error);
    CHECK(parse_fault_script({{"chunk_bytes", 1}}).chunk_bytes == 1);
    CHECK_THROWS_AS(parse_fault_script({{"chunk_byte", 1}}), std::runtime_error);
}

} // namespace qhup::test
