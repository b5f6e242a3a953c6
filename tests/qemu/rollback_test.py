#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""A rollback, from any state and for any reason, leaves the guest as if nothing had been tried."""

import hashlib
import os
import time

from case import NOISE_MS, Disk, QemuTest, find_qemu, main, other
from netrig import TcpEcho
from pair import Upgrade, UpgradeFailed, assert_runs_on_one, wait_for, wait_sockets_gone


def hash_of_ram(descriptors, pid, memory_mib):
    """SHA-256 of the guest's RAM, read from its memfds, which are among the descriptors that cross."""
    numbers = [descriptor["fd"] for descriptor in descriptors if descriptor["id"].startswith("ram/")]
    assert numbers, "no RAM crosses"
    digest = hashlib.sha256()
    for number in numbers:
        with open(f"/proc/{pid}/fd/{number}", "rb", buffering=0) as memory:
            size = os.fstat(memory.fileno()).st_size
            assert size >= memory_mib << 20
            for offset in range(0, size, 1 << 20):
                digest.update(os.pread(memory.fileno(), 1 << 20, offset))
    return digest.hexdigest()


class Rollback(QemuTest):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.vm = cls.start("7.2", vcpus=2, mode="load", disk=Disk("qcow2", "virtio-scsi"))

    def setUp(self):
        self.vm.serial.reset_gap()

    def test_ram_is_byte_identical_before_prepare_and_after_rollback_from_loaded(self):
        vm = self.vm
        for target in ("10.0", "7.2"):
            with self.subTest(source=vm.base, target=target):
                vm.qmp.execute("stop")
                try:
                    self.compare_ram(vm, target)
                finally:
                    vm.qmp.execute("cont")
                vm.check()
        self.upgrade(vm, other(vm.base))
        vm.check()

    def compare_ram(self, vm, target):
        wait_for(lambda: vm.qmp.execute("query-status")["status"] == "paused", 5, "paused")
        pid = vm.pid()
        with Upgrade(vm, find_qemu(target)) as upgrade:

            def ram():
                # asked on the control socket: the guest's monitors wait while it is frozen
                numbers = upgrade.query()["descriptors"]
                return hash_of_ram(numbers, pid, vm.memory_mib)

            before = hash_of_ram(vm.qmp.execute("query-hot-upgrade")["descriptors"], pid, vm.memory_mib)
            upgrade.prepare()
            self.assertEqual(ram(), before, "prepare wrote to RAM")
            upgrade.freeze(frozen_lease=20000)
            self.assertEqual(ram(), before, "freeze wrote to RAM")
            upgrade.load()
            self.assertEqual(upgrade.target.execute("query-hot-upgrade")["state"], "loaded")
            self.assertEqual(ram(), before, "load wrote to RAM")
            upgrade.rollback()
            self.assertEqual(ram(), before, "rollback wrote to RAM")
        self.assertEqual(assert_runs_on_one(vm), pid)
        self.assertEqual(vm.qmp.execute("query-status")["status"], "paused")

    def test_running_guest_goes_on_after_a_rollback_from_each_state(self):
        vm = self.vm
        with TcpEcho(self.net(), vm.tap.guest_ip) as echo:
            for last in ("prepared", "frozen", "loaded"):
                with self.subTest(state=last):
                    pid = vm.pid()
                    with Upgrade(vm, find_qemu(other(vm.base))) as upgrade:
                        upgrade.prepare()
                        if last != "prepared":
                            upgrade.freeze()
                        if last == "loaded":
                            upgrade.load()
                        upgrade.rollback()
                        self.assertEqual(upgrade.query()["state"], "none")
                    self.assertEqual(assert_runs_on_one(vm), pid)
                    echo.exchange(b"after a rollback from " + last.encode())
                    vm.serial.ping()
                    vm.check()
        self.upgrade(vm, other(vm.base))
        vm.check()

    def test_frozen_guest_runs_on_when_its_lease_ends(self):
        vm = self.vm
        for step in ("frozen", "loaded"):
            with self.subTest(step=step):
                vm.serial.reset_gap()
                with Upgrade(vm, find_qemu(other(vm.base))) as upgrade:
                    upgrade.prepare()
                    upgrade.freeze(frozen_lease=700)
                    if step == "loaded":
                        upgrade.load()
                    wait_for(lambda: upgrade.query()["state"] == "none", 5, "rolled back by itself")
                    self.assertEqual(upgrade.query()["last-error"]["code"], "lease-expired")
                assert_runs_on_one(vm)
                vm.serial.wait_count(5)
                self.assertLess(vm.serial.longest_gap_ms, 700 + 250 + NOISE_MS)
                vm.check()
        self.upgrade(vm, other(vm.base))

    def test_prepared_source_whose_daemon_died_rolls_back_when_its_lease_ends(self):
        vm = self.vm
        vm.qmp.drain_events()
        with Upgrade(vm, find_qemu(other(vm.base)), lease_s=1.5) as upgrade:
            upgrade.prepare()
        time.sleep(0.2)
        wait_for(lambda: vm.qmp.execute("query-hot-upgrade")["state"] == "none", 5, "rolled back by itself")
        self.assertEqual(vm.qmp.execute("query-hot-upgrade")["last-error"]["code"], "lease-expired")
        assert_runs_on_one(vm)
        self.assert_never_paused(vm)
        vm.check()
        wait_sockets_gone(vm)

    def test_budget_that_is_too_small_rolls_back(self):
        vm = self.vm
        pid = vm.pid()
        with Upgrade(vm, find_qemu(other(vm.base)), faults=[("target.load.begin", "slow", 0.5)]) as upgrade:
            upgrade.prepare()
            with self.assertRaises(UpgradeFailed) as caught:
                upgrade.switch(budget=100)
        self.assertEqual(caught.exception.code, "budget-exceeded")
        vm.qmp.execute("x-hot-upgrade-fault", point="target.load.begin", action="none")
        self.assertEqual(assert_runs_on_one(vm), pid)
        vm.serial.wait_count(3)
        self.assertLess(vm.serial.longest_gap_ms, 100 + 250 + NOISE_MS)
        vm.check()

    def test_pause_that_was_taken_back_is_told_without_the_flush_before_it(self):
        vm = self.vm
        flush_s = 0.7
        for point in ("source.freeze.stopped", "source.save.begin", "target.load.begin"):
            with self.subTest(point=point):
                faults = [("source.flush.done", "slow", flush_s), (point, "fail")]
                with Upgrade(vm, find_qemu(other(vm.base)), faults=faults) as upgrade:
                    upgrade.prepare()
                    began = time.monotonic()
                    with self.assertRaises(UpgradeFailed):
                        upgrade.switch(drain_deadline=3000, budget=5000, frozen_lease=8000)
                    took_ms = (time.monotonic() - began) * 1000
                # what a target used up, its source still has
                vm.qmp.execute("x-hot-upgrade-fault", point=point, action="none")
                timings = vm.qmp.execute("query-hot-upgrade")["timings"]
                self.assertGreater(took_ms, flush_s * 1000)
                self.assertGreater(timings["pause"], timings["stop"])
                self.assertLess(timings["pause"] / 1e6, took_ms - flush_s * 1000)
                assert_runs_on_one(vm)
        # a switch that did not come to its pause has none
        with Upgrade(vm, find_qemu(other(vm.base)), faults=[("source.switch.begin", "fail")]) as upgrade:
            upgrade.prepare()
            with self.assertRaises(UpgradeFailed):
                upgrade.switch()
        self.assertNotIn("timings", vm.qmp.execute("query-hot-upgrade"))
        vm.check()

    def test_second_upgrade_during_the_first_is_refused_and_changes_nothing(self):
        vm = self.vm
        with Upgrade(vm, find_qemu(other(vm.base))) as first:
            first.prepare()
            from qmp import QmpError

            with self.assertRaises(QmpError):
                with Upgrade(vm, find_qemu(other(vm.base))) as second:
                    second._qmp = first.qmp
                    try:
                        second.begin()
                    except UpgradeFailed as failure:
                        raise QmpError("hot-upgrade-prepare", {"desc": str(failure)}) from failure
                    finally:
                        second._qmp = None
            self.assertEqual(first.query()["state"], "prepared")
            first.switch()
            first.commit()
        vm.base = other(vm.base)
        assert_runs_on_one(vm)
        vm.check()


if __name__ == "__main__":
    main()
