// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/config_check.hpp"

#include "common/as_user.hpp"
#include "common/deadline.hpp"
#include "common/text.hpp"
#include "daemon/api_server.hpp"
#include "daemon/release_files.hpp"
#include "upgrade-engine/binary_probe.hpp"
#include "upgrade-engine/binary_store.hpp"

#include <linux/magic.h>
#include <pwd.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/un.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <optional>
#include <utility>

namespace qhup::daemon {
namespace {

namespace fs = std::filesystem;

constexpr std::chrono::seconds kProbeTime{5};

/// "FILE:LINE: " of a key that a file sets; its name for one that none does.
std::string place_of(const Config& config, const std::string& key) {
    const auto origin = config.origins.find(key);
    return (origin == config.origins.end() ? "the default of '" + key + "'" : origin->second) +
           ": ";
}

std::optional<std::string> find_probe_mistake(const std::vector<std::string>& probe) {
    if (probe.empty()) {
        return std::nullopt;
    }
    struct stat facts {};
    const std::string& program = probe.front();
    if (::stat(program.c_str(), &facts) != 0) {
        return "the probe " + program + " cannot be found (" +
               std::string(::strerrordesc_np(errno)) +
               "); every VM would fail it after its upgrade.";
    }
    if (!S_ISREG(facts.st_mode) || (facts.st_mode & 0111U) == 0) {
        return "the probe " + program + " is not a program; every VM would fail it (chmod +x).";
    }
    return std::nullopt;
}

bool is_user(const std::string& name) {
    std::array<char, 4096> buffer{};
    passwd entry{};
    passwd* found = nullptr;
    return ::getpwnam_r(name.c_str(), &entry, buffer.data(), buffer.size(), &found) == 0 &&
           found != nullptr;
}

/// Whether files can be made below it: the kernel's own file systems have no room for ours.
bool is_of_kernel(const fs::path& folder) {
    constexpr std::array<decltype(std::declval<struct statfs>().f_type), 4> kOfKernel{
        PROC_SUPER_MAGIC, SYSFS_MAGIC, CGROUP2_SUPER_MAGIC, DEVPTS_SUPER_MAGIC};
    fs::path there = folder;
    struct statfs facts {};
    while (::statfs(there.c_str(), &facts) != 0) {
        if (errno != ENOENT || !there.has_relative_path()) {
            return false;
        }
        there = there.parent_path();
    }
    return std::find(kOfKernel.begin(), kOfKernel.end(), facts.f_type) != kOfKernel.end();
}

/// What is wrong with a folder of ours: somebody else could put files in it, or exchange it.
std::optional<std::string> find_folder_mistake(const fs::path& folder) {
    if (is_of_kernel(folder)) {
        return folder.string() + " is in a file system of the kernel, where nothing can be made. "
                                 "Name a folder elsewhere, e.g. below /var/lib or /run.";
    }
    for (fs::path path = folder; path.has_relative_path(); path = path.parent_path()) {
        struct stat facts {};
        if (::lstat(path.c_str(), &facts) != 0) {
            if (errno == ENOENT) {
                continue; // it is made when it is needed
            }
            return path.string() + " cannot be looked at (" +
                   std::string(::strerrordesc_np(errno)) + ").";
        }
        if (!S_ISDIR(facts.st_mode) && !(S_ISLNK(facts.st_mode) && path != folder)) {
            return path.string() + " is not a folder.";
        }
        // why: who has no rights over others harms nobody but himself.
        const bool is_safe_owner = is_ours(facts.st_uid) || (::geteuid() != 0 && !may_take_user());
        const bool is_sticky = (facts.st_mode & S_ISVTX) != 0 && path != folder;
        const bool is_open = S_ISDIR(facts.st_mode) && (facts.st_mode & 0022U) != 0 && !is_sticky;
        if (!is_safe_owner || is_open) {
            return path.string() + " is not safe: user " + std::to_string(facts.st_uid) +
                   " or others may write it. It must be root's or qhupd's, and nobody else may "
                   "write it.";
        }
    }
    return std::nullopt;
}

bool is_noexec(const std::string& folder) {
    struct statvfs facts {};
    return ::statvfs(folder.c_str(), &facts) == 0 && (facts.f_flag & ST_NOEXEC) != 0;
}

} // namespace

std::vector<std::string> find_config_mistakes(const Config& config) {
    std::vector<std::string> mistakes;
    const auto add = [&](const std::string& key, const std::string& mistake) {
        mistakes.push_back(place_of(config, key) + mistake);
    };
    if (const auto group = check_group(config.api.group); group.has_error()) {
        add("api.group", to_text(group.error()) + ".");
    }
    if (config.api.socket.size() >= sizeof(sockaddr_un::sun_path)) {
        add("api.socket", "the path is too long for a socket (107 bytes at most).");
    }
    for (const auto& [key, folder] : {
             std::pair("state_dir", config.state_dir),
             std::pair("control_dir", config.control_dir),
         }) {
        if (const auto mistake = find_folder_mistake(folder)) {
            add(key, *mistake);
        }
    }
    if (config.kept_binaries > 0 && is_noexec(config.state_dir)) {
        add("state_dir",
            config.state_dir + " is mounted noexec: no binary can be kept there for `qhupd-ctl "
                               "revert`. Set kept_binaries = 0 if that is meant.");
    }
    const auto kept_is_safe = upgrade::check_trusted(config.state_dir);
    if (config.kept_binaries > 0 && kept_is_safe.has_error() &&
        !find_folder_mistake(config.state_dir)) {
        add("state_dir",
            "no VM could be reverted: what is kept there could be changed by others, since " +
                kept_is_safe.error().message);
    }
    bool has_folder = false;
    for (const std::string& folder : config.releases_dirs) {
        std::error_code ignored;
        has_folder = has_folder || fs::is_directory(folder, ignored);
    }
    if (!has_folder && config.origins.count("releases_dir") != 0) {
        add("releases_dir",
            "there is no folder " + config.releases_dirs.back() +
                ", so there is no release. Make it.");
    }
    bool has_probe = false;
    for (const PolicyRule& rule : config.policies) {
        const auto mistake = find_probe_mistake(rule.probe.value_or(std::vector<std::string>()));
        has_probe = has_probe || (rule.probe && !rule.probe->empty());
        if (mistake) {
            mistakes.push_back(rule.origin + ": " + *mistake);
        }
    }
    // why: who names a user means it, though no policy has a probe yet.
    const bool is_meant = has_probe || config.origins.count("probe_user") != 0;
    if (is_meant && !is_user(config.probe_user)) {
        add("probe_user", "there is no user '" + config.probe_user + "' to run probes as.");
    }
    return mistakes;
}

std::vector<std::string> find_release_mistakes(const Config& config) {
    std::vector<std::string> mistakes;
    for (const ReleaseFile& file : read_release_files(config.releases_dirs)) {
        if (file.release.has_error()) {
            mistakes.push_back(with_stop(to_text(file.release.error())));
            continue;
        }
        const auto binary = upgrade::pin_binary(*file.release);
        if (binary.has_error()) {
            mistakes.push_back(file.path + ": " + with_stop(to_text(binary.error())));
            continue;
        }
        const auto is_qemu = check_is_qemu(**binary);
        if (is_qemu.has_error()) {
            mistakes.push_back(file.path + ": " + with_stop(to_text(is_qemu.error())));
            continue;
        }
        const auto facts = upgrade::probe_binary(**binary, Deadline::in(kProbeTime));
        if (facts.has_error()) {
            mistakes.push_back(
                file.path + ": " + file.release->path +
                " does not answer as a QEMU does: " + with_stop(to_text(facts.error()))
            );
        }
        const auto firmware = check_firmware(*file.release);
        if (firmware.has_error()) {
            mistakes.push_back(file.path + ": " + with_stop(to_text(firmware.error())));
        }
    }
    return mistakes;
}

} // namespace qhup::daemon
