// SPDX-License-Identifier: GPL-2.0-or-later
//
// A little host for tests: fake VMs on real sockets, the real qhupd, the real qhupd-ctl, all in a
// folder of their own. Used by the component and the crash tests of the daemon.
#pragma once

#include "tests/support/fake_qemu.hpp"
#include "tests/support/temp_dir.hpp"

#include <sys/types.h>

#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace qhup::test {

/// What a program did.
struct Ran {
    int status = -1; ///< exit status; 128 + n after signal n
    std::string out; ///< its standard output
    std::string err; ///< its standard error
};

/// For what takes a moment.
inline constexpr std::chrono::seconds kPatience{8};

/// Waits for a condition that another process brings about; false when the patience ends.
bool wait_until(const std::function<bool()>& condition, std::chrono::seconds patience = kPatience);

class Host {
public:
    /// Fake VMs "vm0", "vm1" …, whose targets have the build id of the release "new".
    explicit Host(std::size_t vms);
    /// Ends the daemon. The process is aborted, so that the test fails, if it ended by itself with
    /// another status than 0, or if a sanitizer complained about it in its log.
    ~Host();
    Host(const Host&) = delete;
    Host& operator=(const Host&) = delete;

    /// Changes a VM or its script before serve().
    FakeQemuOptions& options(std::size_t vm) { return options_[vm]; }
    /// Lines that are added to the daemon's configuration, before a section.
    std::string extra_config;
    /// Lines that are added to its section [api].
    std::string extra_api;
    /// Sections that are added at its end.
    std::string extra_sections;
    /// Seconds of the watch after takeover; short, since fakes do not change.
    std::string verify = "100ms";

    /// Opens the sockets of the VMs.
    void serve();
    FakeQemu& qemu() { return *qemu_; }

    /// Starts qhupd and waits until it says READY.
    /// @return false if it ended instead
    bool start_daemon();
    /// The daemon dies at this fault point when it is started the next time, and only then.
    std::string fault;
    /// Words before the daemon's own command line (a tracer) when it is started the next time, and
    /// only then. What they start must become the daemon, under its own pid.
    std::vector<std::string> wrapper;
    /// Waits for the daemon to end by itself.
    /// @return exit status; 128 + n after signal n; -1 if it did not end in time
    int wait_for_daemon();
    /// SIGTERM; waits for the end.
    /// @return as wait_for_daemon()
    int stop_daemon();
    /// Sends a signal to the daemon, and to nobody else.
    /// @return false if there is none
    bool signal_daemon(int signal) const;
    /// SIGKILL.
    void kill_daemon();
    std::string daemon_log() const;
    pid_t daemon_pid() const { return daemon_; }
    /// From now on no file that the daemon writes may become longer than the journal is now: to the
    /// daemon the disk is full. It has room again with `is_full` false.
    void fill_disk(bool is_full) const;
    /// The daemon's journal, and the part of it that is not in the main file yet.
    std::string journal_path() const { return dir_ / "state/journal.db"; }
    std::string journal_log() const;

    Ran ctl(std::vector<std::string> arguments);
    /// The same with words for the shell: redirections, pipes.
    Ran ctl_in_shell(const std::string& words);
    /// The shell alone.
    Ran shell(const std::string& line);
    /// Where qhupd-ctl is.
    static std::string ctl_program();
    /// Where qhupd is.
    static std::string daemon_program();
    /// Starts qhupd-ctl and comes back at once; finish_ctl() waits for it.
    pid_t start_ctl(std::vector<std::string> arguments);
    Ran finish_ctl(pid_t pid, std::chrono::seconds patience = kPatience);

    /// One request, bytes in, bytes out until the server closes.
    std::string raw_request(const std::string& bytes) const;

    const TempDir& dir() const { return dir_; }
    std::string api_socket() const { return dir_ / "api.sock"; }
    /// Id of the only, or newest, run.
    std::string newest_run();

private:
    pid_t spawn(
        const std::string& program,
        std::vector<std::string> arguments,
        const std::string& out,
        const std::string& err
    );
    void write_config() const;

    TempDir dir_;
    std::vector<FakeQemuOptions> options_;
    std::unique_ptr<FakeQemu> qemu_;
    /// Ends the daemon if it runs. @return what is wrong with how it lived and ended; "": nothing
    std::string end_daemon();

    pid_t daemon_ = -1;
    int notify_ = -1;
    int early_end_ = -1; // status of a daemon that ended while it was started
    int spawned_ = 0;
};

/// Was `command` sent to a VM's QEMU, as "main hot-upgrade-prepare" or "source hot-upgrade-switch"?
bool has_command(Host& host, const std::string& command, std::size_t vm = 0);

} // namespace qhup::test
