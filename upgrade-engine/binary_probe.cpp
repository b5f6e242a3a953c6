// SPDX-License-Identifier: GPL-2.0-or-later
#include "upgrade-engine/binary_probe.hpp"

#include "upgrade-engine/argv_plan.hpp"
#include "upgrade-engine/kept_binary.hpp"

#include <fcntl.h>
#include <linux/capability.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <filesystem>
#include <optional>
#include <utility>
#include <vector>

namespace qhup::upgrade {
namespace {

namespace fs = std::filesystem;
using std::chrono::milliseconds;

constexpr std::size_t kMaxOutputBytes = 8U << 20U;
constexpr std::size_t kMaxWordsBytes = 64U << 10U;
constexpr std::size_t kShownBytes = 400;
constexpr std::size_t kReadBytes = 64U << 10U;
constexpr int kCannotStart = 127;
constexpr milliseconds kDying{1000}; // what the kernel may need to end a killed process

std::string name_of(const PinnedBinary& binary) {
    return "asking " + binary.release.path + " what it is: ";
}

Failure cannot_ask(const PinnedBinary& binary, const std::string& why) {
    return make_failure(Errc::unexpected_answer, name_of(binary) + why);
}

/// How a process of the binary ended, and what it said.
struct Ending {
    int status = 0;     ///< as waitpid() gives it
    std::string output; ///< of stdout
    std::string words;  ///< of stderr
};

/// Both ends, in this order: read, write.
Result<std::array<UniqueFd, 2>> make_pipe() {
    std::array<int, 2> ends{-1, -1};
    if (::pipe2(ends.data(), O_CLOEXEC) != 0) {
        return make_system_failure(errno, "making a pipe");
    }
    return std::array<UniqueFd, 2>{UniqueFd(ends[0]), UniqueFd(ends[1])};
}

/// What the child needs; made before it is born, since it must not allocate.
struct Start {
    int binary = -1;
    std::array<int, 3> standard{-1, -1, -1}; ///< its stdin, stdout, stderr
    char* const* argv = nullptr;
    pid_t parent = 0;
};

/// In the child, between fork and exec: only calls that are safe after a fork of threads.
[[noreturn]] void become_binary(const Start& start) {
    ::setpgid(0, 0);
    for (int number = 1; number < NSIG; ++number) {
        ::signal(number, SIG_DFL); // what we ignore would stay ignored
    }
    sigset_t none;
    ::sigemptyset(&none);
    ::sigprocmask(SIG_SETMASK, &none, nullptr);
    for (int i = 0; i < 3; ++i) {
        if (::dup2(start.standard.at(static_cast<std::size_t>(i)), i) < 0) {
            ::_exit(kCannotStart);
        }
    }
    ::syscall(SYS_close_range, 3U, ~0U, 4U); // 4: CLOSE_RANGE_CLOEXEC
    const rlimit no_core{0, 0};
    ::setrlimit(RLIMIT_CORE, &no_core);
    // why: in this order; without new privileges not even root gets capabilities back by an exec.
    __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
    std::array<__user_cap_data_struct, 2> no_capabilities{};
    const bool is_bare = ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
                         ::syscall(SYS_capset, &header, no_capabilities.data()) == 0;
    ::prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
    if (!is_bare || ::getppid() != start.parent || ::chdir("/") != 0) {
        ::_exit(kCannotStart);
    }
    std::array<char*, 1> environment{nullptr};
    ::syscall(SYS_execveat, start.binary, "", start.argv, environment.data(), AT_EMPTY_PATH);
    ::_exit(kCannotStart);
}

/// A process of the binary and everything that it starts in its group; gone when this is.
class Child {
public:
    explicit Child(pid_t pid)
        : pid_(pid), pidfd_(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0))) {
        ::setpgid(pid, pid); // it does the same: whoever comes first
    }
    Child(const Child&) = delete;
    Child& operator=(const Child&) = delete;
    ~Child() { (void)end(); }

    [[nodiscard]] const UniqueFd& pidfd() const { return pidfd_; }

    /// Kills what is left of it, and says how it ended.
    int end() {
        if (pid_ > 1) { // why: not 1, whose negative is everybody
            if (pidfd_) {
                ::syscall(SYS_pidfd_send_signal, pidfd_.get(), SIGKILL, nullptr, 0);
            }
            // why: before it is reaped: until then the number of its group is nobody else's.
            ::kill(-pid_, SIGKILL);
            // why: one that hangs in the kernel is left to it, and us with a zombie, not waiting.
            pollfd entry{pidfd_.get(), POLLIN, 0};
            (void)::poll(&entry, 1, static_cast<int>(kDying.count()));
            (void)::waitpid(pid_, &status_, WNOHANG);
            pid_ = -1;
        }
        return status_;
    }

private:
    pid_t pid_;
    UniqueFd pidfd_;
    int status_ = 0;
};

/// Reads what is there. False at the end.
bool read_some(const UniqueFd& from, std::string& into) {
    std::array<char, kReadBytes> bytes; // NOLINT(cppcoreguidelines-pro-type-member-init): read into
    const ssize_t got = ::read(from.get(), bytes.data(), bytes.size());
    if (got > 0) {
        into.append(bytes.data(), static_cast<std::size_t>(got));
    }
    return got > 0 || (got < 0 && errno == EINTR);
}

int milliseconds_left(const Deadline& deadline) {
    const auto left =
        std::chrono::ceil<milliseconds>(deadline.point() - std::chrono::steady_clock::now());
    return static_cast<int>(std::max<std::int64_t>(0, left.count()));
}

/// Reads until the process has ended and said everything.
Result<Ending> listen_to(
    const PinnedBinary& binary,
    Child& child,
    UniqueFd output,
    UniqueFd words,
    const Deadline& deadline
) {
    Ending ending;
    bool is_over = false;
    while (output || words || !is_over) {
        // why: what its own children still hold open when it has ended does not concern us.
        if (is_over) {
            ending.status = child.end();
        }
        std::array<pollfd, 3> entries{{
            {output.get(), POLLIN, 0},
            {words.get(), POLLIN, 0},
            {is_over ? -1 : child.pidfd().get(), POLLIN, 0},
        }};
        const int count = ::poll(entries.data(), entries.size(), milliseconds_left(deadline));
        if (count < 0 && errno != EINTR) {
            return make_system_failure(errno, name_of(binary) + "waiting for it");
        }
        if (count == 0) {
            return make_failure(qhup::Errc::timed_out, name_of(binary) + "it did not end in time");
        }
        if (entries[0].revents != 0 && !read_some(output, ending.output)) {
            output.reset();
        }
        if (entries[1].revents != 0 && !read_some(words, ending.words)) {
            words.reset();
        }
        is_over = is_over || entries[2].revents != 0;
        if (ending.output.size() > kMaxOutputBytes || ending.words.size() > kMaxWordsBytes) {
            return cannot_ask(binary, "it says more than a QEMU would");
        }
    }
    ending.status = child.end();
    return ending;
}

/// Runs the binary once, to its end.
Result<Ending> run_once(
    const PinnedBinary& binary,
    std::vector<std::string> arguments,
    const std::string& input,
    const Deadline& deadline
) {
    auto in = make_pipe();
    auto out = make_pipe();
    auto err = make_pipe();
    if (in.has_error() || out.has_error() || err.has_error()) {
        return with_context(
            in.has_error()    ? in.error()
            : out.has_error() ? out.error()
                              : err.error(),
            name_of(binary) + "starting it"
        );
    }
    // why: at once, since a pipe takes some kilobytes, and what is written is less than one.
    const ssize_t written = ::write((*in)[1].get(), input.data(), input.size());
    if (written != static_cast<ssize_t>(input.size())) {
        return make_system_failure(errno, name_of(binary) + "writing to it");
    }
    (*in)[1].reset();
    std::vector<std::string> words{binary.release.path};
    for (std::string& word : loader_words(binary.release)) {
        words.push_back(std::move(word));
    }
    std::move(arguments.begin(), arguments.end(), std::back_inserter(words));
    std::vector<char*> argv;
    for (std::string& word : words) {
        argv.push_back(word.data());
    }
    argv.push_back(nullptr);
    const Start start{
        binary.fd.get(),
        {(*in)[0].get(), (*out)[1].get(), (*err)[1].get()},
        argv.data(),
        ::getpid(),
    };
    const pid_t pid = ::fork();
    if (pid < 0) {
        return make_system_failure(errno, name_of(binary) + "starting it");
    }
    if (pid == 0) {
        become_binary(start);
    }
    Child child(pid);
    if (!child.pidfd()) {
        return make_system_failure(errno, name_of(binary) + "watching it");
    }
    (*in)[0].reset();
    (*out)[1].reset();
    (*err)[1].reset();
    return listen_to(binary, child, std::move((*out)[0]), std::move((*err)[0]), deadline);
}

bool is_good(const Ending& ending) {
    return WIFEXITED(ending.status) && WEXITSTATUS(ending.status) == 0;
}

// why: qtest, since TCG needs memory that is written and executed; our unit has none of that.
std::vector<std::string> machineless(std::vector<std::string> more) {
    std::vector<std::string> words{
        "-machine",
        "none",
        "-nodefaults",
        "-no-user-config",
        "-display",
        "none",
        "-accel",
        "qtest",
    };
    std::move(more.begin(), more.end(), std::back_inserter(words));
    return words;
}

Result<BinaryFacts> ask_monitor(const PinnedBinary& binary, const Deadline& deadline) {
    const auto ending =
        run_once(binary, machineless({"-qmp", "stdio"}), format_questions(), deadline);
    if (ending.has_error()) {
        return ending.error();
    }
    Failure failure;
    if (is_good(*ending)) {
        Result<BinaryFacts> facts = parse_answers(ending->output);
        if (facts.has_value()) {
            return facts;
        }
        failure = with_context(facts.error(), name_of(binary) + "it does not answer as a QEMU");
    } else if (WIFSIGNALED(ending->status)) {
        const std::string number = std::to_string(WTERMSIG(ending->status));
        failure = cannot_ask(binary, "it was ended by signal " + number);
    } else {
        failure = cannot_ask(
            binary, "it ended with status " + std::to_string(WEXITSTATUS(ending->status))
        );
    }
    failure.peer_text = ending->words.substr(0, kShownBytes);
    return failure;
}

/// Options that it does not take. It looks at all of their names first, and then does the first,
/// which is to tell its version, and ends; so each start names one more of them.
Result<Names> ask_options(const PinnedBinary& binary, const Deadline& deadline) {
    Names refused;
    while (true) {
        std::vector<std::string> arguments{"-version"};
        for (const QemuOption& option : qemu_options()) {
            if (refused.contains(option.name)) {
                continue;
            }
            arguments.push_back("-" + std::string(option.name));
            if (option.has_argument) {
                arguments.emplace_back("x");
            }
        }
        const auto ending = run_once(binary, std::move(arguments), {}, deadline);
        if (ending.has_error()) {
            return ending.error();
        }
        if (is_good(*ending)) {
            return refused;
        }
        const std::string option = find_refused_option(ending->words);
        if (find_qemu_option(option) == nullptr || !refused.insert(option).second) {
            return cannot_ask(binary, "it does not say which options it takes");
        }
    }
}

Result<StateFormats> ask_states(const PinnedBinary& binary, const Deadline& deadline) {
    const auto ending =
        run_once(binary, machineless({"-dump-vmstate", "/proc/self/fd/1"}), {}, deadline);
    if (ending.has_error()) {
        return ending.error();
    }
    return is_good(*ending)
               ? parse_state_formats(ending->output)
               : Result<StateFormats>(cannot_ask(binary, "it does not describe its state"));
}

} // namespace

Result<BinaryFacts> probe_binary(const PinnedBinary& binary, Deadline deadline) {
    Result<BinaryFacts> facts = ask_monitor(binary, deadline);
    if (facts.has_error()) {
        return facts;
    }
    Result<Names> refused = ask_options(binary, deadline);
    if (refused.has_value()) {
        facts->refused_options = std::move(*refused);
    }
    Result<StateFormats> states = ask_states(binary, deadline);
    if (states.has_value()) {
        facts->states = std::move(*states);
    }
    return facts;
}

std::string probe_key(const PinnedBinary& binary) {
    std::string key = binary.sha256;
    const fs::path home = fs::path(binary.release.path).parent_path();
    // qemu: util/module.c and configure: where Debian's QEMU, and one from its sources, look.
    for (const char* folder : {"../lib/x86_64-linux-gnu/qemu", "../lib/qemu"}) {
        struct stat info {};
        if (::stat((home / folder).lexically_normal().c_str(), &info) == 0) {
            key += " " + std::to_string(info.st_dev) + ":" + std::to_string(info.st_ino) + ":" +
                   std::to_string(info.st_mtim.tv_sec) + "." + std::to_string(info.st_mtim.tv_nsec);
        }
    }
    return key;
}

} // namespace qhup::upgrade
