// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/release_files.hpp"

#include "common/read_file.hpp"
#include "common/toml.hpp"
#include "common/toml_keys.hpp"
#include "daemon/nearest_name.hpp"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <map>
#include <utility>

namespace qhup::daemon {
namespace {

namespace fs = std::filesystem;
using upgrade::Errc;
using upgrade::Release;

constexpr std::uintmax_t kMaxDropInBytes = 64U * 1024U;

/// For a file that was not understood: what its first unknown key was meant to be; "" if there is
/// nothing to say.
std::string hint_for_keys(const std::string& text) {
    static const std::vector<std::string> known(
        upgrade::kReleaseKeys.begin(), upgrade::kReleaseKeys.end()
    );
    if (line_of_too_deep_key(text) != 0) {
        return {};
    }
    const toml::parse_result parsed = toml::parse(text);
    if (parsed.failed()) {
        return {};
    }
    for (const auto& [key, node] : parsed.table()) {
        if (std::find(known.begin(), known.end(), key.str()) == known.end()) {
            const auto nearest = nearest_name(key.str(), known);
            return nearest ? " Did you mean '" + *nearest + "'?" : "";
        }
    }
    return {};
}

/// Who can write a drop-in decides what runs under every VM.
Result<void> check_owner(const fs::path& path) {
    struct stat facts {};
    if (::lstat(path.c_str(), &facts) != 0) {
        return make_system_failure(errno, "looking at " + path.string());
    }
    const bool is_ours = facts.st_uid == 0 || facts.st_uid == ::geteuid();
    if (!S_ISREG(facts.st_mode) || !is_ours || (facts.st_mode & 0022U) != 0) {
        return make_failure(
            Errc::release_invalid,
            path.string() + " must be a file of root's that nobody else may write"
        );
    }
    return {};
}

Result<Release> read_drop_in(const fs::path& path) {
    const auto checked = check_owner(path);
    if (checked.has_error()) {
        return checked.error();
    }
    std::error_code error;
    const auto size = fs::file_size(path, error);
    const auto text = read_file(path.string(), kMaxDropInBytes);
    if (error || text.has_error() || size > kMaxDropInBytes) {
        return make_failure(Errc::release_invalid, path.string() + " cannot be read");
    }
    auto release = upgrade::parse_release(*text, path.stem().string());
    if (release.has_error()) {
        Failure failure = release.error();
        failure.message += hint_for_keys(*text);
        return with_context(Result<Release>(std::move(failure)), path.string());
    }
    return release;
}

/// systemd's way to take away what a package ships.
bool is_masked(const fs::path& path) {
    std::error_code error;
    return fs::is_symlink(path, error) && fs::read_symlink(path, error) == "/dev/null";
}

} // namespace

std::vector<ReleaseFile> read_release_files(const std::vector<std::string>& folders) {
    std::map<std::string, fs::path> paths; // by file name
    std::vector<ReleaseFile> files;
    for (const std::string& folder : folders) {
        std::error_code error;
        for (fs::directory_iterator it(folder, error), end; !error && it != end;
             it.increment(error)) {
            if (it->path().extension() == ".toml") {
                paths[it->path().stem().string()] = it->path();
            }
        }
        if (error && error != std::errc::no_such_file_or_directory) {
            // why: else the releases in it would be gone without a word.
            const std::string name = fs::path(folder).filename().string();
            files.push_back({folder, name, make_system_failure(error.value(), "reading " + folder)}
            );
        }
    }
    for (const auto& [name, path] : paths) {
        if (!is_masked(path)) {
            files.push_back({path.string(), name, read_drop_in(path)});
        }
    }
    return files;
}

Result<void> check_is_qemu(const upgrade::PinnedBinary& binary) {
    if (binary.is_qemu) {
        return {};
    }
    return make_failure(
        upgrade::Errc::binary_refused,
        "The binary of the release " + binary.release.name.text() + " (" + binary.release.path +
            ") is not a QEMU that runs VMs; write the path of a qemu-system-x86_64 in its file."
    );
}

Result<void> check_firmware(const upgrade::Release& release) {
    for (const std::string& folder : release.firmware) {
        std::error_code error;
        if (!fs::is_directory(folder, error)) {
            return make_failure(
                upgrade::Errc::release_invalid,
                "The release " + release.name.text() + " has no firmware: there is no folder " +
                    folder + "; install it, or correct the release file."
            );
        }
    }
    return {};
}

} // namespace qhup::daemon
