#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""What apt's hook writes as root, and the line that it prints. Neither VMs nor systemd are needed for these."""

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


if __name__ == "__main__":
    unittest.main(verbosity=2)
