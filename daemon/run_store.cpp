// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/run_store.hpp"

#include "common/log.hpp"
#include "common/unique_fd.hpp"

#include <nlohmann/json.hpp>

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string_view>

namespace qhup::daemon {
namespace {

namespace fs = std::filesystem;

constexpr std::uintmax_t kMaxRecordBytes = 64U << 20U;

Result<RunView> read_record(const fs::path& path) {
    std::error_code error;
    const auto size = fs::file_size(path, error);
    std::ifstream file(path, std::ios::binary);
    if (error || !file || size > kMaxRecordBytes) {
        return make_failure(Errc::system_error, "reading " + path.string());
    }
    const std::string text(
        (std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>()
    );
    const auto parsed = parse_json(text);
    if (parsed.has_error()) {
        return with_context(parsed.error(), "reading " + path.string());
    }
    RunView run = run_from_json(*parsed);
    if (run.id != path.stem().string() || !is_valid_name(run.id)) {
        return make_failure(Errc::invalid_argument, path.string() + " is not the record of a run");
    }
    return run;
}

Result<void> write_all(int fd, std::string_view bytes) {
    while (!bytes.empty()) {
        const ssize_t written = ::write(fd, bytes.data(), bytes.size());
        if (written < 0 && errno == EINTR) {
            continue;
        }
        if (written < 0) {
            return make_system_failure(errno, "writing the record of a run");
        }
        bytes.remove_prefix(static_cast<std::size_t>(written));
    }
    return {};
}

} // namespace

std::vector<RunView> RunStore::load(std::size_t keep) const {
    std::vector<RunView> runs;
    std::error_code error;
    for (fs::directory_iterator it(folder_, error), end; !error && it != end; it.increment(error)) {
        if (it->path().extension() != ".json") {
            continue;
        }
        auto run = read_record(it->path());
        if (run.has_error()) {
            log_failure("loading the runs before this start", run.error());
            continue;
        }
        runs.push_back(std::move(*run));
    }
    std::sort(runs.begin(), runs.end(), [](const RunView& a, const RunView& b) {
        return a.started_unix_ms != b.started_unix_ms ? a.started_unix_ms < b.started_unix_ms
                                                      : a.id < b.id;
    });
    std::vector<RunView> kept;
    for (std::size_t i = 0; i < runs.size(); ++i) {
        const bool is_old = runs.size() - i > keep && runs[i].state == "finished";
        if (is_old) {
            fs::remove(fs::path(folder_) / (runs[i].id + ".json"), error);
        } else {
            kept.push_back(std::move(runs[i]));
        }
    }
    return kept;
}

Result<void> RunStore::save(const RunView& run) const {
    std::error_code error;
    fs::create_directories(folder_, error);
    const std::string path = folder_ + "/" + run.id + ".json";
    const std::string fresh = path + ".new";
    const UniqueFd file(
        ::open(fresh.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600)
    );
    if (!file) {
        return make_system_failure(errno, "making " + fresh);
    }
    const auto written = write_all(file.get(), format_json(to_json(run)) + "\n");
    if (written.has_error()) {
        return written.error();
    }
    if (::fsync(file.get()) != 0 || std::rename(fresh.c_str(), path.c_str()) != 0) {
        return make_system_failure(errno, "writing " + path);
    }
    const UniqueFd folder(::open(folder_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (!folder || ::fsync(folder.get()) != 0) {
        return make_system_failure(errno, "writing " + folder_);
    }
    return {};
}

} // namespace qhup::daemon
