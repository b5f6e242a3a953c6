#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""System calls of qhupd fail, or kill it, while it upgrades a real guest; strace does it. The cells are those of
syscall_matrix, from what this daemon does with a real QEMU.

    QHUP_SYSCALL_SEED  which cells (else one is chosen, and printed)
    QHUP_SYSCALL_RUNS  how many (5); "all"
    QHUP_SYSCALL_ONLY  this one: openat:error=EMFILE:when=3
"""

import contextlib
import json
import os
import pathlib
import random
import subprocess
import tempfile
import time
import unittest

from case import NOISE_MS, QemuTest, find_qemu, main, note_figures, other, running_binary
from daemon import Daemon, find_program
from firmware import FirmwareGuest
from guest import folder_of_tests
from pair import assert_runs_on_one, wait_for
from run_intervals import RunLog, longest_pause

RUNS = os.environ.get("QHUP_SYSCALL_RUNS", "5")
SEED = os.environ.get("QHUP_SYSCALL_SEED") or str(random.SystemRandom().randrange(10**9))
ONLY = os.environ.get("QHUP_SYSCALL_ONLY")
RELEASE = {"7.2": "deb12", "10.0": "deb13"}
LEASE_MS = 1000
PATIENCE_S = 80  # longer than any deadline of an upgrade
CAN_TRACE = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", "inject=getpid:error=EIO", "true"]


def can_trace():
    with contextlib.suppress(FileNotFoundError):
        return subprocess.run(CAN_TRACE, stderr=subprocess.DEVNULL).returncode == 0
    return False


class Syscalls(QemuTest):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        if not can_trace():
            raise unittest.SkipTest("strace cannot trace here")
        cls.folder = pathlib.Path(cls.stack.enter_context(tempfile.TemporaryDirectory(prefix="qhup-sys-", dir=folder_of_tests())))
        cls.runs = RunLog(cls.folder)
        options = {"net": False, "name": "traced", "memory_mib": 32, "extra": cls.runs.arguments()}
        cls.vm = cls.start("7.2", kind=FirmwareGuest, **options)
        releases = {RELEASE[base]: find_qemu(base) for base in RELEASE}
        cls.daemon = Daemon(releases, sections='[deadlines]\nverify = "300ms"\n')
        cls.stack.callback(cls.daemon.stop)
        cls.known = set()
        cls.trace = cls.folder / "trace"

    def start_daemon(self, *words):
        """Under strace with these words, or untouched without. False if it ended before it served."""
        self.trace.unlink(missing_ok=True)
        # why -D: the daemon keeps its pid.
        wrapper = ["strace", "-D", "-f", "-qq", "-o", self.trace, *words] if words else []
        try:
            self.daemon.start(timeout=30, wrapper=wrapper)
            if words:
                self.daemon.end_is_judged()  # it may fail of what it is made to meet
        except RuntimeError:
            if self.daemon.process.poll() is None:
                raise AssertionError(f"qhupd neither serves nor ends: {self.daemon.log()[-2000:]}") from None
            return False
        return True

    def stop_daemon(self):
        if self.daemon.process.poll() is None:
            self.daemon.process.terminate()
            try:
                self.daemon.process.wait(20)
            except subprocess.TimeoutExpired:
                self.daemon.kill()

    def upgrade(self):
        """Asks for one, and lets a new daemon be there when the traced one dies, as systemd would."""
        words = ("--json", "upgrade", "--yes", self.vm.name, "--to", RELEASE[other(self.vm.base)])
        client = self.daemon.popen(*words, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        deadline = time.monotonic() + PATIENCE_S
        while client.poll() is None:
            if time.monotonic() > deadline:
                client.kill()
                client.communicate()
                raise AssertionError(f"qhupd-ctl does not end in {PATIENCE_S} s")
            if self.daemon.process.poll() is not None:
                self.assertTrue(self.start_daemon(), "a daemon without faults does not start")
            with contextlib.suppress(subprocess.TimeoutExpired):
                client.wait(0.05)
        client.communicate()

    def wait_finished(self):
        """What the new runs say about the VM, the oldest first."""

        def finished():
            done = self.daemon.ctl("--json", "status", check=False)
            if done.returncode != 0:
                return None
            runs = json.loads(done.stdout)["runs"]
            return [runs] if all(run["state"] == "finished" for run in runs) else None

        [runs] = wait_for(finished, PATIENCE_S, "every run has ended")
        new = [run for run in runs if run["id"] not in self.known]
        self.known.update(run["id"] for run in new)
        return [entry for run in reversed(new) for entry in run["vms"]]

    def judge(self, entries, since):
        """One process runs the guest, which lost nothing, and what was said of it is so. Returns the outcome."""
        vm = self.vm
        assert_runs_on_one(vm, timeout=40)
        vm.check()
        still = longest_pause(self.runs.check(), since) / 1000
        self.assertLess(still, LEASE_MS + 250 + NOISE_MS, entries)
        said = entries[-1]["outcome"] if entries else "not begun"
        is_new = running_binary(vm) == str(find_qemu(other(vm.base)))
        if said == "upgraded":
            self.assertTrue(is_new, entries)
        elif said in ("refused", "rolled_back", "not begun"):
            self.assertFalse(is_new, entries)
        if said not in ("upgraded", "not begun"):
            self.assertTrue(entries[-1]["code"] and entries[-1]["message"], entries)
        if is_new:
            vm.base = other(vm.base)
        return said, still

    def test_system_call_that_fails_or_kills_the_daemon_leaves_no_guest_behind(self):
        # given: what a daemon that knows the releases does in one upgrade. why twice: the first one asks the binaries.
        self.assertTrue(self.start_daemon())
        self.stop_daemon()
        self.assertTrue(self.start_daemon("-e", "trace=all"))
        self.upgrade()
        self.stop_daemon()
        plan = [find_program("syscall_matrix"), "--plan", self.trace]
        plan += ["--all"] if RUNS == "all" else ["--runs", RUNS, "--seed", SEED]
        cells = [ONLY] if ONLY else subprocess.run(plan, capture_output=True, text=True, check=True).stdout.split()
        self.assertTrue(self.start_daemon())
        self.assertEqual([entry["outcome"] for entry in self.wait_finished()], ["upgraded"])
        self.stop_daemon()
        self.vm.base = other(self.vm.base)
        print(f"seed {SEED}: {len(cells)} cells", flush=True)
        struck, longest = 0, 0.0
        for cell in cells:
            with self.subTest(f"QHUP_SYSCALL_ONLY={cell}"):
                # when
                since = time.time_ns() // 1000
                inject = ("-e", f"trace={cell.partition(':')[0]}", "-e", f"inject={cell}")
                trace = self.trace
                is_up = self.start_daemon(*inject)
                if is_up:
                    self.trace = self.folder / "no trace"  # that of the daemon after it is not looked at
                    try:
                        self.upgrade()
                    finally:
                        self.trace = trace
                self.stop_daemon()
                text = trace.read_text(errors="replace")
                has_struck = "(INJECTED)" in text or "killed by SIGKILL" in text
                # then
                self.assertTrue(self.start_daemon(), "a daemon without faults does not start")
                said, still = self.judge(self.wait_finished(), since)
                print(f"  {cell}: {said}{'' if has_struck else ', not struck'}, {still:.0f} ms still", flush=True)
                if said != "upgraded":
                    self.upgrade()
                    self.assertEqual(self.judge(self.wait_finished(), since)[0], "upgraded", "the VM cannot be upgraded")
                self.stop_daemon()
                struck, longest = struck + has_struck, max(longest, still)
        note_figures("system calls", {"seed": SEED, "cells": len(cells), "struck": struck, "longest_still_ms": round(longest)})
        # A thread may make fewer calls than the last time, but not so often.
        self.assertGreaterEqual(struck * 2, len(cells))


if __name__ == "__main__":
    main()
