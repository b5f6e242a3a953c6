// SPDX-License-Identifier: GPL-2.0-or-later
//
// The harness itself: a daemon that ends badly fails the test that had it.
#include "tests/component/daemon/harness.hpp"
#include "tests/support/catch.hpp"

#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <functional>
#include <string>

using namespace qhup::test;

namespace {

constexpr int kAborted = 128 + SIGABRT;

/// How a process ends in which there was a Host whose daemon this script starts as "$@".
int end_of(
    const std::string& script, const std::function<void(Host&)>& act = [](Host&) {}
) {
    const pid_t pid = ::fork();
    if (pid == 0) {
        ::signal(SIGABRT, SIG_DFL); // not Catch's
        (void)::dup2(::open("/dev/null", O_WRONLY | O_CLOEXEC), STDERR_FILENO);
        {
            Host host(0);
            host.wrapper = {"/bin/sh", "-c", script, "sh"};
            if (!host.start_daemon()) {
                ::_exit(3);
            }
            act(host);
        }
        ::_exit(0);
    }
    int status = 0;
    REQUIRE(::waitpid(pid, &status, 0) == pid);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

} // namespace

TEST_CASE("a daemon that ends badly fails its test", "[daemon][harness]") {
    const std::string plain = "exec \"$@\"";
    CHECK(end_of(plain) == 0);
    CHECK(end_of(plain, [](Host& host) { host.kill_daemon(); }) == 0);
    CHECK(end_of(plain, [](Host& host) { (void)host.stop_daemon(); }) == 0);
    CHECK(end_of(plain, [](Host& host) { (void)host.signal_daemon(SIGSEGV); }) == kAborted);
    const std::string race = "echo 'WARNING: ThreadSanitizer: data race (pid=1)' >&2; ";
    CHECK(end_of(race + plain) == kAborted);
    CHECK(end_of(race + plain, [](Host& host) { host.kill_daemon(); }) == kAborted);
    const std::string overflow = "echo 'a.cpp:1:2: runtime error: signed integer overflow' >&2; ";
    CHECK(end_of(overflow + plain) == kAborted);
}
