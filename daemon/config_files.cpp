// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/config_files.hpp"

#include "common/unique_fd.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <filesystem>
#include <optional>

namespace qhup::daemon {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kMaxFileBytes = 1U << 20U;
constexpr std::array<const char*, 3> kFolders{"/usr/lib/qhupd", "/etc/qhupd", "/run/qhupd"};

/// The file's text. Nothing if it is not there.
Result<std::optional<ConfigText>> read_file(const std::string& path) {
    const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
    if (!fd && errno == ENOENT) {
        return std::optional<ConfigText>();
    }
    struct stat facts {};
    if (!fd || ::fstat(fd.get(), &facts) != 0) {
        return make_system_failure(errno, path + ": cannot be opened");
    }
    if (S_ISDIR(facts.st_mode)) {
        return make_failure(Errc::invalid_argument, path + ": is a folder; name a file in it.");
    }
    // why: who can write this file decides which programs run as probes.
    const bool is_ours = facts.st_uid == 0 || facts.st_uid == ::geteuid();
    if (!is_ours || (S_ISREG(facts.st_mode) && (facts.st_mode & 0022U) != 0)) {
        return make_failure(
            Errc::invalid_argument,
            path + ": must belong to root, and nobody else may write it (chown root, chmod go-w)."
        );
    }
    ConfigText read{path, std::string()};
    std::array<char, 65536> buffer{};
    for (ssize_t got = 1; got > 0 && read.text.size() <= kMaxFileBytes;) {
        got = ::read(fd.get(), buffer.data(), buffer.size());
        if (got < 0) {
            return make_system_failure(errno, path + ": cannot be read");
        }
        read.text.append(buffer.data(), static_cast<std::size_t>(got));
    }
    if (read.text.size() > kMaxFileBytes) {
        return make_failure(Errc::invalid_argument, path + ": is larger than 1 MiB.");
    }
    return std::optional<ConfigText>(std::move(read));
}

/// The paths that may hold configuration, in the order in which they count.
Result<std::vector<std::string>> list_paths(const std::string& root) {
    std::vector<std::string> paths;
    for (const char* folder : kFolders) {
        const std::string main_file = root + folder + "/qhupd.toml";
        paths.push_back(main_file);
        std::vector<std::string> drop_ins;
        const std::string folder_of_drop_ins = main_file + ".d";
        std::error_code error;
        for (fs::directory_iterator it(folder_of_drop_ins, error), end; !error && it != end;
             it.increment(error)) {
            if (it->path().extension() == ".toml") {
                drop_ins.push_back(it->path().string());
            }
        }
        if (error && error != std::errc::no_such_file_or_directory) {
            // why: a policy that is in there would not hold, and nobody would know.
            return make_system_failure(error.value(), folder_of_drop_ins + ": cannot be read");
        }
        std::sort(drop_ins.begin(), drop_ins.end());
        paths.insert(paths.end(), drop_ins.begin(), drop_ins.end());
    }
    return paths;
}

} // namespace

Result<std::vector<ConfigText>> read_config_files(const ConfigSource& source) {
    std::vector<ConfigText> texts;
    const auto paths = source.file.empty()
                           ? list_paths(source.root)
                           : Result<std::vector<std::string>>(std::vector{source.file});
    if (paths.has_error()) {
        return paths.error();
    }
    for (const std::string& path : *paths) {
        auto text = read_file(path);
        if (text.has_error()) {
            return text.error();
        }
        if (*text) {
            texts.push_back(std::move(**text));
        } else if (!source.file.empty()) {
            return make_failure(Errc::not_found, path + ": cannot be opened.");
        }
    }
    return texts;
}

Result<Config> load_config(const ConfigSource& source) {
    const auto texts = read_config_files(source);
    if (texts.has_error()) {
        return texts.error();
    }
    return parse_config(*texts);
}

} // namespace qhup::daemon
