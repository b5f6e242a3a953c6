# SPDX-License-Identifier: GPL-2.0-or-later
"""Stays connected to the test guest's serial port and judges every line of it (tests/guest/README.md has the lines).

A problem is: a gap or a repeat in the counter, a line "error: ...", a complaint of the guest's kernel, a reboot that
nobody expected, the end of the connection. `check()` raises if there was one.
"""

import re
import socket
import threading
import time
from collections import deque

_COUNT = re.compile(r"count (\d+)")
_KERNEL_COMPLAINT = re.compile(r"BUG|Oops|panic|Call Trace|stall|hung task|lockup|I/O error|segfault")


class SerialWatcher:
    """One connection, read by a thread of its own. Methods may be called from any thread."""

    def __init__(self, path, *, timeout=10.0):
        self.count = 0  # the last number of the counter; 0 before the first
        self.boots = 0  # how often "ready" was seen
        self.ready = {}  # the words of the last "ready" line
        self.stat = {}  # the words of the last "stat" line, as numbers
        self.longest_gap_ms = 0.0  # between two lines of the counter, as they arrive here
        self.longest_gap_at = None  # (start_ns, end_ns) on CLOCK_MONOTONIC
        self.problems = []
        self.lines = deque(maxlen=2000)  # all lines but the counter's
        self._last_count_ns = None
        self._reboot_expected = False
        self._end_expected = False
        self._ended = False
        self._changed = threading.Condition()
        self._socket = self._connect(str(path), timeout)
        self._thread = threading.Thread(target=self._run, name="serial", daemon=True)
        self._thread.start()

    @staticmethod
    def _connect(path, timeout):
        deadline = time.monotonic() + timeout
        while True:
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                sock.connect(path)
                return sock
            except (FileNotFoundError, ConnectionRefusedError):
                sock.close()
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.005)

    # -- what the test does

    def wait_ready(self, timeout=60.0, boot=1):
        """Until the guest has started its parts for the `boot`-th time and counts."""
        self._wait(lambda: self.boots >= boot and self.count > 0, timeout, f"the guest's boot {boot}")

    def wait_count(self, more, timeout=30.0):
        """Until the counter has gone on by `more`."""
        target = self.count + more
        self._wait(lambda: self.count >= target, timeout, f"the counter at {target}")

    def send(self, line, end="\n"):
        """Types a line."""
        self._socket.sendall((line + end).encode())

    def ask(self, line, answer, timeout=10.0, end="\n"):
        """Types `line`; returns the match of the first later line that fits the regular expression `answer`."""
        with self._changed:
            self.lines.append(None)  # a mark: older lines are no answers
        self.send(line, end)
        found = []

        def answered():
            for seen in reversed(self.lines):
                if seen is None:
                    return False
                match = re.fullmatch(answer, seen)
                if match:
                    found.append(match)
                    return True
            return False

        self._wait(answered, timeout, f"an answer to {line!r}")
        return found[0]

    def ping(self, timeout=10.0):
        """Asks the guest and waits for its answer."""
        number = time.monotonic_ns() % 1_000_000_007
        self.ask(f"ping {number}", f"pong {number}", timeout)

    def read_stat(self, timeout=10.0):
        """A fresh "stat" line, as a dict of numbers."""
        self.ask("stat", "stat .*", timeout)
        return dict(self.stat)

    def expect_reboot(self):
        """The next boot is wanted: it starts the counter anew."""
        with self._changed:
            self._reboot_expected = True

    def expect_end(self):
        """The connection may end from now on."""
        with self._changed:
            self._end_expected = True

    def reset_gap(self):
        """Forgets the longest gap so far."""
        with self._changed:
            self.longest_gap_ms, self.longest_gap_at = 0.0, None

    def check(self):
        """Raises AssertionError with all problems seen so far."""
        with self._changed:
            if self.problems:
                tail = "\n".join(line for line in list(self.lines)[-20:] if line)
                raise AssertionError("; ".join(self.problems[:10]) + f"\nlast lines of the guest:\n{tail}")

    def close(self):
        self.expect_end()
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self._thread.join()
        self._socket.close()

    # -- reading

    def _wait(self, condition, timeout, what):
        deadline = time.monotonic() + timeout
        with self._changed:
            while not condition():
                left = deadline - time.monotonic()
                if left <= 0 or (self._ended and not condition()):
                    why = "the serial connection ended" if self._ended else f"nothing in {timeout:g} s"
                    tail = "\n".join(line for line in list(self.lines)[-10:] if line)
                    raise TimeoutError(f"waiting for {what}: {why}\nlast lines of the guest:\n{tail}")
                self._changed.wait(left)

    def _run(self):
        rest = b""
        while True:
            try:
                data = self._socket.recv(65536)
            except OSError:
                data = b""
            now = time.monotonic_ns()
            with self._changed:
                if not data:
                    self._ended = True
                    if not self._end_expected:
                        self.problems.append("the serial connection ended")
                    self._changed.notify_all()
                    return
                *lines, rest = (rest + data).split(b"\n")
                for line in lines:
                    self._on_line(line.decode("ascii", "replace").rstrip("\r"), now)
                self._changed.notify_all()

    def _on_line(self, line, now):
        match = _COUNT.fullmatch(line)
        if match:
            self._on_count(int(match[1]), now)
            return
        if self._reboot_expected or not self.boots:
            # a reset cuts short what the guest was just printing, and firmware does not end its last line
            line = re.sub(r"^.*(?=ready \w+=)", "", line)
        self.lines.append(line)
        if line.startswith("ready "):
            self._on_ready(line)
        elif line.startswith("stat "):
            self.stat = {name: int(value) for name, value in _words(line).items()}
        elif line.startswith("error: ") or (self.boots and _KERNEL_COMPLAINT.search(line)):
            self.problems.append(line)

    def _on_ready(self, line):
        if self.boots and not self._reboot_expected:
            self.problems.append("the guest rebooted")
        self._reboot_expected = False
        self.boots += 1
        self.ready = _words(line)
        self.count, self._last_count_ns = 0, None

    def _on_count(self, number, now):
        if number != self.count + 1:
            # Only what was printed before we were connected may be missing.
            if self.boots:
                self.problems.append(f"the counter went from {self.count} to {number}")
            else:
                self.boots = 1
        self.count = number
        if self._last_count_ns is not None:
            gap_ms = (now - self._last_count_ns) / 1e6
            if gap_ms > self.longest_gap_ms:
                self.longest_gap_ms, self.longest_gap_at = gap_ms, (self._last_count_ns, now)
        self._last_count_ns = now


def _words(line):
    return dict(word.split("=", 1) for word in line.split() if "=" in word)
