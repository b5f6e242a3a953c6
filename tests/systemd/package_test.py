#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""The packages under a real systemd: installed, used untouched, upgraded, removed and purged, while VMs in qhup-vm@ units run on.

The packages are built from what git has of this tree (scripts/build-packages). One test, since each step needs the one before.
"""

import gzip
import json
import os
import pathlib
import re
import shutil
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

        self.assert_manual_and_completions_are_installed()

        older = self.rebuild("qhupd", "0.0.9", self.make_older)
        self.dpkg("--install", older)
        self.assertEqual(self.version_of("qhupd"), "0.0.9")
        vms = [self.start_vm(name) for name in ("one", "two")]
        self.assert_untouched(vms)
        said = self.box.run("/usr/lib/nagios/plugins/check_qhupd")
        self.assertRegex(said.stdout, r"^QHUPD OK - 2 VMs, all on an installed release \| vms=2 outdated=0")

        pids = self.assert_untouched(vms)
        self.assertEqual(self.ctl("upgrade", "one", "--to", NEW, "--yes")["vms"][0]["outcome"], "upgraded")
        self.assertNotEqual(self.assert_untouched(vms)["one"], pids["one"])

        self.explain_in_the_journal()
        self.hang_and_reload(vms)

        self.upgrade_the_package(vms, older)
        self.replace_a_qemu(vms)
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

    def upgrade_the_package(self, vms, older):
        """From the older one to this one, back, and there again: guests, what the administrator wrote and what was asked for stay."""
        toml = self.box.path("/etc/qhupd/qhupd.toml")
        text = toml.read_text()
        self.assertIn("of an older version", text)
        mine = "parallel = 3\n" + text
        toml.write_text(mine)
        self.ctl("hold", "two", "--reason", "not now")
        pids = self.assert_untouched(vms)
        this = [self.deb("qhupd"), self.deb(f"qhupd-{NEW}")]
        for version, debs, description in (("0.1.0", this, "Hot upgrade of QEMU under running VMs"), ("0.0.9", [older], "An older version"), ("0.1.0", this, "")):
            with self.subTest(to=version):
                daemon = self.main_pid()
                said = self.dpkg("--force-confdef", "--force-confold", "--install", *debs)
                self.assertNotRegex(re.sub(r"warning: downgrading .*", "", said.stdout + said.stderr), "(?i)could not|fail|refus|error|warning")
                self.assertEqual(self.version_of("qhupd"), version)
                self.assertNotEqual(self.main_pid(), daemon, "the daemon is still the one before")
                states = self.box.run("systemctl", "is-active", "qhupd.service", "qhupd.socket", "qhupd-ro.socket").stdout.split()
                self.assertEqual(states, ["active"] * 3)
                told, reload = self.box.show("qhupd.service", "Description", "NeedDaemonReload")
                self.assertEqual((told, reload), (description or told, "no"))
                self.assertEqual(toml.read_text(), mine)
                self.assertIn("parallel = 3  # /etc/qhupd/qhupd.toml:", self.box.run("qhupd", "--print-config").stdout)
                self.assertIn("kept_binaries = 4  # /etc/qhupd/qhupd.toml.d/", self.box.run("qhupd", "--print-config").stdout)
                self.assert_untouched(vms, pids)
                listed = {vm["name"]: vm for vm in self.ctl("list")["vms"]}
                self.assertEqual(listed["two"]["hold"]["reason"], "not now")
                self.assertTrue([entry for entry in self.ctl("history", "one")["history"] if entry["action"] == "vm_ended"])
        theirs = toml.with_name("qhupd.toml.dpkg-dist").read_text()
        self.assertNotIn("of an older version", theirs)
        self.assertIn("Every key with its default", theirs)
        self.assertEqual(self.box.run("stat", "-c", "%U", "/run/qhupd").stdout, "root\n")  # the older one gave it away
        self.ctl("unhold", "two")

    def make_older(self, folder):
        """What an older version had otherwise: the text of a conffile, a unit, and one file less."""
        toml = folder / "etc/qhupd/qhupd.toml"
        toml.write_text("# This is of an older version.\n" + toml.read_text())
        unit = folder / "lib/systemd/system/qhupd.service"
        text = re.sub(r"(?m)^Description=.*", "Description=An older version", unit.read_text())
        unit.write_text(text.replace("-o root -g root", "-o qhupd -g qhupd"))
        tmpfiles = folder / "usr/lib/tmpfiles.d/qhupd.conf"
        tmpfiles.write_text(re.sub(r"(?m)^(d /run/qhupd +0711) root root", r"\1 qhupd qhupd", tmpfiles.read_text()))
        (folder / "usr/share/doc/qhupd/first-upgrade.md").unlink()

    def rebuild(self, package, version, change):
        """The package with another version, after change(folder); returns its file."""
        folder = self.box.folder / f"{package}-{version}"
        subprocess.run(["dpkg-deb", "--raw-extract", self.deb(package), folder], check=True)
        control = folder / "DEBIAN/control"
        control.write_text(re.sub(r"(?m)^Version: .*", f"Version: {version}", control.read_text()))
        change(folder)
        deb = self.box.shared / f"{package}_{version}_amd64.deb"
        subprocess.run(["dpkg-deb", "-Zgzip", "-z1", "--root-owner-group", "--build", folder, deb], check=True, stdout=subprocess.DEVNULL)
        shutil.rmtree(folder)
        return str(deb)

    def version_of(self, package):
        return self.box.run("dpkg-query", "--show", "--showformat", "${Version}", package).stdout

    def apt(self, *arguments):
        """Returns what was on the screen, and apt's hook's lines of it."""
        words = ("env", "DEBIAN_FRONTEND=noninteractive", "sh", "-c", 'exec apt-get -q -y "$@" 2>&1', "apt-get")
        said = self.box.run(*words, *arguments, timeout=200).stdout
        return said, [line for line in said.splitlines() if "old QEMU" in line]

    def replace_a_qemu(self, vms):
        """apt puts another build of the QEMU that VM two runs in its place, says so, and what it says can be pasted."""

        def give_another_build_id(folder):
            binary = folder / f"usr/lib/qhupd/{OLD}/bin/qemu-system-x86_64"
            data = bytearray(binary.read_bytes())
            at = data.index(b"\4\0\0\0\x14\0\0\0\3\0\0\0GNU\0") + 16
            data[at : at + 20] = bytes(range(20))
            binary.write_bytes(data)

        newer = self.rebuild(f"qhupd-{OLD}", "0.1.0+1", give_another_build_id)
        pids = self.assert_untouched(vms)
        said, lines = self.apt("install", newer)
        self.assertEqual(self.version_of(f"qhupd-{OLD}"), "0.1.0+1", said)
        self.assertEqual(lines, [f"1 VM still runs the old QEMU: qhupd-ctl upgrade two --to {OLD}"], said)
        self.assert_untouched(vms, pids)
        command = lines[0].split(": ", 1)[1]
        self.box.run("sh", "-c", f"{command} --yes", timeout=100)
        now = self.assert_untouched(vms)
        self.assertEqual((now["one"], now["two"] != pids["two"]), (pids["one"], True))
        said, lines = self.apt("install", "--reinstall", newer)
        self.assertEqual(lines, [], "no VM runs another one")

    def assert_manual_and_completions_are_installed(self):
        built = find_program("qhupd").parent.parent
        manual = sorted(path.name for path in (built / "man").iterdir())
        self.assertEqual(manual, ["qhup-codes.7", "qhupd-ctl.1", "qhupd.8", "qhupd.toml.5"])
        for name in manual:
            page = gzip.decompress(self.box.path(f"/usr/share/man/man{name[-1]}/{name}.gz").read_bytes())
            self.assertEqual(page, (built / "man" / name).read_bytes(), name)
        places = {
            "bash": "/usr/share/bash-completion/completions/qhupd-ctl",
            "zsh": "/usr/share/zsh/vendor-completions/_qhupd-ctl",
            "fish": "/usr/share/fish/vendor_completions.d/qhupd-ctl.fish",
        }
        for shell, place in places.items():
            self.assertEqual(self.box.path(place).read_text(), self.box.run("qhupd-ctl", "completion", shell).stdout, shell)

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
        self.assertEqual(message["QHUPD_PHASE"], "commit")
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
        said, lines = self.apt("remove", f"qhupd-{OLD}")
        self.assertEqual(lines, [f"1 VM still runs the old QEMU: qhupd-ctl upgrade --all --to {NEW}"], said)
        self.assertEqual(self.box.run("/usr/lib/qhupd/apt-hook").stdout, "")
        check = self.box.run("/usr/lib/nagios/plugins/check_qhupd", check=False)
        self.assertEqual((check.returncode, check.stdout.split(" - ")[0]), (1, "QHUPD WARNING"))
        self.assertIn("two", check.stdout)
        command = lines[0].split(": ", 1)[1]
        self.box.run("sh", "-c", f"{command} --yes", timeout=100)
        self.assertEqual(self.box.run("/usr/lib/nagios/plugins/check_qhupd").returncode, 0)
        self.dpkg("--install", self.deb(f"qhupd-{OLD}"))
        self.assert_untouched(vms)


if __name__ == "__main__":
    if os.geteuid() != 0:
        print("needs root")
        raise SystemExit(77)
    main()
