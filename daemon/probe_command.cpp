// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/probe_command.hpp"

#include "common/as_user.hpp"
#include "common/log.hpp"
#include "common/unique_fd.hpp"
#include "upgrade-engine/errors.hpp"

#include <boost/asio/posix/stream_descriptor.hpp>

#include <fcntl.h>
#include <pwd.h>
#include <signal.h>
#include <spawn.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <memory>
#include <optional>
#include <utility>

namespace qhup::daemon {
namespace {

constexpr const char* kSetpriv = "/usr/bin/setpriv"; // of util-linux, which every Debian has
constexpr std::size_t kMostWords = 400;
constexpr std::chrono::milliseconds kKilledEnds{2000};

Failure make_probe_failure(const ProbeCommand& command, const std::string& what) {
    return make_failure(
        upgrade::Errc::probe_failed,
        "The probe " + command.argv.front() + " of VM " + command.vm + " " + what
    );
}

/// What a probe writes, as it comes. The first words are kept and the rest is thrown away, so that
/// one that writes without end takes no memory.
class Words : public std::enable_shared_from_this<Words> {
public:
    Words(const asio::any_io_executor& executor, UniqueFd pipe) : pipe_(executor) {
        error_code error;
        pipe_.assign(pipe.get(), error);
        if (!error) {
            (void)pipe.release(); // `pipe_` has it
            pipe_.non_blocking(true, error);
        }
    }

    /// Until finish(), or until nobody can write any more.
    void follow() {
        pipe_.async_wait(
            asio::posix::stream_descriptor::wait_read,
            [self = shared_from_this()](const error_code& error) {
                if (!error && self->read_some()) {
                    self->follow();
                }
            }
        );
    }

    /// Takes what is there, and no more.
    std::string finish() {
        while (words_.size() < kMostWords && read_some()) {
        }
        error_code ignored;
        pipe_.close(ignored);
        while (!words_.empty() && words_.back() == '\n') {
            words_.pop_back();
        }
        return words_;
    }

private:
    /// @return  false: there is nothing now
    bool read_some() {
        error_code error;
        const std::size_t got = pipe_.read_some(asio::buffer(buffer_), error);
        words_.append(buffer_.data(), std::min(got, kMostWords - words_.size()));
        return got > 0;
    }

    asio::posix::stream_descriptor pipe_;
    std::array<char, 64U * 1024U> buffer_{};
    std::string words_;
};

struct User {
    uid_t uid = 0;
    gid_t gid = 0;
};

std::optional<User> find_user(const std::string& name) {
    std::array<char, 4096> buffer{};
    passwd entry{};
    passwd* found = nullptr;
    const int error = ::getpwnam_r(name.c_str(), &entry, buffer.data(), buffer.size(), &found);
    return error == 0 && found != nullptr ? std::optional(User{found->pw_uid, found->pw_gid})
                                          : std::nullopt;
}

/// A process that is running.
struct Running {
    pid_t pid = -1;
    UniqueFd pidfd;
    UniqueFd output;
    std::optional<User> user; ///< it is not ours
};

Result<Running> start(const ProbeCommand& command) {
    std::vector<std::string> words{
        kSetpriv, "--no-new-privs", "--inh-caps=-all", "--ambient-caps=-all"};
    std::optional<User> user;
    if (::geteuid() == 0 || may_take_user()) {
        user = find_user(command.user);
        if (!user || user->uid == 0) {
            return make_probe_failure(command, "was not started: there is no user " + command.user);
        }
        words.push_back("--reuid=" + std::to_string(user->uid));
        words.push_back("--regid=" + std::to_string(user->gid));
        words.emplace_back("--clear-groups");
    }
    words.emplace_back("--");
    for (std::string& word : probe_argv(command)) {
        words.push_back(std::move(word));
    }
    std::vector<char*> argv;
    for (std::string& word : words) {
        argv.push_back(word.data());
    }
    argv.push_back(nullptr);
    std::string path = "PATH=/usr/local/bin:/usr/bin:/bin";
    std::string name = "QHUP_VM=" + command.vm;
    std::array<char*, 3> environment{path.data(), name.data(), nullptr};

    Running running;
    running.user = user;
    std::array<int, 2> ends{-1, -1};
    if (::pipe2(ends.data(), O_CLOEXEC) != 0) {
        return make_probe_failure(
            command, "was not started: " + std::string(::strerrordesc_np(errno))
        );
    }
    running.output = UniqueFd(ends[0]);
    const UniqueFd written(ends[1]);
    posix_spawn_file_actions_t actions;
    ::posix_spawn_file_actions_init(&actions);
    ::posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
    ::posix_spawn_file_actions_adddup2(&actions, written.get(), 1);
    ::posix_spawn_file_actions_adddup2(&actions, 1, 2);
    ::posix_spawn_file_actions_addchdir_np(&actions, "/");
    ::posix_spawn_file_actions_addclosefrom_np(&actions, 3);
    posix_spawnattr_t attributes;
    ::posix_spawnattr_init(&attributes);
    ::posix_spawnattr_setflags(
        &attributes, POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETSIGMASK
    );
    sigset_t all;
    ::sigfillset(&all);
    ::posix_spawnattr_setsigdefault(&attributes, &all);
    sigset_t none;
    ::sigemptyset(&none);
    ::posix_spawnattr_setsigmask(&attributes, &none);
    const int error = ::posix_spawn(
        &running.pid, argv[0], &actions, &attributes, argv.data(), environment.data()
    );
    ::posix_spawnattr_destroy(&attributes);
    ::posix_spawn_file_actions_destroy(&actions);
    if (error != 0) {
        return make_probe_failure(
            command, "was not started: " + std::string(::strerrordesc_np(error))
        );
    }
    running.pidfd = UniqueFd(static_cast<int>(::syscall(SYS_pidfd_open, running.pid, 0)));
    return running;
}

/// Kills it with all that it has started.
void kill_group(const Running& running) {
    const auto kill = [group = running.pid] { ::kill(-group, SIGKILL); };
    kill(); // until setpriv has made it the other user's
    if (running.user) {
        // why: who is no root in full (CAP_KILL) may signal its own processes only; these are the
        // other user's.
        const auto killed = run_as_user(running.user->uid, "ending a probe", kill);
        if (killed.has_error()) {
            log_failure("ending a probe", killed.error());
        }
    }
}

/// @return  how it ended, if it has
std::optional<siginfo_t> reap(pid_t pid) {
    siginfo_t info{};
    const bool is_asked =
        ::waitid(P_PID, static_cast<id_t>(pid), &info, WEXITED | WNOHANG) == 0 || errno != ECHILD;
    return is_asked && info.si_pid == 0 ? std::nullopt : std::optional(info);
}

awaitable<Result<bool>> wait_readable(asio::posix::stream_descriptor* descriptor) {
    const auto [error] =
        co_await descriptor->async_wait(asio::posix::stream_descriptor::wait_read, use_result);
    if (error) {
        co_return make_failure(Errc::cancelled, "waiting was cancelled");
    }
    co_return true;
}

/// Waits until the process has ended.
awaitable<bool> has_ended(asio::posix::stream_descriptor& exited, std::chrono::milliseconds limit) {
    auto waiting = wait_readable(&exited);
    const Result<bool> ended =
        co_await with_timeout(std::move(waiting), Deadline::in(limit), "waiting for a probe");
    co_return ended.has_value();
}

} // namespace

std::vector<std::string> probe_argv(const ProbeCommand& command) {
    std::vector<std::string> argv = command.argv;
    for (std::string& word : argv) {
        for (std::size_t at = word.find("{vm}"); at != std::string::npos;
             at = word.find("{vm}", at + command.vm.size())) {
            word.replace(at, 4, command.vm);
        }
    }
    return argv;
}

awaitable<Result<void>> run_probe_command(ProbeCommand command) {
    auto started = start(command);
    if (started.has_error()) {
        co_return started.error();
    }
    Running running = std::move(*started);
    const auto executor = co_await asio::this_coro::executor;
    asio::posix::stream_descriptor exited(executor);
    const auto output = std::make_shared<Words>(executor, std::move(running.output));
    output->follow();
    error_code error;
    exited.assign(running.pidfd.get(), error);
    bool is_in_time = false;
    if (!error) {
        (void)running.pidfd.release(); // `exited` has it
        is_in_time = co_await has_ended(exited, command.limit);
    }
    // why: also what it has left behind, whether it ended or not.
    kill_group(running);
    if (!is_in_time && !error) {
        (void)co_await has_ended(exited, kKilledEnds);
    }
    const std::optional<siginfo_t> end = reap(running.pid);
    const std::string words = output->finish();
    Result<void> result;
    if (!is_in_time || !end) {
        result = make_probe_failure(
            command, "did not end within " + std::to_string(command.limit.count()) + " ms"
        );
    } else if (end->si_code != CLD_EXITED) {
        result =
            make_probe_failure(command, "was ended by signal " + std::to_string(end->si_status));
    } else if (end->si_status != 0) {
        result = make_probe_failure(command, "ended with status " + std::to_string(end->si_status));
    }
    if (result.has_error()) {
        Failure failure = result.error();
        failure.peer_text = words;
        co_return failure;
    }
    co_return result;
}

} // namespace qhup::daemon
