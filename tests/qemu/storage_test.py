#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""A disk that stops answering: the guest is not paused for longer than the drain deadline, or than the frozen lease when
it stops answering the target; and when the disk answers again everything goes on and the next upgrade works."""

import contextlib
import fcntl
import json
import os
import pathlib
import signal
import subprocess
import tempfile
import threading
import time

from block import LockProbe, assert_sound, create
from case import NOISE_MS, Disk, Guest, QemuTest, find_qemu, main, note_figures, other, tool
from firmware import FirmwareGuest
from pair import Upgrade, UpgradeFailed, assert_runs_on_one, run_upgrade, wait_for
from preload import find_preload
from processes import end_processes, wait_gone
from qmp import QmpError

DRAIN_MS = 200
LEASE_MS = 1000
# Where the server stops answering: the fault point that is slow there.
WHERE = {
    "before the switch": None,
    "in the pause": "source.flush.done",
    "while the target loads": "target.load.begin",
    "while the target takes over": "target.activate.begin",
}
SLOW_S = 0.2


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
            for where in WHERE:
                with self.subTest(where):
                    self.stuck_once(vm, server, where)
                    self.moves(vm)

    def moves(self, vm):
        self.upgrade(vm, other(vm.base))
        vm.check()

    def stuck_once(self, vm, server, where):
        pid, point = vm.pid(), WHERE[where]
        limits = {"drain-deadline": DRAIN_MS * 1_000_000, "frozen-lease": LEASE_MS * 1_000_000, "budget": 2 * 10**9}
        with Upgrade(vm, find_qemu(other(vm.base)), faults=[(point, "slow", SLOW_S)] if point else []) as upgrade:
            upgrade.prepare()
            if point:
                vm.serial.reset_gap()
                switch = upgrade.control.send("hot-upgrade-switch", limits)
                time.sleep(SLOW_S / 2)
                server.hang()
            else:
                server.hang()
                time.sleep(0.3)  # the guest's writer now waits for the disk
                vm.serial.reset_gap()
                switch = upgrade.control.send("hot-upgrade-switch", limits)
            began = time.monotonic()
            try:
                vm.serial.wait_count(30, 5)
            except TimeoutError:
                info = upgrade.query()
                waits = {key: info.get(key) for key in ("state", "last-error", "rollback-waits-for", "child-pid")}
                processes = [f"{pid}: {state_of(pid)} in {wait_channel(pid)}" for pid in vm.processes()]
                self.fail(f"the guest stands still for 5 s: {waits} {processes}")
            try:
                upgrade.control.wait(switch, 10)
                outcome = "upgraded"  # nothing was in flight at that moment: the disk was not needed
            except QmpError as error:
                outcome = error.code
            took = time.monotonic() - began
            state = upgrade.query()["state"]
            print(f"    {where}: {outcome}, {state}, longest gap {vm.serial.longest_gap_ms:.0f} ms")
            longest = LEASE_MS if outcome == "lease-expired" else DRAIN_MS + (SLOW_S * 1000 if point else 0)
            self.assertLess(vm.serial.longest_gap_ms, longest + 250 + NOISE_MS)
            self.assertLess(took, 3)
            if not point:
                self.assertEqual(outcome, "drain-timeout", "images were flushed to a server that hangs")
            if outcome == "drain-timeout":
                self.assertEqual(state, "prepared")
            elif outcome != "upgraded":
                self.assertEqual(outcome, "lease-expired")
                # a target that hangs in the kernel cannot be reaped before the disk answers
                self.assertIn(state, ("none", "rolling-back"))
            vm.serial.wait_count(20)  # while the disk is still stuck, the rest of the guest runs
            if state == "rolling-back":
                info = upgrade.query()
                self.assertEqual(info["run-state"], "running")
                self.assertIn(str(info["child-pid"]), info["rollback-waits-for"])
            server.answer()
            if outcome == "upgraded":
                upgrade.commit()
                vm.base = other(vm.base)
            elif state == "prepared":
                upgrade.rollback()
            else:
                wait_for(lambda: upgrade.query()["state"] == "none", 5, "the target has ended")
        self.assertEqual(assert_runs_on_one(vm) == pid, outcome != "upgraded")
        if point:
            vm.qmp.execute("x-hot-upgrade-fault", point=point, action="none")
        passes = vm.stat()["disk_passes"]
        wait_for(lambda: vm.stat()["disk_passes"] > passes, 30, "the guest's disk goes on")
        vm.check()

    def test_rollback_of_a_standby_that_hangs_in_the_kernel_is_answered_at_once(self):
        if not os.path.exists("/dev/fuse"):
            self.skipTest("no /dev/fuse")
        with contextlib.ExitStack() as stack:
            folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="qhup-storage-")))
            server, options = self.fuse(folder)
            stack.callback(server.close)
            vm = self.start("7.2", stack=stack, parameters={"disk_rate_kib": 0}, **options)
            stack.callback(server.answer)
            server.hang()
            time.sleep(1.5)  # what the kernel knows of the file is forgotten
            vm.serial.reset_gap()
            with Upgrade(vm, find_qemu("10.0")) as upgrade:
                upgrade.begin()
                wait_for(lambda: state_of(upgrade.query().get("child-pid") or os.getpid()) == "D", 30, "the target hangs")
                began = time.monotonic()
                upgrade.rollback()
                self.assertLess(time.monotonic() - began, 1)
                self.assertEqual(upgrade.query()["state"], "rolling-back")
                upgrade.rollback()  # once more: the same answer
                self.assertLess(vm.serial.longest_gap_ms, NOISE_MS)
                server.answer()
                wait_for(lambda: upgrade.query()["state"] == "none", 5, "the target has ended")
            self.moves(vm)

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


class Locks(QemuTest):
    def test_image_is_locked_at_every_moment_of_upgrades_and_rollbacks(self):
        with tempfile.NamedTemporaryFile() as nobodys:
            self.assertEqual(LockProbe(nobodys.name).look(), fcntl.F_UNLCK, "the probe sees locks that are not there")
        for kind in ("raw", "qcow2"):
            with self.subTest(kind), contextlib.ExitStack() as stack:
                vm = self.start("7.2", stack=stack, disk=Disk(kind))
                with LockProbe(vm.disk.path) as probe:
                    for base in ("10.0", "7.2", "7.2", "10.0"):
                        self.upgrade(vm, base)
                        with Upgrade(vm, find_qemu(base), faults=[("target.activate.end", "fail")]) as upgrade:
                            upgrade.prepare()
                            with self.assertRaises(UpgradeFailed):
                                upgrade.switch()
                        wait_for(lambda vm=vm: vm.qmp.execute("query-hot-upgrade")["state"] == "none", 5, "none")
                        vm.qmp.execute("x-hot-upgrade-fault", point="target.activate.end", action="none")
                note_figures(f"lock of {kind}", {"looks": probe.looks, "free": probe.free})
                self.assertGreater(probe.looks, 1000)
                self.assertEqual(probe.free, 0, "an outsider could have taken the image")
                vm.check()
                # who opens it as QEMU does is refused
                tool_says = subprocess.run(
                    [tool("qemu-img"), "resize", "-f", kind, vm.disk.path, "+1M"], capture_output=True, text=True
                )
                self.assertNotEqual(tool_says.returncode, 0)
                self.assertIn("lock", tool_says.stderr)


class Queues(QemuTest):
    def test_guest_whose_requests_wait_for_their_limits_is_stopped_in_time(self):
        """Some requests wait for seconds: as long as the limits say, the drain deadline would never hold."""
        for extra in ([], ["-object", "iothread,id=io0"]):
            with self.subTest(iothread=bool(extra)), contextlib.ExitStack() as stack:
                device = ",iothread=io0" if extra else ""
                parameters = {"disk_threads": 4, "disk_rate_kib": 0}
                vm = self.start(
                    "7.2", stack=stack, extra=extra, parameters=parameters, disk=Disk("raw", device_options=device)
                )
                for base in ("7.2", "10.0", "10.0"):
                    self.limit(vm, 2)
                    time.sleep(1)
                    with Upgrade(vm, find_qemu(base)) as upgrade:
                        upgrade.prepare()
                        timings = upgrade.switch(drain_deadline=400, budget=3000, frozen_lease=4000)
                        upgrade.commit()
                    vm.base = base
                    assert_runs_on_one(vm)
                    self.assertLess(timings["drain"], 400e6)
                    self.limit(vm, 0)
                    passes = vm.stat()["disk_passes"]
                    wait_for(lambda vm=vm, passes=passes: vm.stat()["disk_passes"] > passes, 60, "the disk goes on")
                    vm.check()

    def limit(self, vm, iops):
        limits = dict.fromkeys(("bps", "bps_rd", "bps_wr", "iops_rd", "iops_wr"), 0)
        path = "/machine/peripheral/disk0-dev/virtio-backend"
        vm.qmp.execute("block_set_io_throttle", {**limits, "id": path, "iops": iops})

    def test_queues_of_one_disk_in_several_iothreads_cross(self):
        """Only 10.0 has them: the way to 7.2 is refused by name."""
        device = {"driver": "virtio-blk-pci", "drive": "disk9", "id": "vq0", "num-queues": 4}
        device["iothread-vq-mapping"] = [{"iothread": "io0"}, {"iothread": "io1"}]
        with contextlib.ExitStack() as stack:
            folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="qhup-storage-")))
            path = create(folder / "disk9.qcow2")
            stack.callback(assert_sound, path)
            extra = ["-object", "iothread,id=io0", "-object", "iothread,id=io1", "-device", json.dumps(device)]
            extra += ["-blockdev", f"driver=qcow2,node-name=disk9,file.driver=file,file.filename={path}"]
            vm = self.start("10.0", stack=stack, vcpus=2, extra=extra, parameters={"disk": "all:2", "disk_mib": 4})
            self.upgrade(vm, "10.0")
            vm.check()
            error = self.assert_refused(vm, ("shape-differs", "target-died"), lambda: run_upgrade(vm, find_qemu("7.2")))
            self.assertIn("iothread-vq-mapping", error.message + error.stderr)

    def test_key_of_an_encrypted_image_is_not_derived_inside_the_pause(self):
        """That takes as long as the image says: here a second of a quiet machine, and more of a busy one."""
        with contextlib.ExitStack() as stack:
            folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="qhup-storage-")))
            secret = ["--object", "secret,id=key,data=x", "-o", "encrypt.format=luks,encrypt.key-secret=key"]
            path = create(folder / "slow.qcow2", options=[*secret, "-o", "encrypt.iter-time=1000"])
            image = f"driver=qcow2,node-name=crypt0,encrypt.format=luks,encrypt.key-secret=key,file.filename={path}"
            extra = ["-object", "secret,id=key,data=x", "-blockdev", f"{image},file.driver=file"]
            extra += ["-device", "virtio-blk-pci,drive=crypt0"]
            vm = self.start("7.2", stack=stack, kind=FirmwareGuest, net=False, extra=extra)
            for base in ("7.2", "10.0", "10.0"):
                timings = self.upgrade(vm, base)
                self.assertLess(timings["activate"], 300e6)


class PersistentMemory(QemuTest):
    """No block driver knows of its flush: a thread calls fsync, and its answer is lost with a process that hands over before."""

    def test_flush_of_virtio_pmem_is_waited_for(self):
        with contextlib.ExitStack() as stack:
            folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="qhup-storage-")))
            memory = folder / "memory.pmem"
            with open(memory, "wb") as file:
                file.truncate(64 << 20)
            for name, value in (("LD_PRELOAD", find_preload("held_fsync.c")), ("HELD_FSYNC_FILE", memory.suffix)):
                os.environ[name] = str(value)
                stack.callback(os.environ.pop, name)
            extra = ["-m", "256,slots=2,maxmem=1G", "-device", "virtio-pmem-pci,memdev=pm0"]
            extra += ["-object", f"memory-backend-file,id=pm0,size=64M,share=on,mem-path={memory}"]
            parameters = {"module": "virtio_pmem", "disk": "/dev/pmem0", "disk_rate_kib": 0}
            vm = self.start("7.2", stack=stack, net=False, extra=extra, parameters=parameters)
            for base in ("7.2", "10.0", "10.0", "7.2"):
                with self.subTest(f"{vm.base} to {base}"):
                    self.given_up(vm, base, memory)
                    self.waited_for(vm, base, memory)

    def given_up(self, vm, base, memory):
        """A flush that takes longer than we wait."""
        with Upgrade(vm, find_qemu(base)) as upgrade:
            upgrade.prepare()
            with held_flush(memory), self.assertRaises(UpgradeFailed) as caught:
                upgrade.switch(drain_deadline=30, budget=3000, frozen_lease=4000)
            upgrade.rollback()
        self.assertEqual(caught.exception.code, "drain-timeout")
        self.goes_on(vm)

    def waited_for(self, vm, base, memory):
        """A flush that ends while we wait."""
        with Upgrade(vm, find_qemu(base)) as upgrade:
            upgrade.prepare()
            with held_flush(memory) as hold:
                end = threading.Timer(0.3, hold.unlink)
                end.start()
                upgrade.switch(drain_deadline=2000, budget=3000, frozen_lease=4000)
                self.assertFalse(hold.exists(), "the switch was done before the flush")
                end.join()
            upgrade.commit()
        vm.base = base
        assert_runs_on_one(vm)
        self.goes_on(vm)

    def goes_on(self, vm):
        batches = vm.batches()["pmem0"]
        wait_for(lambda: vm.batches()["pmem0"] >= batches + 2, 30, "the guest's flushes are answered")
        vm.check()


@contextlib.contextmanager
def held_flush(memory):
    """Entered with a flush of the file under way, which waits while the file that is given exists: see held_fsync.c."""
    hold, held = memory.with_name(memory.name + ".hold"), memory.with_name(memory.name + ".held")
    held.unlink(missing_ok=True)
    hold.touch()
    try:
        wait_for(held.exists, 30, "the guest flushes")
        yield hold
    finally:
        hold.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
