// SPDX-License-Identifier: GPL-2.0-or-later
//
// A binary that is exchanged while it is checked: the other file never runs. What was checked is
// run as QEMU and binary_probe.cpp run it, by its descriptor. The same races, with the file run by
// its name, show that they are races: there the other file runs.
#include "tests/support/catch.hpp"
#include "upgrade-engine/binary_store.hpp"

#include <fcntl.h>
#include <linux/fs.h>
#include <spawn.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <random>
#include <string>
#include <thread>

using namespace qhup;
using namespace qhup::upgrade;
namespace fs = std::filesystem;

namespace {

constexpr int kTries = 2000; // of each of five attacks
// µs, between two swaps. With a sanitizer a look takes several times as long.
#if defined(__SANITIZE_ADDRESS__)
constexpr unsigned kLongestRest = 5000;
#else
constexpr unsigned kLongestRest = 1000;
#endif
constexpr uid_t kSomebody = 12345;

// Which of two programs has run shows in its exit status.
constexpr const char* kGood = "/usr/bin/true";
constexpr const char* kOther = "/usr/bin/false";

/// Somebody exchanges two names, again and again, until it is destroyed.
class Swapper {
public:
    Swapper(fs::path a, fs::path b)
        : a_(std::move(a)), b_(std::move(b)), thread_([this] { swap(); }) {}
    Swapper(const Swapper&) = delete;
    Swapper& operator=(const Swapper&) = delete;
    ~Swapper() {
        is_over_ = true;
        thread_.join();
    }
    [[nodiscard]] int swaps() const { return swaps_; }

private:
    void swap() {
        std::minstd_rand random(20261123);
        while (!is_over_) {
            const long failed = ::syscall(
                SYS_renameat2, AT_FDCWD, a_.c_str(), AT_FDCWD, b_.c_str(), RENAME_EXCHANGE
            );
            swaps_ += failed == 0 ? 1 : 0;
            const auto next = std::chrono::steady_clock::now() +
                              std::chrono::microseconds(random() % kLongestRest);
            while (std::chrono::steady_clock::now() < next) {
                std::this_thread::yield();
            }
        }
    }

    fs::path a_;
    fs::path b_;
    std::atomic<bool> is_over_{false};
    std::atomic<int> swaps_{0};
    std::thread thread_;
};

/// Two folders beside the tests, in each a file "qemu": the good one and the other one.
class Place {
public:
    Place() {
        std::string path = (fs::current_path() / "binary_race_XXXXXX").string();
        REQUIRE(::mkdtemp(path.data()) != nullptr);
        path_ = path;
        for (const char* folder : {"good", "other"}) {
            fs::create_directory(path_ / folder);
        }
        fs::copy_file(kGood, good());
        fs::copy_file(kOther, other());
    }
    Place(const Place&) = delete;
    Place& operator=(const Place&) = delete;
    ~Place() {
        std::error_code error;
        fs::remove_all(path_, error);
    }
    [[nodiscard]] const fs::path& path() const { return path_; }
    [[nodiscard]] fs::path good() const { return path_ / "good" / "qemu"; }
    [[nodiscard]] fs::path other() const { return path_ / "other" / "qemu"; }
    [[nodiscard]] Release release() const {
        Release release;
        release.name = ReleaseName("r1");
        release.path = good().string();
        return release;
    }

private:
    fs::path path_;
};

struct Counts {
    int good = 0;
    int other = 0;
    int refused = 0;
};

void run(const std::string& program, Counts& counts) {
    std::array<char*, 2> argv{const_cast<char*>("qemu"), nullptr};
    pid_t pid = 0;
    if (::posix_spawn(&pid, program.c_str(), nullptr, nullptr, argv.data(), environ) != 0) {
        ++counts.refused;
        return;
    }
    int status = 0;
    ::waitpid(pid, &status, 0);
    const bool is_good = WIFEXITED(status) && WEXITSTATUS(status) == 0;
    ++(is_good ? counts.good : counts.other);
}

/// Checks the binary and runs it, while `a` and `b` are exchanged.
/// @param by_name  what is run is what has the name then, not what was checked
Counts race(const Release& release, const fs::path& a, const fs::path& b, bool by_name) {
    const Swapper swapper(a, b);
    Counts counts;
    for (int i = 0; i < kTries && (!by_name || counts.other == 0); ++i) {
        const auto pinned = pin_binary(release);
        if (pinned.has_error()) {
            ++counts.refused;
            continue;
        }
        const std::string checked = "/proc/self/fd/" + std::to_string((*pinned)->fd.get());
        run(by_name ? release.path : checked, counts);
    }
    CHECK(swapper.swaps() > 0);
    return counts;
}

/// Makes the other file one that must not be trusted.
void give_away(const fs::path& path) {
    if (::geteuid() == 0) {
        REQUIRE(::chown(path.c_str(), kSomebody, kSomebody) == 0);
    } else {
        fs::permissions(path, fs::perms(0777));
    }
}

} // namespace

TEST_CASE("in 10,000 races the file that was not checked never runs", "[upgrade][binary_race]") {
    const Place place;
    Release release = place.release();
    fs::path a = place.good();
    fs::path b = place.other();
    SECTION("two files are exchanged, and the release has the hash of one") {
        const auto pinned = pin_binary(release);
        REQUIRE(pinned.has_value());
        release.sha256 = (*pinned)->sha256;
    }
    SECTION("the file is exchanged for that of somebody else") {
        give_away(b);
    }
    SECTION("the file is exchanged for a link") {
        b = place.path() / "link";
        fs::create_symlink(place.other(), b);
    }
    SECTION("its folder is exchanged for that of somebody else") {
        a = a.parent_path();
        b = b.parent_path();
        give_away(b);
    }
    SECTION("its folder is exchanged for a link") {
        a = a.parent_path();
        b = place.path() / "link";
        fs::create_directory_symlink(place.other().parent_path(), b);
    }
    const Counts counts = race(release, a, b, false);
    INFO("good " << counts.good << ", other " << counts.other << ", refused " << counts.refused);
    CHECK(counts.other == 0);
    CHECK(counts.good + counts.refused == kTries);
    CHECK(counts.good > kTries / 100);
    CHECK(counts.refused > kTries / 100);
}

TEST_CASE(
    "in the same races a file that is run by its name may be the other one",
    "[upgrade][binary_race]"
) {
    const Place place;
    give_away(place.other());
    const Counts counts = race(place.release(), place.good(), place.other(), true);
    CHECK(counts.other > 0);
}
