# SPDX-License-Identifier: GPL-2.0-or-later
"""What the tests of tests/qemu/ share: guests that are booted once and used by many tests, and the statement that a
guest is as good as before.

A file of tests ends with `case.main()`. Whatever was started ends with the program, also through a signal.
"""

import contextlib
import functools
import json
import os
import pathlib
import signal
import subprocess
import sys
import time
import unittest

import processes
from guest import Disk, Guest, find_qemu
from netrig import NetRig
from pair import UpgradeFailed, assert_runs_on_one, hand_over_files, run_upgrade

# How much longer than its deadline an event may seem on a machine that two cores and other work make late. The serial
# watcher is a Python thread beside the emulated CPUs: it sees a gap of 0 as up to some tens of ms.
NOISE_MS = 250

# For a switch whose success is wanted, not its speed: budgets that a busy machine does not exceed, in ms.
PATIENT = {"drain_deadline": 8000, "budget": 10000, "frozen_lease": 15000}

_everything = contextlib.ExitStack()


def keep(context):
    """Enters the context; it is left when the program ends."""
    return _everything.enter_context(context)


class QemuTest(unittest.TestCase):
    """Tests with guests of the class: self.boot() once per set of options."""

    longMessage = True

    @classmethod
    def setUpClass(cls):
        cls.stack = keep(contextlib.ExitStack())
        cls._net = None

    @classmethod
    def tearDownClass(cls):
        cls.stack.close()

    @classmethod
    def net(cls):
        if cls._net is None:
            cls._net = cls.stack.enter_context(NetRig())
        return cls._net

    @classmethod
    def start(cls, base="10.0", *, kind=Guest, net=True, ready=True, stack=None, **options):
        """A guest on the QEMU of `base`, ended with the class or with `stack`."""
        vm = (stack or cls.stack).enter_context(kind(find_qemu(base), net=cls.net() if net else None, **options))
        vm.base = base
        if ready:
            vm.wait_ready()
        return vm

    def upgrade(self, vm, base, **options):
        """A whole upgrade to the QEMU of `base`, which must succeed, and after which the guest must be well."""
        timings = run_upgrade(vm, find_qemu(base), **{"switch": PATIENT, **options})
        vm.base = base
        assert_runs_on_one(vm)
        self.assertEqual(running_binary(vm), str(find_qemu(base)))
        return timings

    def assert_refused(self, vm, codes, run, *, paused=False):
        """run() must fail with one of the codes, and the guest must go on without a pause."""
        pid = vm.pid()
        vm.qmp.drain_events()
        known = hand_over_files(pid)
        with self.assertRaises(UpgradeFailed) as caught:
            run()
        error = caught.exception
        self.assertIn(error.code, [codes] if isinstance(codes, str) else codes, error)
        self.assertTrue(error.message, "no sentence that says why")
        self.assertEqual(assert_runs_on_one(vm, known=known), pid)
        vm.serial.wait_count(3)
        if not paused:
            self.assert_never_paused(vm)
        vm.serial.check()
        return error


    def assert_never_paused(self, vm):
        """By the events since the last drain_events(); a gap on the serial port may come from a busy machine."""
        seen = [(event["event"], event.get("data", {}).get("state")) for event in vm.qmp.drain_events()]
        stops = [event for event in seen if event[0] == "STOP" or event[1] in ("frozen", "ceded")]
        self.assertFalse(stops, "the guest was paused")


def other(base):
    return "7.2" if base == "10.0" else "10.0"


def running_binary(vm):
    """The program of the VM's process, as the kernel says."""
    return os.readlink(f"/proc/{vm.pid()}/exe")


def find_stock(base):
    """A QEMU without the patches."""
    folder = os.environ.get("QHUP_QEMU_STOCK_" + base.replace(".", "_"))
    if folder:
        return pathlib.Path(folder) / "bin" / "qemu-system-x86_64"
    return find_qemu(base, stock=True)


@functools.cache
def tool(name, base="10.0"):
    """A program that was built with the QEMU: qemu-img, qemu-nbd or qemu-storage-daemon."""
    return find_qemu(base).with_name(name)


def note_figures(name, figures):
    """Prints figures of a test, and adds them to the file $QHUP_FIGURES (a JSON document per line) if that is set."""
    print(f"  {name}: " + ", ".join(f"{key} {value}" for key, value in figures.items()), flush=True)
    if os.environ.get("QHUP_FIGURES"):
        with open(os.environ["QHUP_FIGURES"], "a") as file:
            file.write(json.dumps({"test": name, "at": time.time(), **figures}) + "\n")


def in_ms(timings):
    """Timings of a switch, for people."""
    return {key: value if "bytes" in key else round(value / 1e6, 1) for key, value in timings.items()}


def main():
    """Runs the tests of the calling file; a signal ends them as Ctrl-C does, and nothing is left."""

    def leave(*_):
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, leave)
    processes.adopt_orphans()
    started = time.monotonic()
    program = None
    try:
        with _everything:
            program = unittest.main(verbosity=2, exit=False)
            print(f"{time.monotonic() - started:.0f} s", file=sys.stderr)
    except KeyboardInterrupt:
        sys.exit(130)
    sys.exit(not program.result.wasSuccessful())


__all__ = [name for name in dir() if not name.startswith("_")] + ["subprocess", "Disk"]
