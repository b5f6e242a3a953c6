#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Either side dies, hangs, is stopped, fails or is slow at every fault point that it has. The rule that is stated for
all of them: the guest runs in exactly one process; it stood still for no longer than the frozen lease and 250 ms;
nothing is left over; one code and one sentence say why; the very next upgrade works.

The exceptions, each with its own test: the side that dies is the only one that may run the guest.
"""

import contextlib
import os
import signal
import time

from case import NOISE_MS, QemuTest, find_qemu, main, note_figures, other
from firmware import FirmwareGuest
from pair import (
    Upgrade,
    UpgradeFailed,
    assert_runs_on_one,
    hand_over_files,
    run_upgrade,
    sockets_in,
    wait_for,
    wait_sockets_gone,
)
from processes import reap
from qmp import QmpClosed

FROZEN_LEASE_MS = 1000
LONGEST_GAP_MS = FROZEN_LEASE_MS + 250

# From here on the guest belongs to the target, or ran there: who dies here takes the guest along.
TARGET_OWNS = {"target.ran", "target.started", "target.running"}
# The target has all that it needs, and takes over when the source dies.
SOURCE_GAVE = {"source.load.sent", "source.loaded", "source.ceded", "source.commit.begin"}
# The target is not there or has no state: a source that dies takes the guest along, as every QEMU's death does.
SOURCE_HAS_ALL = {
    "source.prepare.spawned",
    "source.standby",
    "source.switch.begin",
    "source.flush.done",
    "source.freeze.begin",
    "source.freeze.stopped",
    "source.drain.done",
    "source.save.begin",
}
# Points of the single steps and of the way back, which a switch that succeeds does not pass.
NOT_IN_A_SWITCH = {"source.loaded", "source.takeover.sent", "target.loaded"}
IN_ROLLBACK = {"source.rollback.begin", "source.rollback.reaped", "source.rollback.done"}
DEADLY = ("abort", "exit", "kill")
STUCK = ("hang", "stop")


def attempt(vm, binary, faults, *, stepwise=False):
    """An upgrade as a daemon does it. Returns None when the guest runs on the target, else the UpgradeFailed."""
    # the lease is what bounds a target that hangs before it is up
    with Upgrade(vm, binary, faults=faults, lease_s=3) as upgrade:
        try:
            upgrade.prepare()
            if stepwise:
                upgrade.freeze(frozen_lease=FROZEN_LEASE_MS)
                upgrade.load()
                upgrade.takeover()
            else:
                upgrade.switch(frozen_lease=FROZEN_LEASE_MS)
            upgrade.commit()
        except UpgradeFailed as failure:
            if stepwise and failure.code == "wrong-state":
                # between two steps nobody waits for an answer: the source has rolled back by itself, and says why here
                return UpgradeFailed(upgrade.query()["last-error"])
            return failure
    return None


def disarm(vm, points):
    for point in points:
        vm.qmp.execute("x-hot-upgrade-fault", point=point, action="none")


class Sweep(QemuTest):
    """The sweeps use one guest; that it survives them all is the point."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.vm = cls.start("7.2", vcpus=2)
        cls.points = [point["name"] for point in cls.vm.qmp.execute("query-hot-upgrade-faults")]

    def setUp(self):
        self.longest = 0.0

    def one(self, point, action, seconds=0.0, more=(), stepwise=False):
        """One upgrade with one fault. The guest must be well afterwards, and the next upgrade must work."""
        vm = self.vm
        vm.serial.wait_count(3)
        vm.serial.reset_gap()
        before, known = vm.pid(), hand_over_files(vm.pid())
        try:
            failure = attempt(vm, find_qemu(other(vm.base)), [(point, action, seconds), *more], stepwise=stepwise)
            vm.serial.wait_count(3)
            pid = assert_runs_on_one(vm, known=known)
            gap = vm.serial.longest_gap_ms
            self.longest = max(self.longest, gap)
            self.assertLess(gap, LONGEST_GAP_MS + NOISE_MS, "the guest stood still for too long")
            vm.serial.check()
            if failure is None:
                self.assertNotEqual(pid, before)
            else:
                self.assertEqual(pid, before)
                self.assertTrue(failure.code and failure.phase and failure.message, failure.error)
        finally:
            # what was found here is not to be found again in the next case
            if vm.pid() != before:
                vm.base = other(vm.base)
            disarm(vm, [point, *(name for name, *_ in more)])
            self.upgrade(vm, other(vm.base))
        vm.serial.wait_count(2)
        vm.serial.check()
        return failure

    def test_target_that_dies_or_hangs_anywhere_before_it_owns_the_guest_changes_nothing(self):
        codes = {}
        for point in self.points:
            if not point.startswith("target.") or point in TARGET_OWNS:
                continue
            for action in (*DEADLY, *STUCK, "fail"):
                if point == "target.loaded" and action == "fail":
                    continue  # nothing can fail there
                with self.subTest(point=point, action=action):
                    failure = self.one(point, action, stepwise=point in NOT_IN_A_SWITCH)
                    codes[f"{point}={action}"] = failure.code if failure else "upgraded"
                    if action in DEADLY:
                        self.assertEqual(failure.code, "target-died", failure)
        self.vm.check()
        for case, code in codes.items():
            print(f"    {case}: {code}")
        note_figures("target faults", {"cases": len(codes), "longest_gap_ms": round(self.longest)})
        wait_sockets_gone(self.vm)

    def test_fault_point_that_fails_names_its_phase(self):
        for point, code, phase in (
            ("target.load.begin", "load-failed", "load"),
            ("target.load.middle", "load-failed", "load"),
            ("target.load.end", "load-failed", "load"),
            ("target.activate.begin", "takeover-failed", "takeover"),
            ("target.activate.end", "takeover-failed", "takeover"),
            ("target.machine.lies", "shape-differs", "prepare"),
            ("target.protocol.lies", "protocol-mismatch", "prepare"),
        ):
            with self.subTest(point=point):
                failure = self.one(point, "fail")
                self.assertEqual((failure.code, failure.phase), (code, phase))

    def test_source_that_fails_or_is_slow_anywhere_keeps_or_gives_the_guest_whole(self):
        for point in self.points:
            if not point.startswith("source.") or point in IN_ROLLBACK:
                continue
            for action, seconds in (("fail", 0), ("slow", 0.15)):
                with self.subTest(point=point, action=action):
                    self.one(point, action, seconds, stepwise=point in NOT_IN_A_SWITCH)
        self.vm.check()
        note_figures("source faults", {"longest_gap_ms": round(self.longest)})

    def test_rollback_that_is_slow_still_ends(self):
        for point in IN_ROLLBACK:
            with self.subTest(point=point):
                failure = self.one(point, "slow", 0.15, more=[("target.load.end", "kill")])
                self.assertEqual(failure.code, "target-died")

    def test_target_that_is_stopped_after_it_ran_goes_on_when_it_is_continued(self):
        for point in sorted(TARGET_OWNS):
            with self.subTest(point=point):
                vm = self.vm
                with Upgrade(vm, find_qemu(other(vm.base)), faults=[(point, "stop")]) as upgrade:
                    upgrade.prepare()
                    switch = upgrade.control.send("hot-upgrade-switch")
                    wait_for(lambda: process_state(upgrade.target_pid) == "T", 5, "the target stops")
                    time.sleep(1.3)  # longer than the frozen lease: the source must not take the guest back
                    self.assertEqual(upgrade.query()["state"], "ceded")
                    os.kill(upgrade.target_pid, signal.SIGCONT)
                    upgrade.control.wait(switch, 5)
                    upgrade.commit()
                vm.base = other(vm.base)
                assert_runs_on_one(vm)
                vm.serial.wait_count(3)
                vm.serial.check()

    def test_target_that_owns_the_guest_but_never_runs_it_loses_it_again(self):
        for action in (*DEADLY, *STUCK):
            with self.subTest(action=action):
                failure = self.one("target.word.after", action)
                self.assertIn(failure.code, ("target-died", "target-timeout"))
                # the lease is counted from the stop of the guest, not anew from the moment the target owns it
                self.assertLess(self.longest, LONGEST_GAP_MS)


def process_state(pid):
    """R, S, T (stopped), Z, as the kernel says."""
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rsplit(")", 1)[1].split()[0]


class Dearest(QemuTest):
    """Who may run the guest dies: guests that are lost are boot sectors."""

    @contextlib.contextmanager
    def cheap(self, base="7.2"):
        with contextlib.ExitStack() as stack:
            yield self.start(base, kind=FirmwareGuest, net=False, stack=stack)

    def test_source_that_dies_when_the_target_has_all_is_replaced_by_it(self):
        for point in sorted(SOURCE_GAVE):
            for action in ("kill", "abort"):
                with self.subTest(point=point, action=action), self.cheap() as vm:
                    self.source_dies(vm, point, action)
                    reap(vm.process.pid)
                    vm.base = "10.0"
                    wait_for(lambda: vm.processes() and vm.process.pid not in vm.processes(), 5, "the target remains")
                    vm.serial.wait_count(5)
                    self.assertEqual(vm.qmp.execute("query-status")["status"], "running")
                    assert_runs_on_one(vm)
                    self.assertLess(vm.serial.longest_gap_ms, LONGEST_GAP_MS + NOISE_MS)
                    vm.check()
                    self.upgrade(vm, "7.2")
                    vm.check()

    def test_source_that_dies_before_the_state_is_handed_over_leaves_no_process(self):
        for point in sorted(SOURCE_HAS_ALL):
            with self.subTest(point=point), self.cheap() as vm:
                vm.serial.expect_end()
                self.source_dies(vm, point, "kill")
                wait_for(lambda: not vm.processes(), 5, f"all processes end: {vm.processes()}")
                # its folder may keep the dead source's socket file, as a killed process cannot remove it
                self.assertLessEqual(len(sockets_in(vm.folder / "control")), 1)

    def test_source_that_dies_with_the_state_complete_but_not_handed_over_is_replaced_by_the_target(self):
        with self.cheap() as vm:
            vm.serial.expect_end()  # who was connected must connect again: connections are handed over last
            self.source_dies(vm, "source.save.done", "kill")
            reap(vm.process.pid)
            vm.base = "10.0"
            wait_for(lambda: vm.processes() and vm.process.pid not in vm.processes(), 5, "the target remains")
            vm.reconnect_qmp()
            self.assertEqual(vm.qmp.execute("query-status")["status"], "running")
            assert_runs_on_one(vm)

    def source_dies(self, vm, point, action):
        with Upgrade(vm, find_qemu("10.0"), faults=[(point, action)]) as upgrade:
            with contextlib.suppress(QmpClosed, ConnectionError, FileNotFoundError):
                upgrade.prepare()
                if point in NOT_IN_A_SWITCH:
                    upgrade.freeze()
                    upgrade.load()
                    upgrade.takeover()
                else:
                    upgrade.switch()
                upgrade.commit()
        wait_for(lambda: process_gone(vm.process.pid), 5, "the source is dead")

    def test_target_that_dies_after_it_ran_the_guest_never_wakes_the_source(self):
        for point in sorted(TARGET_OWNS):
            for action in DEADLY:
                with self.subTest(point=point, action=action), self.cheap() as vm:
                    with Upgrade(vm, find_qemu("10.0"), faults=[(point, action)]) as upgrade:
                        upgrade.prepare()
                        vm.serial.expect_end()
                        switch = upgrade.control.send("hot-upgrade-switch")
                        wait_for(lambda: process_gone(upgrade.target_pid), 5, "the target is dead")
                        upgrade.query()
                        count = vm.serial.count
                        time.sleep(0.3)
                        info = upgrade.query()
                        self.assertEqual(info["state"], "ceded")
                        self.assertEqual(info["last-error"]["code"], "target-died", info.get("last-error"))
                        self.assertEqual(vm.serial.count, count, "the source runs the guest, which ran elsewhere")
                        with contextlib.suppress(UpgradeFailed):
                            upgrade.control.wait(switch, 2)

    def test_crash_of_the_target_is_reported_with_its_last_words(self):
        with self.cheap() as vm:
            error = None
            argv = [str(find_qemu("10.0")), "-no-such-option"]
            with Upgrade(vm, find_qemu("10.0"), argv=argv) as upgrade:
                try:
                    upgrade.prepare()
                except UpgradeFailed as failed:
                    error = failed
            self.assertEqual(error.code, "target-died")
            self.assertIn("no-such-option", error.stderr)
            run_upgrade(vm, find_qemu("10.0"))
            vm.check()


def process_gone(pid):
    try:
        return process_state(pid) == "Z"
    except (FileNotFoundError, ProcessLookupError):  # it may be reaped between open() and read()
        return True


if __name__ == "__main__":
    main()
