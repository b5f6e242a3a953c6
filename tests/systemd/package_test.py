#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""The packages under a real systemd: installed, used untouched, upgraded, removed and purged, while VMs in qhup-vm@ units run on.

The packages are built from what git has of this tree (scripts/build-packages). One test, since each step needs the one before.
"""

import json
import os
import pathlib
import re
import signal
import subprocess
import unittest

import first_upgrade
from case import keep, main
from daemon import find_program
from pair import wait_for
from prober import ROOT
from serial_watcher import SerialWatcher
from systemd_box import SystemdBox
from unit_guest import UnitGuest

OLD, NEW = "qemu-7.2", "qemu-10.0"

def binary_of(release):
    return pathlib.Path(f"/usr/lib/qhupd/{release}/bin/qemu-system-x86_64")


class Packages(unittest.TestCase):
    longMessage = True

    @classmethod
    def setUpClass(cls):
        command = [ROOT / "scripts" / "build-packages", "--built", find_program("qhupd").parent.parent]
        folder = os.environ.get("QHUP_PACKAGES")  # built already
        if not folder:
            folder = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()[-1]
        cls.debs = pathlib.Path(folder)
        cls.box = keep(SystemdBox(binds=[cls.debs]))
        cls.box.path("/usr/sbin/policy-rc.d").unlink(missing_ok=True)  # of containers: no service is started

    def deb(self, package):
        found = sorted(self.debs.glob(f"{package}_*.deb"))
        self.assertEqual(len(found), 1, f"{package}: {found}")
        return str(found[0])

    def dpkg(self, *arguments):
        return self.box.run("dpkg", *arguments, timeout=180, env={"DEBIAN_FRONTEND": "noninteractive", "PATH": os.environ["PATH"]})

    def start_vm(self, name):
        vm = UnitGuest(binary_of(OLD), name=name, folder=self.box.shared / name).prepare()
        self.box.write(f"/etc/qhup-vm/{name}.conf", f"QEMU={vm.binary}\nARGS={' '.join(vm.arguments())}\n")
        vm.unit = f"qhup-vm@{name}.service"
        self.box.systemctl("start", vm.unit)
        self.addCleanup(self.box.systemctl, "stop", vm.unit, check=False)
        vm.connect()
        self.addCleanup(vm.disconnect)
        return vm

    def ctl(self, *arguments, status=0):
        done = self.box.run("qhupd-ctl", "--json", *arguments, check=False, timeout=100)
        self.assertEqual(done.returncode, status, f"{arguments}: {done.stdout}{done.stderr}{self.box.log()}")
        return json.loads(done.stdout)

    def assert_untouched(self, vms, pids=None):
        """Each guest counts on, in a process that its unit calls the main one; in this process, if it is given."""
        for vm in vms:
            main_pid, state = self.box.show(vm.unit, "MainPID", "ActiveState")
            self.assertEqual(state, "active", vm.name)
            if pids:
                self.assertEqual(int(main_pid), pids[vm.name])
            vm.serial.wait_count(2)
        return {vm.name: int(self.box.show(vm.unit, "MainPID")[0]) for vm in vms}

    def main_pid(self):
        return int(self.box.show("qhupd.service", "MainPID")[0])

    # -- the steps

    def test_guests_outlive_whatever_becomes_of_the_packages(self):
        with self.subTest("lintian has no error"):
            changes = sorted(self.debs.glob("*.changes"))
            said = subprocess.run(["lintian", "--allow-root", "--fail-on", "error", *changes], capture_output=True, text=True, check=False)
            self.assertEqual(said.returncode, 0, said.stdout + said.stderr)

        self.type_what_the_page_says()
        self.assertEqual(self.box.show("qhupd.service", "UnitFileState", "LoadState"), ["enabled", "loaded"])
        self.assertIn("the configuration is good", self.box.run("qhupd", "--check-config").stdout)
        self.assert_named_pages_are_installed()
        releases = self.ctl("releases")["releases"]
        self.assertEqual([(release["name"], release["usable"]) for release in releases], [(NEW, True), (OLD, True)])

        vms = [self.start_vm(name) for name in ("one", "two")]
        self.assert_untouched(vms)
        said = self.box.run("/usr/lib/nagios/plugins/check_qhupd")
        self.assertRegex(said.stdout, r"^QHUPD OK - 2 VMs, all on an installed release \| vms=2 outdated=0")

        pids = self.assert_untouched(vms)
        self.assertEqual(self.ctl("upgrade", "one", "--to", NEW, "--yes")["vms"][0]["outcome"], "upgraded")
        self.assertNotEqual(self.assert_untouched(vms)["one"], pids["one"])

        self.explain_in_the_journal()
        self.hang_and_reload(vms)

        pids = self.assert_untouched(vms)
        daemon = self.main_pid()
        said = self.dpkg("--install", self.deb("qhupd"), self.deb(f"qhupd-{NEW}"))  # as an upgrade of both
        self.assertNotRegex(said.stdout + said.stderr, "(?i)could not|fail|refus|error")
        self.assertNotEqual(self.main_pid(), daemon, "the daemon is still the old one")
        states = self.box.run("systemctl", "is-active", "qhupd.service", "qhupd.socket", "qhupd-ro.socket").stdout.split()
        self.assertEqual(states, ["active"] * 3)
        self.assert_untouched(vms, pids)
        self.ctl("list")

        self.say_what_is_outdated(vms)

        pids = self.assert_untouched(vms)
        self.dpkg("--remove", "qhupd", f"qhupd-{OLD}", f"qhupd-{NEW}")
        self.assert_untouched(vms, pids)
        self.assertFalse(self.box.path("/usr/sbin/qhupd").exists())
        self.assertTrue(self.box.path("/var/lib/qhupd/journal.db").exists())
        self.dpkg("--purge", "qhupd", f"qhupd-{OLD}", f"qhupd-{NEW}")
        self.assert_untouched(vms, pids)
        self.assertFalse(self.box.path("/var/lib/qhupd").exists())
        self.assertEqual(self.box.run("systemctl", "is-active", *(vm.unit for vm in vms)).stdout.split(), ["active", "active"])

    def assert_named_pages_are_installed(self):
        """What programs and pages call docs/… is there, and so is what the unit calls an example."""
        folder = self.box.path("/usr/share/doc/qhupd")
        pages = sorted(folder.glob("*.md"))
        self.assertIn("operations.md", [page.name for page in pages])
        programs = [self.box.path(program) for program in ("/usr/sbin/qhupd", "/usr/bin/qhupd-ctl")]
        named = {}
        for file in [*pages, *programs]:
            for name in re.findall(rb"docs/([a-z-]+(?:/[a-z_-]+)*(?:\.[a-z]+)+)", file.read_bytes()):
                named.setdefault(name.decode(), file.name)
        self.assertIn("openapi.yaml", named)
        missing = {name: by for name, by in named.items() if not (folder / name).is_file()}
        self.assertFalse(missing, "named in these, and not installed")
        self.assertIn("hot-upgrade=on", (folder / "examples" / "vm.conf").read_text())

    def type_what_the_page_says(self):
        """docs/first-upgrade.md: from the packages to an upgraded VM, with at most five commands."""
        commands = first_upgrade.commands_of_page()
        self.assertTrue(1 <= len(commands) <= 5, commands)
        vm = first_upgrade.describe_vm(self.box)
        self.addCleanup(self.box.systemctl, "stop", "qhup-vm@web", check=False)
        watcher = None
        for command in commands:
            said = first_upgrade.type_command(self.box, self.debs, command)
            if command.startswith("systemctl start"):
                watcher = SerialWatcher(vm.serial_path, timeout=20)
                watcher.wait_count(2)
        self.assertIn("web  upgraded, paused for ", said)
        watcher.wait_count(2)
        watcher.expect_end()
        self.box.systemctl("stop", "qhup-vm@web")
        watcher.close()

    def explain_in_the_journal(self):
        """An upgrade is in journald with its fields, and journalctl -x explains it."""
        found = self.box.run("journalctl", "--no-pager", "-o", "json", "QHUPD_VM=one", "QHUPD_OUTCOME=upgraded").stdout.splitlines()
        self.assertTrue(found, self.box.run("journalctl", "--no-pager", "-u", "qhupd.service").stdout)
        message = json.loads(found[-1])
        self.assertGreater(int(message["QHUPD_PAUSE_US"]), 0)
        self.assertTrue(message["QHUPD_RUN"])
        self.assertTrue(message["QHUPD_PHASE"])
        said = self.box.run("journalctl", "--no-pager", "-x", "QHUPD_VM=one", "QHUPD_OUTCOME=upgraded").stdout
        self.assertIn("VM one runs on its new QEMU", said)
        self.assertIn("It stood still", said)

    def hang_and_reload(self, vms):
        pids = self.assert_untouched(vms)
        self.box.write("/etc/systemd/system/qhupd.service.d/fast.conf", "[Service]\nWatchdogSec=2s\nRestartSec=100ms\n")
        self.box.systemctl("daemon-reload")
        self.box.systemctl("restart", "qhupd.service")
        hung = self.main_pid()
        self.box.run("kill", f"-{signal.SIGSTOP.value}", str(hung))
        wait_for(lambda: self.main_pid() not in (0, hung), 20, "a new daemon")
        self.ctl("list")
        self.box.write("/etc/qhupd/qhupd.toml.d/bad.toml", "paralel = 1\n")
        self.assertNotEqual(self.box.systemctl("reload", "qhupd.service", check=False).returncode, 0)
        self.ctl("list")
        self.box.write("/etc/qhupd/qhupd.toml.d/bad.toml", "kept_binaries = 4\n")
        self.box.systemctl("reload", "qhupd.service")
        self.assert_untouched(vms, pids)

    def say_what_is_outdated(self, vms):
        """The package of the QEMU that VM two runs goes away: apt's hook and the check say so, once."""
        self.dpkg("--remove", f"qhupd-{OLD}")
        said = self.box.run("/usr/lib/qhupd/apt-hook").stdout
        self.assertRegex(said, r"^1 VM still runs the old QEMU: qhupd-ctl upgrade --all")
        self.assertEqual(self.box.run("/usr/lib/qhupd/apt-hook").stdout, "")
        check = self.box.run("/usr/lib/nagios/plugins/check_qhupd", check=False)
        self.assertEqual((check.returncode, check.stdout.split(" - ")[0]), (1, "QHUPD WARNING"))
        self.assertIn("two", check.stdout)
        self.assertEqual(self.ctl("upgrade", "--all", "--to", NEW, "--yes")["vms"][-1]["outcome"], "upgraded")
        self.assertEqual(self.box.run("/usr/lib/nagios/plugins/check_qhupd").returncode, 0)
        self.dpkg("--install", self.deb(f"qhupd-{OLD}"))
        self.assert_untouched(vms)


if __name__ == "__main__":
    if os.geteuid() != 0:
        print("needs root")
        raise SystemExit(77)
    main()
