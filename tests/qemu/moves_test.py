#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest moves from one QEMU to another, and nothing of it or of its clients notices but a short pause."""

import contextlib
import pathlib
import socket
import tempfile
import threading
import time

from case import PATIENT, Disk, NetRig, QemuTest, find_qemu, in_ms, main, note_figures, other
from firmware import FirmwareGuest
from netrig import TcpEcho
from pair import Upgrade, UpgradeFailed, assert_runs_on_one, run_upgrade, sockets_in, wait_for, wait_sockets_gone
from prober import Prober

# Every pair of QEMUs, and every value of the other columns with either QEMU as source and as target.
COVERING = [
    # from, to, machine, bus, format, vcpus, mode, ram
    ("7.2", "10.0", "pc", "virtio-blk", "qcow2", 2, "load", "hot-upgrade"),
    ("7.2", "10.0", "q35", "virtio-scsi", "raw", 4, "load", "memfd"),
    ("7.2", "7.2", "q35", "virtio-blk", "raw", 1, "idle", "hot-upgrade"),
    ("10.0", "10.0", "pc", "virtio-scsi", "qcow2", 3, "load", "memfd"),
    ("10.0", "7.2", "q35", "virtio-scsi", "qcow2", 2, "idle", "hot-upgrade"),
    ("10.0", "7.2", "pc", "virtio-blk", "raw", 4, "load", "memfd"),
]


class EchoStream(threading.Thread):
    """A TCP stream to the guest that never rests; whatever breaks it is in `error`."""

    def __init__(self, net, host):
        super().__init__(name="echo", daemon=True)
        self._echo = TcpEcho(net, host)
        self._ending = threading.Event()
        self.error = None
        self.exchanges = 0
        self.start()

    def run(self):
        try:
            while not self._ending.is_set():
                self._echo.exchange(b"stream %d " % self.exchanges * 50)
                self.exchanges += 1
        except (OSError, AssertionError) as error:
            self.error = error

    def finish(self):
        self._ending.set()
        self.join(20)
        self._echo.close()
        if self.error is not None or self.is_alive():
            raise AssertionError(f"the TCP stream broke after {self.exchanges} exchanges: {self.error}")
        return self.exchanges


def vnc_banner(path, timeout=5.0):
    """Connects as a VNC client; returns the socket and what the server said first."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.settimeout(timeout)
    sock.connect(str(path))
    return sock, sock.recv(12)


class GuestMoves(QemuTest):
    def test_guest_of_every_shape_moves_between_every_pair_and_loses_nothing(self):
        for source, target, machine, bus, form, vcpus, mode, ram in COVERING:
            name = f"{source} to {target}, {machine}, {bus}, {form}, {vcpus} vCPUs, {mode}, {ram}"
            with self.subTest(name):
                self.move_there_and_back(name, source, target, machine, Disk(form, bus), vcpus, mode, ram)

    def move_there_and_back(self, name, source, target, machine, disk, vcpus, mode, ram):
        with NetRig() as net:
            options = {"machine": machine, "disk": disk, "vcpus": vcpus, "mode": mode, "ram": ram}
            with self.started(source, net, **options) as vm:
                stream = EchoStream(net, vm.tap.guest_ip)
                with Prober(net, vm.tap.guest_ip) as prober:
                    vm.serial.wait_count(20)
                    vm.serial.reset_gap()
                    timings = self.upgrade(vm, target)
                    vm.serial.wait_count(20)
                    gap = vm.serial.longest_gap_ms
                    self.upgrade(vm, source)
                    vm.serial.wait_count(20)
                    result = prober.finish()
                exchanges = stream.finish()
                vm.serial.ping()
                vm.check()
                note_figures(name, {**in_ms(timings), "serial_gap": round(gap, 1), "lost": result["lost"]})
                for figure in ("lost", "duplicated", "corrupted", "reordered"):
                    self.assertEqual(result[figure], 0, result)
                self.assertGreater(exchanges, 3)

    def started(self, base, net, **options):
        from case import Guest, find_qemu

        class Started(Guest):
            def __enter__(self):
                super().__enter__()
                self.base = base
                self.wait_ready()
                return self

        return Started(find_qemu(base), net=net, **options)

    def test_ten_hops_leave_the_guest_as_after_none(self):
        vm = self.start("7.2", vcpus=2, mode="load")
        first = vm.qmp.execute("query-hot-upgrade")
        pauses = []
        for _ in range(10):
            pauses.append(self.upgrade(vm, other(vm.base))["pause"])
        last = vm.qmp.execute("query-hot-upgrade")
        self.assertEqual(first["shape-digest"], last["shape-digest"])
        self.assertEqual(first["argv"][1:], last["argv"][1:])
        self.assertEqual([d["id"] for d in first["descriptors"]], [d["id"] for d in last["descriptors"]])
        vm.check()
        wait_sockets_gone(vm)
        note_figures("ten hops", {"pauses": [round(pause / 1e6, 1) for pause in pauses]})

    def test_eight_guests_move_at_once(self):
        vms = [self.start("7.2", memory_mib=160, ready=False) for _ in range(8)]
        for vm in vms:
            vm.wait_ready(180)
        failures, pauses = [], []

        def move(vm):
            try:
                pauses.append(self.upgrade(vm, "10.0"))
            except Exception as error:  # noqa: BLE001 - reported below
                failures.append(f"{vm.folder}: {error}")

        threads = [threading.Thread(target=move, args=(vm,)) for vm in vms]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(failures, [])
        for vm in vms:
            vm.check()
        note_figures("eight at once", {"pauses": sorted(round(p["pause"] / 1e6, 1) for p in pauses)})


class OnlyNew(QemuTest):
    """What only the newer base has."""

    def test_ram_in_posix_shared_memory_stays_where_it_is(self):
        extra = ["-object", "memory-backend-shm,id=ram0,size=64M", "-machine", "memory-backend=ram0"]
        with contextlib.ExitStack() as stack:
            vm = self.start("10.0", kind=FirmwareGuest, net=False, stack=stack, ram="private", extra=extra)
            for _ in range(2):
                self.upgrade(vm, "10.0")
                vm.check()


class LiveMigration(QemuTest):
    """The other way to move a VM still works, before and after this one."""

    def test_vm_that_came_by_live_migration_is_upgraded_and_an_upgraded_one_migrates_away(self):
        with contextlib.ExitStack() as stack:
            vm = self.start("7.2", kind=FirmwareGuest, net=False, stack=stack)
            for incoming, base in (("unix", "10.0"), ("defer", "7.2")):
                self.upgrade(vm, "10.0")
                vm = self.migrate(vm, incoming, stack)
                for target in ("10.0", base):
                    self.upgrade(vm, target)
                    count = vm.serial.count
                    wait_for(lambda vm=vm, count=count: vm.serial.count > count + 5, 10, "the guest counts")
                    vm.serial.check()

    def migrate(self, vm, incoming, stack):
        """Live migration to a new QEMU of the same version; returns the VM that runs now."""
        folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="qm-")))
        uri = f"unix:{folder}/migration"
        extra = ["-incoming", uri if incoming == "unix" else "defer"]
        there = self.start(vm.base, kind=FirmwareGuest, net=False, stack=stack, ready=False, extra=extra)
        if incoming == "defer":
            there.qmp.execute("migrate-incoming", uri=uri)
        wait_for((folder / "migration").exists, 30, "the other QEMU listens")
        vm.qmp.execute("migrate", uri=uri)
        wait_for(lambda: vm.qmp.execute("query-migrate")["status"] not in ("setup", "active", "device"), 60, "the migration's end")
        told = vm.qmp.execute("query-migrate")
        self.assertEqual(told["status"], "completed", told)
        wait_for(lambda: there.qmp.execute("query-status")["status"] == "running", 10, "the guest runs there")
        self.assertGreater(vm.serial.count, 0)
        wait_for(lambda: there.serial.count > vm.serial.count, 10, "the counter goes on from where it was")
        self.assertEqual(vm.qmp.execute("query-status")["status"], "postmigrate")
        self.assertIn("run-state", [b["class"] for b in vm.qmp.execute("query-hot-upgrade")["blockers"]])
        vm.serial.expect_end()
        return there


class End(QemuTest):
    def test_vm_that_ends_after_upgrades_removes_what_it_would_have_removed_without(self):
        left = {}
        for hops in ([], ["10.0"], ["10.0", "7.2"]):
            with contextlib.ExitStack() as stack:
                vm = self.start("7.2", kind=FirmwareGuest, net=False, stack=stack, pidfile=True)
                before = sockets_in(vm.folder)
                for base in hops:
                    self.upgrade(vm, base)
                self.assertEqual(sockets_in(vm.folder), before)
                vm.serial.expect_end()
                vm.qmp.send("quit")
                wait_for(lambda vm=vm: not vm.processes(), 5, "the VM ends")
                left[len(hops)] = (sockets_in(vm.folder), vm.pidfile_path.exists())
        self.assertEqual(left[1], left[0])
        self.assertEqual(left[2], left[0])
        self.assertNotIn("qmp", " ".join(left[0][0]))


class ClientsStay(QemuTest):
    """One idle guest, many upgrades, one kind of client each."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.vm = cls.start("7.2", pidfile=True)

    def next_base(self):
        return other(self.vm.base)

    def test_qmp_client_keeps_its_session_and_its_half_sent_command(self):
        vm, qmp = self.vm, self.vm.qmp
        qmp.drain_events()
        half = b'{"execute": "query-name", "id": "half"}\r\n'
        qmp._socket.sendall(half[:17])
        time.sleep(0.05)
        run_upgrade(vm, self.binary())
        qmp._socket.sendall(half[17:])
        lines, deadline = [], time.monotonic() + 5
        while not any(line.get("id") == "half" for line in lines):
            lines.append(qmp._next_message(deadline, "the half-sent command"))
        self.assertEqual(lines[-1]["return"], {"name": vm.name})
        self.assertFalse([line for line in lines if "QMP" in line], "greeted twice")
        events = [line["event"] for line in lines if "event" in line]
        self.assertIn("HOT_UPGRADE_STATE", events)
        vm.base = self.next_base()
        self.assertEqual(qmp.execute("query-status")["status"], "running")
        qmp.execute("stop")
        qmp.wait_event("STOP")
        qmp.execute("cont")
        qmp.wait_event("RESUME")
        assert_runs_on_one(vm)

    def binary(self):
        from case import find_qemu

        return find_qemu(self.next_base())

    def test_client_of_the_serial_port_loses_no_byte(self):
        count = self.vm.serial.count
        self.upgrade(self.vm, self.next_base())
        self.vm.serial.wait_count(10)
        self.assertGreater(self.vm.serial.count, count)
        self.vm.serial.ping()
        self.vm.check()

    def test_vnc_client_is_closed_and_can_come_back_at_once(self):
        sock, banner = vnc_banner(self.vm.vnc_path)
        self.assertTrue(banner.startswith(b"RFB "), banner)
        with Upgrade(self.vm, self.binary()) as upgrade:
            upgrade.prepare()
            upgrade.switch()
            ended = time.monotonic()
            self.assertEqual(sock.recv(4096), b"", "the old connection is not closed")
            again, banner = vnc_banner(self.vm.vnc_path)
            took = time.monotonic() - ended
            upgrade.commit()
        sock.close()
        again.close()
        self.vm.base = self.next_base()
        self.assertTrue(banner.startswith(b"RFB "), banner)
        self.assertLess(took, 0.1 + 0.15, "100 ms, and what a busy machine adds")
        assert_runs_on_one(self.vm)

    def test_new_client_of_each_listener_reaches_the_new_process(self):
        self.upgrade(self.vm, self.next_base())
        from qmp import Qmp

        with Qmp.connect(self.vm.daemon_qmp_path) as qmp:
            self.assertEqual(qmp.execute("query-hot-upgrade")["pid"], self.vm.pid())

    def test_packet_that_waits_for_a_paused_guest_waits_in_the_new_process(self):
        vm = self.start("7.2")
        with self.net().socket(kind=socket.SOCK_DGRAM) as sock:
            sock.settimeout(20)
            sock.connect((vm.tap.guest_ip, 7))
            sock.send(b"runs")
            self.assertEqual(sock.recv(100), b"runs")
            for base, faults in (("10.0", ()), ("10.0", [("target.word.before", "kill")]), ("7.2", ())):
                vm.qmp.execute("stop")
                for number in range(3):  # one is read from the tap, the others stay there
                    sock.send(b"waits %d" % number)
                time.sleep(0.2)
                if faults:
                    with self.assertRaises(UpgradeFailed):
                        run_upgrade(vm, find_qemu(base), switch=PATIENT, faults=faults)
                    vm.qmp.execute("x-hot-upgrade-fault", point=faults[0][0], action="none")
                else:
                    self.upgrade(vm, base)
                vm.qmp.execute("cont")
                self.assertEqual([sock.recv(100) for _ in range(3)], [b"waits %d" % number for number in range(3)])

    def test_paused_guest_stays_paused(self):
        vm = self.vm
        vm.qmp.execute("stop")
        wait_for(lambda: vm.qmp.execute("query-status")["status"] == "paused", 5, "paused")
        time.sleep(0.1)  # what the guest printed before it stopped arrives
        count = vm.serial.count
        self.upgrade(vm, self.next_base())
        self.assertEqual(vm.qmp.execute("query-status")["status"], "paused")
        time.sleep(0.2)
        self.assertEqual(vm.serial.count, count)
        vm.qmp.execute("cont")
        vm.check()

    def test_pidfile_names_the_new_process_before_the_old_one_ends(self):
        vm = self.vm
        with Upgrade(vm, self.binary()) as upgrade:
            upgrade.prepare()
            self.assertEqual(int(vm.pidfile_path.read_text()), upgrade.source_pid)
            upgrade.switch()
            wait_for(lambda: int(vm.pidfile_path.read_text()) == upgrade.target_pid, 2, "the pidfile of the target")
            upgrade.commit()
        vm.base = self.next_base()
        self.assertEqual(int(vm.pidfile_path.read_text()), assert_runs_on_one(vm))
        vm.check()

    def test_guest_and_daemon_may_ask_anything_during_every_state(self):
        vm = self.vm
        with Upgrade(vm, self.binary()) as upgrade:
            upgrade.prepare()
            self.assertEqual(upgrade.query()["state"], "prepared")
            self.assertEqual(upgrade.target.execute("query-hot-upgrade")["state"], "standby")
            upgrade.control.execute("hot-upgrade-renew", lease=30_000_000_000)
            self.assertGreater(upgrade.query()["lease-left"], 25e9)
            upgrade.freeze(frozen_lease=3000)
            self.assertEqual(upgrade.query()["state"], "frozen")
            upgrade.load()
            self.assertEqual(upgrade.target.execute("query-hot-upgrade")["state"], "loaded")
            upgrade.takeover()
            self.assertEqual(upgrade.query()["state"], "ceded")
            self.assertEqual(upgrade.target.execute("query-hot-upgrade")["state"], "running")
            upgrade.commit()
            wait_for(lambda: upgrade.target.execute("query-hot-upgrade")["role"] == "source", 2, "role source")
        vm.base = self.next_base()
        vm.check()

    def test_daemon_that_never_commits_leaves_one_process_after_the_lease(self):
        vm = self.vm
        with Upgrade(vm, self.binary()) as upgrade:
            upgrade.prepare()
            upgrade.switch()
        vm.base = self.next_base()
        wait_for(lambda: len(vm.processes()) == 1, 30 + 5, "the ceded source ends by itself")
        assert_runs_on_one(vm)
        wait_sockets_gone(vm)
        vm.check()


if __name__ == "__main__":
    main()
