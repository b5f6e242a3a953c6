#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""A disk that stops answering: the guest is not paused for longer than the drain deadline, and when the disk answers
again everything goes on and the next upgrade works."""

import contextlib
import os
import pathlib
import signal
import subprocess
import tempfile
import time

from case import NOISE_MS, Disk, Guest, QemuTest, find_qemu, known_defect, main, other, tool
from pair import Upgrade, UpgradeFailed, assert_runs_on_one, wait_for
from processes import end_processes, wait_gone
from qmp import QmpError

DRAIN_MS = 200


class Server:
    """A storage server that can be stopped in its tracks."""

    def __init__(self, command, ready):
        self.process = subprocess.Popen([str(word) for word in command])
        try:
            wait_for(lambda: ready() or self.process.poll() is not None, 10, f"{command[0]} is ready")
            if self.process.poll() is not None:
                raise RuntimeError(f"{command} ended with {self.process.returncode}")
        except BaseException:
            end_processes([self.process.pid], grace=0)
            raise

    def hang(self):
        self.process.send_signal(signal.SIGSTOP)
        wait_for(lambda: state_of(self.process.pid) == "T", 5, "the server stops")

    def answer(self):
        self.process.send_signal(signal.SIGCONT)

    def close(self):
        self.answer()
        self.process.terminate()
        if not wait_gone(self.process.pid, 5):
            self.process.kill()
        self.process.wait()


def state_of(pid):
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rsplit(")", 1)[1].split()[0]


def wait_channel(pid):
    """Where in the kernel the main thread waits."""
    with open(f"/proc/{pid}/wchan") as file:
        return file.read() or "?"


class NbdGuest(Guest):
    """A Guest whose disk's `path` is the socket of an NBD server."""

    def _disk_arguments(self):
        nbd = f"driver=nbd,node-name=disk0-file,server.type=unix,server.path={self.disk.path},export=disk"
        arguments = ["-blockdev", nbd, "-blockdev", "driver=raw,node-name=disk0,file=disk0-file"]
        return arguments + ["-device", "virtio-blk-pci,drive=disk0,id=disk0-dev"]


class StuckDisk(QemuTest):
    def nbd(self, folder):
        """A disk that qemu-nbd serves."""
        socket = folder / "nbd.sock"
        image = folder / "served.raw"
        image.write_bytes(bytes(64 << 20))
        server = Server(
            [tool("qemu-nbd"), "-t", "-f", "raw", "-k", socket, "-e", "4", "-x", "disk", image], socket.exists
        )
        return server, {"kind": NbdGuest, "disk": Disk("raw", path=socket)}

    def fuse(self, folder):
        """A disk in a file that a FUSE server serves."""
        image = folder / "served.raw"
        image.write_bytes(bytes(64 << 20))
        mounted = folder / "mounted.raw"
        mounted.write_bytes(b"")
        command = [
            *[tool("qemu-storage-daemon"), "--blockdev", f"file,node-name=image,filename={image}"],
            *["--export", f"fuse,id=export,node-name=image,mountpoint={mounted},writable=on,growable=off,allow-other=off"],
        ]
        server = Server(command, lambda: os.path.ismount(mounted) and mounted.stat().st_size == 64 << 20)
        return server, {"disk": Disk("raw", path=mounted)}

    def test_nbd_disk_that_stops_answering_before_and_inside_the_freeze(self):
        self.stuck(self.nbd)

    @known_defect(2)
    def test_fuse_file_that_stops_answering_before_and_inside_the_freeze(self):
        if not os.path.exists("/dev/fuse"):
            self.skipTest("no /dev/fuse")
        self.stuck(self.fuse)

    def stuck(self, make):
        with contextlib.ExitStack() as stack:
            folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="qhup-storage-")))
            server, options = make(folder)
            stack.callback(server.close)
            # the disk writer must be the only one that a stuck disk stops
            vm = self.start("7.2", stack=stack, vcpus=2, parameters={"disk_rate_kib": 0}, **options)
            stack.callback(server.answer)
            self.moves(vm)
            for where in ("before the switch", "in the pause"):
                with self.subTest(where):
                    self.stuck_once(vm, server, where)
                    self.moves(vm)

    def moves(self, vm):
        self.upgrade(vm, other(vm.base))
        vm.check()

    def stuck_once(self, vm, server, where):
        pid = vm.pid()
        faults = [("source.flush.done", "slow", 0.3)] if where == "in the pause" else []
        with Upgrade(vm, find_qemu(other(vm.base)), faults=faults) as upgrade:
            upgrade.prepare()
            if where == "in the pause":
                switch = upgrade.control.send("hot-upgrade-switch", {"drain-deadline": DRAIN_MS * 1_000_000})
                time.sleep(0.1)
                server.hang()
            else:
                server.hang()
                time.sleep(0.3)  # the guest's writer now waits for the disk
                switch = upgrade.control.send("hot-upgrade-switch", {"drain-deadline": DRAIN_MS * 1_000_000})
            began = time.monotonic()
            vm.serial.reset_gap()
            try:
                vm.serial.wait_count(30, 5)
            except TimeoutError:
                info = upgrade.query()
                waits = {key: info.get(key) for key in ("state", "last-error", "rollback-waits-for", "child-pid")}
                where = [f"{pid}: {state_of(pid)} in {wait_channel(pid)}" for pid in vm.processes()]
                self.fail(f"the guest stands still for 5 s: {waits} {where}")
            try:
                upgrade.control.wait(switch, 10)
                moved = True  # nothing was in flight at that moment: the disk was not needed
            except QmpError as error:
                moved = False
                self.assertEqual(error.code, "drain-timeout", error)
                self.assertEqual(upgrade.query()["state"], "prepared")
            took = time.monotonic() - began
            self.assertTrue(where == "in the pause" or not moved, "images were flushed to a server that hangs")
            vm.serial.wait_count(20)  # while the disk is still stuck, the rest of the guest runs
            self.assertLess(vm.serial.longest_gap_ms, DRAIN_MS + 250 + NOISE_MS)
            self.assertLess(took, 3)
            server.answer()
            if moved:
                upgrade.commit()
                vm.base = other(vm.base)
            else:
                upgrade.rollback()
        self.assertEqual(assert_runs_on_one(vm) == pid, not moved)
        vm.qmp.execute("x-hot-upgrade-fault", point="source.flush.done", action="none")
        passes = vm.stat()["disk_passes"]
        wait_for(lambda: vm.stat()["disk_passes"] > passes, 30, "the guest's disk goes on")
        vm.check()

    def test_stuck_disk_does_not_stop_the_answers_of_qmp(self):
        with contextlib.ExitStack() as stack:
            folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="qhup-storage-")))
            server, options = self.nbd(folder)
            stack.callback(server.close)
            vm = self.start("10.0", stack=stack, parameters={"disk_rate_kib": 0}, **options)
            stack.callback(server.answer)
            server.hang()
            time.sleep(0.3)
            for _ in range(3):
                began = time.monotonic()
                vm.qmp.execute("query-hot-upgrade")
                self.assertLess(time.monotonic() - began, 1)
            with Upgrade(vm, find_qemu("10.0"), lease_s=5) as upgrade:
                # whether a standby can be built without the disk is the target's business: QMP answers either way
                with contextlib.suppress(UpgradeFailed):
                    upgrade.prepare()
                began = time.monotonic()
                vm.qmp.execute("query-hot-upgrade")
                self.assertLess(time.monotonic() - began, 1)
                with contextlib.suppress(UpgradeFailed):
                    upgrade.rollback()
            server.answer()
            assert_runs_on_one(vm)
            vm.check()
            self.upgrade(vm, "7.2")
            vm.check()


if __name__ == "__main__":
    main()
