#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""qhupd.service under a real systemd: its socket, reloads with good and bad files, and the watchdog. No VM is needed for these."""

import json
import os
import pathlib
import re
import unittest

from case import keep, main
from daemon import find_program
from pair import wait_for
from prober import ROOT
from systemd_box import SystemdBox
from tracer import TracedThread

UNIT = "qhupd.service"
FAST_WATCHDOG = "[Service]\nWatchdogSec=2s\nRestartSec=100ms\n"


class Service(unittest.TestCase):
    longMessage = True

    @classmethod
    def setUpClass(cls):
        cls.box = box = keep(SystemdBox())
        for program, folder in (("qhupd", "/usr/sbin"), ("qhupd-ctl", "/usr/bin")):
            box.install(find_program(program), f"{folder}/{program}")
        for unit in ("qhupd.service", "qhupd.socket"):
            box.install(ROOT / "systemd" / unit, f"/usr/lib/systemd/system/{unit}")
        for kind in ("sysusers", "tmpfiles"):
            box.install(ROOT / "systemd" / f"qhup.{kind}", f"/usr/lib/{kind}.d/qhup.conf")
            box.run(f"systemd-{kind}", *(["--create"] if kind == "tmpfiles" else []), f"/usr/lib/{kind}.d/qhup.conf")
        box.install(ROOT / "systemd" / "qhupd.catalog", "/usr/lib/systemd/catalog/qhupd.catalog")
        box.run("journalctl", "--update-catalog")
        box.write("/etc/systemd/system/qhupd.service.d/fast.conf", FAST_WATCHDOG)
        box.systemctl("daemon-reload")
        box.systemctl("start", "qhupd.socket")

    def setUp(self):
        self.addCleanup(self.put, None)
        self.box.systemctl("reset-failed", UNIT, check=False)

    def put(self, text):
        """The drop-in of this test; None: none."""
        if text is None:
            self.box.path("/etc/qhupd/qhupd.toml.d/10-test.toml").unlink(missing_ok=True)
        else:
            self.box.write("/etc/qhupd/qhupd.toml.d/10-test.toml", text)

    def ctl(self, *arguments, **options):
        return self.box.run("qhupd-ctl", *arguments, **options)

    def status(self):
        return self.box.show(UNIT, "StatusText")[0]

    def journal(self):
        return self.box.run("journalctl", "--no-pager", "-o", "cat", "-u", UNIT).stdout

    # -- tests

    def test_an_installed_daemon_needs_no_configuration_and_starts_when_somebody_asks(self):
        self.box.systemctl("stop", UNIT)
        self.assertEqual(json.loads(self.ctl("--json", "list").stdout)["vms"], [])
        self.assertEqual(self.box.show(UNIT, "ActiveState", "NRestarts"), ["active", "0"])
        wait_for(lambda: self.status() == "0 VMs, 0 runs in progress", 5, self.status)
        self.assertIn("the configuration is good", self.box.run("qhupd", "--check-config").stdout)

    def test_who_asks_during_a_restart_is_not_turned_away(self):
        self.ctl("version")
        inode = self.box.path("/run/qhupd/qhupd.sock").stat().st_ino
        self.box.systemctl("stop", UNIT)
        self.assertEqual(self.box.path("/run/qhupd/qhupd.sock").stat().st_ino, inode)
        self.box.systemctl("--no-block", "restart", UNIT)
        self.ctl("version")

    def test_the_socket_belongs_to_who_may_act(self):
        facts = self.box.run("stat", "-c", "%a %U %G", "/run/qhupd/qhupd.sock").stdout.split()
        self.assertEqual(facts, ["660", "root", "qhup-admin"])

    def test_a_reload_takes_a_good_file_and_keeps_what_needs_a_restart(self):
        self.ctl("version")
        self.put('parallel = 9\nlog_level = "debug"\n[discovery]\nqmp = ["/run/elsewhere/*"]\n')
        self.box.systemctl("reload", UNIT)
        self.assertIn("the configuration was reloaded", self.journal())
        self.assertIn("parallel stays as it was until qhupd is restarted", self.journal())
        self.assertEqual(self.box.show(UNIT, "ActiveState", "NRestarts"), ["active", "0"])

    def test_a_reload_with_a_bad_file_fails_and_changes_nothing(self):
        for text, words in (
            ("paralel = 3\n", "/etc/qhupd/qhupd.toml.d/10-test.toml:1: unknown key 'paralel'. Did you mean 'parallel'?"),
            ('[[policy]]\nvms = ["*"]\nprobe = ["/no/such"]\n', "10-test.toml:1: the probe /no/such cannot be found"),
        ):
            with self.subTest(text=text):
                self.ctl("version")
                pid = self.box.show(UNIT, "MainPID")
                self.put(text)
                self.assertNotEqual(self.box.systemctl("reload", UNIT, check=False).returncode, 0)
                wait_for(lambda words=words: "the configuration was not reloaded" in self.status() and words in self.status(), 5, self.status)
                self.assertIn(words, self.journal())
                self.assertEqual(self.box.show(UNIT, "ActiveState", "MainPID"), ["active", *pid])
                self.ctl("version")
                said = self.box.run("journalctl", "--no-pager", "-x", "-n", "1", "MESSAGE_ID=3a1f6c0b5d0e4f5e9d1c5b7a1e2f4c02").stdout
                self.assertIn(words, said)
                self.assertIn("goes on with the", said)  # the catalog's words
                self.put(None)
                self.box.systemctl("reload", UNIT)
                wait_for(lambda: "not reloaded" not in self.status(), 5, self.status)

    def test_a_daemon_that_hangs_is_started_again(self):
        self.ctl("version")
        pid, = self.box.show(UNIT, "MainPID")
        self.box.run("kill", "-STOP", pid)
        self.assert_replaced(pid)

    def test_a_daemon_whose_loop_hangs_is_started_again_though_its_other_threads_run(self):
        """Only the loop that does the work may feed the watchdog."""
        self.ctl("list")
        pid, = self.box.show(UNIT, "MainPID")
        loop = self.box.host_pid(pid)
        thread = TracedThread(loop, is_stopped=True)
        self.addCleanup(thread.let_go)
        states = {int(task.name): re.search(r"^State:\t(.)", (task / "status").read_text(), re.M)[1] for task in pathlib.Path(f"/proc/{loop}/task").iterdir()}
        self.assertEqual(states.pop(loop), "t")
        self.assertTrue(states, "it has one thread only")
        self.assertTrue(set(states.values()) <= {"S", "R"}, states)
        self.assert_replaced(pid)

    def assert_replaced(self, pid):
        """The watchdog has the daemon ended, and another one serves."""

        def is_replaced():
            now, state = self.box.show(UNIT, "MainPID", "ActiveState")
            return now not in (pid, "0") and state == "active"

        wait_for(is_replaced, 20, self.journal)
        self.assertEqual(self.box.show(UNIT, "NRestarts"), ["1"])
        self.ctl("version")


if __name__ == "__main__":
    if os.geteuid() != 0:
        print("needs root")
        raise SystemExit(77)
    main()
