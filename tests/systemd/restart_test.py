#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""`systemctl restart qhupd` in every phase of an upgrade and of a rehearsal: the guest runs on in one process, and the run ends as it
should.

Each phase is held by something real until the daemon has heard that it shall stop, and is let go then. That this was in the phase is
read afterwards: from when the run entered its phases and from the line that the daemon wrote to the journal, or from the step that
the stop ended.
"""

import collections
import contextlib
import json
import os
import pathlib
import re
import signal
import time
import unittest

from api import ask
from case import find_qemu, keep, main
from daemon import find_program
from pair import wait_for
from prober import ROOT
from systemd_box import SystemdBox
from tracer import TracedThread
from unit_guest import UnitGuest

UNIT = "qhupd.service"
ROUNDED_MS = 2  # the start of a run and its times since then, each cut to a whole number
HOLD = "/run/held-by-test"  # while it exists, the probe of a VM does not end
CONFIG = f"""
pause_slots = 1
rehearse = "none"
rehearse_back = "none"
kept_binaries = 0
selftest = "off"
[deadlines]
pause_budget = "20s"
drain = "3s"
verify = "100ms"
[leases]
frozen = "25s"
[[policy]]
vms = ["*"]
probe = ["/bin/sh", "-c", "while [ -e {HOLD} ]; do sleep 0.02; done"]
probe_limit = "10s"
[[policy]]
vms = ["first"]
priority = 10
"""
RELEASE = {"7.2": "qemu-7.2", "10.0": "qemu-10.0"}

# What holds a phase now: the run, the VM in that phase, what lets it go, and how the VM shall end.
Held = collections.namedtuple("Held", "run vm let_go outcome code", defaults=("",))


def state_of(pid):
    """The letter of a process's state; None: there is none."""
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1][0]
    except OSError:
        return None


class Restart(unittest.TestCase):
    longMessage = True

    @classmethod
    def setUpClass(cls):
        qemus = {base: find_qemu(base) for base in RELEASE}
        cls.box = box = keep(SystemdBox(binds={binary.parent.parent for binary in qemus.values()}))
        for program, folder in (("qhupd", "/usr/sbin"), ("qhupd-ctl", "/usr/bin")):
            box.install(find_program(program), f"{folder}/{program}")
        for unit in (UNIT, "qhupd.socket", "qhupd-ro.socket", "qhup-vm@.service"):
            box.install(ROOT / "systemd" / unit, f"/usr/lib/systemd/system/{unit}")
        for kind in ("sysusers", "tmpfiles"):
            box.install(ROOT / "systemd" / f"qhup.{kind}", f"/usr/lib/{kind}.d/qhup.conf")
            box.run(f"systemd-{kind}", *(["--create"] if kind == "tmpfiles" else []), f"/usr/lib/{kind}.d/qhup.conf")
        box.write("/etc/qhupd/qhupd.toml", CONFIG)
        for base, binary in qemus.items():
            box.write(f"/etc/qhupd/releases.d/{RELEASE[base]}.toml", f'path = "{binary}"\n')
        box.systemctl("daemon-reload")
        box.systemctl("start", "qhupd.socket", "qhupd-ro.socket", UNIT)
        cls.first, cls.vm = (cls.start(name) for name in ("first", "second"))

    @classmethod
    def tearDownClass(cls):
        for vm in (cls.first, cls.vm):
            vm.disconnect()

    @classmethod
    def start(cls, name):
        vm = UnitGuest(find_qemu("7.2"), name=name, folder=cls.box.shared / name).prepare()
        vm.unit = f"qhup-vm@{name}.service"
        cls.box.write(f"/etc/qhup-vm/{name}.conf", f"QEMU={vm.binary}\nARGS={' '.join(vm.arguments())}\n")
        cls.box.systemctl("start", vm.unit)
        vm.connect()
        return vm

    # -- helpers

    def main_pid(self):
        return self.box.show(UNIT, "MainPID")[0]

    def get_run(self, held):
        return ask(self.box.path("/run/qhupd/qhupd.sock"), "GET", f"/v1/runs/{held.run}").json()

    def get_row(self, held):
        """What the run says of the VM."""
        return next(row for row in self.get_run(held)["vms"] if row["vm"] == held.vm.name)

    def other_release(self, vm):
        """The one whose binary the VM does not run."""
        runs = os.readlink(f"/proc/{vm.processes()[0]}/exe")
        return next(release for base, release in RELEASE.items() if str(find_qemu(base)) != runs)

    def bring_to_one_release(self):
        """Both VMs, so that one run can upgrade them."""
        target = self.other_release(self.first)
        if target != self.other_release(self.vm):
            self.box.run("qhupd-ctl", "upgrade", self.first.name, "--to", target, "--yes")

    def begin(self, verb, *vms, options=()):
        """A run of these VMs to the other QEMU; returns its id."""
        target = self.other_release(vms[0])
        names = [vm.name for vm in vms]
        done = self.box.run("qhupd-ctl", "--json", verb, *names, "--to", target, "--no-wait", "--yes", *options)
        return json.loads(done.stdout)["id"]

    def arm(self, vm, point, action, **arguments):
        """A fault point, until the end of the round."""
        vm.qmp.execute("x-hot-upgrade-fault", point=point, action=action, **arguments)
        self.round.callback(vm.qmp.execute, "x-hot-upgrade-fault", point=point, action="none")

    def stopped_process(self, vm):
        """The process of the VM that stopped itself at a fault point."""
        found = []

        def has_stopped():
            found[:] = [pid for pid in vm.processes() if state_of(pid) == "T"]
            return found

        wait_for(has_stopped, 20, f"a process of {vm.name} stops")
        return found[0]

    def let_go_of(self, pid):
        """What lets a stopped process go on, unless it was ended meanwhile."""

        def let_go():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

        return let_go

    def hold_target(self, vm, verb, point):
        """A run whose new process stops itself at that point; returns its id and the process."""
        self.arm(vm, point, "stop")
        run = self.begin(verb, vm)
        return run, self.stopped_process(vm)

    def hold_undo(self, verb, point):
        """A run whose new process is killed at that point's failure, or at the end of a rehearsal, and stays."""
        if point:
            self.arm(self.vm, point, "fail")
        self.arm(self.vm, "target.machine.ready", "slow", duration=500_000_000)
        source, = self.vm.processes()
        run = self.begin(verb, self.vm)
        wait_for(lambda: len(self.vm.processes()) == 2, 20, "the new process")
        target, = set(self.vm.processes()) - {source}
        threads = lambda: [int(name) for name in os.listdir(f"/proc/{target}/task") if int(name) != target]
        wait_for(threads, 20, "a thread of the new process")
        thread = threads()[0]
        return run, TracedThread(thread).let_go

    # -- what holds each phase: hold_PHASE()

    def hold_queued(self):
        """One VM at a time, and the first one's new process does not get on."""
        self.arm(self.first, "target.start.begin", "stop")
        run = self.begin("upgrade", self.first, self.vm, options=("--parallel", "1"))
        pid = self.stopped_process(self.first)
        return Held(run, self.vm, self.let_go_of(pid), "refused", "stopped")

    def hold_preflight(self):
        """Its QEMU does not answer when its turn comes."""
        held = self.hold_queued()
        pid, = self.vm.processes()
        os.kill(pid, signal.SIGSTOP)
        self.round.callback(self.let_go_of(pid))
        held.let_go()
        return held._replace(let_go=self.let_go_of(pid))

    def hold_prepare(self):
        run, pid = self.hold_target(self.vm, "upgrade", "target.start.begin")
        return Held(run, self.vm, self.let_go_of(pid), "refused", "stopped")

    def hold_await_pause(self):
        """The only pause slot is the first VM's."""
        run, pid = self.hold_target(self.first, "upgrade", "target.load.begin")
        run = self.begin("upgrade", self.vm)
        return Held(run, self.vm, self.let_go_of(pid), "refused", "stopped")

    def hold_switch_over(self):
        run, pid = self.hold_target(self.vm, "upgrade", "target.load.begin")
        return Held(run, self.vm, self.let_go_of(pid), "upgraded")

    def hold_verify(self):
        """The probe does not end."""
        self.box.write(HOLD, "")
        return Held(self.begin("upgrade", self.vm), self.vm, self.box.path(HOLD).unlink, "upgraded")

    def hold_commit(self):
        """The old process does not end."""
        run, pid = self.hold_target(self.vm, "upgrade", "source.commit.begin")
        return Held(run, self.vm, self.let_go_of(pid), "upgraded")

    def hold_rehearse(self):
        run, pid = self.hold_target(self.vm, "rehearse", "target.load.begin")
        return Held(run, self.vm, self.let_go_of(pid), "rehearsed")

    def hold_ending_rehearsal(self):
        run, let_go = self.hold_undo("rehearse", None)
        return Held(run, self.vm, let_go, "rehearsed")

    def hold_discarding(self):
        run, let_go = self.hold_undo("upgrade", "source.switch.begin")
        return Held(run, self.vm, let_go, "refused", "fault_injected")

    def hold_rolling_back(self):
        run, let_go = self.hold_undo("upgrade", "target.load.begin")
        return Held(run, self.vm, let_go, "rolled_back", "load_failed")

    # -- the test

    def test_a_restart_in_any_phase_leaves_the_guest_to_one_process(self):
        entries = json.loads(self.box.run("qhupd-ctl", "--json", "explain").stdout)["entries"]
        phases = [entry["name"] for entry in entries if entry["topic"] == "phase"]
        self.assertEqual({f"hold_{phase}" for phase in phases} - set(dir(self)), set(), "phases that nothing here holds")
        self.assertIn("switch_over", phases)
        for phase in phases:
            with self.subTest(phase=phase):
                self.restart_in(phase)

    def test_the_status_of_the_service_says_how_far_runs_are(self):
        self.bring_to_one_release()
        with contextlib.ExitStack() as self.round:
            self.assert_status("2 VMs, 0 runs in progress")
            first, second = (self.round.enter_context(contextlib.ExitStack()) for _ in range(2))
            self.arm(self.first, "target.start.begin", "stop")
            self.arm(self.vm, "target.start.begin", "stop")
            run = self.begin("upgrade", self.first, self.vm, options=("--parallel", "1"))
            first.callback(self.let_go_of(self.stopped_process(self.first)))
            self.assert_status("2 VMs, 1 run in progress: 0 of 2 VMs done")
            first.close()
            second.callback(self.let_go_of(self.stopped_process(self.vm)))
            self.assert_status("2 VMs, 1 run in progress: 1 of 2 VMs done")
            second.close()
            self.assert_status("2 VMs, 0 runs in progress")
            self.assertEqual([row["outcome"] for row in self.get_run(Held(run, *[None] * 3))["vms"]], ["upgraded", "upgraded"])

    def assert_status(self, words):
        told = lambda: self.box.show(UNIT, "StatusText")[0]
        try:
            wait_for(lambda: told() == words, 10, words)
        except AssertionError:
            self.assertEqual(told(), words)

    def restart_in(self, phase):
        self.bring_to_one_release()
        began = time.monotonic()
        before = {vm.name: (vm.processes(), vm.serial.count) for vm in (self.first, self.vm)}
        with contextlib.ExitStack() as self.round:
            held = getattr(self, f"hold_{phase}")()
            let_go = self.round.enter_context(contextlib.ExitStack())
            let_go.callback(held.let_go)
            wait_for(lambda: self.is_in(phase, held), 20, f"{held.vm.name} is in {phase} of run {held.run}")
            pair = held.vm.processes()
            daemon, stop_before = self.main_pid(), self.time_of_stop()
            self.box.systemctl("--no-block", "restart", UNIT)
            wait_for(lambda: self.time_of_stop() > stop_before, 10, "the daemon hears of it")
            let_go.close()
            is_next = lambda: self.box.show(UNIT, "ActiveState", "SubState") == ["active", "running"] and self.main_pid() != daemon
            wait_for(is_next, 40, "the next daemon")
            wait_for(lambda: self.get_row(held)["outcome"], 30, f"the end of run {held.run}")
        row = self.get_row(held)
        self.assertEqual(self.phase_of_stop(held), phase, f"the restart came in another phase: {row}")
        self.assertEqual((row["outcome"], row["code"]), (held.outcome, held.code), row)
        for vm in (self.first, self.vm):
            self.assert_one_owner(vm, held, *before[vm.name])
        self.assertIn(held.vm.processes()[0], pair, "it is in a process that was not there when the restart came")
        print(f"    {phase}: {row['outcome']} {row['code']}, {time.monotonic() - began:.1f} s", flush=True)

    def is_in(self, phase, held):
        row = self.get_row(held)
        self.assertEqual(row["outcome"], "", f"run {held.run} ended before it was in {phase}: {row}")
        return row["phase"] == phase

    def time_of_stop(self):
        """When the daemon that was stopped last heard of it, by its own line in the journal, in ms since 1970."""
        words = ("journalctl", "--no-pager", "-o", "json", "-u", UNIT, "-g", r"^stopping \(SIGTERM\)")
        lines = self.box.run(*words, check=False).stdout.splitlines()
        return int(json.loads(lines[-1])["_SOURCE_REALTIME_TIMESTAMP"]) / 1000 if lines else 0

    def phase_of_stop(self, held):
        """The phase that the VM was in when the daemon heard that it shall stop, by the steps of the run; "" if it had ended."""
        row, began = self.get_row(held), self.get_run(held)["started_unix_ms"]
        if row["code"] == "stopped":
            # It was obeyed at once, maybe before the journal had the daemon's line: it is what ended the step that did not succeed.
            return next(step["phase"] for step in row["steps"] if step["outcome"] != "ok")
        at = self.time_of_stop() - ROUNDED_MS
        steps = [step for step in row["steps"] if began + step["at_ms"] <= at]
        return steps[-1]["phase"] if steps and began + row["since_ms"] > at else ""

    def assert_one_owner(self, vm, held, processes, count):
        """One process is left, which its unit follows and the guest counts in; not the one before if the VM was upgraded."""
        wait_for(lambda: len(vm.processes()) == 1, 15, f"one process of {vm.name}, not {vm.processes()}")
        info = vm.qmp.execute("query-hot-upgrade")
        self.assertEqual(info["state"], "none", vm.name)
        outcomes = [row["outcome"] for row in self.get_run(held)["vms"] if row["vm"] == vm.name]
        if outcomes:
            self.assertEqual(vm.processes() != processes, outcomes == ["upgraded"], vm.name)
        names = pathlib.Path(f"/proc/{vm.processes()[0]}/status").read_text()
        inside = re.search(r"^NSpid:.*\t(\d+)$", names, re.M)[1]
        self.assertEqual(str(info["pid"]), inside)
        wait_for(lambda: self.box.show(vm.unit, "MainPID", "ActiveState") == [inside, "active"], 5, f"{vm.unit} follows")
        self.assertGreater(vm.serial.count, count)
        vm.check()


if __name__ == "__main__":
    if os.geteuid() != 0:
        print("needs root")
        raise SystemExit(77)
    main()
