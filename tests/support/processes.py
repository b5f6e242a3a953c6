# SPDX-License-Identifier: GPL-2.0-or-later
"""Processes that a test must not leave behind: signals become exceptions, orphans come to us, the dead are reaped.

QEMU's hot upgrade moves a VM into a child of the process that we started, and that parent then exits. Without
`adopt_orphans` the child would go to init.
"""

import ctypes
import os
import select
import signal
import time

_PR_SET_CHILD_SUBREAPER = 36


def adopt_orphans():
    """Makes this process the parent of its descendants' orphans, so that it can wait for them."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def exit_on_signals():
    """SIGTERM and SIGHUP end the program through SystemExit, so that context managers clean up; SIGINT does so already.

    A second signal does not disturb the clean-up.
    """

    def leave(number, _frame):
        for other in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            signal.signal(other, signal.SIG_IGN)
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + number)

    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, leave)


def processes_naming(text):
    """Pids of the processes whose command line has `text` in it; not ourselves, not the dead."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != os.getpid():
            try:
                with open(f"/proc/{name}/cmdline", "rb") as file:
                    if os.fsencode(text) in file.read():
                        found.append(int(name))
            except OSError:
                pass
    return found


def wait_gone(pid, timeout):
    """True when process `pid` has ended (and, if it is our child, is reaped) before `timeout` seconds are over."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        ended = bool(poll.poll(max(timeout, 0) * 1000))
    finally:
        os.close(pidfd)
    if ended:
        reap(pid)
    return ended


def reap(pid):
    """Takes the exit status of a dead child; returns it, or None if it is no child of ours or still runs."""
    try:
        done, status = os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return None
    return os.waitstatus_to_exitcode(status) if done else None


def end_processes(pids, *, grace=2.0):
    """SIGTERM, then after `grace` seconds SIGKILL, until all are gone."""
    for number, patience in ((signal.SIGTERM, grace), (signal.SIGKILL, 10.0)):
        deadline = time.monotonic() + patience
        for pid in pids:
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                pass
        pids = [pid for pid in pids if not wait_gone(pid, deadline - time.monotonic())]
        if not pids:
            return
    raise RuntimeError(f"cannot end the processes {pids}")
