// SPDX-License-Identifier: GPL-2.0-or-later
#include "upgrade-engine/process_facts.hpp"

#include "common/read_file.hpp"
#include "common/unique_fd.hpp"
#include "upgrade-engine/service_manager.hpp"

#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <optional>
#include <set>
#include <string>
#include <utility>

namespace qhup::upgrade {
namespace {

constexpr std::size_t kSmallFile = 64U << 10U;
constexpr std::size_t kManyLinks = 4U << 20U;

bool belongs_to(pid_t pid, uid_t uid) {
    struct stat info {};
    const std::string path = "/proc/" + std::to_string(pid);
    return ::stat(path.c_str(), &info) == 0 && info.st_uid == uid;
}

/// "" if it cannot be read.
std::string text_of(const std::string& path) {
    const Result<std::string> text = read_file(path, kSmallFile, O_NOFOLLOW);
    return text.has_value() ? *text : std::string();
}

/// The number in a file of a control group; nothing for "max".
std::optional<std::uint64_t> load_number(const std::string& path) {
    return find_number(text_of(path), "");
}

void keep_least(std::optional<std::uint64_t>& least, std::uint64_t limit, std::uint64_t used) {
    const std::uint64_t left = limit > used ? limit - used : 0;
    least = least ? std::min(*least, left) : left;
}

void look_at_group(const std::string& group, Headroom& headroom) {
    const auto memory_max = load_number(group + "/memory.max");
    const auto memory_now = load_number(group + "/memory.current");
    if (memory_max && memory_now) {
        // why: the kernel takes file pages back when it needs room, but not those of memfds.
        const std::string stat = text_of(group + "/memory.stat");
        const std::uint64_t files = find_number(stat, "file ").value_or(0);
        const std::uint64_t memfds = find_number(stat, "shmem ").value_or(0);
        const std::uint64_t reclaimable = files - std::min(files, memfds);
        keep_least(
            headroom.memory_bytes, *memory_max, *memory_now - std::min(*memory_now, reclaimable)
        );
    }
    const auto tasks_max = load_number(group + "/pids.max");
    const auto tasks_now = load_number(group + "/pids.current");
    if (tasks_max && tasks_now) {
        keep_least(headroom.tasks, *tasks_max, *tasks_now);
    }
}

/// "" if it cannot be read.
std::string link_of(const std::string& path) {
    std::array<char, 4096> target{};
    const ssize_t size = ::readlink(path.c_str(), target.data(), target.size());
    const bool is_whole = size > 0 && static_cast<std::size_t>(size) < target.size();
    return is_whole ? std::string(target.data(), static_cast<std::size_t>(size)) : std::string();
}

/// What a name leads to.
struct NameLook {
    bool is_known = false;        ///< false: not in the kernel's cache, or not to be seen by us
    std::optional<FileId> file{}; ///< none: there is no such file
};

/// Looks a name up without waiting for any file system: only what the kernel has cached counts.
NameLook look_up_cached(const UniqueFd& root, const std::string& name) {
    open_how how{};
    how.flags = O_PATH | O_CLOEXEC;
    how.resolve = RESOLVE_IN_ROOT | RESOLVE_CACHED;
    const long opened = ::syscall(SYS_openat2, root.get(), name.c_str(), &how, sizeof(how));
    if (opened < 0) {
        return {.is_known = errno == ENOENT || errno == ENOTDIR};
    }
    const UniqueFd fd(static_cast<int>(opened));
    struct statx info {};
    // why: also of a file server that does not answer, the number of a file is known.
    const unsigned flags = AT_EMPTY_PATH | AT_STATX_DONT_SYNC;
    if (::statx(fd.get(), "", static_cast<int>(flags), STATX_INO, &info) != 0) {
        return {};
    }
    const dev_t device = ::makedev(info.stx_dev_major, info.stx_dev_minor);
    return {.is_known = true, .file = FileId{device, info.stx_ino}};
}

/// An image whose file has another name than any that QEMU says, or none.
struct UnnamedImage {
    FileId file;
    std::string path; ///< as the kernel says, with a mark if it was deleted
};

constexpr std::string_view kDeleted = " (deleted)";

/// Whether a name leads to an open file of some process, and not into a folder.
bool is_of_descriptor(const std::string& name) {
    return name.starts_with("/dev/fdset/") || name.starts_with("/dev/fd/") ||
           name.starts_with("/proc/");
}

/// What is to be said of images that no name was found for.
///
/// @param names    those that no image was found by
/// @param unknown  of these, those of which nothing is known
std::vector<LostImage> make_lost(
    std::vector<UnnamedImage> images, std::set<std::string> names, std::set<std::string> unknown
) {
    std::vector<LostImage> lost;
    const auto moved =
        std::stable_partition(images.begin(), images.end(), [](const UnnamedImage& image) {
            return image.path.ends_with(kDeleted);
        });
    for (auto image = images.begin(); image != moved; ++image) {
        std::string name = image->path.substr(0, image->path.size() - kDeleted.size());
        names.erase(name);
        unknown.erase(name);
        lost.push_back({std::move(name), ""});
    }
    // why: as long as there is a name of which nothing is known, the image may have it.
    for (auto image = moved; image != images.end() && unknown.empty() && !names.empty(); ++image) {
        lost.push_back({names.size() == 1 ? *names.begin() : image->path, image->path});
    }
    return lost;
}

/// Whether two names are the same file; true if that cannot be told.
bool is_same_file(const std::string& one, const std::string& other) {
    struct stat a {};
    struct stat b {};
    return ::stat(one.c_str(), &a) != 0 || ::stat(other.c_str(), &b) != 0 ||
           (a.st_dev == b.st_dev && a.st_ino == b.st_ino);
}

/// Whether libraries and firmware are not those of the daemon's host. A mount namespace of its own
/// (PrivateTmp=, ip netns exec) is not enough.
bool has_other_files(const std::string& folder) {
    if (is_same_file(folder + "/ns/mnt", "/proc/self/ns/mnt")) {
        return false;
    }
    return !is_same_file(folder + "/root/usr", "/usr") ||
           !is_same_file(folder + "/root/etc", "/etc");
}

Supervision observe_supervision(const std::string& folder, const std::string& cgroup_text) {
    Supervision supervision = has_systemd() ? parse_supervision(cgroup_text) : Supervision{};
    const bool is_service = supervision.unit.ends_with(".service");
    if (is_service && !supervision.is_users) {
        supervision.facts = observe_unit(supervision.unit);
        const std::string environment = '\0' + text_of(folder + "/environ");
        supervision.has_notify_socket =
            environment.find(std::string("\0NOTIFY_SOCKET=", 15)) != std::string::npos;
    }
    return supervision;
}

} // namespace

bool may_lock_anything(std::string_view status_text) {
    constexpr std::string_view kKey = "\nCapEff:\t";
    constexpr std::uint64_t kIpcLock = 1U << 14U;
    const std::size_t at = status_text.find(kKey);
    if (at == std::string_view::npos) {
        return false;
    }
    std::uint64_t capabilities = 0;
    const char* const begin = status_text.data() + at + kKey.size();
    const char* const end = status_text.data() + status_text.size();
    return std::from_chars(begin, end, capabilities, 16).ec == std::errc() &&
           (capabilities & kIpcLock) != 0;
}

Headroom observe_headroom(const std::string& root, const std::string& path) {
    Headroom headroom;
    std::string group = path;
    while (group.size() > 1) {
        look_at_group(root + group, headroom);
        group.resize(group.rfind('/'));
    }
    return headroom;
}

Result<ProcessFacts> observe_process(pid_t pid) {
    const std::string folder = "/proc/" + std::to_string(pid);
    const Result<std::string> stat_text = read_file(folder + "/stat", kSmallFile);
    const Result<std::string> status_text = read_file(folder + "/status", kSmallFile);
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
        facts->exe = link_of(folder + "/exe");
        const std::string cgroup = text_of(folder + "/cgroup");
        facts->headroom = observe_headroom("/sys/fs/cgroup", parse_cgroup_path(cgroup));
        if (!may_lock_anything(*status_text)) {
            facts->headroom.memlock_bytes = parse_memlock_limit(text_of(folder + "/limits"));
        }
        facts->headroom.host_bytes = parse_available_memory(text_of("/proc/meminfo"));
        facts->supervision = observe_supervision(folder, cgroup);
        facts->supervision.is_in_container =
            facts->innermost_pid != 0 && facts->innermost_pid != pid;
        facts->has_other_files = has_other_files(folder);
    }
    return facts;
}

std::vector<LostImage> observe_lost_images(pid_t pid, const VmFacts& facts) {
    const std::string folder = "/proc/" + std::to_string(pid);
    std::set<std::string> names = facts.image_names; // those that no open file has
    std::vector<UnnamedImage> unnamed;
    for (const OpenImage& image : facts.images) {
        const std::string fd = std::to_string(image.fd);
        std::string path = link_of(folder + "/fd/" + fd);
        if (facts.image_names.contains(path)) {
            names.erase(path);
            continue;
        }
        // why: the process may be another one than QEMU, or have this number for another file by
        // now. Not stat(), which may wait for a file server.
        const std::string info = text_of(folder + "/fdinfo/" + fd);
        if (path.starts_with('/') && find_number(info, "ino:") == image.file.inode) {
            unnamed.push_back({image.file, std::move(path)});
        }
    }
    // why: a file that QEMU got open may well have no name; whether a new one gets it, QEMU knows.
    if (unnamed.empty() || std::any_of(names.begin(), names.end(), is_of_descriptor)) {
        return {};
    }
    const UniqueFd root(::open((folder + "/root").c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
    std::set<std::string> unknown;
    for (auto name = names.begin(); name != names.end();) {
        const NameLook look = look_up_cached(root, *name);
        const auto image = std::find_if(unnamed.begin(), unnamed.end(), [&look](const auto& each) {
            return look.file == each.file;
        });
        if (!look.is_known) {
            unknown.insert(*name);
        }
        const bool is_found = image != unnamed.end();
        if (is_found) {
            unnamed.erase(image);
        }
        name = is_found ? names.erase(name) : std::next(name);
    }
    return make_lost(std::move(unnamed), std::move(names), std::move(unknown));
}

LinkCounters observe_links(pid_t pid) {
    const std::string path = "/proc/" + std::to_string(pid) + "/net/dev";
    const Result<std::string> text = read_file(path, kManyLinks);
    return text.has_value() ? parse_link_counters(*text) : LinkCounters{};
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

uid_t observe_user(pid_t peer_pid, uid_t peer_uid, pid_t claimed_pid) {
    const ProcessFacts facts = observe_peer(peer_pid, peer_uid, claimed_pid);
    return facts.pid != 0 ? facts.uid : peer_uid;
}

} // namespace qhup::upgrade
