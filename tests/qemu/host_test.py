#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""A whole host of real guests, moved with one command: nobody's pause suffers from the others' upgrades, and all arrive.

$QHUP_HOST_GUESTS says how many there are (16; 32 take far longer on a small host), $QHUP_HOST_LINUX how many of them are Linux
(none). All numbers are of one run, so that they can be compared: first VMs are upgraded alone while the others go on
with what they do, then all with --all.
"""

import os
import statistics
import time
import unittest

from case import find_qemu, keep, main, note_figures
from daemon import Daemon
from firmware import FirmwareGuest
from guest import Disk, Guest
from pair import assert_runs_on_one, wait_for

GUESTS = int(os.environ.get("QHUP_HOST_GUESTS", "16"))
ALONE = GUESTS if GUESTS <= 16 else 2  # of them are upgraded alone first
LINUX = int(os.environ.get("QHUP_HOST_LINUX", "0"))
UNEVEN = 2.0  # the guests crowd the host themselves, always alike; others may do so in one part of the test only
FACTOR = 1.5
NOISE_MS = 25  # what the scheduler of a busy host of two cores adds to any pause of some 20 ms
SETTINGS = '[deadlines]\nverify = "300ms"\npause_budget = "5s"\n'


def measure_crowding():
    """How much longer work takes than the processor needs for it: 1 on a host that has nothing else to do."""
    began, used = time.monotonic(), time.process_time()
    while time.process_time() - used < 0.05:
        pass
    return (time.monotonic() - began) / 0.05


class Host(unittest.TestCase):
    longMessage = True

    @classmethod
    def setUpClass(cls):
        began = time.monotonic()
        releases = {f"qemu-{base}": find_qemu(base) for base in ("7.2", "10.0")}
        cls.daemon = keep(Daemon(releases, sections=SETTINGS))
        cls.vms = []
        for number in range(GUESTS):
            # started all at once, they would wait for each other's firmware
            if number < LINUX:
                vm = keep(Guest(find_qemu("7.2"), name=f"host{number:02}", memory_mib=160, disk=Disk("raw", "virtio-blk")))
            else:
                vm = keep(FirmwareGuest(find_qemu("7.2"), name=f"host{number:02}", memory_mib=32))
            cls.vms.append(vm)
        for vm in cls.vms:
            vm.wait_ready(180)
        cls.seconds = {"start": time.monotonic() - began}
        # a monitor that has not answered yet has no name
        wait_for(cls.knows_all, 60, "qhupd to know all VMs")

    @classmethod
    def knows_all(cls):
        names = {vm["name"] for vm in cls.daemon.json("list")["vms"] if vm["reachable"]}
        return names == {vm.name for vm in cls.vms}

    def upgrade(self, base, *vms, **options):
        """Pauses in ms, by VM."""
        arguments = [vm.name for vm in vms] or ["--all"]
        for name, value in options.items():
            arguments += [f"--{name}", str(value)]
        run = self.daemon.json("upgrade", *arguments, "--to", f"qemu-{base}", "--yes", timeout=300)
        wrong = [entry for entry in run["vms"] if entry["outcome"] != "upgraded"]
        self.assertFalse(wrong, wrong)
        return {entry["vm"]: entry["pause_ms"] for entry in run["vms"]}

    def check_all(self, base):
        for vm in self.vms:
            pid = assert_runs_on_one(vm)
            self.assertEqual(os.readlink(f"/proc/{pid}/exe"), str(find_qemu(base)))
            vm.check()

    def test_all_at_once_pause_nobody_longer_than_one_alone(self):
        alone, crowding = {}, [measure_crowding()]
        for vm in self.vms[:ALONE]:
            alone.update(self.upgrade("10.0", vm))
        crowding.append(measure_crowding())
        began = time.monotonic()
        self.upgrade("7.2", *self.vms[:ALONE])
        self.seconds["back"] = time.monotonic() - began
        self.check_all("7.2")
        crowding.append(measure_crowding())
        began = time.monotonic()
        together = self.upgrade("10.0")
        self.seconds["all"] = time.monotonic() - began
        crowding.append(measure_crowding())
        self.assertEqual(len(together), GUESTS)
        self.check_all("10.0")
        figures = {
            "guests": GUESTS,
            "alone, median ms": round(statistics.median(alone.values()), 1),
            "alone, longest ms": round(max(alone.values()), 1),
            "all, median ms": round(statistics.median(together.values()), 1),
            "all, longest ms": round(max(together.values()), 1),
            "start, seconds": round(self.seconds["start"], 1),
            "all, seconds": round(self.seconds["all"], 1),
            "back, seconds": round(self.seconds["back"], 1),
            "crowding": " ".join(f"{each:.1f}" for each in crowding),
        }
        note_figures("whole host", figures)
        if max(crowding) > UNEVEN * min(crowding):
            self.skipTest(f"others use this host now and then (crowding {figures['crowding']}): its pauses say nothing")
        self.assertLess(statistics.median(together.values()), FACTOR * statistics.median(alone.values()), figures)
        self.assertLess(max(together.values()), FACTOR * max(alone.values()) + NOISE_MS, figures)


if __name__ == "__main__":
    main()
