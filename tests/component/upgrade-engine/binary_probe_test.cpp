// SPDX-License-Identifier: GPL-2.0-or-later
#include "tests/component/upgrade-engine/some_binary.hpp"
#include "tests/support/catch.hpp"
#include "upgrade-engine/binary_probe.hpp"

#include <sys/stat.h>

#include <array>
#include <chrono>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <thread>

using namespace qhup;
using namespace qhup::upgrade;
namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

namespace {

/// A binary that does what its name says; see tests/support/odd_binary.cpp. The folder of its name
/// tells its processes from those of other tests.
PinnedBinary make_odd_binary(const std::string& kind) {
    PinnedBinary binary;
    binary.release.name = ReleaseName("odd");
    binary.release.path = "/odd-" + std::to_string(::getpid()) + "/" + kind;
    binary.fd = UniqueFd(::open(ODD_BINARY, O_RDONLY | O_CLOEXEC));
    REQUIRE(binary.fd);
    return binary;
}

/// Processes whose name is that of the binary.
std::size_t count_processes(const PinnedBinary& binary) {
    std::size_t count = 0;
    for (const auto& entry : fs::directory_iterator("/proc")) {
        std::ifstream file(entry.path() / "cmdline", std::ios::binary);
        const std::string line{std::istreambuf_iterator<char>(file), {}};
        count += line.starts_with(binary.release.path) ? 1U : 0U;
    }
    return count;
}

/// As probe_binary(), and looks at what must be true whatever the binary does.
Result<BinaryFacts> probe(const PinnedBinary& binary, milliseconds patience = milliseconds(5000)) {
    const auto began = Clock::now();
    auto facts = probe_binary(binary, Deadline::in(patience));
    CHECK(Clock::now() - began < patience + milliseconds(1500));
    // why: a process of the group that is not our child is reaped by init, in its own time.
    const auto until = Clock::now() + milliseconds(2000);
    while (count_processes(binary) > 0 && Clock::now() < until) {
        std::this_thread::yield();
    }
    CHECK(count_processes(binary) == 0);
    if (facts.has_error()) {
        CHECK_THAT(facts.error().message, Catch::Contains(binary.release.path));
    }
    return facts;
}

} // namespace

TEST_CASE("a binary tells what it is", "[upgrade][binary_probe]") {
    // given: what a process inherits if nobody thinks of it
    const UniqueFd inherited(::open("/dev/null", O_RDONLY)); // lint: allow 11, not close-on-exec
    ::setenv("QHUP_TEST_INHERITED", "1", 1);                 // NOLINT(concurrency-mt-unsafe)
    const auto before = std::signal(SIGPIPE, SIG_IGN);

    // when
    const auto facts = probe(make_odd_binary("answers"));

    // then
    std::signal(SIGPIPE, before);
    REQUIRE(facts.has_value());
    CHECK(facts->is_patched);
    CHECK(facts->machines == Names{"pc", "pc-x-1.0"});
    CHECK(
        facts->types ==
        Names{
            "device",
            "fd-0",
            "fd-1",
            "fd-2",
            "CapEff:0000000000000000",
            "CapPrm:0000000000000000",
            "NoNewPrivs:1",
            "SigIgn:0000000000000000",
            "own-group",
            "no-environment",
        }
    );
    CHECK(facts->refused_options == Names{"spice", "tpmdev"});
    CHECK(facts->states == StateFormats{{"nic", {"net", 3, 2}}});
}

TEST_CASE("a binary that hangs is killed with its children", "[upgrade][binary_probe]") {
    for (const char* kind : {"hangs", "hangs-with-a-child"}) {
        const auto facts = probe(make_odd_binary(kind), milliseconds(300));
        REQUIRE(facts.has_error());
        CHECK(is_timed_out(facts.error()));
    }
}

TEST_CASE("a binary that is no QEMU is told by what it does", "[upgrade][binary_probe]") {
    const auto words = [](const char* kind) {
        const auto facts = probe(make_odd_binary(kind));
        REQUIRE(facts.has_error());
        CHECK(facts.error().code == make_error_code(upgrade::Errc::unexpected_answer));
        return to_text(facts.error());
    };
    CHECK_THAT(words("dies"), Catch::Contains("status 3") && Catch::Contains("no such thing"));
    CHECK_THAT(words("crashes"), Catch::Contains("signal 9"));
    CHECK_THAT(words("mumbles"), Catch::Contains("as a QEMU"));
    CHECK_THAT(words("floods"), Catch::Contains("says more"));
    CHECK_THAT(words("complains"), Catch::Contains("says more"));
}

TEST_CASE("a file that cannot be started is no QEMU", "[upgrade][binary_probe]") {
    PinnedBinary binary = make_odd_binary("answers");
    binary.fd = UniqueFd(::open("/etc/passwd", O_RDONLY | O_CLOEXEC));
    CHECK(probe(binary).has_error());
}

TEST_CASE("a child that a binary leaves behind does not outlive it", "[upgrade][binary_probe]") {
    const auto facts = probe(make_odd_binary("leaves-a-child"));
    REQUIRE(facts.has_value());
    CHECK(facts->is_patched);
}

TEST_CASE("what a binary told before it hung is kept", "[upgrade][binary_probe]") {
    const auto facts = probe(make_odd_binary("hangs-later"), milliseconds(500));
    REQUIRE(facts.has_value());
    CHECK(facts->machines.contains("pc"));
    CHECK(facts->refused_options.empty());
    CHECK(facts->states.empty());
}

TEST_CASE("a module that comes to a binary makes it another one", "[upgrade][binary_probe]") {
    // given
    const fs::path folder = fs::current_path() / ("probe_key_" + std::to_string(::getpid()));
    fs::create_directories(folder / "bin");
    PinnedBinary binary = make_odd_binary("answers");
    binary.release.path = folder / "bin/qemu";
    binary.sha256 = "abc";
    const std::string bare = probe_key(binary);

    // when
    fs::create_directories(folder / "lib/qemu");
    const std::string with_folder = probe_key(binary);
    fs::last_write_time(folder / "lib/qemu", fs::file_time_type::clock::now() + milliseconds(5000));
    const std::string with_more = probe_key(binary);
    fs::remove_all(folder);

    // then
    CHECK(bare == "abc");
    CHECK(with_folder != bare);
    CHECK(with_more != with_folder);
}
