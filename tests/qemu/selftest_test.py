#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""qhupd upgrades throwaway guests of its own, says how that went, leaves nothing behind, and asks for it before it
touches a VM.
"""

import subprocess
import time

import processes
from case import QemuTest, find_qemu, keep, main
from daemon import Daemon
from firmware import FirmwareGuest

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
        while not self.guests() and time.monotonic() < deadline:
            time.sleep(0.05)
        self.assertTrue(self.guests())
        self.daemon.kill()
        client.kill()
        client.wait()
        self.daemon.start()
        while self.guests() and time.monotonic() < deadline:
            time.sleep(0.05)
        self.assert_nothing_is_left()


if __name__ == "__main__":
    main()
