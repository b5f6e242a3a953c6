// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/daemon.hpp"

#include "common/async.hpp"
#include "common/log.hpp"
#include "common/task_group.hpp"
#include "common/unique_fd.hpp"
#include "common/version.hpp"
#include "daemon/api_handlers.hpp"
#include "daemon/api_server.hpp"
#include "daemon/config_check.hpp"
#include "daemon/event_hub.hpp"
#include "daemon/listen_fds.hpp"
#include "daemon/log_events.hpp"
#include "daemon/metrics.hpp"
#include "daemon/queued_sink.hpp"
#include "daemon/release_shelf.hpp"
#include "daemon/selftests.hpp"
#include "daemon/systemd_notify.hpp"
#include "daemon/upgrade_runs.hpp"
#include "daemon/vm_registry.hpp"

#include <boost/asio/signal_set.hpp>

#include <spdlog/sinks/base_sink.h>

#include <fcntl.h>
#include <sys/file.h>
#include <sys/resource.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <filesystem>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace qhup::daemon {
namespace {

constexpr int kConfigurationError = 78; // EX_CONFIG of sysexits.h
constexpr int kFailure = 1;
constexpr std::chrono::milliseconds kLastWords{200}; // followers get the last events
constexpr int kLockTries = 20;
constexpr std::chrono::milliseconds kLockPause{100}; // between two tries

#ifdef QHUP_TEST_THREADS
constexpr int kThreads = QHUP_TEST_THREADS; // proves that strands protect us, not luck
#else
constexpr int kThreads = 1;
#endif

/// What an operator should read goes to the followers of events, too.
class OperatorEvents final : public spdlog::sinks::base_sink<std::mutex> {
public:
    OperatorEvents(Strand home, EventHub& events) : home_(std::move(home)), events_(events) {
        set_level(spdlog::level::warn);
    }

private:
    void sink_it_(const spdlog::details::log_msg& message) override {
        EventView event;
        event.type = std::string(to_string(EventType::log));
        event.level = message.level == spdlog::level::warn  ? "warning"
                      : message.level == spdlog::level::err ? "error"
                                                            : "critical";
        event.message = std::string(message.payload.data(), message.payload.size());
        // why: whoever logs may be on any thread, and must not wait.
        asio::post(home_, [&events = events_, event = std::move(event)]() mutable {
            events.publish(std::move(event));
        });
    }
    void flush_() override {}

    Strand home_;
    EventHub& events_;
};

/// Another thread for a pool of one.
///
/// why: asio::thread_pool's constructor waits for ever for its first thread when it cannot start
/// the second, and the daemon would neither serve nor end. This one throws std::system_error.
class PoolThread {
public:
    explicit PoolThread(asio::thread_pool& pool)
        : pool_(pool), thread_([&pool] { pool.attach(); }) {}
    ~PoolThread() {
        pool_.stop();
        thread_.join();
    }
    PoolThread(const PoolThread&) = delete;
    PoolThread& operator=(const PoolThread&) = delete;

private:
    asio::thread_pool& pool_;
    std::thread thread_;
};

/// Everything that lives as long as the daemon. Members are destroyed from below.
class Daemon {
public:
    Daemon(
        const Config& config,
        ConfigSource source,
        std::map<std::string, UniqueFd> sockets,
        std::string fault
    )
        : config_(config),
          source_(std::move(source)),
          sockets_(std::move(sockets)),
          home_(asio::make_strand(context_)),
          disk_(1),
          second_disk_(disk_),
          work_(home_),
          service_(home_),
          main_(home_),
          events_(
              home_,
              disk_,
              service_,
              config_.state_dir + "/event-id",
              {.events = config_.api.event_ring}
          ),
          registry_(context_, home_, disk_, work_, config_),
          shelf_(config_.releases_dirs, disk_),
          runs_(
              context_, home_, disk_, work_, registry_, shelf_, events_, config_, std::move(fault)
          ),
          selftests_(disk_, work_, registry_, shelf_, runs_, config_),
          handlers_(registry_, shelf_, runs_, selftests_, events_, metrics_),
          server_(home_, service_, handlers_, config_),
          signals_(home_, SIGTERM, SIGINT),
          reloads_(home_, SIGHUP),
          operator_events_(std::make_shared<OperatorEvents>(home_, events_)) {
        log().sinks().push_back(operator_events_);
    }
    ~Daemon() {
        auto& sinks = log().sinks();
        sinks.erase(std::remove(sinks.begin(), sinks.end(), operator_events_), sinks.end());
    }
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
    /// Takes the folder for this daemon alone, as long as it lives.
    ///
    /// why: a second one takes the pairs of the first for those of a dead one, and ends them.
    awaitable<Result<void>> take_folder(std::string path) {
        UniqueFd fd(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
        const auto lock = [&fd] { return ::flock(fd.get(), LOCK_EX | LOCK_NB) == 0 ? 0 : errno; };
        int failed = lock();
        // why: one that was killed is gone in a moment, with what it was about to start.
        for (int i = 0; failed == EWOULDBLOCK && i < kLockTries; ++i) {
            ignore(co_await sleep_until(Deadline::in(kLockPause)), "a pause");
            failed = lock();
        }
        if (failed == EWOULDBLOCK) {
            co_return make_failure(
                Errc::system_error, "another qhupd works in " + path + "; one is enough"
            );
        }
        if (failed != 0) {
            log().warn("{} cannot be locked, so a second qhupd would not be noticed", path);
        }
        taken_.push_back(std::move(fd));
        co_return Result<void>();
    }

    awaitable<Result<void>> take_folders() {
        Result<void> taken = co_await take_folder(config_.control_dir);
        std::error_code error;
        const bool is_one =
            std::filesystem::equivalent(config_.control_dir, config_.state_dir, error);
        if (taken.has_value() && !is_one) {
            taken = co_await take_folder(config_.state_dir);
        }
        co_return taken;
    }

    awaitable<void> run_main() {
        const Result<void> taken = co_await take_folders();
        if (taken.has_error()) {
            log().critical("{}", to_text(taken.error()));
            status_ = kFailure;
            co_return;
        }
        const auto listening = server_.listen(std::move(sockets_));
        if (listening.has_error()) {
            log().critical("{}", to_text(listening.error()));
            status_ = listening.error().code == qhup::Errc::invalid_argument ? kConfigurationError
                                                                             : kFailure;
            co_return;
        }
        co_await events_.open();
        events_.set_observer([this](const EventView& event) { metrics_.on_event(event); });
        registry_.set_on_change([this](EventType type, const VmView& vm) {
            events_.publish(make_vm_event(type, vm));
        });
        runs_.set_find_selftest([this](const std::string& from, const std::string& to) {
            return selftests_.find_passed(from, to);
        });
        co_await runs_.start_recovery();
        co_await selftests_.open();
        tell(EventType::daemon_ready, "qhupd " + std::string(kVersion) + " serves");
        server_.start();
        service_.spawn("rescans", registry_.run_rescans());
        service_.spawn("status", run_status());
        service_.spawn("watchdog", run_watchdog());
        service_.spawn("reloads", run_reloads());
        owes_ready_ = !tell_systemd("READY=1\n" + status_line());
        {
            const LogFields fields({{"MESSAGE_ID", std::string(message_id_of("started"))}});
            log().info("qhupd {} serves on {}", kVersion, config_.api.socket);
        }
        const auto [error, signal] = co_await signals_.async_wait(use_result);
        log().info("stopping{}", error ? "" : signal == SIGTERM ? " (SIGTERM)" : " (SIGINT)");
        co_await stop();
    }

    awaitable<void> stop() {
        reloads_.cancel();
        tell_systemd("STOPPING=1\nSTATUS=Finishing what is in its pause");
        handlers_.request_stop();
        tell(EventType::daemon_stopping, "qhupd is stopping and begins nothing new");
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

    void tell(EventType type, std::string message) {
        EventView event;
        event.type = std::string(to_string(type));
        event.message = std::move(message);
        events_.publish(std::move(event));
    }

    std::string status_line() const {
        const std::size_t vms = registry_.names().size();
        const auto progress = runs_.in_progress();
        std::string line = "STATUS=" + std::to_string(vms) + (vms == 1 ? " VM, " : " VMs, ") +
                           std::to_string(progress.runs) + (progress.runs == 1 ? " run" : " runs") +
                           " in progress";
        if (progress.vms > 0) {
            line += ": " + std::to_string(progress.done) + " of " + std::to_string(progress.vms) +
                    (progress.vms == 1 ? " VM done" : " VMs done");
        }
        return bad_config_.empty() ? line
                                   : line + "; the configuration was not reloaded: " + bad_config_;
    }

    awaitable<void> run_status() {
        std::string told;
        for (bool is_stopped = false; !is_stopped;) {
            std::string line = status_line();
            if (owes_ready_ || line != told) {
                // why: without descriptors READY could not be told, and systemd waits for it.
                const bool is_told = tell_systemd(owes_ready_ ? "READY=1\n" + line : line);
                owes_ready_ = owes_ready_ && !is_told;
                told = std::move(line);
            }
            const auto slept = co_await sleep_until(Deadline::in(std::chrono::seconds(2)));
            is_stopped = slept.has_error();
        }
    }

    /// As often as the unit's WatchdogSec asks for, and only while this loop turns.
    static awaitable<void> run_watchdog() {
        const auto interval = watchdog_interval();
        for (bool is_stopped = !interval; !is_stopped;) {
            tell_systemd("WATCHDOG=1");
            const auto slept = co_await sleep_until(Deadline::in(*interval));
            is_stopped = slept.has_error();
        }
    }

    awaitable<void> run_reloads() {
        for (bool is_stopped = false; !is_stopped;) {
            const auto [error, signal] = co_await reloads_.async_wait(use_result);
            (void)signal;
            const bool is_cancelled = co_await was_cancelled();
            is_stopped = error || is_cancelled;
            if (!is_stopped) {
                tell_systemd(reloading_line());
                co_await reload();
                tell_systemd("READY=1\n" + status_line());
            }
        }
    }

    /// Takes the configuration as it is on disk now, or keeps the one that holds.
    awaitable<void> reload() {
        auto work = [source = source_]() -> Result<Config> {
            auto loaded = load_config(source);
            const auto mistakes =
                loaded.has_value() ? find_config_mistakes(*loaded) : std::vector<std::string>();
            if (!mistakes.empty()) {
                return make_failure(Errc::invalid_argument, mistakes.front());
            }
            return loaded;
        };
        auto loaded = co_await blocking(disk_, std::move(work));
        if (loaded.has_error()) {
            bad_config_ = to_text(loaded.error());
            const LogFields fields({{"MESSAGE_ID", std::string(message_id_of("config_refused"))}});
            log().error("the configuration stays as it was: {}", bad_config_);
            co_return;
        }
        bad_config_.clear();
        Reloaded reloaded = merge_reloaded(config_, std::move(*loaded));
        for (const std::string& key : reloaded.kept) {
            log().warn("{} stays as it was until qhupd is restarted", key);
        }
        config_ = std::move(reloaded.config);
        registry_.use(config_);
        shelf_.look_in(config_.releases_dirs);
        ignore(setup_log(config_.log_level), "it was checked");
        log().info("the configuration was reloaded");
    }

    /// @return  false: it could not be told; the log says why
    static bool tell_systemd(const std::string& assignments) {
        const auto told = notify_systemd(assignments);
        if (told.has_error()) {
            log_failure("telling systemd", told.error());
        }
        return told.has_value();
    }

    Config config_; // the parts below refer to it; changed on home_ only
    ConfigSource source_;
    std::map<std::string, UniqueFd> sockets_; // that systemd made for us, until we listen
    std::vector<UniqueFd> taken_;             // folders that are ours alone
    std::string bad_config_;                  // why the last reload changed nothing; "": it did
    asio::io_context context_;
    Strand home_;
    asio::thread_pool disk_;
    PoolThread second_disk_;
    TaskGroup work_;    // upgrades and probes: joined first
    TaskGroup service_; // connections and periodic work
    TaskGroup main_;    // run_main alone
    Metrics metrics_;
    EventHub events_;
    VmRegistry registry_;
    ReleaseShelf shelf_;
    UpgradeRuns runs_;
    Selftests selftests_;
    ApiHandlers handlers_;
    ApiServer server_;
    asio::signal_set signals_;
    asio::signal_set reloads_;
    std::shared_ptr<OperatorEvents> operator_events_;
    int status_ = 0;
    bool owes_ready_ = false; // READY=1 could not be told
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

int run_daemon(const Config& config, ConfigSource source, std::string fault) {
    std::signal(SIGPIPE, SIG_IGN);
    std::signal(SIGXFSZ, SIG_IGN); // a limit for files is an error of the journal, not our end
    raise_descriptor_limit();
    auto sockets = take_listen_fds();
    queue_log();
    namespace fs = std::filesystem;
    for (const std::string& folder : {config.control_dir, config.state_dir}) {
        std::error_code error;
        fs::create_directories(folder, error);
        if (error) {
            log().critical("the folder {} cannot be made: {}", folder, error.message());
            return kConfigurationError;
        }
    }
    for (const std::string& mistake : find_config_mistakes(config)) {
        // why: not a reason to stay away from pairs that a daemon before us left.
        log().warn("{}", mistake);
    }
    std::error_code ignored;
    // why: QEMU's user must get through to its own folder, and see no other one.
    fs::permissions(config.control_dir, fs::perms(0711), ignored);
    // why: the same for a kept binary, whose loader reads its libraries as QEMU's user.
    fs::permissions(config.state_dir, fs::perms(0711), ignored);
    Daemon daemon(config, std::move(source), std::move(sockets), std::move(fault));
    return daemon.run();
}

} // namespace qhup::daemon
