// SPDX-License-Identifier: GPL-2.0-or-later
//
// Every kind of system call that the daemon makes in one upgrade fails, with each error that fits,
// or kills it, at its first time, its second, and so on; strace does it. Then a daemon is started
// that nothing happens to. At the end the guest runs once, the report says where, and the VM can be
// upgraded.
//   syscall_matrix [--runs N [--seed S] | --all | --only NAME:error=EIO:when=3]
//   syscall_matrix --list                                      (prints all cells)
//   syscall_matrix --cells FILE                                (those of a file, a line each)
//   syscall_matrix --plan LOG [--runs N [--seed S] | --all]    (cells for another test's daemon)
// Exit status 77: this host does not let us trace.
#include "tests/component/daemon/harness.hpp"

#include <CLI/CLI.hpp>

#include <algorithm>
#include <cctype>
#include <csignal>
#include <fstream>
#include <iostream>
#include <map>
#include <optional>
#include <random>
#include <set>
#include <sstream>

using namespace qhup::test;
using nlohmann::json;
using namespace std::chrono_literals;

namespace {

constexpr const char* kStrace = "/usr/bin/strace";
constexpr std::chrono::seconds kLong{80}; // longer than any deadline of an upgrade

/// Errors that the kernel may give. A system call that is not here is only a place to be killed at.
const std::map<std::string, std::vector<std::string>> kErrors{
    {"accept4", {"EMFILE", "ECONNABORTED", "EINTR"}},
    {"bind", {"EADDRINUSE"}},
    {"clone", {"EAGAIN"}},
    {"clone3", {"EAGAIN"}},
    {"close", {"EIO"}},
    {"connect", {"EAGAIN", "ECONNREFUSED"}},
    {"epoll_ctl", {"ENOSPC"}},
    {"epoll_wait", {"EINTR"}},
    {"fchmod", {"EPERM"}},
    {"fcntl", {"EMFILE"}},
    {"fdatasync", {"EIO", "ENOSPC"}},
    {"fsync", {"EIO", "ENOSPC"}},
    {"fstat", {"EIO"}},
    {"ftruncate", {"EIO", "ENOSPC"}},
    {"getdents64", {"EIO"}},
    {"getsockopt", {"ENOBUFS"}},
    {"listen", {"EADDRINUSE"}},
    {"lseek", {"EIO"}},
    {"lstat", {"EIO"}},
    {"mkdir", {"ENOSPC", "EACCES"}},
    {"mkdirat", {"ENOSPC"}},
    {"mmap", {"ENOMEM"}},
    {"newfstatat", {"EIO"}},
    {"openat", {"EMFILE", "ENOSPC", "EIO"}},
    {"pidfd_open", {"EMFILE"}},
    {"pread64", {"EIO", "EINTR"}},
    {"pwrite64", {"EIO", "ENOSPC"}},
    {"read", {"EIO", "EINTR"}},
    {"readlink", {"EACCES"}},
    {"recvfrom", {"ECONNRESET", "EINTR"}},
    {"recvmsg", {"ECONNRESET", "EINTR", "ENOBUFS"}},
    {"sendmsg", {"EPIPE", "EAGAIN", "ENOBUFS", "EINTR"}},
    {"sendto", {"EPIPE", "EAGAIN"}},
    {"socket", {"EMFILE", "ENFILE"}},
    {"stat", {"EIO"}},
    {"statx", {"EIO"}},
    {"unlink", {"EIO", "EACCES"}},
    {"unlinkat", {"EIO"}},
    {"write", {"EIO", "ENOSPC", "EINTR"}},
    {"writev", {"EIO"}},
};

/// One cell of the matrix.
struct Case {
    std::string call;
    std::string fault; ///< "error=EIO", "signal=SIGKILL"
    int when = 1;      ///< at its so manieth time in a thread

    std::string text() const { return call + ":" + fault + ":when=" + std::to_string(when); }
};

/// What a test of one case found.
struct Finding {
    std::string broken;             ///< the rule that does not hold; "" if all do
    std::string log;                ///< of the daemons
    bool has_struck = false;        ///< the system call was made that often
    std::vector<std::string> notes; ///< allowed, but worth a look
};

std::vector<std::string>
strace_words(const std::string& log, const std::vector<std::string>& what) {
    // why -D: the daemon keeps its pid, so that the harness can signal and wait for it.
    std::vector<std::string> words{kStrace, "-D", "-f", "-qq", "-o", log};
    words.insert(words.end(), what.begin(), what.end());
    return words;
}

bool can_trace() {
    return std::system("strace -f -qq -o /dev/null -e inject=getpid:error=EIO true 2>/dev/null") ==
           0;
}

/// One line of strace's log: a system call that begins, or another thing that is told of a thread.
struct TraceLine {
    std::string thread;
    std::string call;  ///< "" if none begins here
    std::string child; ///< that this thread has made; "" if none
};

TraceLine parse_trace_line(const std::string& line) {
    TraceLine parsed;
    std::istringstream words(line);
    std::string rest;
    words >> parsed.thread;
    std::getline(words >> std::ws, rest);
    const std::size_t open = rest.find('(');
    if (open != std::string::npos && open > 0 && rest.find_first_of("< ") > open) {
        parsed.call = rest.substr(0, open);
    }
    const std::size_t result = rest.rfind(" = ");
    const bool is_birth = parsed.call.starts_with("clone") || parsed.call == "fork" ||
                          parsed.call == "vfork" || rest.starts_with("<... clone") ||
                          rest.starts_with("<... vfork");
    if (is_birth && result != std::string::npos && std::isdigit(rest[result + 3]) != 0) {
        parsed.child = rest.substr(result + 3, rest.find(' ', result + 3) - result - 3);
    }
    return parsed;
}

bool is_exec(const TraceLine& line) {
    return line.call == "execve" || line.call == "execveat";
}

/// Threads of programs that the daemon has started: a binary that is asked what it is.
std::set<std::string> threads_of_others(const std::vector<TraceLine>& lines) {
    std::map<std::string, std::string> parents;
    std::set<std::string> others;
    for (const TraceLine& line : lines) {
        if (!line.child.empty()) {
            parents[line.child] = line.thread;
        }
        if (is_exec(line) && line.thread != lines.front().thread) {
            others.insert(line.thread);
        }
    }
    std::set<std::string> born;
    for (const auto& [child, parent] : parents) {
        for (auto at = parents.find(child); at != parents.end(); at = parents.find(at->second)) {
            if (others.contains(at->second)) {
                born.insert(child);
                break;
            }
        }
    }
    return born;
}

/// How often each system call is made in one thread of the daemon, from the log of a run without
/// faults: also in a child of its own until that is another program.
std::map<std::string, int> count_calls(const std::string& log) {
    std::vector<TraceLine> lines;
    std::ifstream file(log);
    std::string text;
    while (std::getline(file, text)) {
        lines.push_back(parse_trace_line(text));
    }
    std::map<std::string, std::map<std::string, int>> threads;
    std::set<std::string> others =
        lines.empty() ? std::set<std::string>() : threads_of_others(lines);
    for (const TraceLine& line : lines) {
        if (line.call.empty() || others.contains(line.thread)) {
            continue;
        }
        ++threads[line.thread][line.call];
        if (is_exec(line) && line.thread != lines.front().thread) {
            others.insert(line.thread);
        }
    }
    std::map<std::string, int> most;
    for (const auto& [thread, calls] : threads) {
        for (const auto& [call, count] : calls) {
            most[call] = std::max(most[call], count);
        }
    }
    return most;
}

/// The cells of a daemon that strace -f has noted.
std::vector<Case> cases_of(const std::string& log) {
    static const std::set<std::string> kOnce{"execve", "exit", "exit_group", "rt_sigreturn"};
    std::vector<Case> cases;
    for (const auto& [call, count] : count_calls(log)) {
        if (kOnce.contains(call)) {
            continue;
        }
        for (int when = 1; when <= count; ++when) {
            cases.push_back({call, "signal=SIGKILL", when});
            const auto errors = kErrors.find(call);
            for (const std::string& error :
                 errors == kErrors.end() ? std::vector<std::string>() : errors->second) {
                cases.push_back({call, "error=" + error, when});
            }
        }
    }
    return cases;
}

std::vector<Case> make_cases() {
    Host host(1);
    host.serve();
    const std::string log = host.dir() / "trace";
    host.wrapper = strace_words(log, {});
    if (!host.start_daemon() || host.ctl({"upgrade", "--yes", "vm0", "--to", "new"}).status != 0) {
        throw std::runtime_error("the upgrade without faults failed: " + host.daemon_log());
    }
    if (host.stop_daemon() != 0) {
        throw std::runtime_error("the daemon without faults did not stop");
    }
    return cases_of(log);
}

struct Truth {
    std::size_t sides = 0;
    std::string version;
};

Truth truth_of(Host& host) {
    Truth truth;
    host.qemu().with_vm([&truth](FakeVm& vm) {
        truth.sides = vm.running_sides().size();
        truth.version = vm.version();
    });
    return truth;
}

/// The run and the VM agree.
std::string compare(Host& host, const json& run) {
    const Truth truth = truth_of(host);
    if (truth.sides != 1) {
        return "the guest runs on " + std::to_string(truth.sides) + " sides";
    }
    for (const json& vm : run.at("vms")) {
        const auto outcome = vm.at("outcome").get<std::string>();
        const bool is_old = outcome == "refused" || outcome == "rolled_back";
        if ((outcome == "upgraded" && truth.version != "10.0.13") ||
            (is_old && truth.version != "7.2.22")) {
            return "says " + outcome + ", but the VM runs " + truth.version;
        }
    }
    return {};
}

json parse(const std::string& text) {
    return json::parse(text, nullptr, false);
}

/// With a daemon to which nothing happens.
void check_afterwards(Host& host, Finding& finding) {
    if (!host.start_daemon()) {
        finding.broken = "the next daemon does not start";
        return;
    }
    json runs;
    const bool is_finished = wait_until(
        [&] {
            runs = parse(host.ctl({"--json", "status"}).out);
            return runs.is_object() && runs.contains("runs") && // or says why there is no list
                   std::all_of(runs.at("runs").begin(), runs.at("runs").end(), [](const json& run) {
                       return run.at("state") == "finished";
                   });
        },
        kLong
    );
    if (!is_finished) {
        finding.broken = "a run does not end: " + runs.dump();
        return;
    }
    if (!runs.at("runs").empty()) {
        const std::string id = host.newest_run();
        const json run = parse(host.ctl({"--json", "status", id, "--once"}).out);
        finding.broken = compare(host, run);
        for (const json& vm : run.at("vms")) {
            const auto outcome = vm.at("outcome").get<std::string>();
            if (outcome == "lost_contact" || outcome == "needs_operator") {
                finding.notes.push_back("ended as " + outcome + ": " + vm.at("message").dump());
            }
        }
    }
    const auto upgrade_again = [&host] {
        const Ran again = host.ctl({"upgrade", "--yes", "vm0", "--to", "new"});
        return again.status == 0 || again.status == 2;
    };
    if (finding.broken.empty() && !wait_until(upgrade_again, kLong)) {
        finding.broken = "the VM cannot be upgraded afterwards";
    }
    const Truth truth = truth_of(host);
    if (finding.broken.empty() && (truth.sides != 1 || truth.version != "10.0.13")) {
        finding.broken = "the VM is not on the new QEMU afterwards, but on " + truth.version;
    }
}

/// The tracer says that it did something.
bool has_struck(const std::string& log) {
    std::ifstream file(log);
    std::ostringstream text;
    text << file.rdbuf();
    return text.str().find("(INJECTED)") != std::string::npos ||
           text.str().find("killed by SIGKILL") != std::string::npos;
}

Finding try_case(const Case& each) {
    Finding finding;
    Host host(1);
    host.serve();
    host.wrapper = strace_words(
        host.dir() / "trace", {"-e", "trace=" + each.call, "-e", "inject=" + each.text()}
    );
    const bool is_ready = host.start_daemon();
    if (is_ready) {
        const pid_t ctl = host.start_ctl({"--json", "upgrade", "--yes", "vm0", "--to", "new"});
        const Ran ran = host.finish_ctl(ctl, kLong);
        const json run = parse(ran.out);
        const bool has_ended = run.is_object() && run.value("state", "") == "finished";
        finding.broken = has_ended ? compare(host, run) : "";
        if (ran.status == -1) {
            finding.broken = "qhupd-ctl does not end";
            if (ctl > 0) {
                ::kill(ctl, SIGKILL);
            }
        }
    }
    if (!is_ready && host.signal_daemon(0) && host.wait_for_daemon() == -1) {
        finding.notes.emplace_back("the daemon was not READY in time");
        if (!wait_until([&host] { return host.ctl({"version"}).status == 0; }, kLong)) {
            finding.broken = "the daemon neither serves nor ends";
        }
    }
    (void)host.signal_daemon(SIGTERM);
    const int status = host.wait_for_daemon();
    if (status == -1) {
        finding.notes.emplace_back("the daemon did not stop in time");
        host.kill_daemon();
    } else if (status > 128 && !(each.fault == "signal=SIGKILL" && status == 128 + SIGKILL)) {
        finding.notes.push_back("the daemon ended by signal " + std::to_string(status - 128));
    }
    finding.has_struck = has_struck(host.dir() / "trace");
    if (finding.broken.empty()) {
        check_afterwards(host, finding);
    }
    finding.log = host.daemon_log();
    return finding;
}

/// Some of them: as many kinds of call and fault as there is room for, each at any of its times.
std::vector<Case> sample(const std::vector<Case>& cases, std::size_t runs, std::uint64_t seed) {
    std::mt19937_64 random(seed);
    std::map<std::string, std::vector<Case>> kinds;
    for (const Case& each : cases) {
        kinds[each.call + ":" + each.fault].push_back(each);
    }
    std::vector<std::vector<Case>> shuffled;
    for (auto& [kind, of_kind] : kinds) {
        std::shuffle(of_kind.begin(), of_kind.end(), random);
        shuffled.push_back(std::move(of_kind));
    }
    std::shuffle(shuffled.begin(), shuffled.end(), random);
    std::vector<Case> chosen;
    for (std::size_t round = 0; chosen.size() < std::min(runs, cases.size()); ++round) {
        for (const auto& of_kind : shuffled) {
            if (round < of_kind.size() && chosen.size() < runs) {
                chosen.push_back(of_kind[round]);
            }
        }
    }
    return chosen;
}

/// What is in front of ":" and so on; nothing if it is not a case.
std::optional<Case> parse_case(const std::string& text) {
    const std::size_t first = text.find(':');
    const std::size_t last = text.find(":when=");
    if (first == std::string::npos || last == std::string::npos || first >= last) {
        return std::nullopt;
    }
    const int when = static_cast<int>(std::strtol(text.c_str() + last + 6, nullptr, 10));
    return Case{text.substr(0, first), text.substr(first + 1, last - first - 1), when};
}

void print_cells(const std::vector<Case>& cases) {
    for (const Case& each : cases) {
        std::cout << each.text() << "\n";
    }
}

std::vector<Case> read_cells(const std::string& path) {
    std::ifstream file(path);
    std::vector<Case> cases;
    std::string line;
    while (std::getline(file, line)) {
        const std::optional<Case> each = parse_case(line);
        if (!each) {
            throw std::runtime_error("that is no case: " + line);
        }
        cases.push_back(*each);
    }
    return cases;
}

} // namespace

int main(int argc, char** argv) {
    CLI::App app{"Fails each system call of the daemon in turn."};
    std::size_t runs = 24;
    std::uint64_t seed = 1;
    bool is_all = false;
    std::string only;
    app.add_option("--runs", runs, "so many cells of the matrix");
    app.add_option("--seed", seed, "which ones");
    app.add_flag("--all", is_all, "all of them");
    bool is_told = false;
    app.add_flag("--log", is_told, "print the daemon's log, too");
    app.add_option("--only", only, "this one: openat:error=EMFILE:when=3");
    std::string traced;
    app.add_option("--plan", traced, "print cells for the daemon of this strace log, and end");
    bool is_list = false;
    app.add_flag("--list", is_list, "print all cells, and end");
    std::string file;
    app.add_option("--cells", file, "the cells that this file lists");
    CLI11_PARSE(app, argc, argv);
    if (!traced.empty()) {
        const std::vector<Case> all = cases_of(traced);
        print_cells(is_all ? all : sample(all, runs, seed));
        return all.empty() ? 1 : 0;
    }
    if (!can_trace()) {
        std::cout << "skipped: strace cannot trace here\n";
        return 77;
    }
    std::vector<Case> cases;
    if (!only.empty()) {
        const std::optional<Case> each = parse_case(only);
        if (!each) {
            std::cerr << "that is no case: " << only << "\n";
            return 2;
        }
        cases.push_back(*each);
    } else if (!file.empty()) {
        cases = read_cells(file);
    } else if (is_list) {
        print_cells(make_cases());
        return 0;
    } else {
        cases = make_cases();
        std::cout << "the matrix has " << cases.size() << " cells\n";
        if (!is_all) {
            cases = sample(cases, runs, seed);
        }
    }
    std::size_t broken = 0;
    std::size_t struck = 0;
    for (const Case& each : cases) {
        std::cout << each.text() << std::flush;
        const Finding finding = try_case(each);
        for (const std::string& note : finding.notes) {
            std::cout << " [" << note << "]";
        }
        std::cout << (finding.has_struck ? "" : " [not struck]");
        std::cout << (finding.broken.empty() ? " ok" : " BROKEN: " + finding.broken) << std::endl;
        std::cout << (is_told || !finding.broken.empty() ? finding.log : "");
        broken += finding.broken.empty() ? 0U : 1U;
        struck += finding.has_struck ? 1U : 0U;
    }
    std::cout << cases.size() - broken << " of " << cases.size() << " hold (seed " << seed << "); "
              << struck << " were struck\n";
    // why: a thread may make fewer calls than the last time, but not so often.
    const bool is_enough = !cases.empty() && struck * 4 >= cases.size() * 3;
    return broken == 0 && is_enough ? 0 : 1;
}
