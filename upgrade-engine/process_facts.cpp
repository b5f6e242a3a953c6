// SPDX-License-Identifier: GPL-2.0-or-later
#include "upgrade-engine/process_facts.hpp"

#include "common/unique_fd.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <string>

namespace qhup::upgrade {
namespace {

Result<std::string> load_small_file(const std::string& path) {
    const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
    if (!fd) {
        return make_system_failure(errno, "opening " + path);
    }
    std::array<char, 8192> buffer{};
    std::string text;
    while (text.size() < 8 * buffer.size()) {
        const ssize_t count = ::read(fd.get(), buffer.data(), buffer.size());
        if (count < 0 && errno == EINTR) {
            continue;
        }
        if (count < 0) {
            return make_system_failure(errno, "reading " + path);
        }
        if (count == 0) {
            break;
        }
        text.append(buffer.data(), static_cast<std::size_t>(count));
    }
    return text;
}

bool belongs_to(pid_t pid, uid_t uid) {
    struct stat info {};
    const std::string path = "/proc/" + std::to_string(pid);
    return ::stat(path.c_str(), &info) == 0 && info.st_uid == uid;
}

} // namespace

Result<ProcessFacts> observe_process(pid_t pid) {
    const std::string folder = "/proc/" + std::to_string(pid);
    const Result<std::string> stat_text = load_small_file(folder + "/stat");
    const Result<std::string> status_text = load_small_file(folder + "/status");
    if (stat_text.has_error() || status_text.has_error()) {
        const Failure& cause = stat_text.has_error() ? stat_text.error() : status_text.error();
        return make_failure(
            Errc::vm_gone,
            "There is no process " + std::to_string(pid) + " any more.",
            cause.peer_text
        );
    }
    Result<ProcessFacts> facts = parse_process_facts(pid, *stat_text, *status_text);
    if (facts.has_value()) {
        std::array<char, 4096> target{};
        const ssize_t size = ::readlink((folder + "/exe").c_str(), target.data(), target.size());
        if (size > 0) {
            facts->exe.assign(target.data(), static_cast<std::size_t>(size));
        }
    }
    return facts;
}

ProcessFacts observe_peer(pid_t peer_pid, uid_t peer_uid, pid_t claimed_pid) {
    if (peer_pid > 0) {
        const Result<ProcessFacts> peer = observe_process(peer_pid);
        const bool is_it =
            peer.has_value() && (peer->innermost_pid == claimed_pid || peer_pid == claimed_pid);
        if (is_it) {
            return *peer;
        }
        if (claimed_pid <= 0 || !belongs_to(claimed_pid, peer_uid)) {
            return peer.has_value() ? *peer : ProcessFacts{};
        }
    }
    if (claimed_pid > 0 && belongs_to(claimed_pid, peer_uid)) {
        const Result<ProcessFacts> claimed = observe_process(claimed_pid);
        if (claimed.has_value()) {
            return *claimed;
        }
    }
    return ProcessFacts{};
}

} // namespace qhup::upgrade
