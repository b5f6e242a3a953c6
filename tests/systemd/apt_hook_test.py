#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""What apt's hook writes as root, and the line that it prints. Neither VMs nor systemd are needed for these."""

import importlib.machinery
import importlib.util
import pathlib
import subprocess
import tempfile
import unittest

from prober import ROOT


class AptHook(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="qhup-hook-")
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        self.stamp = self.folder / "run" / "stamp"
        self.stamp.parent.mkdir()
        release = self.folder / "usr/lib/qhupd/releases.d/new.toml"
        release.parent.mkdir(parents=True)
        release.write_text('path = "/bin/sh"\n')

    def run_hook(self):
        env = {"PATH": "/usr/bin:/bin", "QHUP_STAMP": str(self.stamp), "QHUP_ROOT": str(self.folder)}
        subprocess.run(["sh", ROOT / "packaging" / "apt-hook"], env=env, check=True, timeout=10)

    def test_it_writes_through_no_link(self):
        victim = self.folder / "victim"
        victim.write_text("precious\n")
        self.stamp.symlink_to(victim)
        self.run_hook()
        self.assertEqual(victim.read_text(), "precious\n")
        self.assertFalse(self.stamp.is_symlink())
        self.assertRegex(self.stamp.read_text(), r"^/bin/sh \d+ \d+\n$")
        self.run_hook()
        self.assertEqual([path.name for path in self.stamp.parent.iterdir()], ["stamp"])

    def test_it_waits_for_no_pipe_that_is_in_its_place(self):
        subprocess.run(["mkfifo", self.stamp], check=True)
        self.run_hook()
        self.assertTrue(self.stamp.is_file())

    def test_its_place_is_root_s(self):
        """Directly in /run, where nobody else makes files."""
        text = (ROOT / "packaging" / "apt-hook").read_text()
        self.assertRegex(text, r"(?m)^stamp=\$\{QHUP_STAMP:-/run/[a-z.-]+\}$")


class Line(unittest.TestCase):
    """The command for VMs whose binaries are of no release any more."""

    @classmethod
    def setUpClass(cls):
        loader = importlib.machinery.SourceFileLoader("check_qhupd", str(ROOT / "packaging" / "check_qhupd"))
        spec = importlib.util.spec_from_loader("check_qhupd", loader)
        cls.check = importlib.util.module_from_spec(spec)
        loader.exec_module(cls.check)

    def command(self, vms, releases, usable=True):
        """`vms`: (name, the release whose binary it ran, whether that is as it was). A release's build id is its name."""
        self.check.build_id_of = lambda path: path
        self.check.binary_of = lambda pid: vms[pid][1]
        listed = [{"name": name, "pid": number, "build_id": ran if is_new else "old"} for number, (name, ran, is_new) in enumerate(vms)]
        known = [{"name": name, "path": name, "usable": usable} for name in releases]
        outdated = self.check.outdated_of(listed, known)
        self.assertEqual([vm["name"] for vm in outdated], [name for name, _, is_new in vms if not is_new])
        return self.check.command_for(outdated, listed, known)

    def test_it_names_the_release_whose_binary_was_replaced(self):
        vms = [("a", "r1", False), ("b", "r1", False), ("c", "r1", True)]
        self.assertEqual(self.command(vms, ["r1", "r2"]), "qhupd-ctl upgrade --all --to r1")

    def test_it_names_the_only_release(self):
        self.assertEqual(self.command([("a", "gone", False), ("b", "r2", True)], ["r2"]), "qhupd-ctl upgrade --all --to r2")

    def test_it_takes_no_vm_from_another_release(self):
        vms = [("a", "r1", False), ("b", "r1", False), ("c", "r2", True)]
        self.assertEqual(self.command(vms, ["r1", "r2"]), "qhupd-ctl upgrade a b --to r1")

    def test_it_is_a_command_for_each_release_if_there_are_several(self):
        vms = [("a", "r1", False), ("b", "r2", False)]
        self.assertEqual(self.command(vms, ["r1", "r2"]), "qhupd-ctl upgrade a --to r1; qhupd-ctl upgrade b --to r2")

    def test_it_leaves_the_choice_where_there_is_one(self):
        self.assertIsNone(self.command([("a", "gone", False)], ["r1", "r2"]))
        many = [(f"a{number}", "r1", False) for number in range(21)]
        self.assertIsNone(self.command([*many, ("c", "r2", True)], ["r1", "r2"]))
        self.assertEqual(self.command(many, ["r1", "r2"]), "qhupd-ctl upgrade --all --to r1")

    def test_whatever_the_names_are_nothing_else_is_run(self):
        vms = [("a;reboot", "r1$(id)", False), ("c", "r2", True)]
        self.assertEqual(self.command(vms, ["r1$(id)", "r2"]), "qhupd-ctl upgrade 'a;reboot' --to 'r1$(id)'")


if __name__ == "__main__":
    unittest.main(verbosity=2)
