// SPDX-License-Identifier: GPL-2.0-or-later
//
// Selftests: throwaway guests of this host are upgraded by an ordinary run, and watched. The result
// holds for a pair of binaries and a kernel, and is kept in state_dir.
#pragma once

#include "common/async.hpp"
#include "common/task_group.hpp"
#include "daemon/api_types_selftest.hpp"
#include "daemon/config.hpp"
#include "daemon/release_shelf.hpp"
#include "daemon/selftest_judge.hpp"
#include "daemon/upgrade_runs.hpp"
#include "daemon/vm_registry.hpp"

#include <memory>
#include <optional>
#include <string>
#include <variant>
#include <vector>

namespace qhup::daemon {

/// Thread: all members on the home strand.
class Selftests {
public:
    Selftests(
        asio::thread_pool& disk,
        TaskGroup& tasks,
        VmRegistry& registry,
        ReleaseShelf& shelf,
        UpgradeRuns& runs,
        const Config& config
    );

    /// Reads the results that were kept, and ends what a daemon before us left. Call after the
    /// recovery of runs has begun.
    [[nodiscard]] awaitable<void> open();

    /// Begins a selftest, which goes on by itself. One at a time.
    /// Errors: a Problem; nothing was started then
    [[nodiscard]] awaitable<std::variant<SelftestView, Problem>>
    start(SelftestRequest request, uid_t uid);

    /// Those that are remembered, newest first.
    std::vector<SelftestView> list() const;
    std::optional<SelftestView> find(const std::string& id) const;

    /// The newest of this pair of binaries under this kernel, if it has passed.
    std::optional<SelftestView>
    find_passed(const std::string& from_build_id, const std::string& to_build_id) const;
    const std::string& kernel() const noexcept { return kernel_; }

private:
    struct Guest {
        std::string name;
        std::string folder;
    };
    struct Test {
        SelftestView view;
        std::vector<Guest> guests;
        std::vector<std::string> binary; // that they are started with, and what its release adds
        std::vector<HostUse> seen;       // each process that ran a guest
        std::vector<HostUse> vms;        // of this host
        HostLimits limits;
    };
    using TestPtr = std::shared_ptr<Test>;

    [[nodiscard]] awaitable<std::variant<std::string, Problem>> choose_from(SelftestRequest request
    );
    [[nodiscard]] awaitable<void> run(TestPtr test);
    [[nodiscard]] awaitable<std::string> work(TestPtr test);
    [[nodiscard]] awaitable<std::string> start_guests(TestPtr test);
    [[nodiscard]] awaitable<std::string> upgrade_guests(TestPtr test);
    [[nodiscard]] awaitable<std::string> judge_guests(TestPtr test);
    [[nodiscard]] awaitable<void> look_at_vms(TestPtr test);
    [[nodiscard]] awaitable<std::string> try_vhost(TestPtr test);
    [[nodiscard]] awaitable<std::string> begin_guest(Guest guest, std::vector<std::string> command);
    [[nodiscard]] awaitable<std::string> wait_until_it_answers(Guest guest);
    [[nodiscard]] awaitable<void> look_at_guest(TestPtr test, Guest guest);
    [[nodiscard]] awaitable<std::string> wait_until_it_counts(Guest guest, std::uint64_t numbers);
    [[nodiscard]] awaitable<void> end_leftover(Guest guest);
    [[nodiscard]] awaitable<void> store();

    asio::thread_pool& disk_;
    TaskGroup& tasks_;
    VmRegistry& registry_;
    ReleaseShelf& shelf_;
    UpgradeRuns& runs_;
    const Config& config_;
    std::string kernel_;
    std::vector<SelftestView> finished_; // oldest first
    TestPtr running_;
    bool is_starting_ = false;
};

} // namespace qhup::daemon
