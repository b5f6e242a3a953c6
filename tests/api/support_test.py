#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""The tests' own daemon, tests/support/daemon.py, sees when qhupd ends badly or a sanitizer complains: what plays qhupd here runs
the real one, and does what a broken one would do.
"""

import os
import pathlib
import signal
import tempfile
import unittest
from unittest import mock

from daemon import Daemon, find_program

RACE = "==================\\nWARNING: ThreadSanitizer: data race (pid=1)"


class SupportTest(unittest.TestCase):
    def end(self, script, act=lambda daemon: None):
        """What stop() says of a qhupd that is this shell script, in which REAL is the real one."""
        with tempfile.TemporaryDirectory() as folder:
            real = find_program("qhupd").resolve()
            program = pathlib.Path(folder) / "qhupd"
            program.write_text("#!/bin/bash\n" + script.replace("REAL", f'"{real}" "$@"') + "\n")
            program.chmod(0o755)
            (program.parent / "qhupd-ctl").symlink_to(find_program("qhupd-ctl").resolve())
            with mock.patch.dict(os.environ, {"QHUP_BIN": folder}):
                daemon = Daemon().start()
                try:
                    act(daemon)
                    daemon.stop()
                except AssertionError as complaint:
                    self.assertFalse(daemon.folder.exists(), "its folder is removed all the same")
                    return str(complaint)
                self.assertFalse(daemon.folder.exists())
                return ""

    def test_a_good_end(self):
        self.assertEqual(self.end("exec REAL"), "")
        self.assertEqual(self.end("exec REAL", lambda daemon: daemon.kill()), "", "a test may kill it")

    def test_a_bad_status(self):
        trapped = "REAL & trap 'kill $!; wait $!; exit 66' TERM; wait $!; wait"
        self.assertIn("qhupd ended with status 66", self.end(trapped))
        crash = lambda daemon: (daemon.process.send_signal(signal.SIGABRT), daemon.process.wait())
        self.assertIn("qhupd ended with status -6", self.end("exec REAL", crash))

    def test_a_report_of_a_sanitizer(self):
        for report in (RACE, "==7==ERROR: AddressSanitizer: heap-use-after-free", "a.cpp:7:1: runtime error: signed integer overflow"):
            said = self.end(f"printf '{report}\\n' >&2; exec REAL")
            self.assertIn("a sanitizer complained about qhupd", said)
            self.assertIn(report.rsplit("\\n", 1)[-1], said)
        killed = self.end(f"printf '{RACE}\\n' >&2; exec REAL", lambda daemon: daemon.kill())
        self.assertIn("data race", killed, "also of one that the test killed")


if __name__ == "__main__":
    unittest.main(verbosity=2)
