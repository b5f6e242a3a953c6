// SPDX-License-Identifier: GPL-2.0-or-later
#include "common/as_user.hpp"
#include "common/run_program.hpp"
#include "common/unique_fd.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/temp_dir.hpp"

#include <linux/capability.h>
#include <linux/securebits.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include <array>
#include <cstring>
#include <optional>
#include <stdexcept>
#include <string>
#include <thread>

using namespace qhup;

namespace {

constexpr uid_t kNobody = 65534;
constexpr uid_t kOther = 4711;

std::string status_line(const std::string& key) {
    const auto said = run_program({"/bin/grep", "^" + key + ":", "/proc/thread-self/status"});
    return said.has_value() ? said->out : "";
}

/// Capabilities that the calling thread has.
std::uint64_t permitted() {
    __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
    std::array<__user_cap_data_struct, 2> sets{};
    ::syscall(SYS_capget, &header, sets.data());
    return sets[0].permitted | std::uint64_t{sets[1].permitted} << 32U;
}

/// Calls it on a thread that is user kOther and has root's capabilities, as the daemon in its unit
/// has some.
template <class Work>
void as_daemon(const Work& work) {
    std::thread daemon([&work] {
        const bool is_ready = ::prctl(PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP, 0, 0, 0) == 0 &&
                              ::syscall(SYS_setresuid, kOther, kOther, kOther) == 0;
        work(is_ready);
    });
    daemon.join();
}

/// A listener that says who has connected.
class Listener {
public:
    Listener() {
        REQUIRE(::chmod(folder_.path().c_str(), 0755) == 0);
        name_.sun_family = AF_UNIX;
        const std::string path = folder_ / "socket";
        REQUIRE(path.size() < sizeof(name_.sun_path));
        std::memcpy(&name_.sun_path[0], path.data(), path.size());
        REQUIRE(::bind(fd_.get(), generic(), sizeof(name_)) == 0);
        REQUIRE(::chmod(path.c_str(), 0666) == 0);
        REQUIRE(::listen(fd_.get(), 8) == 0);
    }

    [[nodiscard]] bool connect(int client) const {
        return ::connect(client, generic(), sizeof(name_)) == 0;
    }

    [[nodiscard]] ucred accept() const {
        const UniqueFd peer(::accept4(fd_.get(), nullptr, nullptr, SOCK_CLOEXEC));
        ucred said{};
        socklen_t size = sizeof(said);
        REQUIRE(::getsockopt(peer.get(), SOL_SOCKET, SO_PEERCRED, &said, &size) == 0);
        return said;
    }

private:
    [[nodiscard]] const sockaddr* generic() const {
        return reinterpret_cast<const sockaddr*>(&name_);
    }

    test::TempDir folder_;
    UniqueFd fd_{::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)};
    sockaddr_un name_{};
};

UniqueFd make_client() {
    return UniqueFd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
}

} // namespace

TEST_CASE("one's own user can be taken by anybody, and takes rights away", "[common][as_user]") {
    uid_t seen = kNobody;
    std::uint64_t rights = 1;
    std::string privileges;
    const auto done = run_as_user(::geteuid(), "trying", [&] {
        seen = ::geteuid();
        rights = permitted();
        privileges = status_line("NoNewPrivs");
    });
    REQUIRE(done.has_value());
    CHECK(seen == ::geteuid());
    CHECK(rights == 0);
    CHECK(privileges == "NoNewPrivs:\t1\n");
}

TEST_CASE("who may not become a user does nothing in its name", "[common][as_user]") {
    bool is_called = false;
    std::optional<Result<void>> inner;
    ignore(
        run_as_user(
            ::geteuid(),
            "being without rights",
            [&] { inner = run_as_user(kOther, "trying", [&is_called] { is_called = true; }); }
        ),
        "the inner one counts"
    );
    REQUIRE(inner);
    REQUIRE(inner->has_error());
    CHECK(inner->error().message.find("trying as user 4711") != std::string::npos);
    CHECK_FALSE(is_called);
}

TEST_CASE("what is thrown comes through", "[common][as_user]") {
    const auto fail = [] {
        ignore(run_as_user(::geteuid(), "", [] { throw std::runtime_error("x"); }), "it throws");
    };
    CHECK_THROWS_AS(fail(), std::runtime_error);
}

TEST_CASE("the peer sees the user, and the daemon stays who it is", "[common][as_user]") {
    if (::geteuid() != 0) {
        WARN("only root can be another user");
        return;
    }
    REQUIRE(run_as_user(::geteuid(), "beginning", [] {}).has_value());
    const Listener listener;
    struct Seen {
        bool is_ready = false;
        bool has_rights = false;
        bool is_connected = false;
        uid_t after = 0;
        std::uint64_t before_rights = 0;
        std::uint64_t after_rights = 1;
        int dumpable = -1;
    };
    for (const uid_t user : {uid_t{0}, kNobody, kOther}) {
        Seen seen;
        const UniqueFd client = make_client();
        as_daemon([&](bool is_ready) {
            seen.is_ready = is_ready;
            seen.has_rights = is_own_user_with_rights();
            seen.before_rights = permitted();
            const auto done = run_as_user(user, "connecting", [&] {
                seen.is_connected = permitted() == 0 && listener.connect(client.get());
            });
            seen.is_connected = seen.is_connected && done.has_value();
            seen.after = ::geteuid();
            seen.after_rights = permitted();
            seen.dumpable = ::prctl(PR_GET_DUMPABLE, 0, 0, 0, 0);
        });
        REQUIRE(seen.is_ready);
        CHECK(seen.has_rights);
        CHECK(seen.is_connected);
        CHECK(listener.accept().uid == user);
        CHECK(seen.after == kOther);
        CHECK(seen.dumpable == 1);
        CHECK(seen.after_rights == seen.before_rights);
    }
    const UniqueFd client = make_client();
    REQUIRE(listener.connect(client.get()));
    CHECK(listener.accept().uid == 0);
}

TEST_CASE("a program that is started in another name has no rights", "[common][as_user]") {
    if (::geteuid() != 0) {
        WARN("only root can be another user");
        return;
    }
    for (const uid_t user : {uid_t{0}, kNobody}) {
        std::string uids;
        std::string rights;
        as_daemon([&](bool) {
            ignore(
                run_as_user(
                    user,
                    "starting",
                    [&] {
                        const auto said = run_program({"/bin/cat", "/proc/self/status"});
                        uids = said.has_value() ? said->out : "";
                    }
                ),
                "it says nothing then"
            );
        });
        const std::string number = std::to_string(user);
        CHECK(
            uids.find("Uid:\t" + number + "\t" + number + "\t" + number + "\t" + number) !=
            std::string::npos
        );
        for (const char* kind : {"CapInh", "CapPrm", "CapEff", "CapAmb"}) {
            CHECK(uids.find(std::string(kind) + ":\t0000000000000000\n") != std::string::npos);
        }
    }
}

TEST_CASE("root's is ours, our own is, and nobody's is not", "[common][as_user]") {
    CHECK(is_ours(0));
    CHECK(is_ours(::geteuid()));
    CHECK_FALSE(is_ours(kNobody));
    CHECK_FALSE(is_ours(kOther));
}
