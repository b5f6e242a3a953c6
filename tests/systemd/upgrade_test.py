#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""VMs in real units of a real systemd, upgraded by qhupd in its real unit: units that can follow do, others are refused."""

import json
import os
import threading
import unittest

from case import find_qemu, keep, main
from daemon import find_program
from pair import wait_for
from prober import ROOT
from systemd_box import SystemdBox
from unit_guest import UnitGuest

CONFIG = """
[discovery]
qmp = ["/run/qhup-vm/*/qmp", "{shared}/units/*/qmp.sock"]
[api]
group = ""
[deadlines]
pause_budget = "10s"
drain = "3s"
verify = "100ms"
[leases]
frozen = "15s"
[[policy]]
vms = ["*"]
probe = ["/bin/sh", "-c", "test $(id -un) = nobody && grep -q 'CapEff:.*0000000000000000' /proc/self/status"]
probe_limit = "10s"
"""


class UnderSystemd(unittest.TestCase):
    longMessage = True

    @classmethod
    def setUpClass(cls):
        qemus = {base: find_qemu(base) for base in ("7.2", "10.0")}
        cls.box = box = keep(SystemdBox(binds={binary.parent.parent for binary in qemus.values()}))
        for program, folder in (("qhupd", "/usr/sbin"), ("qhupd-ctl", "/usr/bin")):
            box.install(find_program(program), f"{folder}/{program}")
        for unit in ("qhupd.service", "qhup-vm@.service"):
            box.install(ROOT / "systemd" / unit, f"/etc/systemd/system/{unit}")
        box.write("/etc/qhupd/qhupd.toml", CONFIG.format(shared=box.shared))
        for base, binary in qemus.items():
            box.write(f"/etc/qhupd/releases.d/qemu-{base}.toml", f'path = "{binary}"\n')
        box.install(ROOT / "systemd" / "qhup.sysusers", "/usr/lib/sysusers.d/qhup.conf")
        box.run("systemd-sysusers", "/usr/lib/sysusers.d/qhup.conf")
        box.systemctl("daemon-reload")
        box.systemctl("start", "qhupd.service")

    # -- units

    def start(self, name, service, base="7.2", *, options=(), command="{qemu} {arguments}"):
        """A VM in a unit NAME.service with these lines of [Service]; it is stopped at the end of the test."""
        vm = UnitGuest(find_qemu(base), name=name, folder=self.box.shared / "units" / name, extra=list(options)).prepare()
        words = command.format(qemu=vm.binary, arguments=" ".join(vm.arguments()))
        self.box.write(f"/etc/systemd/system/{name}.service", f"[Service]\n{service}\nExecStart={words}\n")
        self.box.systemctl("daemon-reload")
        return self.begin(vm, f"{name}.service")

    def begin(self, vm, unit):
        vm.unit = unit
        self.box.systemctl("start", unit)
        self.addCleanup(self.box.systemctl, "stop", unit, check=False)
        vm.connect()
        self.addCleanup(vm.disconnect)
        self.assert_active(vm)
        return vm

    def upgrade(self, vm, base, status=0):
        """qhupd-ctl upgrade; returns what it says of the VM."""
        done = self.box.run("qhupd-ctl", "--json", "upgrade", "--yes", vm.name, "--to", f"qemu-{base}", check=False, timeout=100)
        self.assertEqual(done.returncode, status, f"{done.stdout}{done.stderr}{self.box.log()}")
        return json.loads(done.stdout)["vms"][0]

    def assert_active(self, vm):
        """The unit is active, was never restarted, and its main process is the one that runs the VM."""
        pid = vm.pid()
        names = ("MainPID", "ActiveState", "SubState", "NRestarts", "Result")
        wanted = [str(pid), "active", "running", "0", "success"]
        wait_for(lambda: self.box.show(vm.unit, *names) == wanted, 5, f"{wanted}, not {self.box.show(vm.unit, *names)}")
        vm.serial.wait_count(3)
        vm.check()
        return pid

    def assert_follows(self, vm):
        """There, a rollback, and back."""
        first = self.assert_active(vm)
        self.upgrade(vm, "10.0")
        second = self.assert_active(vm)
        vm.qmp.execute("x-hot-upgrade-fault", point="target.word.before", action="kill")
        self.upgrade(vm, "7.2", status=4)
        vm.qmp.execute("x-hot-upgrade-fault", point="target.word.before", action="none")
        self.assertEqual(self.assert_active(vm), second)
        self.upgrade(vm, "7.2")
        third = self.assert_active(vm)
        self.assertEqual(len({first, second, third}), 3)
        self.box.systemctl("stop", vm.unit)
        ended = self.box.show(vm.unit, "ActiveState", "Result", "ExecMainCode", "ExecMainStatus")
        self.assertEqual(ended[:2], ["inactive", "success"], ended)

    def assert_refused(self, vm, kind, words, name=None):
        pid = self.assert_active(vm)
        vm.qmp.drain_events()
        said = self.upgrade(vm, "10.0", status=6)
        found = [blocker for blocker in said["blockers"] if blocker["class"] == kind]
        self.assertTrue(found and words in found[0]["reason"], said["blockers"])
        if name:
            self.assertEqual(found[0]["id"], name)
        self.assertEqual([event for event in vm.qmp.drain_events() if event["event"] == "STOP"], [])
        self.assertEqual(self.assert_active(vm), pid)

    # -- tests

    def test_releases_are_asked_what_they_are_within_the_limits_of_our_unit(self):
        options = ["-device", "igb,id=nic9"]
        vm = self.start("known", "Type=notify\nNotifyAccess=all", base="10.0", options=options)
        done = self.box.run("qhupd-ctl", "--json", "check", vm.name, "--to", "qemu-7.2", check=False)
        ids = {blocker["id"] for blocker in json.loads(done.stdout)["checks"][0]["blockers"]}
        self.assertIn("engine/device/nic9", ids, self.box.run("journalctl", "-b", check=False).stdout)
        self.assertEqual({id for id in ids if id.startswith("engine/")}, {"engine/device/nic9"})

    def test_a_selftest_has_units_of_its_own_and_leaves_none(self):
        """Inside the limits of our unit no QEMU could run: no /dev/kvm, no memory that is written and executed."""
        self.box.run("sh", "-c", "mkdir -p /dev/net && mknod -m 666 /dev/net/tun c 10 200")
        words = ("--from", "qemu-7.2", "--to", "qemu-10.0", "-n", "1")
        units = ("systemctl", "list-units", "--all", "--no-legend", "qhup-selftest-*")
        ended, seen = [], []
        command = ("qhupd-ctl", "--json", "selftest", *words)
        asking = threading.Thread(target=lambda: ended.append(self.box.run(*command, check=False, timeout=100)))
        asking.start()
        while asking.is_alive():
            seen.append(self.box.run(*units).stdout)
        asking.join()
        self.assertEqual(ended[0].returncode, 0, f"{ended[0].stdout}{ended[0].stderr}{self.box.log()}")
        result = json.loads(ended[0].stdout)
        self.assertTrue(result["passed"], ended[0].stdout)
        # The guest with vhost got as far as its tap, in a network that its unit made.
        tried = {each["name"]: each["text"] for each in result["tried"]}
        self.assertEqual((tried["kvm"], tried["vhost"]), ("no /dev/kvm", "no /dev/vhost-net"))
        self.assertTrue(any("running" in listed for listed in seen), seen)
        wait_for(lambda: self.box.run(*units).stdout == "", 5, "the unit of the guest is gone")

    def test_our_own_unit_follows_the_new_process(self):
        vm = UnitGuest(find_qemu("7.2"), name="own", folder=self.box.shared / "own").prepare()
        text = f"QEMU={vm.binary}\nARGS={' '.join(vm.arguments())}\n"
        self.box.write("/etc/qhup-vm/own.conf", text)
        self.assert_follows(self.begin(vm, "qhup-vm@own.service"))
        kept = list(self.box.path("/var/lib/qhupd/kept").glob("[0-9a-f]*/release.toml"))
        self.assertTrue(kept, "the limits of our unit let no binary be kept")

    def test_unit_that_listens_to_its_main_process_only_follows(self):
        self.assert_follows(self.start("main", "Type=notify\nNotifyAccess=main"))

    def test_simple_unit_that_takes_messages_follows(self):
        self.assert_follows(self.start("messages", "Type=simple\nNotifyAccess=all"))

    def test_forking_unit_follows_the_pidfile(self):
        options = ["-daemonize", "-pidfile", "/run/forking.pid"]
        vm = self.start("forking", "Type=forking\nPIDFile=/run/forking.pid", options=options)
        self.assert_follows(vm)
        self.assertFalse(self.box.path("/run/forking.pid").exists())

    def test_unit_with_private_folders_follows(self):
        """A mount namespace of its own, of the same system."""
        self.assert_follows(self.start("private", "Type=notify\nNotifyAccess=all\nProtectSystem=full"))

    def test_units_that_would_end_with_the_old_process_are_refused(self):
        for number, service in enumerate(("Type=simple", "Type=exec", "Type=notify\nNotifyAccess=all")):
            with self.subTest(service=service):
                # the last one: QEMU does not know where to send the message, and somebody else says READY=1
                lost = "NotifyAccess=all" in service
                command = "/bin/sh -c 'systemd-notify --ready; unset NOTIFY_SOCKET; exec {qemu} {arguments}'" if lost else None
                vm = self.start(f"lost{number}", service, **({"command": command} if lost else {}))
                self.assert_refused(vm, "supervisor", "would end the VM", "engine/supervisor")

    def test_forking_unit_without_pidfile_is_refused(self):
        vm = self.start("guess", "Type=forking", options=["-daemonize", "-pidfile", "/run/guess.pid"])
        self.assert_refused(vm, "supervisor", "PIDFile=")

    def test_unit_whose_main_process_is_not_qemu_is_refused(self):
        vm = UnitGuest(find_qemu("7.2"), name="wrapped", folder=self.box.shared / "units" / "wrapped").prepare()
        script = f"#!/bin/sh\n{vm.binary} {' '.join(vm.arguments())} &\nwait\n"
        self.box.write("/usr/bin/wrapper", script, mode=0o755)
        self.box.write("/etc/systemd/system/wrapped.service", "[Service]\nType=simple\nExecStart=/usr/bin/wrapper\n")
        self.box.systemctl("daemon-reload")
        self.box.systemctl("start", "wrapped.service")
        self.addCleanup(self.box.systemctl, "stop", "wrapped.service", check=False)
        vm.connect()
        self.addCleanup(vm.disconnect)
        said = self.upgrade(vm, "10.0", status=6)
        self.assertIn("which is not QEMU", said["blockers"][0]["reason"])
        vm.check()

    def test_vm_that_sees_another_system_is_refused(self):
        vm = self.start("other", "Type=notify\nNotifyAccess=all\nTemporaryFileSystem=/etc:ro")
        self.assert_refused(vm, "mount-namespace", "/etc")

    def test_manager_that_is_not_known_is_refused_unless_it_is_trusted(self):
        vm = UnitGuest(find_qemu("7.2"), name="scope", folder=self.box.shared / "units" / "scope").prepare()
        words = [str(vm.binary), *vm.arguments(), "-daemonize"]
        self.box.run("systemd-run", "--scope", "--unit=machine-qemu-scope", *words)
        self.addCleanup(self.box.systemctl, "stop", "machine-qemu-scope.scope", check=False)
        vm.connect()
        self.addCleanup(vm.disconnect)
        said = self.upgrade(vm, "10.0", status=6)
        self.assertIn("trusted_supervisors", said["blockers"][0]["reason"])
        config = CONFIG.format(shared=self.box.shared)
        self.box.write("/etc/qhupd/qhupd.toml", f'trusted_supervisors = ["machine-qemu-*.scope"]\n{config}')
        self.box.systemctl("restart", "qhupd.service")
        self.upgrade(vm, "10.0")
        vm.check()
        self.assertEqual(self.box.show("machine-qemu-scope.scope", "ActiveState"), ["active"])

    def test_limits_of_the_unit_that_leave_no_room_are_refused(self):
        controllers = self.box.path("/sys/fs/cgroup/cgroup.controllers").read_text().split()
        if "pids" not in controllers:
            self.skipTest("this host's control groups of version 2 have no controller pids")
        vm = self.start("tight", "Type=notify\nNotifyAccess=all\nTasksMax=8")
        self.assert_refused(vm, "memory", "pids.max")


if __name__ == "__main__":
    if os.geteuid() != 0:
        print("needs root")
        raise SystemExit(77)
    main()
