// SPDX-License-Identifier: GPL-2.0-or-later
#include "tests/component/daemon/harness.hpp"

#include "upgrade-engine/binary_store.hpp"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>
#include <stdexcept>
#include <thread>
#include <utility>

namespace qhup::test {
namespace {

using Clock = std::chrono::steady_clock;

constexpr const char* kNewBinary = SILENT_QEMU;
constexpr std::chrono::seconds kStopTime{3};

std::string read_file(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

std::string build_id_of(const std::string& path) {
    upgrade::Release release;
    release.name = upgrade::ReleaseName("new");
    release.path = path;
    const auto binary = upgrade::pin_binary(release);
    if (binary.has_error()) {
        throw std::runtime_error(to_text(binary.error()));
    }
    return (*binary)->build_id;
}

sockaddr_un address_of(const std::string& path) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    if (path.size() >= sizeof(address.sun_path)) {
        throw std::runtime_error("the socket path is too long: " + path);
    }
    path.copy(&address.sun_path[0], sizeof(address.sun_path) - 1);
    return address;
}

int status_of(int wait_status) {
    return WIFEXITED(wait_status) ? WEXITSTATUS(wait_status) : 128 + WTERMSIG(wait_status);
}

/// Exit status, or 128 + signal; -1 if it did not end in time.
int wait_for_end(pid_t pid, std::chrono::seconds patience = kPatience) {
    int status = 0;
    pid_t ended = 0;
    const auto has_come = [&] {
        ended = ::waitpid(pid, &status, WNOHANG);
        return ended != 0;
    };
    const bool has_ended = wait_until(has_come, patience);
    if (!has_ended || ended < 0) {
        return -1;
    }
    return status_of(status);
}

/// The first lines of what a sanitizer said; "" if none did.
std::string report_of_sanitizer(const std::string& log) {
    constexpr std::size_t kShown = 3000;
    std::size_t begin = std::string::npos;
    for (const char* mark : {"Sanitizer:", ": runtime error: "}) {
        begin = std::min(begin, log.find(mark));
    }
    if (begin == std::string::npos) {
        return {};
    }
    const auto line = log.rfind('\n', begin);
    return log.substr(line == std::string::npos ? 0 : line + 1, kShown);
}

} // namespace

bool wait_until(const std::function<bool()>& condition, std::chrono::seconds patience) {
    const auto deadline = Clock::now() + patience;
    while (!condition()) {
        if (Clock::now() > deadline) {
            return false;
        }
        ::poll(nullptr, 0, 1);
    }
    return true;
}

Host::Host(std::size_t vms) : options_(vms) {
    namespace fs = std::filesystem;
    fs::create_directories(dir_ / "q");
    fs::create_directories(dir_ / "releases");
    std::ofstream(dir_ / "releases/new.toml")
        << "path = \"" << kNewBinary << "\"\nversion = \"10.0.13\"\n";
    const std::string build_id = build_id_of(kNewBinary);
    for (std::size_t i = 0; i < vms; ++i) {
        options_[i].qmp_path = dir_ / ("q/vm" + std::to_string(i) + ".qmp");
        options_[i].vm.name = "vm" + std::to_string(i);
        options_[i].vm.target_build_id = build_id;
    }
    notify_ = ::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    const sockaddr_un address = address_of(dir_ / "notify");
    if (::bind(notify_, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0) {
        throw std::runtime_error("cannot bind the notify socket");
    }
}

Host::~Host() {
    const std::string wrong = end_daemon();
    ::close(notify_);
    if (!wrong.empty()) {
        std::cerr << wrong << std::endl;
        std::cout.flush();
        // why: a destructor can fail a test in no other way, and Catch says which one it was.
        if (std::uncaught_exceptions() == 0) {
            std::abort();
        }
    }
}

std::string Host::end_daemon() {
    int raw = 0;
    int status = 0;
    if (daemon_ > 0 && ::waitpid(daemon_, &raw, WNOHANG) == daemon_) {
        status = status_of(raw);
    } else if (signal_daemon(SIGTERM)) {
        status = wait_for_end(daemon_, kStopTime);
        if (status == -1) {
            kill_daemon(); // a VM of the test keeps it
            status = 0;
        }
    }
    daemon_ = -1;
    const std::string log = daemon_log();
    const std::string report = report_of_sanitizer(log);
    if (!report.empty()) {
        return "a sanitizer complained about qhupd:\n" + report;
    }
    constexpr int kKilled = 128 + SIGKILL; // by the test, or at a mark
    if (status != 0 && status != kKilled) {
        return "qhupd ended with status " + std::to_string(status) + ":\n" +
               log.substr(log.size() - std::min<std::size_t>(log.size(), 3000));
    }
    return {};
}

void Host::serve() {
    qemu_ = std::make_unique<FakeQemu>(options_);
}

void Host::write_config() const {
    std::ofstream(
        dir_ / "conf"
    ) << "control_dir = \""
      << dir_ / "vms"
      << "\"\n"
      << "releases_dir = \"" << dir_ / "releases"
      << "\"\n"
      << "state_dir = \"" << dir_ / "state"
      << "\"\n"
      << extra_config
      << (extra_config.find("selftest") == std::string::npos ? "\nselftest = \"off\"" : "")
      << (extra_config.find("rehearse") == std::string::npos ? "\nrehearse = \"none\"" : "")
      << "\nkept_binaries = 0\n[discovery]\nqmp = [\"" << dir_ / "q/*.qmp"
      << "\"]\n[api]\nsocket = \"" << api_socket() << "\"\ngroup = \"\"\n"
      << extra_api << "[deadlines]\nverify = \"" << verify << "\"\nrequest = \"1s\"\n"
      << extra_sections;
}

pid_t Host::spawn(
    const std::string& program,
    std::vector<std::string> arguments,
    const std::string& out,
    const std::string& err
) {
    arguments.insert(arguments.begin(), program);
    std::vector<char*> argv;
    for (std::string& argument : arguments) {
        argv.push_back(argument.data());
    }
    argv.push_back(nullptr);
    ::setenv("NOTIFY_SOCKET", (dir_ / "notify").c_str(), 1);
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_addopen(&actions, 1, out.c_str(), O_WRONLY | O_CREAT | O_APPEND, 0600);
    posix_spawn_file_actions_addopen(&actions, 2, err.c_str(), O_WRONLY | O_CREAT | O_APPEND, 0600);
    // why: the fake VMs live in this process; a child that kept their sockets would keep them open.
    posix_spawn_file_actions_addclosefrom_np(&actions, 3);
    pid_t pid = -1;
    const int error =
        ::posix_spawn(&pid, program.c_str(), &actions, nullptr, argv.data(), ::environ);
    posix_spawn_file_actions_destroy(&actions);
    if (error != 0) {
        throw std::runtime_error("cannot start " + program);
    }
    return pid;
}

bool Host::start_daemon() {
    write_config();
    std::vector<std::string> arguments{"--config", dir_ / "conf"};
    if (!fault.empty()) {
        arguments.insert(arguments.end(), {"--fault", fault});
        fault.clear();
    }
    std::string program = QHUPD;
    if (!wrapper.empty()) {
        arguments.insert(arguments.begin(), program);
        arguments.insert(arguments.begin(), wrapper.begin() + 1, wrapper.end());
        program = wrapper.front();
        wrapper.clear();
    }
    daemon_ = spawn(program, std::move(arguments), dir_ / "daemon.log", dir_ / "daemon.log");
    std::string said;
    bool has_ended = false;
    (void)wait_until([&] {
        std::array<char, 4096> buffer{};
        const ssize_t got = ::recv(notify_, buffer.data(), buffer.size(), 0);
        said.append(buffer.data(), static_cast<std::size_t>(std::max<ssize_t>(0, got)));
        int status = 0;
        has_ended = ::waitpid(daemon_, &status, WNOHANG) == daemon_;
        early_end_ = has_ended ? status_of(status) : -1;
        // what it said before it ended comes first
        const ssize_t late = has_ended ? ::recv(notify_, buffer.data(), buffer.size(), 0) : 0;
        said.append(buffer.data(), static_cast<std::size_t>(std::max<ssize_t>(0, late)));
        return has_ended || said.find("READY=1") != std::string::npos;
    });
    if (has_ended) {
        daemon_ = -1;
    }
    return said.find("READY=1") != std::string::npos;
}

bool Host::signal_daemon(int signal) const {
    // why: there may be none, and kill(-1) would end every process that we may end.
    return daemon_ > 0 && ::kill(daemon_, signal) == 0;
}

int Host::stop_daemon() {
    (void)signal_daemon(SIGTERM);
    return wait_for_daemon();
}

int Host::wait_for_daemon() {
    if (daemon_ < 0) {
        return early_end_; // it ended before it was READY
    }
    const int status = wait_for_end(daemon_);
    daemon_ = status == -1 ? daemon_ : -1;
    return status;
}

void Host::kill_daemon() {
    if (signal_daemon(SIGKILL)) {
        (void)wait_for_end(daemon_);
        daemon_ = -1;
    }
}

void Host::fill_disk(bool is_full) const {
    rlimit limit{RLIM_INFINITY, RLIM_INFINITY};
    if (is_full) {
        limit.rlim_cur = std::filesystem::file_size(journal_path() + "-wal");
    }
    if (::prlimit(daemon_, RLIMIT_FSIZE, &limit, nullptr) != 0) {
        throw std::runtime_error("cannot limit the daemon's files");
    }
}

std::string Host::journal_log() const {
    return read_file(journal_path() + "-wal");
}

std::string Host::daemon_log() const {
    // why: who logs does not wait until it is written, so what was logged may be on its way still.
    std::string text;
    wait_until([&] {
        const std::string before = std::exchange(text, read_file(dir_ / "daemon.log"));
        ::poll(nullptr, 0, 20);
        return before == text && !text.empty();
    });
    return text;
}

pid_t Host::start_ctl(std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), {"--socket", api_socket()});
    const std::string base = dir_ / ("ctl" + std::to_string(++spawned_));
    const pid_t pid = spawn(QHUPD_CTL, std::move(arguments), base + ".out", base + ".err");
    std::filesystem::rename(base + ".out", dir_ / ("ctl-" + std::to_string(pid) + ".out"));
    std::filesystem::rename(base + ".err", dir_ / ("ctl-" + std::to_string(pid) + ".err"));
    return pid;
}

Ran Host::finish_ctl(pid_t pid, std::chrono::seconds patience) {
    Ran ran;
    ran.status = wait_for_end(pid, patience);
    const std::string base = dir_ / ("ctl-" + std::to_string(pid));
    ran.out = read_file(base + ".out");
    ran.err = read_file(base + ".err");
    return ran;
}

Ran Host::ctl(std::vector<std::string> arguments) {
    return finish_ctl(start_ctl(std::move(arguments)));
}

std::string Host::ctl_program() {
    return QHUPD_CTL;
}

std::string Host::daemon_program() {
    return QHUPD;
}

Ran Host::ctl_in_shell(const std::string& words) {
    return shell(ctl_program() + " --socket " + api_socket() + " " + words);
}

Ran Host::shell(const std::string& line) {
    const std::string base = dir_ / ("sh" + std::to_string(++spawned_));
    Ran ran;
    ran.status = wait_for_end(spawn("/bin/sh", {"-c", line}, base + ".out", base + ".err"));
    ran.out = read_file(base + ".out");
    ran.err = read_file(base + ".err");
    return ran;
}

std::string Host::newest_run() {
    const auto runs = nlohmann::json::parse(ctl({"--json", "status"}).out).at("runs");
    return runs.empty() ? "" : runs.at(0).at("id").get<std::string>();
}

std::string Host::raw_request(const std::string& bytes) const {
    const int fd = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    const sockaddr_un address = address_of(api_socket());
    std::string answer;
    if (::connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0) {
        (void)::send(fd, bytes.data(), bytes.size(), MSG_NOSIGNAL);
        std::array<char, 4096> buffer{};
        const auto deadline = Clock::now() + kPatience;
        for (;;) {
            pollfd entry{fd, POLLIN, 0};
            const ssize_t got =
                ::poll(&entry, 1, 100) > 0 ? ::recv(fd, buffer.data(), buffer.size(), 0) : 1;
            if (got <= 0 || Clock::now() > deadline) {
                break;
            }
            if ((entry.revents & POLLIN) != 0) {
                answer.append(buffer.data(), static_cast<std::size_t>(got));
            }
        }
    }
    ::close(fd);
    return answer;
}

bool has_command(Host& host, const std::string& command, std::size_t vm) {
    const auto commands = host.qemu().commands(vm);
    return std::find(commands.begin(), commands.end(), command) != commands.end();
}

} // namespace qhup::test
