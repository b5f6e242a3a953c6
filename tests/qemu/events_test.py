#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest that reboots or powers off, or a QEMU that is told to end, right before, in and right after the switch: what
was asked for happens, once, and in the process that has the guest by then."""

import contextlib
import os
import signal
import time

from case import QemuTest, find_qemu, main, other
from firmware import FirmwareGuest, fw_cfg_files, fw_cfg_read
from pair import Upgrade, UpgradeFailed, assert_runs_on_one, wait_for
from qmp import QmpClosed, QmpError

# The source is slow at this point for so long that what the test does happens there.
POINTS = {
    "before the pause": "source.switch.begin",
    "after the flush": "source.flush.done",
    "with stopped vCPUs": "source.freeze.stopped",
    "before the state is saved": "source.save.begin",
    "while the target loads": "target.load.begin",
    "before the word": "target.word.before",
    "after the word": "target.word.after",
    "when it runs": "target.running",
}
SLOW_S = 0.12


class AtThatMoment(QemuTest):
    @contextlib.contextmanager
    def guest(self, base="7.2", **options):
        with contextlib.ExitStack() as stack:
            yield self.start(base, kind=FirmwareGuest, net=False, stack=stack, **options)

    def switch_and(self, vm, point, act):
        """A switch that is slow at `point`, and act(upgrade) meanwhile. Returns True if the guest is on the target."""
        with Upgrade(vm, find_qemu(other(vm.base)), faults=[(point, "slow", SLOW_S)]) as upgrade:
            upgrade.prepare()
            switch = upgrade.control.send("hot-upgrade-switch", {"budget": 1_000_000_000})
            if point == "target.running":
                wait_for(lambda: upgrade.query()["state"] == "ceded", 5, "the target runs the guest")
            else:
                time.sleep(SLOW_S / 3)
            act(upgrade)
            try:
                upgrade.control.wait(switch, 10)
            except (UpgradeFailed, QmpError):
                return False
            except QmpClosed:
                return None
            with contextlib.suppress(QmpClosed, OSError, AssertionError):
                upgrade.commit()
            return True

    def test_sigterm_to_the_source_ends_the_vm_or_only_the_old_process(self):
        for name, point in POINTS.items():
            with self.subTest(name), self.guest() as vm:
                vm.serial.expect_end()
                self.switch_and(vm, point, lambda upgrade: os.kill(upgrade.source_pid, signal.SIGTERM))
                time.sleep(0.3)
                if point == "target.running":
                    # the source had given the guest away: only it ends
                    wait_for(lambda: len(vm.processes()) == 1, 5, "the target alone")
                    self.assertEqual(vm.qmp.execute("query-status")["status"], "running")
                    vm.serial.wait_count(5)
                else:
                    # either it obeyed before it gave the guest away, or the target has the guest: never both, never hung
                    wait_for(lambda: len(vm.processes()) <= 1, 5, f"at most one process: {vm.processes()}")
                    if vm.processes():
                        vm.reconnect_qmp()
                        wait_for(lambda: vm.qmp.execute("query-status")["status"] == "running", 5, "running")
                        vm.serial.wait_count(5)

    def test_sigterm_to_the_target_before_it_runs_rolls_back(self):
        for name, point in POINTS.items():
            if point in ("target.running", "target.word.after"):
                continue
            with self.subTest(name), self.guest() as vm:
                pid = vm.pid()
                moved = self.switch_and(vm, point, lambda upgrade: os.kill(upgrade.target_pid, signal.SIGTERM))
                if moved:
                    # it became the VM's process, which was told to end
                    vm.serial.expect_end()
                    wait_for(lambda: pid not in vm.processes(), 5, "the source has ended")
                else:
                    self.assertEqual(assert_runs_on_one(vm), pid)
                    vm.qmp.execute("x-hot-upgrade-fault", point=point, action="none")
                    vm.check()
                    self.upgrade(vm, "10.0")
                    vm.check()

    def test_reset_is_done_once_on_the_side_that_has_the_guest(self):
        """The monitor is the guest's: a reset through it stands for one by the guest."""
        for name, point in POINTS.items():
            with self.subTest(name), self.guest() as vm:
                boots = vm.serial.boots
                vm.serial.expect_reboot()
                vm.qmp.drain_events()
                command = vm.qmp.send("system_reset") if point == "source.switch.begin" else None
                sent = [command]

                def act(_upgrade, vm=vm, sent=sent):
                    if sent[0] is None:
                        sent[0] = vm.qmp.send("system_reset")

                moved = self.switch_and(vm, point, act)
                vm.qmp.wait(sent[0], 5)
                if moved is False:
                    vm.qmp.execute("x-hot-upgrade-fault", point=point, action="none")
                    error = vm.qmp.execute("query-hot-upgrade").get("last-error", {})
                    self.assertEqual(error.get("code"), "retry", error)
                    rollback(vm)
                vm.serial.wait_ready(10, boot=boots + 1)
                vm.serial.wait_count(5)
                assert_runs_on_one(vm)
                self.assertEqual(vm.serial.boots, boots + 1, "reset more than once")
                # the firmware resets the machine once more by itself: that is the guest's doing
                events = [event for event in vm.qmp.drain_events() if event["event"] == "RESET"]
                resets = [event for event in events if not event["data"]["guest"]]
                self.assertLessEqual(len(resets), 1, resets)
                vm.check()

    def test_quit_by_a_client_ends_the_vm_on_the_side_that_has_it(self):
        for name, point in POINTS.items():
            with self.subTest(name), self.guest() as vm:
                vm.serial.expect_end()
                self.assertTrue(vm.qmp)

                def act(_upgrade, vm=vm):
                    with contextlib.suppress(QmpClosed):
                        vm.qmp.send("quit")

                with contextlib.suppress(QmpClosed, OSError):
                    self.switch_and(vm, point, act)
                wait_for(lambda: not vm.processes(), 8, f"the VM ends: {vm.processes()}")


class Firmware(QemuTest):
    def test_files_of_fw_cfg_keep_their_numbers_and_contents(self):
        """Firmware reads the directory once. 10.0 has a file more than 7.2 when it is given a kernel."""
        vm = self.start("7.2")
        before = fw_cfg_files(vm)
        self.assertNotIn("etc/boot/kernel", before)
        tables = fw_cfg_read(vm, *before["etc/smbios/smbios-tables"])
        for base in ("10.0", "7.2", "10.0"):
            self.upgrade(vm, base)
            after = fw_cfg_files(vm)
            self.assertEqual({name: after.get(name) for name in before}, before)
            self.assertEqual(fw_cfg_read(vm, *after["etc/smbios/smbios-tables"]), tables)
        self.assertIn("etc/boot/kernel", after)
        vm.check()


class RealGuestActs(QemuTest):
    """The Linux guest itself reboots and powers off around a switch, again and again at another moment."""

    def test_guest_that_reboots_around_the_switch_comes_up_and_the_next_upgrade_works(self):
        # without a disk: Linux fails what is in flight when it resets its virtio devices
        vm = self.start("7.2", vcpus=2, disk=None)
        outcomes = []
        for delay in (0.0, 0.1, 0.16, 0.2, 0.24, 1.0):
            with self.subTest(delay=delay):
                boots = vm.serial.boots
                vm.serial.expect_reboot()
                with Upgrade(vm, find_qemu(other(vm.base))) as upgrade:
                    upgrade.prepare()
                    vm.serial.send("reboot")
                    time.sleep(delay)
                    try:
                        upgrade.switch()
                        upgrade.commit()
                        vm.base = other(vm.base)
                        outcomes.append("upgraded")
                    except UpgradeFailed as failure:
                        self.assertIn(failure.code, ("retry", "stale", "drain-timeout"), failure)
                        outcomes.append(failure.code)
                        upgrade.rollback()
                try:
                    vm.serial.wait_ready(30, boot=boots + 1)
                except TimeoutError:
                    registers = vm.qmp.hmp("info registers -a").split("\r\n")
                    where = [line for line in registers if line.startswith(("EIP", "CS", "RIP"))]
                    screen = text_screen(vm)
                    vm.serial.expect_reboot()
                    vm.qmp.execute("system_reset")
                    vm.serial.wait_ready(30, boot=boots + 1)
                    self.fail(f"the guest hung in its reboot after {outcomes[-1]}: {screen!r} {where}")
                vm.check()
                if delay in (0.0, 0.2, 1.0):
                    self.upgrade(vm, other(vm.base))
                    vm.check()
        print(f"  reboots: {outcomes}")

    def test_guest_that_powers_off_around_the_switch_leaves_no_process(self):
        outcomes = []
        for delay in (0.0, 0.2):
            with self.subTest(delay=delay), contextlib.ExitStack() as stack:
                vm = self.start("7.2", stack=stack, memory_mib=160)
                with Upgrade(vm, find_qemu("10.0")) as upgrade:
                    upgrade.prepare()
                    vm.serial.expect_end()
                    vm.serial.send("poweroff")
                    time.sleep(delay)
                    try:
                        upgrade.switch()
                        upgrade.commit()
                        outcomes.append("upgraded")
                    except (UpgradeFailed, QmpClosed, OSError) as failure:
                        outcomes.append(getattr(failure, "code", "ended"))
                        with contextlib.suppress(UpgradeFailed, QmpClosed, OSError):
                            upgrade.rollback()
                wait_for(lambda vm=vm: not vm.processes(), 20, f"all processes end: {vm.processes()}")
        print(f"  power off: {outcomes}")


def text_screen(vm):
    """What the firmware shows."""
    dump = vm.qmp.hmp("xp /2000xh 0xb8000").split("\r\n")
    cells = [int(word, 16) & 0xFF for line in dump for word in line.split(":")[-1].split()]
    return " ".join("".join(map(chr, cells)).split())


def rollback(vm):
    """Gives up what is prepared, by the main monitor."""
    vm.qmp.execute("hot-upgrade-rollback")
    wait_for(lambda: vm.qmp.execute("query-hot-upgrade")["state"] == "none", 5, "rolled back")


if __name__ == "__main__":
    main()
