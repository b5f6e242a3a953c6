#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""qhupd-ctl in front of a person and inside a script: what it asks, shows and leaves alone."""

import os
import subprocess
import tempfile
import time
import unittest

from daemon import find_program
from fake_host import FakeHost, Terminal

BLOCKED = {"vm": {"blockers": [{"id": "chardev/serial0", "class": "chardev", "reason": "Use a pty."}]}}
SLOW = {"vm": {"switch_time_ms": 1500}}
VERY_SLOW = {"vm": {"switch_time_ms": 4000}}  # long enough for two others on a busy host
SANITIZED = bool(os.environ.get("QHUP_SANITIZED"))  # programs that start slowly


def crowding():
    """How much longer everything takes because of others: 1 on a host that has nothing else to do."""
    began, used = time.perf_counter(), time.process_time()
    while time.process_time() - used < 0.03:
        pass
    return max(1.0, (time.perf_counter() - began) / 0.03)


class Confirmation(unittest.TestCase):
    def test_the_plan_is_shown_and_a_yes_begins(self):
        with FakeHost(2, scripts={1: BLOCKED}, top='rehearse = "first"') as host:
            with Terminal(host.command("upgrade", "vm0", "vm1", "--to", "new")) as terminal:
                terminal.wait_for("Go on? [y/N]")
                shown = terminal.screen.text()
                self.assertIn("Upgrade 1 VM to release new, while it runs:", shown)
                self.assertIn("vm0  7.2.22  new  not measured yet", shown)
                self.assertIn("chardev/serial0: Use a pty.", shown)
                self.assertIn("Longest pause to expect: not known", shown)
                words = " ".join(shown.split())
                self.assertIn("longer than 300.0 ms is given up", words)
                self.assertIn("vm0 is paused once more before, for a rehearsal", words)
                self.assertIn("After the run the way back is rehearsed in the background", words)
                self.assertEqual(host.newest_run(), "")
                terminal.type("y\n")
                self.assertEqual(terminal.wait(), 6, terminal.screen.text())
                self.assertIn("upgraded", terminal.screen.text())

    def test_anything_but_yes_does_nothing(self):
        with FakeHost(1) as host:
            for answer in ("n\n", "\n", "\x04"):
                for words in (("upgrade", "vm0", "--to", "new"), ("rehearse", "--all", "--to", "new")):
                    with Terminal(host.command(*words)) as terminal:
                        terminal.wait_for("Go on?")
                        terminal.type(answer)
                        self.assertEqual(terminal.wait(), 2)
                        self.assertIn("Nothing was done.", terminal.screen.text())
            self.assertEqual(host.newest_run(), "")

    def test_the_pause_of_the_last_time_is_expected_and_a_revert_has_a_plan(self):
        with FakeHost(1) as host:
            self.assertEqual(host.daemon.ctl("rehearse", "--yes", "vm0", "--to", "new").returncode, 0)
            with Terminal(host.command("upgrade", "vm0", "--to", "new")) as terminal:
                terminal.wait_for("Go on?")
                self.assertRegex(terminal.screen.text(), r"Longest pause to expect: about [0-9.]+ ms\.")
                terminal.type("y\n")
                self.assertEqual(terminal.wait(), 0)
            with Terminal(host.command("revert", "vm0")) as terminal:
                status = terminal.wait()  # no binary is kept, so nobody is asked
                self.assertIn("Not touched", terminal.screen.text())
                self.assertEqual(status, 6, terminal.screen.text())

    def test_where_nobody_can_be_asked_it_prints_the_command_and_does_nothing(self):
        with FakeHost(1) as host:
            for words in (["upgrade", "vm0", "--to", "new"], ["rehearse", "--all", "--to", "new"], ["revert", "vm0"]):
                done = host.daemon.ctl(*words, check=False)
                self.assertEqual(done.returncode, 64)
                self.assertIn(f"qhupd-ctl --socket {host.daemon.socket} {' '.join(words)} --yes\n", done.stderr)
            document = host.daemon.json("upgrade", "--all", "--to", "new", status=64)
            self.assertEqual(document["code"], "confirmation_needed")
            self.assertEqual(host.newest_run(), "")
            # the printed command is the one to type
            line = next(line for line in done.stderr.splitlines() if line.strip().endswith("--yes")).strip()
            self.assertEqual(subprocess.run(f"{host.command()[0]} {line.split(' ', 1)[1]}", shell=True, capture_output=True).returncode, 6)

    def test_a_dry_run_and_an_unknown_release_ask_nothing(self):
        with FakeHost(1) as host:
            with Terminal(host.command("upgrade", "--all", "--to", "new", "--dry-run")) as terminal:
                self.assertEqual(terminal.wait(), 0)
                self.assertNotIn("Go on?", terminal.screen.text())
            with Terminal(host.command("upgrade", "--all", "--to", "nwe")) as terminal:
                self.assertEqual(terminal.wait(), 3)
                self.assertIn("Did you mean 'new'?", terminal.screen.text())


class Progress(unittest.TestCase):
    def follow(self, host, *words, **options):
        terminal = Terminal(host.command("upgrade", "--all", "--to", "new", "--yes", *words), **options)
        with terminal:
            self.assertEqual(terminal.wait(), 0, terminal.screen.text())
        return terminal

    def test_a_terminal_has_a_line_a_vm_that_is_drawn_again_ten_times_a_second_at_most(self):
        for columns in (80, 40):
            with FakeHost(3, scripts={0: VERY_SLOW}, patient=True, top="pause_slots = 3") as host:
                words = host.command("upgrade", "--all", "--to", "new", "--yes")
                with Terminal(words, columns=columns) as terminal:
                    terminal.wait_for("paused, handed over")
                    terminal.wait_for("2 of 3 VMs done")
                    shown = terminal.screen.lines()
                    for name in ("vm0", "vm1", "vm2"):
                        self.assertEqual(sum(name in line for line in shown), 1, shown)
                    self.assertEqual(terminal.wait(), 0)
                draws = [when for when, text in terminal.frames if "\x1b[K" in text]
                self.assertLess(len(draws), 10 * (draws[-1] - draws[0]) + 3)  # the first and the last one, and one read in two parts
                # at the end the lines are gone, and the table stands there
                self.assertNotIn("VMs done", terminal.screen.text())
                self.assertIn("OUTCOME", terminal.screen.text())
                self.assertTrue(all(len(line) <= columns for line in terminal.screen.lines()))

    def test_live_lines_are_on_standard_error_and_the_table_alone_on_standard_output(self):
        with FakeHost(2, scripts={0: SLOW}, patient=True) as host, tempfile.TemporaryFile("w+") as out:
            terminal = self.follow(host, out=out)
            self.assertIn(" of 2 VMs done", terminal.raw)
            self.assertNotIn("OUTCOME", terminal.raw)
            out.seek(0)
            table = out.read()
            self.assertEqual([line.split()[0] for line in table.splitlines()[:3]], ["VM", "vm0", "vm1"])
            self.assertNotIn("\x1b", table)
            self.assertNotIn("VMs done", table)

    def test_thirty_vms_fit_on_a_small_terminal(self):
        with FakeHost(30) as host:
            terminal = self.follow(host, columns=80, rows=12)
            self.assertIn("… and ", terminal.raw)
            self.assertEqual(sum("upgraded" in line for line in terminal.screen.lines()), 30)

    def test_what_is_no_terminal_gets_a_line_for_each_change(self):
        with FakeHost(2) as host:
            done = host.daemon.ctl("upgrade", "--all", "--to", "new", "--yes")
            self.assertNotIn("\x1b", done.stderr + done.stdout)
            self.assertRegex(done.stderr, r"(?m)^ +[0-9.]+ s  vm1  prepare$")
            self.assertTrue(done.stderr.startswith("Upgrading all VMs to new …\n"))

    def test_dumb_terminals_no_color_and_the_options_are_obeyed(self):
        with FakeHost(1) as host:
            self.assertIn("\x1b[32m", self.follow(host).raw)
            again = ("upgrade", "--all", "--to", "new", "--yes")
            for environment, words in (
                ({"TERM": "dumb"}, ()), ({"NO_COLOR": "1"}, ("--progress", "plain")), ({}, ("--progress", "none", "--color", "never")),
            ):
                with Terminal(host.command(*again, *words), environment=environment) as terminal:
                    self.assertEqual(terminal.wait(), 2)
                    self.assertNotIn("\x1b", terminal.raw)
            quiet = host.daemon.ctl("--progress", "none", *again, check=False)
            self.assertEqual(quiet.stderr, "")
            self.assertIn("\x1b[2munchanged", host.daemon.ctl("--color", "always", *again, check=False).stdout)

    def test_something_is_said_within_200_ms(self):
        with FakeHost(1) as host:
            fastest = []
            crowded = crowding()
            for words in (("upgrade", "--all", "--to", "new", "--yes"), ("upgrade", "--all", "--to", "new")):
                times = []
                for _ in range(5):
                    with Terminal(host.command(*words)) as terminal:
                        terminal.wait()
                        times.append(terminal.first_output)
                fastest.append(min(times))
            limit = 1.0 if SANITIZED else 0.2
            self.assertLess(max(fastest), limit * max(crowded, crowding()))


    def test_a_version_is_said_within_15_ms(self):
        for name in ("qhupd-ctl", "qhupd"):
            crowded, times = crowding(), []
            for _ in range(15):
                began = time.perf_counter()
                said = subprocess.run([find_program(name), "--version"], stdout=subprocess.PIPE, check=True, close_fds=False).stdout
                times.append(time.perf_counter() - began)
                self.assertRegex(said, rb"^qhupd(-ctl)? [0-9]+\.[0-9]+\.[0-9]+\n$")
            limit = 0.3 if SANITIZED else 0.015
            self.assertLess(sorted(times)[7], limit * max(crowded, crowding()), f"{name}: {times}")


class Waiting(unittest.TestCase):
    def test_ctrl_c_and_a_timeout_leave_the_run_alone(self):
        with FakeHost(1, scripts={0: SLOW}, patient=True) as host:
            with Terminal(host.command("upgrade", "vm0", "--to", "new", "--yes")) as terminal:
                terminal.wait_for("paused, handed over")
                terminal.interrupt()
                self.assertEqual(terminal.wait(), 130)
                run = host.newest_run()
                self.assertIn(f"qhupd-ctl status {run}", terminal.screen.text())
            done = host.daemon.ctl("status", run, "--timeout", "1s", check=False)
            self.assertIn(done.returncode, (0, 130))
            self.assertEqual(host.daemon.ctl("status", run).returncode, 0)
            self.assertEqual(host.daemon.json("status", run)["vms"][0]["outcome"], "upgraded")

    def test_no_wait_says_the_run_and_goes(self):
        with FakeHost(1, scripts={0: SLOW}, patient=True) as host:
            done = host.daemon.ctl("upgrade", "vm0", "--to", "new", "--yes", "--no-wait")
            run = host.newest_run()
            self.assertEqual(done.stdout, run + "\n")
            self.assertEqual(host.daemon.json("status", run, "--once")["state"], "running")
            timed = host.daemon.ctl("status", run, "--timeout", "1s", check=False)
            self.assertEqual(timed.returncode, 130, timed.stderr)
            self.assertEqual(host.daemon.ctl("status", run).returncode, 0)


if __name__ == "__main__":
    unittest.main(verbosity=2)
