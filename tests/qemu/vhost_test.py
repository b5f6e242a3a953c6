#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Devices whose work another process does: a vhost-user back end that hangs or dies never holds the guest up, and vhost
in the kernel is stopped on one side before it is started on the other."""

import contextlib
import os
import pathlib
import signal
import subprocess
import tempfile
import threading
import time

from case import NOISE_MS, PATIENT, QemuTest, find_qemu, main, other, tool
from netrig import NetRig, TcpEcho
from pair import Upgrade, UpgradeFailed, assert_runs_on_one, run_upgrade, wait_for
from preload import find_preload
from processes import end_processes
from qmp import QmpError
from vhost import UdpBridge, free_port

DRAIN_MS = 300
# Between the answer of the back end and the stop of its rings
LATE = ("source.freeze.begin", "slow", 0.4)


class BackEnd:
    """A qemu-storage-daemon that serves a disk over vhost-user."""

    def __init__(self, folder, name="blk0"):
        image, self.name, self.socket = folder / f"{name}.raw", name, folder / f"{name}.sock"
        with open(image, "wb") as file:
            file.truncate(32 << 20)
        command = [tool("qemu-storage-daemon"), "--blockdev", f"driver=file,node-name=image,filename={image}"]
        export = f"type=vhost-user-blk,id=export,node-name=image,writable=on,addr.type=unix,addr.path={self.socket}"
        self.process = subprocess.Popen([*map(str, command), "--export", export])
        wait_for(self.socket.exists, 10, "the back end listens")

    def arguments(self, more=""):
        device = f"vhost-user-blk-pci,chardev={self.name},id={self.name}-dev,num-queues=1"
        return ["-chardev", f"socket,id={self.name},path={self.socket}{more}", "-device", device]

    def plug(self, vm):
        address = {"type": "unix", "data": {"path": str(self.socket)}}
        backend = {"type": "socket", "data": {"addr": address, "server": False}}
        vm.qmp.execute("chardev-add", id=self.name, backend=backend)
        device = {"driver": "vhost-user-blk-pci", "chardev": self.name, "id": f"{self.name}-dev", "num-queues": 1}
        vm.qmp.execute("device_add", device)

    def hang(self):
        self.process.send_signal(signal.SIGSTOP)

    def answer(self):
        self.process.send_signal(signal.SIGCONT)

    def close(self):
        end_processes([self.process.pid], grace=0)
        self.process.wait()


class VhostUser(QemuTest):
    def boot(self, stack, base):
        folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="qhup-vu-")))
        back_end = BackEnd(folder)
        stack.callback(back_end.close)
        parameters = {"disk": "vdb", "disk_rate_kib": 0}
        vm = self.start(base, net=False, stack=stack, extra=back_end.arguments(), parameters=parameters)
        stack.callback(back_end.answer)
        return vm, back_end

    def moves(self, vm):
        self.upgrade(vm, other(vm.base))
        vm.check()

    def fails(self, vm, code, act, fault=None):
        """A switch fails with `code` when act() happens before it or, with `fault`, inside it; the guest runs on."""
        pid = vm.pid()
        with Upgrade(vm, find_qemu(other(vm.base)), faults=[fault] if fault else []) as upgrade:
            upgrade.prepare()
            vm.serial.reset_gap()
            if not fault:
                act()
                time.sleep(0.2)
            switch = upgrade.control.send("hot-upgrade-switch", {"drain-deadline": DRAIN_MS * 1_000_000, "budget": 2 * 10**9})
            if fault:
                time.sleep(fault[2] / 2)
                act()
            vm.serial.wait_count(30, 10)
            with self.assertRaises(QmpError) as caught:
                upgrade.control.wait(switch, 10)
            self.assertEqual(caught.exception.code, code, caught.exception)
            longest = DRAIN_MS + (fault[2] * 1000 if fault else 0) + 250 + NOISE_MS
            self.assertLess(vm.serial.longest_gap_ms, longest)
            with contextlib.suppress(UpgradeFailed):
                upgrade.rollback()
        self.assertEqual(assert_runs_on_one(vm), pid)
        vm.serial.wait_count(10)

    def test_back_end_that_hangs_is_not_waited_for(self):
        for base in ("7.2", "10.0"):
            with contextlib.ExitStack() as stack:
                vm, back_end = self.boot(stack, base)
                # at rate 1 nothing is in flight: the stop of the rings is what hangs
                for rate, fault in ((0, None), (0, LATE), (1, LATE)):
                    with self.subTest(base=base, rate=rate, fault=fault):
                        vm.serial.ask(f"rate disk {rate}", "rate disk .*")
                        self.fails(vm, "drain-timeout", back_end.hang, fault)
                        back_end.answer()
                        vm.check()
                        self.moves(vm)

    def test_back_end_stays_whatever_else_happened_to_the_vm(self):
        with contextlib.ExitStack() as stack:
            folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="qhup-vu-")))
            first, second = BackEnd(folder), BackEnd(folder, "blk1")
            stack.callback(first.close)
            stack.callback(second.close)
            extra, parameters = first.arguments(",reconnect=1"), {"disk": "vdb"}
            vm = self.start("7.2", net=False, stack=stack, extra=extra, parameters=parameters)
            with self.subTest("the guest changed its configuration"):
                vm.serial.ask("cache vdb through", "cache vdb through")
                self.moves(vm)
                self.moves(vm)
            with self.subTest("the VM is paused"):
                vm.qmp.execute("stop")
                self.upgrade(vm, other(vm.base))
                self.assertEqual(vm.qmp.execute("query-status")["status"], "paused")
                vm.qmp.execute("cont")
                vm.serial.wait_count(5)
                vm.check()
                self.moves(vm)
            with self.subTest("a second one was plugged"):
                second.plug(vm)
                self.moves(vm)
                self.moves(vm)
            self.assertEqual([first.process.poll(), second.process.poll()], [None, None])

    def test_back_end_that_connected_to_qemu_stays(self):
        with contextlib.ExitStack() as stack:
            folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="qhup-vu-")))
            net = stack.enter_context(NetRig())
            tap, port, path = net.add_tap(vnet_hdr=False), free_port(), folder / "net.sock"
            bridge = stack.enter_context(UdpBridge(net, tap, port))
            command = [tool("vhost-user-bridge"), "-c", "-u", path, "-l", f"127.0.0.1:{port}", "-r", f"127.0.0.1:{bridge.port}"]
            started = []

            def connect():
                wait_for(path.exists, 20, "QEMU listens")
                time.sleep(0.2)
                started.append(subprocess.Popen([*map(str, command)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))

            thread = threading.Thread(target=connect)
            thread.start()
            stack.callback(lambda: [(process.kill(), process.wait()) for process in started])
            extra = ["-chardev", f"socket,id=vnet0,path={path},server=on", "-netdev", "vhost-user,id=net0,chardev=vnet0"]
            extra += ["-device", f"virtio-net-pci,netdev=net0,mac={tap.mac},romfile=,vectors=0"]
            vm = self.start("7.2", net=False, stack=stack, extra=extra, parameters={"ip": tap.cidr}, disk=None)
            thread.join()
            bridge.begin()
            with TcpEcho(net, tap.guest_ip, timeout=30) as echo:
                for _ in range(2):
                    echo.exchange(os.urandom(20_000))
                    self.moves(vm)
                    echo.exchange(os.urandom(20_000))
            self.assertIsNone(started[0].poll(), "the back end ended")

    def test_back_end_that_dies_ends_the_upgrade_and_not_the_guest(self):
        for base in ("7.2", "10.0"):
            for fault in (None, LATE):
                with self.subTest(base=base, fault=fault), contextlib.ExitStack() as stack:
                    vm, back_end = self.boot(stack, base)
                    vm.serial.ask("rate disk 1", "rate disk .*")
                    self.fails(vm, "stale", back_end.close, fault)


class VhostNet(QemuTest):
    def test_vhost_stops_on_one_side_before_it_starts_on_the_other(self):
        for base, target in (("7.2", "7.2"), ("7.2", "10.0"), ("10.0", "10.0")):
            with self.subTest(f"{base} to {target}"), contextlib.ExitStack() as stack:
                folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="qhup-vn-")))
                log = folder / "calls"
                for name, value in (("LD_PRELOAD", find_preload("vhost_shim.c")), ("VHOST_SHIM_LOG", log)):
                    os.environ[name] = str(value)
                    stack.callback(os.environ.pop, name)
                self.order(stack, base, target, log)

    def order(self, stack, base, target, log):
        tap = self.net().add_tap()
        extra = ["-netdev", f"tap,id=vhost0,ifname={tap.name},script=no,downscript=no,vhost=on"]
        extra += ["-device", f"virtio-net-pci,netdev=vhost0,id=vnic0,mac={tap.mac},romfile="]
        vm = self.start(base, net=False, stack=stack, extra=extra, parameters={"ip": tap.cidr}, disk=None)
        wait_for(lambda: running(calls(log)), 30, "vhost is started")
        source = vm.pid()
        with self.assertRaises(UpgradeFailed) as caught:
            run_upgrade(vm, find_qemu(target), switch=PATIENT)
        self.assertEqual(caught.exception.code, "blocked")
        vm.qmp.execute("x-hot-upgrade-fault", point="allow-untried", action="fail")

        # rolled back
        before = len(calls(log))
        with self.assertRaises(UpgradeFailed):
            run_upgrade(vm, find_qemu(target), switch=PATIENT, faults=[("target.word.before", "kill")])
        vm.qmp.execute("x-hot-upgrade-fault", point="target.word.before", action="none")
        self.assertEqual(assert_runs_on_one(vm), source)
        vm.serial.wait_count(3)
        seen = calls(log)
        self.assertEqual(running(seen), {(source, 0), (source, 1)})
        ours = [(what, a) for pid, _, what, a, _ in seen[before:] if pid == source and what in ("stop", "start")]
        self.assertEqual(ours, [("stop", 0), ("stop", 1), ("start", 0), ("start", 1)])
        self.assertFalse([call for call in seen[before:] if call[0] != source and call[2] in ("stop", "start")])
        self.assert_bases_agree(seen[before:])

        # moved
        before = len(calls(log))
        run_upgrade(vm, find_qemu(target), switch=PATIENT)
        moved = assert_runs_on_one(vm)
        vm.serial.wait_count(3)
        seen = calls(log)
        self.assertEqual(running(seen), {(moved, 0), (moved, 1)})
        new = [what for pid, _, what, _, _ in seen[before:] if pid == moved]
        self.assertEqual(new[:2], ["vhost-net", "owner"], "the target has a device of its own")
        order = [(pid, what) for pid, _, what, _, _ in seen[before:] if what in ("stop", "start")]
        self.assertEqual(order, [(source, "stop")] * 2 + [(moved, "start")] * 2)
        self.assert_bases_agree(seen[before:])

    def assert_bases_agree(self, seen):
        """Each ring starts where it was stopped."""
        stopped = {}
        for _, _, what, ring, base in seen:
            if what == "get-base":
                stopped[ring] = base
            elif what == "set-base":
                self.assertEqual(base, stopped.get(ring), f"ring {ring}")


def calls(log):
    """(pid, descriptor, what, two numbers) of each call that vhost_shim.c saw."""
    if not log.exists():
        return []
    lines = [line.split() for line in log.read_text().splitlines()]
    return [(int(pid), int(fd), what, int(a), int(b)) for pid, fd, what, a, b in lines]


def running(seen):
    """(pid, ring) of what is started; two processes on one ring are an error."""
    started = set()
    for pid, _, what, ring, _ in seen:
        if what == "start":
            if any(r == ring for _, r in started):
                raise AssertionError(f"ring {ring} is started twice")
            started.add((pid, ring))
        elif what == "stop":
            started.discard((pid, ring))
    return started


if __name__ == "__main__":
    main()
