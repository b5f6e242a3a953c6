#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Rehearsals with real guests on real QEMUs: what fits is told from what does not, on both ways between the bases, and the
guest notices one short stop at most. Nobody is moved by it.
"""

import subprocess
import time

from case import NOISE_MS, QemuTest, find_qemu, main, note_figures, other
from daemon import Daemon
from firmware import FirmwareGuest
from pair import assert_runs_on_one
from prober import Prober

RELEASE = {"7.2": "deb12", "10.0": "deb13"}
ROLLED_BACK, REFUSED = 4, 6


class RehearsalTest(QemuTest):
    def daemon(self, **options):
        daemon = Daemon({RELEASE[base]: find_qemu(base) for base in RELEASE}, **options).start()
        self.addCleanup(daemon.stop)
        return daemon

    def rehearse(self, daemon, vm, status=0):
        """A rehearsal; the guest must be where it was, and one process. Returns the VM's entry."""
        pid = vm.pid()
        run = daemon.json("rehearse", "--yes", vm.name, "--to", RELEASE[other(vm.base)], status=status)
        self.assertEqual(run["kind"], "rehearsal")
        self.assertEqual(assert_runs_on_one(vm), pid)
        return run["vms"][0]

    def move(self, daemon, vm, *options):
        run = daemon.json("upgrade", "--yes", vm.name, "--to", RELEASE[other(vm.base)], *options)
        entry = run["vms"][0]
        self.assertEqual(entry["outcome"], "upgraded", run)
        vm.base = other(vm.base)
        assert_runs_on_one(vm)
        vm.check()
        return entry


class Passes(RehearsalTest):
    def test_guest_at_full_load_notices_the_short_stop_only_and_the_prediction_holds(self):
        vm = self.start("7.2", name="rehearsed", mode="load", memory_mib=192)
        daemon = self.daemon()
        figures = {}
        for _ in range(2):  # from 7.2, then from 10.0
            vm.serial.reset_gap()
            with Prober(self.net(), vm.tap.guest_ip, interval_us=2000) as prober:
                entry = self.rehearse(daemon, vm)
                vm.serial.wait_count(5)
                network = prober.finish()
            self.assertEqual(entry["outcome"], "rehearsed", entry)
            self.assertEqual(entry["rehearsal"]["result"], "passed")
            self.assertEqual(network["lost"], 0, network)
            stop = entry["rehearsal"]["pause_ms"]
            self.assertGreater(stop, 0)
            self.assertLess(stop, 300 + 250)
            self.assertLess(vm.serial.longest_gap_ms, 1000 + 250 + NOISE_MS)  # a busy host, and a standby that starts
            vm.check()
            moved = self.move(daemon, vm)
            predicted = entry["rehearsal"]["predicted_pause_ms"]
            # an estimate, on a host that is busy with something else a moment later
            self.assertLess(abs(moved["pause_ms"] - predicted), 50 + NOISE_MS, (moved["pause_ms"], predicted))
            figures[f"to {vm.base}"] = f"stop {stop:.1f} predicted {predicted:.1f} pause {moved['pause_ms']:.1f}"
        note_figures("rehearsals", figures)

    def test_vm_that_is_rehearsed_first_is_upgraded_in_the_same_run(self):
        vm = self.start("7.2", kind=FirmwareGuest, net=False, name="both")
        daemon = self.daemon(top='rehearse = "first"')
        entry = self.move(daemon, vm)
        self.assertEqual(entry["rehearsal"]["result"], "passed")
        phases = [step["phase"] for step in entry["steps"]]
        self.assertLess(phases.index("rehearse"), phases.index("switch_over"))
        back = self.move(daemon, vm)
        self.assertIsNotNone(back["rehearsal"], "the other way was not proven yet")
        again = self.move(daemon, vm)
        self.assertIsNone(again["rehearsal"], "this way was")

    def test_budget_below_what_was_measured_refuses_the_upgrade_untouched(self):
        vm = self.start("7.2", kind=FirmwareGuest, net=False, name="thrifty")
        daemon = self.daemon()
        self.rehearse(daemon, vm)
        pid = vm.pid()
        run = daemon.json("upgrade", "--yes", vm.name, "--to", "deb13", "--pause-budget", "1", status=REFUSED)
        self.assertEqual(run["vms"][0]["code"], "budget", run)
        self.assertEqual(assert_runs_on_one(vm), pid)
        self.move(daemon, vm)


class Fails(RehearsalTest):
    def test_cpu_that_the_other_base_builds_differently_is_named_and_the_guest_never_paused(self):
        # 10.0 emulates features that 7.2 does not have, so "max" is another CPU there
        for base in ("7.2", "10.0"):
            with self.subTest(base=base):
                vm = self.start(base, kind=FirmwareGuest, net=False, name=f"max{base[0]}", cpu="max")
                entry = self.rehearse(self.daemon(), vm, status=REFUSED)
                self.assertEqual(entry["outcome"], "refused", entry)
                self.assertEqual(entry["code"], "shape_differs")
                self.assertEqual(entry["rehearsal"]["result"], "failed")
                self.assertRegex(entry["rehearsal"]["reason"].lower(), "cpu|feature")
                self.assertIsNone(entry["pause_ms"])
                vm.check()

    def test_target_that_cannot_load_the_state_is_found_out_and_the_guest_runs_on(self):
        vm = self.start("7.2", kind=FirmwareGuest, net=False, name="unloadable")
        daemon = self.daemon()
        cases = {
            ("target.load.begin", "fail"): "load_failed",
            ("target.load.middle", "fail"): "load_failed",
            ("target.load.middle", "abort"): "target_died",
            ("target.load.end", "kill"): "target_died",
            ("target.load.middle", "hang"): "budget_exceeded",
            ("source.save.begin", "fail"): "fault_injected",
        }
        for (point, action), code in cases.items():
            with self.subTest(point=point, action=action):
                vm.qmp.execute("x-hot-upgrade-fault", point=point, action=action)
                entry = self.rehearse(daemon, vm, status=ROLLED_BACK)
                vm.qmp.execute("x-hot-upgrade-fault", point=point, action="none")
                self.assertEqual(entry["outcome"], "rolled_back", entry)
                self.assertEqual(entry["code"], code, entry)
                self.assertEqual(entry["rehearsal"]["result"], "failed")
                vm.check()
        # what a rehearsal finds does not spoil the VM
        self.assertEqual(self.rehearse(daemon, vm)["outcome"], "rehearsed")
        self.move(daemon, vm)

    def test_kind_that_fails_is_not_tried_on_the_next_vm(self):
        vms = [self.start("7.2", kind=FirmwareGuest, net=False, name=f"kind{i}") for i in range(2)]
        daemon = self.daemon(top='rehearse = "first"')
        for vm in vms:
            vm.qmp.execute("x-hot-upgrade-fault", point="target.load.middle", action="fail")
        run = daemon.json("upgrade", "--yes", "kind0", "kind1", "--to", "deb13", status=ROLLED_BACK)
        codes = {entry["vm"]: entry["code"] for entry in run["vms"]}
        self.assertEqual(codes, {"kind0": "load_failed", "kind1": "rehearsal_failed"}, run)
        for vm in vms:
            assert_runs_on_one(vm)
            vm.check()


class DaemonDies(RehearsalTest):
    def test_guest_goes_on_by_its_lease_when_the_daemon_dies_in_a_rehearsal(self):
        vm = self.start("7.2", name="orphan")
        daemon = self.daemon()
        pid = vm.pid()
        vm.qmp.execute("x-hot-upgrade-fault", point="target.load.begin", action="slow", duration=250_000_000)
        vm.serial.reset_gap()
        with daemon.popen("--json", "rehearse", "--yes", vm.name, "--to", "deb13", stdout=subprocess.PIPE, stderr=subprocess.PIPE) as ctl:
            deadline = time.monotonic() + 60
            while "enters rehearse" not in daemon.log() and time.monotonic() < deadline:
                time.sleep(0.002)
            daemon.kill()
            daemon.start()
            text, _ = ctl.communicate(timeout=90)
        self.assertEqual(ctl.returncode, ROLLED_BACK, text)
        self.assertEqual(assert_runs_on_one(vm, timeout=10), pid)
        self.assertLess(vm.serial.longest_gap_ms, 1000 + 250 + NOISE_MS)
        vm.check()
        vm.qmp.execute("x-hot-upgrade-fault", point="target.load.begin", action="none")
        self.move(daemon, vm)


if __name__ == "__main__":
    main()
