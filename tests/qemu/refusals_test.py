#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""What cannot cross is refused with its name and with what to do about it, and the guest is not even paused."""

import contextlib
import os
import pathlib
import subprocess
import tempfile

from case import QemuTest, find_qemu, main, other, tool
from firmware import FirmwareGuest
from pair import Upgrade, UpgradeFailed, assert_runs_on_one, run_upgrade
from qmp import QmpError

# Each: options of the command line, and the blocker (id's beginning, class) that must name it.
AT_START = [
    ({"ram": "private"}, ("ram/", "ram")),
    ({"extra": ["-netdev", "user,id=user0"]}, ("netdev/user0", "netdev")),
    ({"extra": ["-netdev", "socket,id=sock0,udp=127.0.0.1:1,localaddr=127.0.0.1:0"]}, ("netdev/sock0", "netdev")),
    ({"extra": ["-chardev", "msmouse,id=mouse0"]}, ("chardev/mouse0", "chardev")),
    ({"extra": ["-chardev", "ringbuf,id=ring0,size=8M"]}, ("chardev/ring0", "chardev")),
    (
        {"extra": ["-chardev", "socket,id=tn0,host=127.0.0.1,port=0,server=on,wait=off,telnet=on"]},
        ("chardev/tn0", "chardev"),
    ),
    (
        {"extra": ["-chardev", "socket,id=ws0,host=127.0.0.1,port=0,server=on,wait=off,websocket=on"]},
        ("chardev/ws0", "chardev"),
    ),
    (
        {
            "extra": ["-object", "tls-creds-anon,id=tls0,endpoint=server", "-chardev"]
            + ["socket,id=tls1,host=127.0.0.1,port=0,server=on,wait=off,tls-creds=tls0"]
        },
        ("chardev/tls1", "chardev"),
    ),
    ({"extra": ["-sandbox", "on,spawn=deny"]}, ("process", "sandbox")),
    (
        {"extra": ["-object", "tls-creds-anon,id=tls2,endpoint=server"], "vnc": "127.0.0.1:20,to=400,tls-creds=tls2"},
        ("vnc/", "vnc"),
    ),
    ({"extra": ["-device", "ne2k_pci,id=nic9"]}, ("device/nic9", "device")),
    ({"extra": ["-object", "can-bus,id=can0"]}, ("object/can0", "object")),
    ({"extra": ["-device", "edu,id=edu0"]}, ("device/edu0", "device")),
    ({"extra": ["-icount", "shift=auto"]}, ("vm", "icount")),
    ({"machine": "isapc"}, ("vm", "machine")),
    (
        {"extra": ["-drive", "file={folder}/scratch.img,if=none,id=snap0,format=raw,snapshot=on"]},
        ("", "snapshot"),
    ),
]


class BlockersAtStart(QemuTest):
    def test_each_thing_that_cannot_cross_is_named_with_advice(self):
        for base in ("7.2", "10.0"):
            for options, (name, kind) in AT_START:
                with self.subTest(base=base, blocker=kind, options=str(options)), contextlib.ExitStack() as stack:
                    vm = self.begin(base, options, stack)
                    blockers = vm.qmp.execute("query-hot-upgrade")["blockers"]
                    fitting = [b for b in blockers if b["id"].startswith(name) and b["class"] == kind]
                    self.assertTrue(fitting, blockers)
                    self.assertTrue(all(";" in b["reason"] for b in fitting), "a sentence that says what to do")
                    error = self.refused(vm)
                    self.assertEqual(error.code, "blocked")

    def begin(self, base, options, stack):
        vm = FirmwareGuest(find_qemu(base), **{key: value for key, value in options.items() if key == "machine"})
        import tempfile

        vm.folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="qhup-refused-")))
        (vm.folder / "scratch.img").write_bytes(bytes(1 << 20))

        def fill(text):
            return text.replace("{folder}", str(vm.folder))

        vm.extra = [fill(word) for word in options.get("extra", [])]
        vm.ram = options.get("ram", vm.ram)
        vm.vnc = fill(options["vnc"]) if "vnc" in options else vm.vnc
        if vm.machine == "isapc":
            vm.machine_type, vm.ram = "isapc", "isapc"
            vm.arguments = lambda: isapc_arguments(vm)
        stack.callback(vm.stop)
        vm.start()
        return vm

    def refused(self, vm):
        with self.assertRaises(UpgradeFailed) as caught:
            run_upgrade(vm, find_qemu("10.0"))
        assert_runs_on_one(vm)
        return caught.exception


def isapc_arguments(vm):
    """A machine without PCI has none of the devices of the others."""
    arguments = ["-name", vm.name, "-nodefaults", "-no-user-config", "-display", "none", "-machine", "isapc", "-m", "16"]
    arguments += ["-chardev", f"socket,id=serial0,path={vm.serial_path},server=on,wait=off", "-serial", "chardev:serial0"]
    for monitor, path in (("mon0", vm.daemon_qmp_path), ("mon1", vm.test_qmp_path)):
        arguments += ["-chardev", f"socket,id={monitor},path={path},server=on,wait=off"]
        arguments += ["-mon", f"chardev={monitor},mode=control"]
    return arguments


class ChangedSinceStart(QemuTest):
    """A change before prepare crosses (rows/disks.py, rows/hotplug.py) or is a blocker; between prepare and switch each is
    stale."""

    @contextlib.contextmanager
    def guest(self, base):
        with contextlib.ExitStack() as stack:
            vm = self.start(base, kind=FirmwareGuest, net=False, ready=False, stack=stack, machine="q35", extra=self.EXTRA)
            vm.serial.wait_count(1)
            yield vm

    EXTRA = [
        *["-device", "pcie-root-port,id=port0,slot=5", "-device", "virtio-scsi-pci,id=scsi9"],
        *["-device", "scsi-cd,id=cd0,bus=scsi9.0"],
    ]

    def snapshot(self, vm):
        overlay = vm.folder / "overlay.qcow2"
        command = [tool("qemu-img"), "create", "-q", "-f", "qcow2", "-b", vm.disk.path, "-F", "raw", overlay]
        subprocess.run(command, check=True)
        vm.qmp.execute("blockdev-add", {"driver": "qcow2", "node-name": "overlay", "backing": None,
                                        "file": {"driver": "file", "filename": str(overlay)}})  # fmt: skip
        vm.qmp.execute("blockdev-snapshot", node="disk0", overlay="overlay")

    def snapshot_sync(self, vm):
        vm.qmp.execute("blockdev-snapshot-sync", {"node-name": "disk0", "snapshot-file": str(vm.folder / "over.qcow2"),
                                                  "snapshot-node-name": "over", "format": "qcow2"})  # fmt: skip

    def device_add(self, vm):
        vm.qmp.execute("device_add", {"driver": "virtio-rng-pci", "id": "rng9", "rng": "rng0", "bus": "port0"})

    def medium(self, vm):
        iso = vm.folder / "medium.iso"
        iso.write_bytes(bytes(1 << 20))
        vm.qmp.execute("blockdev-add", {"driver": "file", "node-name": "iso-file", "filename": str(iso)})
        vm.qmp.execute("blockdev-add", {"driver": "raw", "node-name": "iso", "file": "iso-file", "read-only": True})
        vm.qmp.execute("blockdev-open-tray", id="cd0", force=True)
        with contextlib.suppress(QmpError):
            vm.qmp.execute("blockdev-remove-medium", id="cd0")
        vm.qmp.execute("blockdev-insert-medium", {"id": "cd0", "node-name": "iso"})
        vm.qmp.execute("blockdev-close-tray", id="cd0")

    def netdev(self, vm):
        vm.qmp.execute("netdev_add", {"type": "user", "id": "late0"})

    def blockdev(self, vm):
        vm.qmp.execute("blockdev-add", {"driver": "null-co", "node-name": "late1"})

    def object(self, vm):
        vm.qmp.execute("object-add", {"qom-type": "rng-builtin", "id": "late2"})

    def chardev(self, vm):
        vm.qmp.execute("chardev-add", {"id": "late3", "backend": {"type": "null", "data": {}}})

    def fdset(self, vm):
        with open("/dev/null", "rb") as file:
            vm.qmp.wait(vm.qmp.send("add-fd", {"fdset-id": 7}, fds=[file.fileno()]))

    BLOCK_GRAPH = ["snapshot_sync", "snapshot", "medium", "blockdev"]
    ADDITIONS = ["device_add", "object", "chardev"]
    BLOCKERS = ["netdev", "fdset"]
    CHANGES = BLOCK_GRAPH + ADDITIONS + BLOCKERS

    def test_addition_before_prepare_crosses(self):
        for base in ("7.2", "10.0"):
            with self.subTest(base=base), self.guest(base) as vm:
                for change in self.ADDITIONS:
                    getattr(self, change)(vm)
                self.upgrade(vm, other(base))
                devices = {entry["name"] for entry in vm.qmp.execute("qom-list", path="/machine/peripheral")}
                self.assertIn("rng9", devices)
                vm.check()

    def test_additions_leave_nothing_more_behind_from_hop_to_hop(self):
        with self.guest("10.0") as vm:
            for change in self.ADDITIONS:
                getattr(self, change)(vm)
            seen = []
            for base in ("7.2", "10.0") * 3:
                self.upgrade(vm, base)
                info = vm.qmp.execute("query-hot-upgrade")
                seen.append((info["argv"][1:], len(os.listdir(f"/proc/{vm.pid()}/fd"))))
            self.assertEqual(seen[1], seen[3])
            self.assertEqual(seen[1], seen[5])

    def test_change_between_switch_and_commit_is_noted(self):
        with self.guest("7.2") as vm:
            with Upgrade(vm, find_qemu("10.0")) as upgrade:
                upgrade.prepare()
                upgrade.switch()
                self.device_add(vm)
                upgrade.commit()
            self.upgrade(vm, "7.2")
            with Upgrade(vm, find_qemu("10.0")) as upgrade:
                upgrade.prepare()
                upgrade.switch()
                vm.qmp.execute("set-action", reboot="shutdown")
                upgrade.commit()
            assert_runs_on_one(vm)
            self.assertEqual(vm.qmp.execute("query-hot-upgrade")["blockers"], [])
            self.upgrade(vm, "10.0")

    def test_addition_that_the_target_cannot_repeat_is_named(self):
        with self.guest("10.0") as vm:
            # only the newer base has it
            vm.qmp.execute("object-add", {"qom-type": "memory-backend-shm", "id": "late4", "size": 1 << 20})
            error = self.assert_refused(vm, "shape-differs", lambda: run_upgrade(vm, find_qemu("7.2")))
            self.assertIn("object 'late4'", error.message)
            self.upgrade(vm, "10.0")

    def test_change_before_prepare_is_a_blocker(self):
        for base in ("7.2", "10.0"):
            for change in self.BLOCKERS:
                with self.subTest(base=base, change=change), self.guest(base) as vm:
                    self.assertEqual(vm.qmp.execute("query-hot-upgrade")["blockers"], [])
                    getattr(self, change)(vm)
                    blockers = vm.qmp.execute("query-hot-upgrade")["blockers"]
                    self.assertTrue(blockers, "not noticed")
                    self.assert_refused(vm, "blocked", lambda vm=vm, base=base: run_upgrade(vm, find_qemu(other(base))))

    def test_change_between_prepare_and_switch_is_stale(self):
        for base in ("7.2", "10.0"):
            for change in self.CHANGES:
                with self.subTest(base=base, change=change), self.guest(base) as vm:

                    def run(vm=vm, base=base, change=change):
                        with Upgrade(vm, find_qemu(other(base))) as upgrade:
                            generation = upgrade.prepare()["generation"]
                            getattr(self, change)(vm)
                            # a descriptor set is no part of the shape, but a reason against crossing
                            self.assertEqual(upgrade.query()["generation"] > generation, change != "fdset")
                            upgrade.switch()

                    self.assert_refused(vm, "stale", run)

    @contextlib.contextmanager
    def guest_with_drives(self):
        """Beside its disk it has a CD-ROM, and a qcow2 disk that may be opened read-only."""
        with contextlib.ExitStack() as stack:
            folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="qhup-test-")))
            (folder / "medium.iso").write_bytes(b"old" + bytes(2045))
            subprocess.run([tool("qemu-img"), "create", "-q", "-f", "qcow2", folder / "base.qcow2", "1M"], check=True)
            extra = [
                *["-device", "virtio-scsi-pci,id=scsi9"],
                *["-drive", f"if=none,id=drive9,media=cdrom,format=raw,file={folder}/medium.iso"],
                *["-device", "scsi-cd,id=cd9,bus=scsi9.0,drive=drive9"],
                *["-blockdev", f"file,node-name=base-file,auto-read-only=on,filename={folder}/base.qcow2"],
                *["-blockdev", "qcow2,node-name=base,file=base-file", "-device", "virtio-blk-pci,drive=base"],
            ]
            vm = self.start("7.2", kind=FirmwareGuest, net=False, ready=False, stack=stack, extra=extra)
            vm.serial.wait_count(1)
            yield vm, folder

    def test_image_that_is_no_longer_what_the_target_has_is_stale(self):
        """Nothing of the graph changes: only which file is open, or how large it is."""
        for change in ("resize", "new file of the same name"):
            with self.subTest(change), self.guest_with_drives() as (vm, folder):

                def run(vm=vm, folder=folder, change=change):
                    with Upgrade(vm, find_qemu("10.0")) as upgrade:
                        upgrade.prepare()
                        if change == "resize":
                            vm.qmp.execute("block_resize", {"node-name": "disk0", "size": 2 << 20})
                        else:
                            (folder / "medium.iso").unlink()
                            (folder / "medium.iso").write_bytes(b"new" + bytes(2045))
                            medium = {"id": "cd9", "filename": str(folder / "medium.iso"), "format": "raw"}
                            vm.qmp.execute("blockdev-change-medium", medium)
                        upgrade.switch()

                error = self.assert_refused(vm, "stale", run)
                self.assertIn("disk", error.message)

    def test_block_job_while_an_upgrade_is_prepared_or_not_committed_gets_its_locks(self):
        """An image that becomes read-only is opened anew, and its old locks must not stay with the other process."""
        with self.guest_with_drives() as (vm, folder):
            with Upgrade(vm, find_qemu("10.0")) as upgrade:
                upgrade.prepare()
                self.snapshot_and_commit(vm, folder / "top.qcow2")
                upgrade.rollback()
            with Upgrade(vm, find_qemu("10.0")) as upgrade:
                upgrade.prepare()
                upgrade.switch()
                self.snapshot_and_commit(vm, folder / "top2.qcow2")
                upgrade.commit()
            vm.check()

    def snapshot_and_commit(self, vm, top):
        node = top.stem
        vm.qmp.execute("blockdev-snapshot-sync", {"node-name": "base", "snapshot-file": str(top),
                                                  "snapshot-node-name": node, "format": "qcow2"})  # fmt: skip
        vm.qmp.execute("block-commit", {"device": node, "top-node": node, "base-node": "base", "job-id": node})
        vm.qmp.wait_event("BLOCK_JOB_READY", 10)
        vm.qmp.execute("block-job-complete", device=node)
        vm.qmp.wait_event("BLOCK_JOB_COMPLETED", 10)

    def test_generation_stays_when_nothing_changes(self):
        with self.guest("10.0") as vm:
            first = vm.qmp.execute("query-hot-upgrade")
            vm.qmp.execute("stop")
            vm.qmp.execute("cont")
            last = vm.qmp.execute("query-hot-upgrade")
            self.assertEqual((first["generation"], first["shape-digest"]), (last["generation"], last["shape-digest"]))

    def test_change_that_is_undone_does_not_block(self):
        with self.guest("7.2") as vm:
            self.object(vm)
            self.chardev(vm)
            vm.qmp.execute("object-del", id="late2")
            vm.qmp.execute("chardev-remove", id="late3")
            self.upgrade(vm, "10.0")
            vm.check()

    def test_run_state_that_is_neither_running_nor_paused_is_refused(self):
        with contextlib.ExitStack() as stack:
            vm = self.start("7.2", kind=FirmwareGuest, net=False, ready=False, stack=stack, extra=["-S"])
            self.assertEqual(vm.qmp.execute("query-status")["status"], "prelaunch")
            with self.assertRaises(UpgradeFailed) as caught:
                run_upgrade(vm, find_qemu("10.0"))
            self.assertEqual(caught.exception.code, "blocked")
            self.assertIn("prelaunch", caught.exception.message)
            vm.qmp.execute("cont")
            vm.serial.wait_count(3)
            self.upgrade(vm, "10.0")


class BadArguments(QemuTest):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.vm = cls.start("10.0", kind=FirmwareGuest, net=False)

    def test_control_folder_that_others_may_enter_is_refused(self):
        folder = self.vm.folder / "open"
        folder.mkdir(exist_ok=True)
        folder.chmod(0o755)
        self.assert_refused(self.vm, "bad-argument", lambda: run_upgrade(self.vm, find_qemu("10.0"), control_dir=folder))

    def test_control_folder_that_is_missing_is_refused(self):
        def run():
            with Upgrade(self.vm, find_qemu("10.0"), control_dir=self.vm.folder / "made") as upgrade:
                upgrade.qmp.execute("query-status")
                upgrade.control_dir.mkdir(mode=0o700)
                upgrade.control_dir.rmdir()
                upgrade.control_dir = self.vm.folder / "a" / "b"
                upgrade.control_dir.parent.mkdir(exist_ok=True)
                upgrade.control_dir.mkdir(mode=0o777)
                upgrade.control_dir.chmod(0o777)
                upgrade.prepare()

        self.assert_refused(self.vm, "bad-argument", run)

    def test_command_line_with_incoming_is_refused(self):
        argv = [str(find_qemu("10.0")), "-incoming", "defer"]
        self.assert_refused(self.vm, "bad-argument", lambda: run_upgrade(self.vm, find_qemu("10.0"), argv=argv))

    def test_names_of_upgrades_that_could_leave_the_folder_are_refused(self):
        for name in ("../x", ".x", "a/b", "", "x" * 65, "a b"):
            with self.subTest(name=name):

                def run(name=name):
                    with Upgrade(self.vm, find_qemu("10.0")) as upgrade:
                        upgrade.name = name
                        upgrade.begin()

                self.assert_refused(self.vm, "bad-argument", run)

    def test_descriptor_that_was_never_sent_is_refused(self):
        with self.assertRaises(QmpError):
            self.vm.qmp.execute("hot-upgrade-prepare", {"upgrade": "x1", "binary": "nobody", "argv": ["qemu"],
                                                        "control-dir": str(self.vm.folder)})  # fmt: skip
        self.assertEqual(self.vm.qmp.execute("query-hot-upgrade")["last-error"]["code"], "bad-argument")
        assert_runs_on_one(self.vm)

    def test_next_upgrade_after_all_that_works(self):
        self.upgrade(self.vm, "7.2")
        self.vm.check()


if __name__ == "__main__":
    main()
