// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/daemon.hpp"

#include "common/async.hpp"
#include "common/log.hpp"
#include "common/task_group.hpp"
#include "common/version.hpp"
#include "daemon/api_handlers.hpp"
#include "daemon/api_server.hpp"
#include "daemon/release_shelf.hpp"
#include "daemon/systemd_notify.hpp"
#include "daemon/upgrade_runs.hpp"
#include "daemon/vm_registry.hpp"

#include <boost/asio/signal_set.hpp>

#include <sys/resource.h>

#include <chrono>
#include <csignal>
#include <filesystem>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace qhup::daemon {
namespace {

constexpr int kConfigurationError = 78; // EX_CONFIG of sysexits.h
constexpr int kFailure = 1;
constexpr std::chrono::milliseconds kLastWords{200}; // followers get the last events

#ifdef QHUP_TEST_THREADS
constexpr int kThreads = QHUP_TEST_THREADS; // proves that strands protect us, not luck
#else
constexpr int kThreads = 1;
#endif

/// Everything that lives as long as the daemon. Members are destroyed from below.
class Daemon {
public:
    Daemon(const Config& config, std::string fault)
        : config_(config),
          home_(asio::make_strand(context_)),
          disk_(2),
          work_(home_),
          service_(home_),
          main_(home_),
          registry_(context_, home_, disk_, work_, config_),
          shelf_(config_.releases_dir, disk_),
          runs_(context_, home_, disk_, work_, registry_, shelf_, config_, std::move(fault)),
          handlers_(registry_, shelf_, runs_),
          server_(home_, service_, handlers_, config_),
          signals_(home_, SIGTERM, SIGINT) {}
    Daemon(const Daemon&) = delete;
    Daemon& operator=(const Daemon&) = delete;

    int run() {
        asio::post(home_, [this] { main_.spawn("daemon", run_main()); });
        std::vector<std::thread> threads;
        for (int i = 1; i < kThreads; ++i) {
            threads.emplace_back([this] { context_.run(); });
        }
        context_.run();
        for (std::thread& thread : threads) {
            thread.join();
        }
        disk_.join();
        return status_;
    }

private:
    awaitable<void> run_main() {
        const auto listening = server_.listen();
        if (listening.has_error()) {
            log().critical("{}", to_text(listening.error()));
            status_ = listening.error().code == qhup::Errc::invalid_argument ? kConfigurationError
                                                                             : kFailure;
            co_return;
        }
        co_await runs_.start_recovery();
        service_.spawn("accept", server_.run_accept());
        service_.spawn("rescans", registry_.run_rescans());
        service_.spawn("status", run_status());
        tell_systemd("READY=1\n" + status_line());
        log().info("qhupd {} serves on {}", kVersion, config_.api.socket);
        const auto [error, signal] = co_await signals_.async_wait(use_result);
        log().info("stopping{}", error ? "" : signal == SIGTERM ? " (SIGTERM)" : " (SIGINT)");
        co_await stop();
    }

    awaitable<void> stop() {
        tell_systemd("STOPPING=1\nSTATUS=Finishing what is in its pause");
        handlers_.request_stop();
        server_.request_stop();
        runs_.request_stop();
        work_.request_stop();
        co_await work_.join();
        co_await runs_.close_journal();
        ignore(co_await sleep_until(Deadline::in(kLastWords)), "a pause");
        service_.request_stop();
        co_await service_.join();
        signals_.cancel();
    }

    std::string status_line() const {
        const std::size_t vms = registry_.names().size();
        const std::size_t running = runs_.running();
        return "STATUS=" + std::to_string(vms) + (vms == 1 ? " VM, " : " VMs, ") +
               std::to_string(running) + (running == 1 ? " run" : " runs") + " in progress";
    }

    awaitable<void> run_status() {
        std::string told;
        for (bool is_stopped = false; !is_stopped;) {
            std::string line = status_line();
            if (line != told) {
                tell_systemd(line);
                told = std::move(line);
            }
            const auto slept = co_await sleep_until(Deadline::in(std::chrono::seconds(2)));
            is_stopped = slept.has_error();
        }
    }

    static void tell_systemd(const std::string& assignments) {
        const auto told = notify_systemd(assignments);
        if (told.has_error()) {
            log_failure("telling systemd", told.error());
        }
    }

    Config config_;
    asio::io_context context_;
    Strand home_;
    asio::thread_pool disk_;
    TaskGroup work_;    // upgrades and probes: joined first
    TaskGroup service_; // connections and periodic work
    TaskGroup main_;    // run_main alone
    VmRegistry registry_;
    ReleaseShelf shelf_;
    UpgradeRuns runs_;
    ApiHandlers handlers_;
    ApiServer server_;
    asio::signal_set signals_;
    int status_ = 0;
};

/// Each VM takes some descriptors: as many as the host lets us have.
void raise_descriptor_limit() {
    rlimit limit{};
    if (::getrlimit(RLIMIT_NOFILE, &limit) == 0) {
        limit.rlim_cur = limit.rlim_max;
        ::setrlimit(RLIMIT_NOFILE, &limit);
    }
}

} // namespace

int run_daemon(const Config& config, std::string fault) {
    std::signal(SIGPIPE, SIG_IGN);
    std::signal(SIGXFSZ, SIG_IGN); // a limit for files is an error of the journal, not our end
    raise_descriptor_limit();
    namespace fs = std::filesystem;
    for (const std::string& folder : {config.control_dir, config.state_dir}) {
        std::error_code error;
        fs::create_directories(folder, error);
        if (error) {
            log().critical("the folder {} cannot be made: {}", folder, error.message());
            return kConfigurationError;
        }
    }
    std::error_code ignored;
    if (!fs::is_directory(config.releases_dir, ignored)) {
        // why: not a reason to stay away from pairs that a daemon before us left.
        log().warn("there is no folder {}, so there is no release", config.releases_dir);
    }
    // why: QEMU's user must get through to its own folder, and see no other one.
    fs::permissions(config.control_dir, fs::perms(0711), ignored);
    // why: the same for a kept binary, whose loader reads its libraries as QEMU's user.
    fs::permissions(config.state_dir, fs::perms(0711), ignored);
    Daemon daemon(config, std::move(fault));
    return daemon.run();
}

} // namespace qhup::daemon
