#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Shows that the test guest and what watches it tell a healthy VM from a sick one, on real QEMUs without any upgrade.

usage: selftest.py [7.2|10.0]... [--stock]      needs root, QEMU (scripts/build-qemu), about 20 s per base
"""

import struct
import sys
import time

import processes
from guest import Disk, Guest, find_qemu, qemu_version
from netrig import NetRig, TcpEcho
from prober import Prober
from qmp import QmpError


def check_healthy(net, binary, **options):
    """Boots, talks over every channel, pauses 200 ms, reboots: no part may complain, and the pause must be seen."""
    started = time.monotonic()
    with Guest(binary, net=net, ram="memfd", **options) as vm:
        vm.wait_ready()
        booted = time.monotonic() - started
        with TcpEcho(net, vm.tap.guest_ip) as echo, Prober(net, vm.tap.guest_ip) as prober:
            echo.exchange(b"x" * 10000)
            vm.serial.ping()
            vm.qmp.execute("stop")
            vm.qmp.wait_event("STOP")
            time.sleep(0.2)
            vm.qmp.execute("cont")
            echo.exchange(b"after")
            vm.serial.wait_count(50)
            result = prober.finish()
        assert result["sent"] > 500 and result["lost"] == 0, result
        assert result["duplicated"] == result["corrupted"] == 0, result
        assert vm.queues > 1 or result["reordered"] == 0, result  # a flow may change its queue
        assert result["longest_gap"]["ms"] >= 200, result["longest_gap"]
        assert vm.serial.longest_gap_ms >= 200, vm.serial.longest_gap_ms
        assert vm.pid() == vm.process.pid and vm.processes() == [vm.process.pid]
        vm.check()
        vm.serial.expect_reboot()
        vm.serial.send("reboot")
        vm.serial.wait_ready(boot=2)
        vm.check()
        stat = vm.stat()
        assert stat["errors"] == 0
        assert vm.serial.ready["disk"] == ("/dev/sda" if vm.disk.bus == "virtio-scsi" else "/dev/vda")
        assert int(vm.serial.ready["vcpus"]) == vm.vcpus
        kind = f"{vm.machine_type} {vm.disk.bus} {vm.disk.format} vcpus={vm.vcpus} queues={vm.queues} {vm.mode}"
        print(f"  {kind}: ready in {booted:.1f} s", flush=True)


def check_damage_is_seen(net, binary):
    """A byte changed behind the guest's back, in RAM and on disk, and an unexpected reset: each must be reported."""
    options = {"mode": "load", "parameters": {"disk_mib": 4, "ram_percent": 60}, "memory_mib": 160}
    with Guest(binary, net=net, ram="memfd", disk=Disk("raw"), **options) as vm:
        vm.wait_ready()
        vm.serial.wait_count(100)
        vm.serial.check()
        with open(vm.disk.path, "r+b") as image:
            for offset in range(2000, 4 << 20, 4096):
                image.seek(offset)
                image.write(b"damaged")
        expect_problem(vm, "error: disk: ")
        assert damage_ram(vm.pid()) > 1000
        expect_problem(vm, "error: ram: ")
        vm.qmp.execute("system_reset")
        expect_problem(vm, "the guest rebooted")
    print("  damage to RAM, disk and run is seen")


def check_lost_packets_are_seen(net, binary):
    """The link goes down for a moment: the prober must count the loss."""
    with Guest(binary, net=net, ram="memfd", disk=None) as vm:
        vm.wait_ready()
        with Prober(net, vm.tap.guest_ip) as prober:
            time.sleep(0.2)
            vm.qmp.execute("set_link", name="net0", up=False)
            time.sleep(0.3)
            vm.qmp.execute("set_link", name="net0", up=True)
            time.sleep(0.3)
            result = prober.finish()
        assert result["lost"] > 100, result
        try:
            vm.qmp.execute("no-such-command")
            raise AssertionError("QEMU took a command that does not exist")
        except QmpError as error:
            assert error.cls == "CommandNotFound"
    print(f"  {result['lost']} packets lost on a link that was down are seen")


def damage_ram(pid, most=4000):
    """Changes a byte in up to `most` pages that the guest's RAM part has filled, and in no others; returns how many."""
    step = 0x9E3779B97F4A7C15  # between two words of such a page, see guest-load.c
    done = 0
    with open(f"/proc/{pid}/maps") as maps:
        spans = [_span(line) for line in maps if "memfd:" in line]
    begin, end = max(spans, key=lambda span: span[1] - span[0])
    with open(f"/proc/{pid}/mem", "r+b", buffering=0) as memory:
        for address in range(begin, end, 4096):
            memory.seek(address)
            first, second, third = struct.unpack("3Q", memory.read(24))
            if first and done < most and (second - first) % 2**64 == (third - second) % 2**64 == step:
                memory.seek(address + 128)
                memory.write(b"damaged")
                done += 1
    return done


def expect_problem(vm, beginning, timeout=30.0):
    """Until the watcher has such a problem."""
    deadline = time.monotonic() + timeout
    while not any(problem.startswith(beginning) for problem in list(vm.serial.problems)):
        if time.monotonic() > deadline:
            raise AssertionError(f"nobody noticed {beginning!r}; seen: {vm.serial.problems}")
        time.sleep(0.05)


def _span(line):
    return [int(address, 16) for address in line.split()[0].split("-")]


def main(words):
    stock = "--stock" in words
    bases = [word for word in words if word in ("7.2", "10.0")] or ["7.2", "10.0"]
    processes.exit_on_signals()
    for base in bases:
        binary = find_qemu(base, stock=stock)
        print(f"QEMU {qemu_version(binary)}", flush=True)
        with NetRig() as net:
            check_healthy(net, binary, machine="pc", disk=Disk("qcow2", "virtio-blk"))
            check_healthy(net, binary, machine="q35", vcpus=4, disk=Disk("raw", "virtio-scsi"), queues=2, mode="load")
            check_damage_is_seen(net, binary)
            check_lost_packets_are_seen(net, binary)


if __name__ == "__main__":
    main(sys.argv[1:])
