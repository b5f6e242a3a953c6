#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""qhupd upgrades throwaway guests of its own, says how that went, leaves nothing behind, and asks for it before it
touches a VM.
"""

import contextlib
import json
import os
import pathlib
import subprocess
import time

import jsonschema
import processes
from api import judge_all
from case import QemuTest, find_qemu, keep, main
from daemon import Daemon
from firmware import FirmwareGuest
from preload import find_preload
from prober import ROOT
from rows.memory import HugePages

SCHEMA = json.loads((ROOT / "docs/qhupd-ctl.schema.json").read_text())
SECTIONS = '[deadlines]\npause_budget = "10s"\ndrain = "8s"\nverify = "100ms"\n[leases]\nfrozen = "15s"\n'


class Selftest(QemuTest):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        broken = {"path": str(find_qemu("10.0")), "options": ["-device", "virtio-blk-pci,drive=nothing"]}
        cls.daemon = keep(
            Daemon(
                {"qemu-7.2": find_qemu("7.2"), "qemu-10.0": find_qemu("10.0"), "broken": broken},
                top='selftest = "require"',
                sections=SECTIONS,
            )
        )

    def guests(self):
        return processes.processes_naming(f"{self.daemon.folder}/state/selftest/")

    def assert_nothing_is_left(self):
        self.assertEqual(self.guests(), [])
        self.assertEqual(list((self.daemon.folder / "state" / "selftest").glob("*")), [])

    def test_an_upgrade_asks_for_a_selftest_and_goes_on_when_it_has_passed(self):
        vm = self.start("7.2", kind=FirmwareGuest, name="selftest-vm")
        refused = self.daemon.json("check", vm.name, "--to", "qemu-10.0", status=6)["checks"][0]
        self.assertEqual((refused["can_upgrade"], refused["code"]), (False, "untested"))
        run = self.daemon.json("upgrade", "--yes", vm.name, "--to", "qemu-10.0", status=6)
        self.assertEqual((run["vms"][0]["outcome"], run["vms"][0]["code"]), ("refused", "untested"))
        self.assertIn("qhupd-ctl selftest --to qemu-10.0", run["vms"][0]["message"])

        result = self.daemon.json("selftest", "--to", "qemu-10.0", "--from", "qemu-7.2", "-n", "2")
        self.assertTrue(result["passed"], result)
        self.assertGreaterEqual(result["counted"], 50)
        self.assertGreater(result["pause_ms"], 0)
        run = self.daemon.json("status", result["run"])
        self.assertEqual([each["outcome"] for each in run["vms"]], ["upgraded"] * 2)
        self.assertEqual(len({each["vm"] for each in run["vms"]} - {vm.name}), 2)
        self.assert_nothing_is_left()

        self.daemon.kill()  # the result outlives the daemon
        self.daemon.start()
        check = self.daemon.json("check", vm.name, "--to", "qemu-10.0")["checks"][0]
        self.assertEqual((check["can_upgrade"], check["warnings"]), (True, []))
        self.daemon.ctl("upgrade", "--yes", "--all", "--to", "qemu-10.0")
        vm.check()

        # The way back is another pair.
        self.daemon.json("upgrade", "--yes", "--dry-run", vm.name, "--to", "qemu-7.2", status=6)
        allowed = self.daemon.ctl("upgrade", "--yes", vm.name, "--to", "qemu-7.2", "--allow-untested")
        self.assertIn("Warning: No selftest from", allowed.stderr)
        vm.check()
        asked = self.daemon.json("status")["runs"][0]
        self.assertEqual(asked["request"]["allow"], ["untested"])
        self.assertEqual([warning["id"] for warning in asked["warnings"]], ["engine/selftest"])
        self.assertTrue(judge_all(self.daemon.socket)["selftests"][0]["passed"])

    def test_a_release_that_cannot_take_the_guests_fails_and_leaves_nothing(self):
        done = self.daemon.ctl("selftest", "--to", "broken", "--from", "qemu-7.2", "-n", "1", check=False)
        self.assertEqual(done.returncode, 1, done.stdout + done.stderr)
        self.assertIn("failed", done.stdout)
        self.assertIn("was not upgraded but is", done.stdout)
        self.assert_nothing_is_left()

    def test_guests_of_a_daemon_that_died_are_ended_by_the_next(self):
        words = ("selftest", "--to", "qemu-7.2", "--from", "qemu-10.0", "-n", "1")
        client = self.daemon.popen(*words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 30
        folder = self.daemon.folder / "state" / "selftest"
        while not list(folder.glob("*-1/qmp")) and time.monotonic() < deadline:  # not the one that is asked about vhost
            time.sleep(0.05)
        self.assertTrue(self.guests())
        self.daemon.kill()
        client.kill()
        client.wait()
        self.daemon.start()
        while self.guests() and time.monotonic() < deadline:
            time.sleep(0.05)
        self.assert_nothing_is_left()


class Report(QemuTest):
    """What of the host was tried, or why not: from the kernel and from QEMU's own words."""

    def start_daemon(self, stack, **environment):
        """A daemon that warns, in whose environment are these too."""
        releases = {"qemu-7.2": find_qemu("7.2"), "qemu-10.0": find_qemu("10.0")}
        daemon = Daemon(releases, top='selftest = "warn"', sections=SECTIONS)
        stack.callback(daemon.stop)
        return daemon.start(wrapper=["env", *(f"{name}={value}" for name, value in environment.items())])

    def selftest(self, daemon):
        """What was tried, by name."""
        result = daemon.json("selftest", "--to", "qemu-10.0", "--from", "qemu-7.2", "-n", "1", timeout=250)
        self.assertTrue(result["passed"], result)
        jsonschema.validate(result, {"$ref": "#/$defs/selftest", **SCHEMA})
        tried = {each["name"]: each for each in result["tried"]}
        self.assertEqual(result["accelerator"], "kvm" if tried["kvm"]["used"] else "tcg")
        self.assertEqual(result["hugepages"], tried["huge_pages"]["used"])
        self.assertEqual(processes.processes_naming(f"{daemon.folder}/state/selftest/"), [])
        return tried

    def test_report_says_of_each_why_it_was_not_tried(self):
        with contextlib.ExitStack() as stack:
            daemon = self.start_daemon(stack)
            done = daemon.ctl("selftest", "--to", "qemu-10.0", "--from", "qemu-7.2", "-n", "1", timeout=250)
            for name in ("KVM", "huge pages", "vhost", "security module"):
                self.assertRegex(done.stdout, rf"(?m)^  {name} +(not )?tried: \w")
            tried = self.selftest(daemon)
        pages = int(pathlib.Path("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages").read_text())
        if pages < 32:
            said = f"{pages} of the 32 huge pages of 2 MiB that the guests need are free"
            self.assertEqual((tried["huge_pages"]["used"], tried["huge_pages"]["text"]), (False, said))
        for name in ("kvm", "vhost"):
            path = "/dev/kvm" if name == "kvm" else "/dev/vhost-net"
            if not os.path.exists(path):
                self.assertEqual((tried[name]["used"], tried[name]["text"]), (False, f"no {path}"))
        with contextlib.suppress(OSError):
            label = pathlib.Path("/proc/self/attr/current").read_text().strip("\0\n")
            self.assertIn(label, tried["security_module"]["text"])
            return
        self.assertEqual(tried["security_module"]["text"], "no security module is loaded")

    def test_report_says_why_qemu_refuses_vhost(self):
        with contextlib.ExitStack() as stack:
            daemon = self.start_daemon(stack, LD_PRELOAD=find_preload("vhost_shim.c"))
            vhost = self.selftest(daemon)["vhost"]
            self.assertFalse(vhost["used"])
            self.assertRegex(vhost["text"], "^QEMU refuses to upgrade a guest with it: .*vhost")

    def test_report_of_huge_pages_and_a_warning_for_a_vm_that_has_them(self):
        with contextlib.ExitStack() as stack:
            stack.enter_context(HugePages(40))
            daemon = self.start_daemon(stack)
            backend = "memory-backend-memfd,id=ram0,size=32M,share=on,hugetlb=on,hugetlbsize=2M,prealloc=on"
            extra = ["-object", backend, "-machine", "memory-backend=ram0"]
            options = {"kind": FirmwareGuest, "net": False, "memory_mib": 32, "extra": extra}
            with contextlib.ExitStack() as vms:
                vm = self.start("7.2", name="huge", stack=vms, **options)
                tried = self.selftest(daemon)["huge_pages"]
                self.assertEqual((tried["used"], tried["vms"]), (False, 1), tried)
                self.assertRegex(tried["text"], r"^\d+ of the 32 huge pages of 2 MiB that the guests need are free$")
                self.assert_warned(daemon, ["engine/selftest/huge_pages"], vm.name)
            tried = self.selftest(daemon)["huge_pages"]
            self.assertEqual((tried["used"], tried["vms"]), (True, 0), tried)
            vm = self.start("7.2", name="huge2", stack=stack, **options)
            self.assert_warned(daemon, [], vm.name)

    def assert_warned(self, daemon, ids, *vms):
        """By check and by upgrade, each with and without --json."""
        for vm in vms:
            check = daemon.json("check", vm, "--to", "qemu-10.0")["checks"][0]
            self.assertEqual([warning["id"] for warning in check["warnings"]], ids, check)
            run = daemon.json("upgrade", "--dry-run", vm, "--to", "qemu-10.0")
            self.assertEqual([warning["id"] for warning in run["warnings"]], ids)
            for words in (("check",), ("upgrade", "--dry-run")):
                done = daemon.ctl(*words, vm, "--to", "qemu-10.0")
                said = f"has passed without huge pages, which {vm} uses" in done.stdout + done.stderr
                self.assertEqual(said, bool(ids), done.stdout + done.stderr)


if __name__ == "__main__":
    main()
