#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""The way back with real guests: a VM returns to the very binary that it ran, also when its package, a library of it and its
firmware are gone from the disk and the daemon was started again in between.
"""

import contextlib
import os
import pathlib
import shutil
import tempfile
import time

from api import judge_all
from case import QemuTest, find_qemu, main
from daemon import Daemon
from fake_host import Terminal
from firmware import FirmwareGuest
from guest import roots_folder
from pair import assert_runs_on_one, wait_for

NOTHING_TO_DO, ROLLED_BACK, NEEDS_OPERATOR, REFUSED = 2, 4, 5, 6
LIBRARY = "libpixman-1.so.0"


class RevertTest(QemuTest):
    def setUp(self):
        super().setUp()
        # a daemon finds all VMs of this process: a guest of another test would be the first of its list
        self.guests = self.enterContext(contextlib.ExitStack())

    def daemon(self, **options):
        # qhupd trusts no binary where others may write, and keeps them below its state_dir
        folder = pathlib.Path(tempfile.mkdtemp(prefix="qhup-reverts-", dir=roots_folder()))
        self.addCleanup(shutil.rmtree, folder, ignore_errors=True)
        daemon = Daemon({"deb12": find_qemu("7.2"), "deb13": find_qemu("10.0")}, folder=folder, **options).start()
        self.addCleanup(daemon.stop)
        return daemon

    def package(self):
        """A QEMU of its own: binary, firmware, and a library that only it uses."""
        folder = pathlib.Path(tempfile.mkdtemp(prefix="qhup-package-", dir=roots_folder()))
        self.addCleanup(shutil.rmtree, folder, ignore_errors=True)
        qemu = find_qemu("7.2")
        folder.chmod(0o755)
        (folder / "bin").mkdir()
        (folder / "lib").mkdir()
        shutil.copy(qemu, folder / "bin" / "qemu-system-x86_64")
        shutil.copytree(qemu.parent.parent / "share", folder / "share", ignore=shutil.ignore_patterns("edk2-*"))
        shutil.copy(pathlib.Path("/usr/lib/x86_64-linux-gnu") / LIBRARY, folder / "lib" / LIBRARY)
        return folder

    def start_from(self, package, name):
        before = os.environ.get("LD_LIBRARY_PATH")
        os.environ["LD_LIBRARY_PATH"] = str(package / "lib")
        try:
            vm = self.guests.enter_context(FirmwareGuest(package / "bin" / "qemu-system-x86_64", name=name))
            vm.wait_ready()
        finally:
            if before is None:
                del os.environ["LD_LIBRARY_PATH"]
            else:
                os.environ["LD_LIBRARY_PATH"] = before
        maps = pathlib.Path(f"/proc/{vm.pid()}/maps").read_text()
        self.assertIn(f"{package}/lib/{LIBRARY}", maps)
        return vm

    def entry(self, daemon, *words, status=0):
        return daemon.json(*words, status=status)["vms"][0]

    def assert_version(self, vm, major):
        assert_runs_on_one(vm)
        vm.check()
        self.assertEqual(vm.qmp.execute("query-version")["qemu"]["major"], major)

    def assert_plan(self, daemon, vm, what, old, new):
        """A person is told which VM would go where and how long it would stand still, and says no."""
        known = len(daemon.json("status")["runs"])
        with Terminal(daemon.command("revert", what), columns=200) as terminal:
            terminal.wait_for("Go on?")
            text = terminal.screen.text()
            terminal.type("n\n")
            self.assertEqual(terminal.wait(), NOTHING_TO_DO)
        self.assertRegex(text, "Revert 1 VM, while it runs")
        self.assertRegex(text, rf"(?m)^ +{vm.name} +{old}\S* +{new}\S* +about [0-9.]+ m?s$")
        self.assertRegex(text, r"Longest pause to expect: about [0-9.]+ m?s\.")
        self.assertEqual(len(daemon.json("status")["runs"]), known)

    def test_vm_goes_back_to_a_binary_whose_package_is_gone_after_a_restart_of_the_daemon(self):
        package = self.package()
        vm = self.start_from(package, "back")
        daemon = self.daemon(top="kept_binaries = 4")
        first = daemon.json("list")["vms"][0]["build_id"]
        self.assertEqual(self.entry(daemon, "upgrade", "--yes", vm.name, "--to", "deb13")["outcome"], "upgraded")
        self.assert_version(vm, 10)
        shutil.rmtree(package)
        daemon.kill()
        daemon.start()
        listed = daemon.json("list")["vms"][0]
        self.assertTrue(listed["way_back"]["open"], listed)
        self.assertIn("the way back to 7.2", daemon.ctl("list").stdout)
        self.assert_plan(daemon, vm, vm.name, "10.0", "7.2")
        entry = self.entry(daemon, "revert", "--yes", vm.name)
        self.assertEqual(entry["outcome"], "upgraded", entry)
        self.assert_version(vm, 7)
        listed = daemon.json("list")["vms"][0]
        self.assertEqual(listed["build_id"], first)
        maps = pathlib.Path(f"/proc/{vm.pid()}/maps").read_text()
        self.assertIn(f"{daemon.folder}/state/kept/{first}/lib/{LIBRARY}", maps)
        # and forth again, by the run that brought it back; then as any VM
        run = daemon.json("status")["runs"][0]["id"]
        self.assert_plan(daemon, vm, run, "7.2", "10.0")
        self.assertEqual(self.entry(daemon, "revert", "--yes", run)["outcome"], "upgraded")
        self.assert_version(vm, 10)
        self.assertEqual(self.entry(daemon, "revert", "--yes", vm.name)["outcome"], "upgraded")
        self.assert_version(vm, 7)
        self.assertEqual(self.entry(daemon, "upgrade", "--yes", vm.name, "--to", "deb13")["outcome"], "upgraded")
        self.assert_version(vm, 10)
        words = pathlib.Path(f"/proc/{vm.pid()}/cmdline").read_text().split("\0")
        self.assertNotIn(f"{daemon.folder}/state/kept/{first}/share/qemu", words, "arguments pile up")

    def test_vm_without_a_way_back_is_refused_with_the_reason(self):
        vm = self.start("7.2", stack=self.guests, kind=FirmwareGuest, net=False, name="forth")
        daemon = self.daemon(top="kept_binaries = 0")
        self.assertEqual(self.entry(daemon, "revert", "--yes", vm.name, status=REFUSED)["code"], "no_way_back")
        self.assertEqual(self.entry(daemon, "upgrade", "--yes", vm.name, "--to", "deb13")["outcome"], "upgraded")
        entry = self.entry(daemon, "revert", "--yes", vm.name, status=REFUSED)
        self.assertEqual(entry["code"], "no_way_back")
        self.assertIn("not kept", entry["message"])
        self.assertIn("closed", daemon.ctl("list").stdout)
        self.assert_version(vm, 10)

    def test_vm_that_is_not_well_can_be_reverted_by_its_name_and_by_its_run(self):
        vm = self.start("7.2", stack=self.guests, kind=FirmwareGuest, net=False, name="unwell")
        policy = '[[policy]]\nvms = ["unwell"]\nprobe = ["/bin/sh", "-c", "exit 1"]\n'
        daemon = self.daemon(top="kept_binaries = 4", sections=policy)
        for by_run in (False, True):
            entry = self.entry(daemon, "upgrade", "--yes", vm.name, "--to", "deb13", status=NEEDS_OPERATOR)
            self.assertEqual(entry["code"], "probe_failed", entry)
            way = daemon.json("list")["vms"][0]["way_back"]
            self.assertTrue(way["open"], way)
            # the old process is parked still: the revert ends that upgrade first
            checked = daemon.ctl("check", vm.name, "--to", "deb12", check=False).stdout
            self.assertNotIn("does not answer", checked)
            what = daemon.json("status")["runs"][0]["id"] if by_run else vm.name
            entry = self.entry(daemon, "revert", "--yes", what, status=NEEDS_OPERATOR)  # the probe fails there, too
            self.assertEqual((entry["vm"], entry["code"]), (vm.name, "probe_failed"), entry)
            self.assertEqual(vm.qmp.execute("query-version")["qemu"]["major"], 7)

    def test_way_back_is_rehearsed_in_the_background_and_gives_way(self):
        vm = self.start("7.2", stack=self.guests, kind=FirmwareGuest, net=False, name="twice")
        top = 'kept_binaries = 4\nrehearse = "none"\nrehearse_back = "all"\nrehearse_back_after = "500ms"'
        daemon = self.daemon(top=top)
        self.assertEqual(self.entry(daemon, "upgrade", "--yes", vm.name, "--to", "deb13")["outcome"], "upgraded")
        self.assertEqual(daemon.json("list")["vms"][0]["way_back"]["rehearsed"], "")
        wait_for(lambda: daemon.json("list")["vms"][0]["way_back"]["rehearsed"] == "passed", 20, "the rehearsal")
        self.assertIn("open, as a rehearsal showed", daemon.ctl("list").stdout)
        runs = [run for run in daemon.json("status")["runs"] if run["kind"] == "way_back"]
        self.assertEqual(len(runs), 1, runs)
        entry = runs[0]["vms"][0]
        self.assertEqual(entry["outcome"], "rehearsed", entry)
        self.assertGreater(entry["pause_ms"], 0)
        self.assert_version(vm, 10)
        # it is known now: what comes later is what was asked for, and nobody is in its way
        for _ in range(3):
            self.assertEqual(self.entry(daemon, "revert", "--yes", vm.name)["outcome"], "upgraded")
            time.sleep(0.5)
        vm.check()
        # a VM that is held is left alone
        self.assertEqual(daemon.ctl("hold", vm.name, "--reason", "test").returncode, 0)
        before = [run["id"] for run in daemon.json("status")["runs"]]
        time.sleep(1.5)
        self.assertEqual([run["id"] for run in daemon.json("status")["runs"]], before)
        judged = judge_all(daemon.socket)["runs"]
        ended = {(run["kind"], each["outcome"]) for run in judged for each in run["vms"]}
        self.assertLessEqual({("upgrade", "upgraded"), ("revert", "upgraded"), ("way_back", "rehearsed")}, ended)

    def test_vm_whose_probe_fails_is_taken_back_and_runs(self):
        vm = self.start("7.2", stack=self.guests, kind=FirmwareGuest, net=False, name="unwell")
        probe = '[[policy]]\nvms = ["unwell"]\nprobe = ["/bin/sh", "-c", "echo no web server; exit 1"]\n'
        daemon = self.daemon(top="kept_binaries = 4", sections=probe + 'after_failed_verify = "revert"')
        first = daemon.json("list")["vms"][0]["build_id"]
        entry = self.entry(daemon, "upgrade", "--yes", vm.name, "--to", "deb13", status=ROLLED_BACK)
        self.assertEqual(entry["outcome"], "rolled_back", entry)
        self.assertEqual(entry["code"], "probe_failed")
        self.assertEqual(entry["peer_text"], "no web server")
        self.assertEqual([step["phase"] for step in entry["steps"]].count("switch_over"), 2)
        self.assert_version(vm, 7)
        self.assertEqual(daemon.json("list")["vms"][0]["build_id"], first)
        # nothing is left of it: without the policy it moves
        daemon.kill()
        daemon.config.write_text(daemon.config.read_text().replace('"unwell"', '"nobody"'))
        daemon.start()
        self.assertEqual(self.entry(daemon, "upgrade", "--yes", vm.name, "--to", "deb13")["outcome"], "upgraded")
        self.assert_version(vm, 10)


if __name__ == "__main__":
    main()
