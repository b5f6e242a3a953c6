// SPDX-License-Identifier: GPL-2.0-or-later
//
// A host with a thousand VMs (one process plays all of them): the daemon starts, lists, upgrades
// eight at a time, dies in the middle, and starts again. The limits are those of a host that has
// nothing else to do; on a crowded one they are longer in proportion. The figures are printed.
#include "tests/component/daemon/harness.hpp"
#include "tests/support/catch.hpp"

#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <map>

using namespace qhup::test;
using nlohmann::json;
using namespace std::chrono_literals;

namespace {

using Clock = std::chrono::steady_clock;
using Milliseconds = std::chrono::duration<double, std::milli>;

// A look at the whole history for each VM, or at every VM, takes far more than this.
#ifdef __OPTIMIZE__
constexpr Milliseconds kListWork = 120ms;
#else
constexpr Milliseconds kListWork = 600ms;
#endif
constexpr std::size_t kVms = 1000;
constexpr std::chrono::seconds kLong{180};

Milliseconds processor_time() {
    timespec time{};
    ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
    return std::chrono::seconds(time.tv_sec) + std::chrono::nanoseconds(time.tv_nsec);
}

/// How much longer everything takes because of others: 1 on a host that has nothing else to do.
double crowding() {
    const auto began = Clock::now();
    const Milliseconds used_before = processor_time();
    while (processor_time() - used_before < 30ms) {
    }
    return std::max(1.0, Milliseconds(Clock::now() - began) / 30ms);
}

/// Runs something and says how long it took.
template <class Function>
Milliseconds measure(Function function) {
    const auto began = Clock::now();
    function();
    return Clock::now() - began;
}

/// @param limit  on a host that has nothing else to do
void check_limit(const char* what, Milliseconds took, Milliseconds limit, double crowded) {
    std::cout << what << ": " << took.count() << " ms (limit " << limit.count() << " ms, crowding "
              << crowded << ")\n";
    INFO(what << " took " << took.count() << " ms");
    CHECK(took <= limit * crowded);
}

std::uintmax_t journal_bytes(const Host& host) {
    std::error_code error;
    std::uintmax_t bytes = 0;
    for (const char* const end : {"", "-wal"}) {
        const std::uintmax_t size = std::filesystem::file_size(host.journal_path() + end, error);
        bytes += error ? 0 : size;
    }
    return bytes;
}

/// VmRSS of the daemon, in KiB.
std::uint64_t memory_of(const Host& host) {
    std::ifstream status("/proc/" + std::to_string(host.daemon_pid()) + "/status");
    std::string word;
    std::uint64_t kib = 0;
    while (status >> word) {
        if (word == "VmRSS:") {
            status >> kib;
        }
    }
    return kib;
}

struct Counts {
    std::map<std::string, std::size_t> versions;
    std::size_t not_one = 0; ///< VMs that no process runs, or two
};

Counts count(Host& host) {
    Counts counts;
    for (std::size_t i = 0; i < kVms; ++i) {
        host.qemu().with_vm(
            [&counts](FakeVm& vm) {
                counts.not_one += vm.running_sides().size() == 1 ? 0U : 1U;
                ++counts.versions[vm.version()];
            },
            i
        );
    }
    return counts;
}

void check_start(Host& host, const char* what) {
    const double crowded = crowding();
    bool is_ready = false;
    const Milliseconds took = measure([&] { is_ready = host.start_daemon(); });
    REQUIRE(is_ready);
#ifdef __OPTIMIZE__
    const Milliseconds limit = 2000ms;
#else
    const Milliseconds limit = 3000ms; // the product is optimized
#endif
    check_limit(what, took, limit, std::max(crowded, crowding()));
}

/// Processor time of all threads of the daemon.
Milliseconds daemon_time(const Host& host) {
    clockid_t clock{};
    timespec time{};
    if (::clock_getcpuclockid(host.daemon_pid(), &clock) != 0 ||
        ::clock_gettime(clock, &time) != 0) {
        return {};
    }
    return std::chrono::seconds(time.tv_sec) + std::chrono::nanoseconds(time.tv_nsec);
}

/// What a list costs beside the questions to VMs: they have all just answered.
void check_list_work(Host& host) {
    Milliseconds least = Milliseconds::max();
    for (int i = 0; i < 5; ++i) {
        (void)host.raw_request("GET /v1/vms HTTP/1.1\r\nHost: q\r\nConnection: close\r\n\r\n");
        const Milliseconds before = daemon_time(host);
        (void)host.raw_request("GET /v1/vms HTTP/1.1\r\nHost: q\r\nConnection: close\r\n\r\n");
        least = std::min(least, daemon_time(host) - before);
    }
    check_limit("processor time of a list", least, kListWork, 1);
}

void check_list(Host& host, std::size_t expected) {
    const double crowded = crowding();
    Ran list;
    const Milliseconds took = measure([&] { list = host.ctl({"--json", "list"}); });
    REQUIRE(list.status == 0);
    CHECK(json::parse(list.out).at("vms").size() == expected);
#ifdef __OPTIMIZE__
    const Milliseconds limit = 150ms;
#else
    const Milliseconds limit = 1500ms;
#endif
    check_limit("list", took, limit, std::max(crowded, crowding()));
}

json find_run(Host& host, const std::string& id) {
    return json::parse(host.ctl({"--json", "status", id, "--once"}).out);
}

/// A daemon that could not look at a pair in time takes it over as a run of its own.
bool is_all_finished(Host& host) {
    const json runs = json::parse(host.ctl({"--json", "status"}).out).at("runs");
    return std::all_of(runs.begin(), runs.end(), [](const json& run) {
        return run.at("state") == "finished";
    });
}

std::size_t count_outcomes(const json& run, const std::string& outcome) {
    const json& vms = run.at("vms");
    return static_cast<std::size_t>(std::count_if(vms.begin(), vms.end(), [&](const json& vm) {
        return vm.at("outcome") == outcome;
    }));
}

} // namespace

TEST_CASE("a thousand VMs are upgraded, also by a daemon that dies half-way", "[daemon][crash]") {
    // given
    const rlimit files{16'384, 16'384};
    (void)::setrlimit(RLIMIT_NOFILE, &files);
    Host host(kVms);
    host.extra_config = "parallel = 8\n";
    host.serve();
    check_start(host, "READY with 1000 VMs");
    check_list(host, kVms);

    // when it dies half-way
    const auto began = Clock::now();
    const pid_t killed = host.start_ctl({"--json", "upgrade", "--yes", "--all", "--to", "new"});
    REQUIRE(wait_until([&] { return count(host).versions["10.0.13"] >= kVms / 2; }, kLong));
    const Milliseconds half = Clock::now() - began;
    check_list(host, kVms);
    const std::string id = host.newest_run();
    host.kill_daemon();
    (void)host.finish_ctl(killed);

    // then the next one is there at once, and finishes or undoes what was begun
    check_start(host, "READY after a kill in the middle");
    REQUIRE(wait_until([&] { return is_all_finished(host); }, kLong));
    const json run = find_run(host, id);
    REQUIRE(run.at("vms").size() == kVms);
    const Counts after = count(host);
    CHECK(after.not_one == 0);
    const std::size_t upgraded = count_outcomes(run, "upgraded");
    const std::size_t back = count_outcomes(run, "refused") + count_outcomes(run, "rolled_back");
    INFO("upgraded " << upgraded << ", back " << back << ", the first that is neither: " << [&] {
        for (const json& vm : run.at("vms")) {
            if (vm.at("outcome") != "upgraded" && vm.at("outcome") != "refused") {
                return vm.dump();
            }
        }
        return std::string("none");
    }());
    CHECK(upgraded + back == kVms);
    CHECK(after.versions.at("10.0.13") == upgraded);

    // when the rest is upgraded
    const auto rest_began = Clock::now();
    const pid_t rest = host.start_ctl({"--json", "upgrade", "--yes", "--all", "--to", "new"});
    const Ran rest_ran = host.finish_ctl(rest, kLong);
    INFO(rest_ran.err);
    CHECK(rest_ran.status == 0);
    const Milliseconds rest_took = Clock::now() - rest_began;

    // then all are there, and what is remembered is bounded
    const Counts end = count(host);
    CHECK(end.not_one == 0);
    CHECK(end.versions.at("10.0.13") == kVms);
    check_list(host, kVms);
    check_list_work(host);
    const std::uintmax_t journal = journal_bytes(host);
    const std::uint64_t memory = memory_of(host);
    std::cout << "500 VMs in " << half.count() / 1000 << " s, " << back << " in "
              << rest_took.count() / 1000 << " s; journal " << journal / 1024 << " KiB, daemon "
              << memory / 1024 << " MiB\n";
    CHECK(journal < 16U << 20U);
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
    CHECK(memory < 200U << 10U);
#endif
    const int stopped = host.stop_daemon();
    const std::string log = host.daemon_log();
    INFO(log.substr(log.size() - std::min<std::size_t>(log.size(), 3000)));
    CHECK(stopped == 0);
    check_start(host, "READY with a journal of 2000 upgrades");
}
