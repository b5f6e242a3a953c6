#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""scripts/soak keeps working: a few of its upgrades, the same order from the same seed, and it sees what it looks for."""

import os
import pathlib
import subprocess
import tempfile
import unittest

from case import keep, main, note_figures
from prober import ROOT
from run_intervals import STILL, Interval, RunLog, find_overlap, longest_pause, read_intervals

TRACE = """4711@1795358710.425009:runstate_set current_run_state 6 (prelaunch) new_state 9 (running)
4711@1795358710.858239:runstate_set current_run_state 9 (running) new_state 7 (finish-migrate)
something else that QEMU says
4711@1795358711.000001:runstate_set current_run_state 7 (finish-migrate) new_state 9 (running)
"""


def soak(*arguments):
    command = [ROOT / "scripts" / "soak", "--no-build", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=200)


class Intervals(unittest.TestCase):
    def test_trace_tells_when_a_process_ran_the_guest(self):
        base = 1795358710 * 1_000_000
        first, second = read_intervals(TRACE, 4711)
        self.assertEqual(first, Interval(base + 425009, base + 858239, 4711))
        self.assertEqual(second, Interval(base + 1000001, STILL, 4711))
        self.assertEqual(read_intervals(TRACE, 4711, base + 1500000)[1].end, base + 1500000)

    def test_two_processes_that_ran_the_guest_at_once_are_seen(self):
        one, two = Interval(10, 20, 1), Interval(20, 30, 2)
        self.assertIsNone(find_overlap([two, one]))
        self.assertEqual(find_overlap([one, two, Interval(29, STILL, 1)]), (two, Interval(29, STILL, 1)))
        self.assertIsNotNone(find_overlap([Interval(10, STILL, 1), two]))

    def test_longest_pause_is_the_longest_time_between_two_intervals(self):
        intervals = [Interval(10, 20, 1), Interval(50, 60, 2), Interval(65, STILL, 3)]
        self.assertEqual(longest_pause(intervals), 30)
        self.assertEqual(longest_pause(intervals, since=60), 5)
        self.assertEqual(longest_pause(intervals[:1]), 0)

    def test_log_takes_a_living_process_for_one_that_still_runs_the_guest(self):
        folder = pathlib.Path(keep(tempfile.TemporaryDirectory()))
        log = RunLog(folder)
        (folder / f"run-{os.getpid()}.log").write_text(TRACE)
        later = TRACE.splitlines()[0].replace("1795358710", "1795358720")
        (folder / "run-99999999.log").write_text(later)  # no process has that number
        with self.assertRaisesRegex(AssertionError, "at once"):
            log.check()
        (folder / f"run-{os.getpid()}.log").rename(folder / "run-99999998.log")
        self.assertEqual(len(log.check()), 3)
        log.ended(99999998)  # now is later than all that the traces tell of
        with self.assertRaisesRegex(AssertionError, "at once"):
            log.check()


class Soak(unittest.TestCase):
    longMessage = True

    def test_a_seed_is_an_order(self):
        plan = soak("--plan", "--seed", 5, "--upgrades", 200).stdout
        self.assertEqual(plan, soak("--plan", "--seed", 5, "--upgrades", 200).stdout)
        self.assertNotEqual(plan, soak("--plan", "--seed", 6, "--upgrades", 200).stdout)
        again = soak("--plan", "--seed", 5, "--from", 150, "--upgrades", 1).stdout
        self.assertEqual(again.splitlines()[1], plan.splitlines()[150])
        for fault in ("daemon killed twice", "source stopped", "target killed", "disk hangs", "point target.load"):
            self.assertIn(fault, plan)

    def test_upgrades_with_faults(self):
        done = soak("--seed", 3, "--upgrades", 14, "--firmware", 3, "--linux", 1)
        self.assertEqual(done.returncode, 0, done.stdout[-6000:] + done.stderr)
        self.assertIn("14 upgrades in", done.stdout)
        note_figures("soak", {"said": done.stdout.splitlines()[-1]})


if __name__ == "__main__":
    main()
