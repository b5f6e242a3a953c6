// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/selftest_host.hpp"

#include "common/as_user.hpp"
#include "common/read_file.hpp"
#include "common/run_program.hpp"
#include "common/unique_fd.hpp"
#include "upgrade-engine/vm_facts.hpp"

#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <cerrno>
#include <charconv>
#include <cstdio>
#include <filesystem>
#include <string_view>

extern "C" {
// Of selftest_guest.S: a boot sector, and where it has its number.
extern const char qhup_selftest_guest[];
extern const char qhup_selftest_guest_number[];
}

namespace qhup::daemon {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kSector = 512;
constexpr off_t kDisk = 1 << 20;
constexpr const char* kHugePages = "/sys/kernel/mm/hugepages/hugepages-2048kB/";

Result<void> write_all(const std::string& path, std::string_view text, off_t size) {
    const UniqueFd file(::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
    const bool is_written = file.get() >= 0 &&
                            ::write(file.get(), text.data(), text.size()) == ssize_t(text.size()) &&
                            ::ftruncate(file.get(), size) == 0 && ::fdatasync(file.get()) == 0;
    if (!is_written) {
        return make_system_failure(errno, "writing " + path);
    }
    return {};
}

/// Whether the process has the folder in its command line.
bool names_folder(const std::string& pid, const std::string& folder) {
    const auto line = read_file("/proc/" + pid + "/cmdline");
    return line.has_value() && line->find(folder + "/") != std::string::npos;
}

/// Processes that name the folder, by their pids.
std::vector<std::string> find_processes_of(const std::string& folder) {
    std::vector<std::string> found;
    std::error_code error;
    for (const auto& entry : fs::directory_iterator("/proc", error)) {
        const std::string name = entry.path().filename().string();
        const bool is_process = std::all_of(name.begin(), name.end(), [](unsigned char c) {
            return std::isdigit(c) != 0;
        });
        if (is_process && name != std::to_string(::getpid()) && names_folder(name, folder)) {
            found.push_back(name);
        }
    }
    return found;
}

/// Ours, or root's: PID 1 has started it.
void kill_process(const UniqueFd& process) {
    const auto kill = [&process] {
        ::syscall(SYS_pidfd_send_signal, process.get(), SIGKILL, nullptr, 0);
    };
    kill();
    if (is_own_user_with_rights()) {
        ignore(run_as_user(0, "ending a guest", kill), "it is looked for again");
    }
}

void end_processes_of(const std::string& folder) {
    for (const std::string& name : find_processes_of(folder)) {
        pid_t pid = 0;
        (void)std::from_chars(name.data(), name.data() + name.size(), pid);
        // why: between the look and the signal the number may have become another process's.
        const UniqueFd held(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
        if (held.get() >= 0 && names_folder(name, folder)) {
            kill_process(held);
        }
    }
}

} // namespace

Result<void> make_selftest_folder(const std::string& folder) {
    std::error_code error;
    fs::create_directories(folder, error);
    if (error) {
        return make_system_failure(error.value(), "making " + folder);
    }
    ::chmod(folder.c_str(), 0700);
    return write_all(folder + "/disk", std::string_view(qhup_selftest_guest, kSector), kDisk);
}

Result<void> start_selftest_guest(const std::vector<std::string>& command) {
    Result<ProgramEnd> ended = ProgramEnd();
    const auto run = [&command, &ended] { ended = run_program(command); };
    if (is_own_user_with_rights()) {
        // why: only root may ask PID 1 for a unit, where there is no polkit that lets others.
        const auto taken = run_as_user(0, "starting " + command.front(), run);
        if (taken.has_error()) {
            return taken;
        }
    } else {
        run();
    }
    if (ended.has_error()) {
        return ended.error();
    }
    if (ended->status != 0) {
        Failure failure = make_failure(
            Errc::system_error,
            command.front() + " ended with status " + std::to_string(ended->status)
        );
        failure.peer_text = ended->err.empty() ? ended->out : ended->err;
        return failure;
    }
    return {};
}

Result<SelftestSaid> read_selftest_guest(const std::string& folder) {
    auto serial = read_file(folder + "/serial");
    if (serial.has_error()) {
        return serial.error();
    }
    const UniqueFd disk(::open((folder + "/disk").c_str(), O_RDONLY | O_CLOEXEC));
    std::array<char, kSector> sector{};
    if (::pread(disk.get(), sector.data(), sector.size(), kSector) != ssize_t(kSector)) {
        return make_system_failure(errno, "reading " + folder + "/disk");
    }
    return SelftestSaid{
        .serial = std::move(*serial),
        .sector = std::string(sector.data(), sector.size()),
        .number_at = static_cast<std::size_t>(qhup_selftest_guest_number - qhup_selftest_guest),
    };
}

bool is_selftest_guest_running(const std::string& folder) {
    return !find_processes_of(folder).empty();
}

HostUse observe_host_use(pid_t pid) {
    HostUse use;
    const std::string process = "/proc/" + std::to_string(pid);
    std::error_code error;
    for (const auto& entry : fs::directory_iterator(process + "/fd", error)) {
        std::error_code unreadable;
        const fs::path target = fs::read_symlink(entry.path(), unreadable);
        use.has_kvm = use.has_kvm || (!unreadable && target == "anon_inode:kvm-vm");
        use.has_vhost = use.has_vhost || (!unreadable && target == "/dev/vhost-net");
    }
    const auto status = read_file(process + "/status");
    const auto huge = status.has_value() ? upgrade::find_number(*status, "HugetlbPages:")
                                         : std::optional<std::uint64_t>();
    use.huge_kib = huge.value_or(0);
    const UniqueFd file(::open((process + "/attr/current").c_str(), O_RDONLY | O_CLOEXEC));
    use.label_error = file.get() < 0 ? errno : 0;
    std::array<char, 4096> label{};
    const ssize_t got = file.get() < 0 ? 0 : ::read(file.get(), label.data(), label.size());
    use.label_error = got < 0 ? errno : use.label_error;
    use.label.assign(label.data(), got > 0 ? static_cast<std::size_t>(got) : 0);
    while (!use.label.empty() && (use.label.back() == '\n' || use.label.back() == '\0')) {
        use.label.pop_back();
    }
    return use;
}

std::string read_selftest_log(const std::string& folder, std::size_t most) {
    const auto text = read_file(folder + "/log");
    if (text.has_error()) {
        return {};
    }
    return text->substr(text->size() - std::min(text->size(), most));
}

void end_selftest_guest(const std::string& folder) {
    end_processes_of(folder);
    std::error_code ignored;
    fs::remove_all(folder, ignored);
}

std::vector<std::string> find_selftest_guests(const std::string& folder) {
    std::vector<std::string> found;
    std::error_code error;
    for (const auto& entry : fs::directory_iterator(folder, error)) {
        found.push_back(entry.path().string());
    }
    return found;
}

std::size_t free_huge_pages() {
    const auto read = [](const char* name) {
        const auto text = read_file(std::string(kHugePages) + name);
        std::size_t pages = 0;
        if (text.has_value()) {
            (void)std::from_chars(text->data(), text->data() + text->size(), pages);
        }
        return pages;
    };
    const std::size_t free = read("free_hugepages");
    return free - std::min(free, read("resv_hugepages"));
}

bool has_libvirt() {
    std::error_code unreadable;
    return fs::exists("/run/libvirt/qemu", unreadable);
}

std::string kernel_release() {
    utsname facts{};
    return ::uname(&facts) == 0 ? facts.release : "";
}

std::string load_selftests(const std::string& path) {
    const auto text = read_file(path);
    return text.has_value() ? *text : std::string();
}

Result<void> store_selftests(const std::string& path, const std::string& text) {
    const std::string fresh = path + ".new";
    const auto written = write_all(fresh, text, static_cast<off_t>(text.size()));
    if (written.has_error()) {
        return written.error();
    }
    if (::rename(fresh.c_str(), path.c_str()) != 0) {
        return make_system_failure(errno, "renaming " + fresh);
    }
    return {};
}

} // namespace qhup::daemon
