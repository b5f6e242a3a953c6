#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""qhupd.service has a user of its own, six capabilities and what is made for it: under a real systemd, with VMs of root and of others."""

import json
import os
import pathlib
import re
import shutil
import unittest

from case import find_qemu, keep, main
from daemon import find_program
from pair import wait_for
from prober import ROOT
from systemd_box import SystemdBox
from unit_guest import UnitGuest

UNIT = "qhupd.service"
CAPABILITIES = {"chown": 0, "dac_override": 1, "setgid": 6, "setuid": 7, "sys_ptrace": 19, "checkpoint_restore": 40}
MOST_EXPOSED = 2.0
HANG = "86399"  # seconds that nothing else here sleeps

CONFIG = """
[discovery]
qmp = ["{shared}/units/*/qmp.sock"]
[deadlines]
pause_budget = "10s"
drain = "3s"
verify = "100ms"
[leases]
frozen = "15s"
[[policy]]
vms = ["*"]
probe = ["/bin/sh", "-c", "test $(id -un) = nobody && ! grep -E '^Cap(Inh|Prm|Eff|Amb):.*[1-9a-f]' /proc/self/status"]
probe_limit = "10s"
[[policy]]
vms = ["hang*"]
probe = ["/bin/sh", "-c", "sleep {hang} & sleep {hang}"]
probe_limit = "1s"
"""


class OwnUser(unittest.TestCase):
    longMessage = True

    @classmethod
    def setUpClass(cls):
        cls.box = box = keep(SystemdBox())
        cls.qemus = {base: cls.install_qemu(base) for base in ("7.2", "10.0")}
        for program, folder in (("qhupd", "/usr/sbin"), ("qhupd-ctl", "/usr/bin")):
            box.install(find_program(program), f"{folder}/{program}")
        for unit in (UNIT, "qhupd.socket", "qhupd-ro.socket"):
            box.install(ROOT / "systemd" / unit, f"/usr/lib/systemd/system/{unit}")
        for kind in ("sysusers", "tmpfiles"):
            box.install(ROOT / "systemd" / f"qhup.{kind}", f"/usr/lib/{kind}.d/qhup.conf")
        box.write("/usr/lib/sysusers.d/vms.conf", "u vm-a -\nu vm-b -\n")
        box.run("systemd-sysusers", "/usr/lib/sysusers.d/qhup.conf", "/usr/lib/sysusers.d/vms.conf")
        box.run("systemd-tmpfiles", "--create", "/usr/lib/tmpfiles.d/qhup.conf")
        cls.uids = {name: cls.uid_of(name) for name in ("root", "qhupd", "vm-a", "vm-b")}
        box.write("/etc/qhupd/qhupd.toml", CONFIG.format(shared=box.shared, hang=HANG))
        for base, binary in cls.qemus.items():
            box.write(f"/etc/qhupd/releases.d/qemu-{base}.toml", f'path = "{binary}"\n')
        box.systemctl("daemon-reload")
        box.systemctl("start", "qhupd.socket", "qhupd-ro.socket", UNIT)

    @classmethod
    def install_qemu(cls, base):
        """Where every user reaches it, unlike a cache in root's home."""
        folder = f"/usr/lib/qemu-{base}"
        shutil.copytree(find_qemu(base).parent.parent, cls.box.path(folder))
        cls.box.run("chmod", "-R", "go=rX", folder)
        return pathlib.Path(folder) / "bin" / "qemu-system-x86_64"

    @classmethod
    def uid_of(cls, name):
        return int(cls.box.run("id", "-u", name).stdout)

    # -- helpers

    def start(self, name, user, base="7.2"):
        """A VM of this user."""
        vm = UnitGuest(self.qemus[base], name=name, folder=self.box.shared / "units" / name).prepare()
        for path in (vm.folder, *vm.folder.iterdir()):
            os.chown(path, self.uids[user], -1)
        vm.folder.chmod(0o700)
        service = f"User={user}\nType=notify\nNotifyAccess=all\nUMask=0077\nExecStart={vm.binary} {' '.join(vm.arguments())}\n"
        self.box.write(f"/etc/systemd/system/{name}.service", f"[Service]\n{service}")
        self.box.systemctl("daemon-reload")
        self.box.systemctl("start", f"{name}.service")
        self.addCleanup(self.box.systemctl, "stop", f"{name}.service", check=False)
        vm.connect()
        self.addCleanup(vm.disconnect)
        vm.check()
        return vm

    def ctl(self, *arguments, status=0):
        done = self.box.run("qhupd-ctl", "--json", *arguments, check=False, timeout=100)
        self.assertEqual(done.returncode, status, f"{arguments}: {done.stdout}{done.stderr}{self.journal()}")
        return json.loads(done.stdout)

    def upgrade(self, vm, base, status=0):
        return self.ctl("upgrade", "--yes", vm.name, "--to", f"qemu-{base}", status=status)["vms"][0]

    def journal(self):
        return self.box.run("journalctl", "--no-pager", "-o", "cat", "-n", "60", check=False).stdout

    def exe_of(self, vm):
        """What the main process of the VM's unit runs, and as whom."""
        pid, state = self.box.show(f"{vm.name}.service", "MainPID", "ActiveState")
        self.assertEqual(state, "active")
        uid = int(self.box.run("stat", "-c", "%u", f"/proc/{pid}").stdout)
        return self.box.run("readlink", f"/proc/{pid}/exe").stdout.strip(), uid

    def owners(self, folder):
        """Of all that is in there, as (user, group)."""
        said = self.box.run("find", folder, "-printf", "%U %G\n").stdout
        return {tuple(map(int, line.split())) for line in said.splitlines()}

    def status_of(self, pid):
        text = self.box.run("cat", f"/proc/{pid}/status").stdout
        return dict(re.findall(r"^(\w+):\s*(.*)$", text, re.MULTILINE))

    def assert_as_before(self, pid):
        """Every thread of the daemon is qhupd with its capabilities, no more and no less."""
        wanted = f"{sum(1 << number for number in CAPABILITIES.values()):016x}"
        for thread in self.box.run("ls", f"/proc/{pid}/task").stdout.split():
            facts = self.status_of(f"{pid}/task/{thread}")
            self.assertEqual(facts["Uid"].split(), [str(self.uids["qhupd"])] * 4)
            for kind in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
                self.assertEqual(facts[kind], wanted, kind)
            self.assertEqual(facts["NoNewPrivs"], "1")

    def main_pid(self):
        return self.box.show(UNIT, "MainPID")[0]

    # -- tests

    def test_it_is_its_own_user_with_six_capabilities_before_and_after_its_work(self):
        pid = self.main_pid()
        self.assert_as_before(pid)
        vm = self.start("plain", "vm-a")
        self.upgrade(vm, "10.0")
        self.assertEqual(self.main_pid(), pid)
        self.assert_as_before(pid)
        self.assertEqual(self.box.run("stat", "-c", "%U", f"/proc/{pid}/maps").stdout.strip(), "qhupd", "it can leave a core")

    def test_little_is_exposed(self):
        said = self.box.run("systemd-analyze", "security", "--no-pager", UNIT).stdout
        figure = float(re.search(r"Overall exposure level for qhupd.service: ([0-9.]+)", said)[1])
        print(f"systemd-analyze security: {figure}")
        self.assertLessEqual(figure, MOST_EXPOSED, said)

    def test_vms_of_root_and_of_others_are_upgraded_and_reverted(self):
        for name, user in (("of-root", "root"), ("of-a", "vm-a"), ("of-b", "vm-b")):
            with self.subTest(user=user):
                vm = self.start(name, user)
                first, _ = self.exe_of(vm)
                said = self.upgrade(vm, "10.0")
                self.assertEqual(said["outcome"], "upgraded", said)
                second, uid = self.exe_of(vm)
                self.assertNotEqual(first, second)
                self.assertEqual(uid, self.uids[user])
                self.assertEqual(self.ctl("revert", "--yes", name)["vms"][0]["outcome"], "upgraded")
                self.assertEqual(self.exe_of(vm)[1], self.uids[user])
                vm.check()
                folders = self.box.run("sh", "-c", "stat -c '%U %a' /run/qhupd/vms/* || true").stdout.split("\n")
                self.assertIn(f"{user} 700", folders)

    def test_what_fails_is_rolled_back(self):
        vm = self.start("back", "vm-b", base="10.0")
        vm.qmp.execute("x-hot-upgrade-fault", point="target.word.before", action="kill")
        self.assertEqual(self.upgrade(vm, "7.2", status=4)["outcome"], "rolled_back")
        vm.check()

    def test_what_is_kept_belongs_to_root(self):
        vm = self.start("keeper", "vm-a")
        self.upgrade(vm, "10.0")
        self.assertTrue(self.kept())
        self.assertEqual({owner for tree in self.kept() for owner in self.owners(tree)}, {(0, 0)})

    def test_who_has_its_uid_alone_writes_nothing_where_root_does_or_configuration_is_read(self):
        """A binary that is asked what it is has this uid, and no capability."""
        for before in ("root", "qhupd"):  # qhupd: as an older package left it
            self.box.run("chown", f"{before}:{before}", "/run/qhupd")
            self.box.systemctl("restart", UNIT)
            for command in ("ln -s /etc/shadow /run/qhupd/planted", "mkdir /run/qhupd/qhupd.toml.d", "rm -f /run/qhupd/qhupd.sock"):
                with self.subTest(before=before, command=command):
                    without = ("setpriv", "--reuid", "qhupd", "--clear-groups", "--inh-caps=-all")
                    done = self.box.run(*without, *command.split(), check=False)
                    self.assertIn("Permission denied", done.stderr)
            self.ctl("list")

    def test_a_library_that_was_replaced_is_kept_as_the_vm_runs_it(self):
        vm = self.start("replaced", "vm-a")
        self.box.run("rm", "-rf", "/var/lib/qhupd/kept")
        self.box.systemctl("restart", UNIT)
        pid = self.box.show("replaced.service", "MainPID")[0]
        library = self.box.run("sh", "-c", f"grep -o '/.*/libpixman-1.so.*' /proc/{pid}/maps | head -n 1").stdout.strip()
        self.box.run("sh", "-c", f"cp -a {library} {library}.new && mv {library}.new {library}")
        self.assertIn(f"{library} (deleted)", self.box.run("cat", f"/proc/{pid}/maps").stdout)
        self.upgrade(vm, "10.0")
        tree, = self.kept()
        self.assertIn("libpixman", self.box.run("ls", f"{tree}/lib").stdout)
        self.assertEqual(self.ctl("revert", "--yes", vm.name)["vms"][0]["outcome"], "upgraded")
        vm.check()

    def test_what_no_vm_needs_is_removed_though_it_is_roots(self):
        self.box.run("rm", "-rf", "/var/lib/qhupd/kept")
        self.box.write("/etc/qhupd/qhupd.toml.d/one.toml", "kept_binaries = 1\n")
        self.addCleanup(self.box.systemctl, "restart", UNIT)
        self.addCleanup(self.box.run, "rm", "/etc/qhupd/qhupd.toml.d/one.toml")
        self.box.systemctl("restart", UNIT)
        trees = []
        for name, there, back in (("needs", "7.2", "10.0"), ("needs-other", "10.0", "7.2")):
            vm = self.start(name, "vm-a", base=there)
            self.upgrade(vm, back)
            trees += self.kept()
            self.box.systemctl("stop", f"{name}.service")
        self.assertEqual(len(set(trees)), 2, f"{trees} {self.journal()}")
        self.assertEqual(self.kept(), trees[1:])

    def kept(self):
        return self.box.run("sh", "-c", "ls -d /var/lib/qhupd/kept/[0-9a-f]* 2>/dev/null || true").stdout.split()

    def test_a_probe_that_hangs_is_ended_with_all_that_it_has_started(self):
        vm = self.start("hang-a", "vm-a")
        said = self.upgrade(vm, "10.0", status=5)
        self.assertEqual(said["code"], "probe_failed", said)
        self.assertIn("did not end within 1000 ms", json.dumps(said))
        wait_for(lambda: self.sleepers() == [], 5, "the probe is ended")
        vm.check()

    def sleepers(self):
        return self.box.run("pgrep", "-fx", f"sleep {HANG}", check=False).stdout.split()

    def test_a_selftest_passes_and_leaves_nothing(self):
        words = ("--from", "qemu-7.2", "--to", "qemu-10.0", "-n", "1")
        self.assertTrue(self.ctl("selftest", *words)["passed"])
        left = lambda: self.box.run("systemctl", "list-units", "--all", "--no-legend", "qhup-selftest-*").stdout
        wait_for(lambda: left() == "", 5, "the unit of the guest is gone")
        self.assertEqual(self.box.run("ls", "/var/lib/qhupd/selftest").stdout, "")

    def test_a_host_on_which_it_was_root_goes_on(self):
        """Everything as the package before it left it: root's, but for a VM's own folder."""
        vm = self.start("older", "vm-b")
        self.upgrade(vm, "10.0")
        sockets = self.box.run("stat", "-c", "%U %G %a %i", "/run/qhupd/qhupd.sock", "/run/qhupd/qhupd-ro.sock").stdout
        self.box.systemctl("stop", UNIT)
        self.box.run("chown", "-R", "root:root", "/var/lib/qhupd")
        self.box.run("chown", "root:root", "/run/qhupd", "/run/qhupd/vms")
        theirs = "/run/qhupd/vms/stranger"
        self.box.run("install", "-d", "-m", "0700", "-o", "vm-a", theirs)
        self.box.run("install", "-o", "vm-a", "-m", "0600", "/dev/null", f"{theirs}/socket")
        self.box.systemctl("start", UNIT)
        self.assertEqual(self.box.run("stat", "-c", "%U %G %a %i", "/run/qhupd/qhupd.sock", "/run/qhupd/qhupd-ro.sock").stdout, sockets)
        self.assertEqual(self.owners(theirs), {(self.uids["vm-a"], 0)})
        self.assertEqual(self.box.run("stat", "-c", "%U", "/run/qhupd", "/var/lib/qhupd/journal.db").stdout.split(), ["root", "qhupd"])
        self.assertEqual({owner for tree in self.kept() for owner in self.owners(tree)}, {(0, 0)})
        self.assertEqual(self.ctl("revert", "--yes", vm.name)["vms"][0]["outcome"], "upgraded")
        vm.check()
        self.box.run("rm", "-r", theirs)

    def test_what_a_daemon_that_was_root_began_is_taken_over(self):
        """It dies while the VM has a standby, and while the guest runs in its new process."""
        for number, (mark, outcomes) in enumerate({"await_pause": {"rolled_back", "refused"}, "verify": {"upgraded"}}.items()):
            with self.subTest(mark=mark):
                vm = self.start(f"taken{number}", "vm-a")
                self.as_root("--fault", f"journal.{mark}.after")
                run = self.ctl("upgrade", "--yes", "--no-wait", "--no-rehearse", vm.name, "--to", "qemu-10.0")["id"]
                wait_for(lambda: self.box.show("by-hand.service", "ActiveState") != ["active"], 30, "the daemon is dead")
                self.box.systemctl("start", UNIT)
                wait_for(lambda run=run: self.outcome_of(run), 60, "an end of the run")
                self.assertIn(self.outcome_of(run), outcomes, self.journal())
                vm.check()
                if self.outcome_of(run) != "upgraded":
                    self.upgrade(vm, "10.0")
                self.assertEqual(self.ctl("revert", "--yes", vm.name)["vms"][0]["outcome"], "upgraded")
                vm.check()

    def outcome_of(self, run):
        done = self.box.run("qhupd-ctl", "--json", "status", run, check=False)  # its status is that of the run
        return json.loads(done.stdout)["vms"][0].get("outcome")

    def test_started_by_root_it_works_as_before(self):
        vm = self.start("by-root", "vm-b")
        self.upgrade(vm, "10.0")
        self.as_root()
        self.assertIn("the configuration is good", self.box.run("qhupd", "--check-config").stdout)
        pid = self.box.show("by-hand.service", "MainPID")[0]
        self.assertEqual(self.status_of(pid)["Uid"].split(), ["0"] * 4)
        self.assertEqual(self.ctl("revert", "--yes", vm.name)["vms"][0]["outcome"], "upgraded")
        self.upgrade(vm, "10.0")
        vm.check()
        self.box.systemctl("stop", "by-hand.service")
        self.box.systemctl("start", UNIT)
        self.assertEqual(self.ctl("revert", "--yes", vm.name)["vms"][0]["outcome"], "upgraded")
        vm.check()

    def as_root(self, *arguments):
        """qhupd without its unit, until the end of the test."""
        self.box.systemctl("stop", "qhupd.socket", "qhupd-ro.socket", UNIT)
        self.box.systemctl("stop", "by-hand.service", check=False)
        self.box.run("systemd-run", "--quiet", "--collect", "--unit=by-hand", "--service-type=notify", "/usr/sbin/qhupd", *arguments)

        def back():
            self.box.systemctl("stop", "by-hand.service", check=False)
            self.box.systemctl("start", "qhupd.socket", "qhupd-ro.socket", UNIT)

        self.addCleanup(back)


if __name__ == "__main__":
    if os.geteuid() != 0:
        print("needs root")
        raise SystemExit(77)
    main()
