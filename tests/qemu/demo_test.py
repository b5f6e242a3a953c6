#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""scripts/demo does what it says, and leaves nothing behind, however it ends."""

import json
import os
import signal
import subprocess
import unittest

from case import main
from prober import ROOT
from processes import processes_naming

FIELDS = ["vm", "from", "to", "outcome", "pause_ms", "total_ms", "network_gap_ms", "packets_lost", "guest_errors"]
FIELDS += ["serial_continuous"]
MOMENTS = (
    ("Three Linux guests", signal.SIGINT),
    ("$ qhupd-ctl list", signal.SIGTERM),
    ("switch_over", signal.SIGINT),
)


class Demo(unittest.TestCase):
    def start(self, *options):
        return subprocess.Popen(
            [ROOT / "scripts" / "demo", "--no-build", "--quick", *options],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        )  # fmt: skip

    def assert_nothing_left(self, before):
        self.assertEqual(leftovers() - before, set())
        self.assertEqual(processes_naming("/qhup-demo-"), [])

    def test_demo_upgrades_three_guests_rolls_a_crash_back_and_says_so(self):
        before = leftovers()
        with self.start("--shell") as demo:
            text, _ = demo.communicate("qhupd-ctl --json upgrade web --to deb12 --yes\n", timeout=250)
        self.assertEqual(demo.returncode, 0, text)
        self.assertRegex(text, r'"outcome": "upgraded",[^}]*"to": "deb12"|"to": "deb12"[^}]*"outcome": "upgraded"')
        result = json.loads((ROOT / "build" / "demo" / "result.json").read_text())
        self.assertEqual(len(result["vms"]), 3)
        for entry in result["vms"]:
            for name in FIELDS:
                self.assertIn(name, entry)
            self.assertEqual(entry["outcome"], "upgraded")
            self.assertEqual((entry["packets_lost"], entry["guest_errors"], entry["serial_continuous"]), (0, 0, True))
        self.assertEqual([entry["outcome"] for entry in result["broken_release"]], ["rolled_back"] * 3)
        self.assert_nothing_left(before)

    def test_demo_that_is_interrupted_anywhere_leaves_nothing(self):
        for line, number in MOMENTS:
            with self.subTest(at=line):
                before = leftovers()
                with self.start() as demo:
                    for text in demo.stdout:
                        if line in text:
                            break
                    # as a terminal does it: to the whole group
                    os.killpg(demo.pid, number)
                    demo.communicate(timeout=60)
                self.assertNotEqual(demo.returncode, 0)
                self.assert_nothing_left(before)


def leftovers():
    """Namespaces and folders of demos."""
    folders = [name for place in ("/run", "/var/lib", "/tmp") for name in os.listdir(place) if name.startswith("qhup-")]
    return {*folders, *(os.listdir("/run/netns") if os.path.isdir("/run/netns") else [])}


if __name__ == "__main__":
    main()
