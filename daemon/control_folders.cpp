// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/control_folders.hpp"

#include "common/as_user.hpp"
#include "common/unique_fd.hpp"
#include "upgrade-engine/qmp_vm_port.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>

namespace qhup::daemon {

namespace fs = std::filesystem;

namespace {

bool make_private(int folder, uid_t owner) {
    bool is_changed = ::fchmod(folder, 0700) == 0;
    if (!is_changed && is_own_user_with_rights()) {
        const auto change = [folder, &is_changed] { is_changed = ::fchmod(folder, 0700) == 0; };
        ignore(run_as_user(owner, "closing a control folder", change), "it stays unchanged");
    }
    return is_changed;
}

} // namespace

Result<std::string>
make_control_folder(const std::string& control_dir, const std::string& folder, uid_t uid) {
    std::error_code error;
    fs::create_directories(control_dir, error);
    const std::string path = control_dir + "/" + folder;
    if (::mkdir(path.c_str(), 0700) != 0 && errno != EEXIST) {
        return make_system_failure(errno, "making the control folder " + path);
    }
    // why: opened without following a link, then judged and changed through the descriptor.
    const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
    struct stat facts {};
    if (!fd || ::fstat(fd.get(), &facts) != 0) {
        return make_system_failure(errno, "opening the control folder " + path);
    }
    const bool is_known_owner = is_ours(facts.st_uid) || facts.st_uid == uid;
    if (!is_known_owner) {
        return make_failure(
            Errc::invalid_argument, "the control folder " + path + " belongs to somebody else"
        );
    }
    // why: the mode first, while it is ours: for a folder of somebody else's it would take one
    // right more.
    const bool is_private =
        (facts.st_mode & 07777U) == 0700 || make_private(fd.get(), facts.st_uid);
    const bool is_theirs = facts.st_uid == uid || ::fchown(fd.get(), uid, gid_t(-1)) == 0;
    if (!is_private || !is_theirs) {
        return make_system_failure(errno, "giving the control folder " + path + " to QEMU's user");
    }
    return path;
}

Result<std::vector<FoundUpgrade>> find_upgrades(const std::string& control_dir) {
    std::vector<FoundUpgrade> found;
    std::error_code error;
    fs::directory_iterator it(control_dir, error);
    if (error == std::errc::no_such_file_or_directory) {
        return found;
    }
    for (const fs::directory_iterator end; !error && it != end; it.increment(error)) {
        std::error_code ignored;
        if (!fs::is_directory(it->symlink_status(ignored))) {
            continue;
        }
        const auto upgrades = upgrade::list_upgrades(it->path().string());
        if (upgrades.has_error()) {
            return upgrades.error();
        }
        for (const upgrade::UpgradeId& id : *upgrades) {
            found.push_back({it->path().filename().string(), it->path().string(), id.text()});
        }
    }
    if (error) {
        return make_system_failure(error.value(), "reading " + control_dir);
    }
    std::sort(found.begin(), found.end(), [](const FoundUpgrade& a, const FoundUpgrade& b) {
        return a.folder != b.folder ? a.folder < b.folder : a.upgrade < b.upgrade;
    });
    return found;
}

void remove_empty_folders(const std::string& control_dir, const std::set<std::string>& kept) {
    std::error_code error;
    std::vector<std::string> folders;
    for (fs::directory_iterator it(control_dir, error), end; !error && it != end;
         it.increment(error)) {
        std::error_code ignored;
        const bool is_kept = kept.count(it->path().filename().string()) != 0;
        if (!is_kept && fs::is_directory(it->symlink_status(ignored))) {
            folders.push_back(it->path().string());
        }
    }
    for (const std::string& folder : folders) {
        ::rmdir(folder.c_str()); // why: unlike a look before it, rmdir takes no folder in use
    }
}

void remove_control_sockets(const FoundUpgrade& found) {
    for (const char* side : {"-source", "-target"}) {
        const std::string path = found.path + "/" + found.upgrade + side;
        struct stat facts {};
        if (::lstat(path.c_str(), &facts) == 0 && S_ISSOCK(facts.st_mode)) {
            ::unlink(path.c_str());
        }
    }
}

} // namespace qhup::daemon
