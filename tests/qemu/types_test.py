#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""What the release's binary does not know is told by `check`, by name, before anything is started; what both binaries know is
never refused for it.
"""

import functools
import itertools
import json
import pathlib
import subprocess
import time

from case import QemuTest, find_qemu, find_stock, main, note_figures, other
from daemon import Daemon, find_program
from firmware import FirmwareGuest
from pair import assert_runs_on_one

RELEASE = {"7.2": "deb12", "10.0": "deb13"}
NUMBERS = itertools.count()
WITHOUT_A_MACHINE = ["-machine", "none", "-nodefaults", "-no-user-config", "-display", "none", "-accel", "qtest"]

# Of what may cross, that the test guest's machine takes without anything else; two VMs, since one has one VGA.
DEVICES = [
    [
        *["e1000", "e1000e", "rtl8139", "vmxnet3", "VGA", "bochs-display", "secondary-vga", "qemu-xhci", "nec-usb-xhci"],
        *["usb-ehci", "pci-ohci", "ich9-ahci", "am53c974", "dc390", "lsi53c810", "lsi53c895a", "megasas", "megasas-gen2"],
    ],
    [
        *["virtio-vga", "virtio-gpu-pci", "virtio-keyboard-pci", "virtio-mouse-pci", "virtio-tablet-pci", "virtio-rng-pci"],
        *["virtio-scsi-pci", "virtio-serial-pci", "mptsas1068", "pvscsi", "sdhci-pci", "pci-serial-2x", "i6300esb"],
        *["pvpanic-pci", "vmcoreinfo", "intel-iommu", "pcie-root-port,slot=1", "ioh3420,slot=2", "pcie-pci-bridge"],
    ],
]


@functools.cache
def types_of(base):
    """Every type that this binary says it can make."""
    asked = [{"execute": "qmp_capabilities"}, {"execute": "qom-list-types", "arguments": {"abstract": False}}]
    text = "".join(json.dumps(line) + "\n" for line in [*asked, {"execute": "quit"}])
    command = [find_qemu(base), *WITHOUT_A_MACHINE, "-qmp", "stdio"]
    said = subprocess.run(command, input=text, capture_output=True, text=True, timeout=60, check=True).stdout
    lists = [reply["return"] for reply in map(json.loads, said.splitlines()) if isinstance(reply.get("return"), list)]
    return {entry["name"] for entry in lists[0]}


def states_of(base):
    """How this binary writes and reads the state of each type: (name, version, oldest)."""
    command = [find_qemu(base), *WITHOUT_A_MACHINE, "-dump-vmstate", "/proc/self/fd/1"]
    said = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    found = {name: entry["Description"] for name, entry in json.loads(said).items() if "Description" in entry}
    return {name: (d["name"], d["version_id"], d["minimum_version_id"]) for name, d in found.items()}


class Types(QemuTest):
    def daemon(self, **releases):
        daemon = Daemon({**{RELEASE[base]: find_qemu(base) for base in RELEASE}, **releases}, top="kept_binaries = 2").start()
        self.addCleanup(daemon.stop)
        return daemon

    def guest(self, base, extra=(), **options):
        """A VM that nobody runs long."""
        vm = FirmwareGuest(find_qemu(base), name=f"types{next(NUMBERS)}", extra=list(extra), **options)
        self.addCleanup(vm.stop)
        vm.start()
        try:
            vm.wait_ready(60)
        except TimeoutError:
            self.fail(vm.log_path.read_text())
        vm.base = base
        return vm

    def check(self, daemon, vm, base):
        """What the engine has against it, by id; what QEMU itself has is not of interest."""
        return self.check_release(daemon, vm, RELEASE[base])

    def check_release(self, daemon, vm, release):
        done = daemon.ctl("--json", "check", vm.name, "--to", release, check=False)
        self.assertIn(done.returncode, (0, 6), done.stdout + done.stderr)
        said = json.loads(done.stdout)["checks"][0]
        found = {each["id"]: each for each in said["blockers"] if each["id"].startswith("engine/")}
        self.assertTrue(all("; " in each["reason"] for each in found.values()), found)
        return found

    def test_device_that_only_10_0_has_is_refused_for_7_2_by_name(self):
        kind = "igb"
        self.assertIn(kind, types_of("10.0") - types_of("7.2"))
        vm = self.guest("10.0", ["-device", f"{kind},id=nic9,addr=0xc", "-device", "virtio-multitouch-pci"])
        daemon = self.daemon()
        found = self.check(daemon, vm, "7.2")
        self.assertEqual(sorted(found), ["engine/device/device[0]", "engine/device/nic9"])
        self.assertEqual({each["class"] for each in found.values()}, {"device"})
        self.assertIn(kind, found["engine/device/nic9"]["reason"])
        self.assertIn("virtio-multitouch-pci", found["engine/device/device[0]"]["reason"])
        # a dry run and an upgrade say the same, and nothing is started or paused
        pid = vm.pid()
        vm.qmp.drain_events()
        for options in (["--dry-run"], []):
            entry = daemon.json("upgrade", "--yes", vm.name, "--to", RELEASE["7.2"], *options, status=6)["vms"][0]
            self.assertEqual(entry["code"], "blocked")
            self.assertLessEqual(set(found), {each["id"] for each in entry["blockers"]})
            self.assertNotIn("prepare", [step["phase"] for step in entry["steps"]])
        self.assertEqual(assert_runs_on_one(vm), pid)
        self.assert_never_paused(vm)

    def test_object_cpu_and_machine_that_only_10_0_has_are_refused_together(self):
        shm = ["-object", "memory-backend-shm,id=shm0,size=2M"]
        cases = [
            (self.guest("10.0", shm), {"engine/object/shm0"}),
            (self.guest("10.0", machine="pc-i440fx-9.1"), {"engine/machine"}),
            (self.guest("10.0", cpu="EPYC-Genoa"), {"engine/cpu"}),
            (
                self.guest("10.0", [*shm, "-device", "igb,id=nic9"], machine="pc-i440fx-9.1", cpu="EPYC-Genoa"),
                {"engine/machine", "engine/cpu", "engine/device/nic9", "engine/object/shm0"},
            ),
        ]
        daemon = self.daemon()
        for vm, ids in cases:
            with self.subTest(str(ids)):
                found = {id for id in self.check(daemon, vm, "7.2") if not id.startswith("engine/argv/")}
                self.assertEqual(found, ids)

    def test_what_both_have_is_not_refused_in_either_direction(self):
        """As many devices as fit; each binary is also known as that of the VM, so that their states are compared."""
        parts = [[word for kind in part for word in ("-device", kind)] for part in DEVICES]
        guests = [self.guest(base, part, machine="q35") for base in ("7.2", "10.0") for part in parts]
        daemon = self.daemon()
        for vm in guests:
            with self.subTest(base=vm.base, devices=vm.extra):
                self.assertEqual(self.check(daemon, vm, other(vm.base)), {})

    def test_state_of_what_may_cross_has_one_form_in_both(self):
        """Else the comparison of states would have to be looked at: this is why it raises no false alarm today."""
        old, new = states_of("7.2"), states_of("10.0")
        self.assertGreater(len(old), 100)
        differing = {name for name in old.keys() & new.keys() if old[name] != new[name]}
        self.assertEqual(differing, set())

    def test_release_that_is_not_patched_is_refused_by_check(self):
        try:
            stock = find_stock("10.0")
        except FileNotFoundError as error:
            self.skipTest(str(error))
        vm = self.guest("7.2")
        daemon = self.daemon(stock=stock)
        self.assertEqual(set(self.check_release(daemon, vm, "stock")), {"engine/release-not-patched"})

    def test_binary_is_asked_once_and_check_answers_in_50_ms(self):
        vm = self.guest("7.2")
        daemon = self.daemon()
        times = []
        for _ in range(12):
            began = time.monotonic()
            self.assertEqual(self.check(daemon, vm, "10.0"), {})
            times.append((time.monotonic() - began) * 1000)
        note_figures("check", {"first_ms": round(times[0]), "median_ms": round(sorted(times[1:])[5]), "most_ms": round(max(times[1:]))})
        self.assertLess(sorted(times[1:])[5], 50, times)
        for base in RELEASE:
            self.assertEqual(daemon.log().count(f"{find_qemu(base)} was asked what it is"), 1, daemon.log())
        left = [path for path in pathlib.Path("/proc").glob("[0-9]*/cmdline") if b"-dump-vmstate" in read(path)]
        self.assertEqual(left, [])

    def test_binary_that_says_nothing_of_itself_is_not_known_and_prepare_says_so(self):
        vm = self.guest("7.2")
        silent = find_program("silent-qemu")
        daemon = self.daemon(silent={"path": str(silent), "version": "10.0.13"})
        for _ in range(3):
            self.assertEqual(self.check_release(daemon, vm, "silent"), {})
        self.assertEqual(daemon.log().count(f"asking {silent} what it is"), 1, daemon.log())


def read(path):
    try:
        return path.read_bytes()
    except OSError:
        return b""


if __name__ == "__main__":
    main()
