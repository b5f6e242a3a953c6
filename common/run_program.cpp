// SPDX-License-Identifier: GPL-2.0-or-later
#include "common/run_program.hpp"

#include "common/unique_fd.hpp"

#include <fcntl.h>
#include <poll.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>

namespace qhup {
namespace {

constexpr std::size_t kMostOutput = 1U << 20U;

struct Pipe {
    UniqueFd read;
    UniqueFd write;
};

Result<Pipe> make_pipe() {
    std::array<int, 2> ends{};
    if (::pipe2(ends.data(), O_CLOEXEC) != 0) {
        return make_system_failure(errno, "making a pipe");
    }
    return Pipe{UniqueFd(ends[0]), UniqueFd(ends[1])};
}

/// Reads once; false at the end.
bool read_some(int descriptor, std::string& text) {
    std::array<char, 8192> chunk{};
    const ssize_t got = ::read(descriptor, chunk.data(), chunk.size());
    if (got < 0 && errno == EINTR) {
        return true;
    }
    if (got > 0 && text.size() < kMostOutput) {
        text.append(chunk.data(), static_cast<std::size_t>(got));
    }
    return got > 0;
}

void read_both(const Pipe& out, const Pipe& err, ProgramEnd& end) {
    std::array<pollfd, 2> open{
        pollfd{out.read.get(), POLLIN, 0}, pollfd{err.read.get(), POLLIN, 0}};
    while (open[0].fd >= 0 || open[1].fd >= 0) {
        if (::poll(open.data(), open.size(), -1) < 0 && errno != EINTR) {
            return;
        }
        for (std::size_t i = 0; i < open.size(); ++i) {
            if (open[i].fd >= 0 && open[i].revents != 0 &&
                !read_some(open[i].fd, i == 0 ? end.out : end.err)) {
                open[i].fd = -1; // poll skips it
            }
        }
    }
}

} // namespace

Result<ProgramEnd> run_program(const std::vector<std::string>& words) {
    auto out = make_pipe();
    auto err = make_pipe();
    if (out.has_error()) {
        return out.error();
    }
    if (err.has_error()) {
        return err.error();
    }
    std::vector<std::string> copies = words;
    std::vector<char*> argv;
    for (std::string& word : copies) {
        argv.push_back(word.data());
    }
    argv.push_back(nullptr);
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_adddup2(&actions, out->write.get(), 1);
    posix_spawn_file_actions_adddup2(&actions, err->write.get(), 2);
    posix_spawn_file_actions_addclosefrom_np(&actions, 3);
    pid_t pid = -1;
    const int error =
        ::posix_spawnp(&pid, words.front().c_str(), &actions, nullptr, argv.data(), ::environ);
    posix_spawn_file_actions_destroy(&actions);
    out->write = UniqueFd();
    err->write = UniqueFd();
    if (error != 0) {
        return make_system_failure(error, "starting " + words.front());
    }
    ProgramEnd end;
    read_both(*out, *err, end);
    int status = 0;
    while (::waitpid(pid, &status, 0) < 0 && errno == EINTR) {
    }
    end.status = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    return end;
}

} // namespace qhup
