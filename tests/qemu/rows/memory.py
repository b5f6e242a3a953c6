# SPDX-License-Identifier: GPL-2.0-or-later
"""Rows of the survival table: kinds of guest memory, CPU models, and states that a guest can be in."""

import contextlib
import mmap
import os
import pathlib
import subprocess

from console import Console
from pair import wait_for
from survival import Blocked, Row

MIB = 1 << 20
HUGE = 2 * MIB


def backing_files(vm, name):
    """Descriptors of the VM's process whose file is called so (part of the name), each file once."""
    files = {}
    for link in pathlib.Path(f"/proc/{vm.pid()}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            if name in os.readlink(link):
                files.setdefault(link.stat().st_ino, link)
    return list(files.values())


def poke(link, offset, words):
    """Writes into guest memory as the guest would: through a mapping of its file. `offset`: whole huge pages."""
    descriptor = os.open(link, os.O_RDWR)
    try:
        with mmap.mmap(descriptor, HUGE, offset=offset) as page:
            page[4096 : 4096 + len(words)] = words
    finally:
        os.close(descriptor)


def peek(vm, address, size):
    """Guest memory at a physical address, as QEMU sees it."""
    path = vm.rig.folder / "peek"
    vm.qmp.execute("pmemsave", val=address + 4096, size=size, filename=str(path))
    return path.read_bytes()


class Memory(Row):
    """What is written to the file of the memory before an upgrade is at its place in the guest's memory after it."""

    thing = ""
    means = "the same place in the guest's memory, the same bytes, the same pages of the host"
    guest = "firmware"
    file = "memfd:memory-backend-memfd"
    places = ((16 * MIB, 16 * MIB),)  # (offset in the file, guest-physical address); several: one for each file

    def options(self, rig):
        return {"ram": "private"}

    def before(self, vm):
        files = sorted(backing_files(vm, self.file), key=lambda link: link.stat().st_size)
        assert len(files) == len(self.places), [os.readlink(link) for link in files]
        self.inodes = sorted(link.stat().st_ino for link in files)
        self.words = [os.urandom(64) for _ in files]
        for (offset, _), link, words in zip(self.places, files, self.words, strict=True):
            poke(link, offset, words)

    def after(self, vm, moved):
        assert sorted(link.stat().st_ino for link in backing_files(vm, self.file)) == self.inodes
        for (_, address), words in zip(self.places, self.words, strict=True):
            assert peek(vm, address, len(words)) == words, f"{address:#x}"


class HugePages:
    """So many free huge pages more, while it is entered."""

    PATH = pathlib.Path("/proc/sys/vm/nr_hugepages")

    def __init__(self, count):
        self.count = count

    def __enter__(self):
        before = int(self.PATH.read_text())
        self.PATH.write_text(str(before + self.count))
        got = int(self.PATH.read_text()) - before
        if got < self.count:
            self.PATH.write_text(str(before))
            raise RuntimeError(f"the host gave {got} huge pages, not {self.count}")
        return self

    def __exit__(self, *_):
        self.PATH.write_text(str(int(self.PATH.read_text()) - self.count))


class HugeMemfd(Memory):
    thing = "RAM in huge pages (memory-backend-memfd,hugetlb=on), allocated beforehand (prealloc=on)"
    group = "memory-huge-memfd"

    def setup(self, rig):
        rig.stack.enter_context(HugePages(32))

    def arguments(self, rig):
        backend = "memory-backend-memfd,id=ram0,size=64M,share=on,hugetlb=on,hugetlbsize=2M,prealloc=on"
        return ["-object", backend, "-machine", "memory-backend=ram0"]


class HugeFile(Memory):
    thing = "RAM in huge pages (memory-backend-file on hugetlbfs)"
    group = "memory-huge-file"

    def setup(self, rig):
        rig.stack.enter_context(HugePages(32))
        self.mount = rig.folder / "huge"
        self.mount.mkdir()
        subprocess.run(["mount", "-t", "hugetlbfs", "-o", "pagesize=2M", "none", self.mount], check=True)
        rig.stack.callback(subprocess.run, ["umount", "-l", self.mount], check=True)
        self.file = str(self.mount)

    def arguments(self, rig):
        backend = f"memory-backend-file,id=ram0,size=64M,share=on,mem-path={self.mount}"
        return ["-object", backend, "-machine", "memory-backend=ram0"]


class TmpfsFile(Memory):
    thing = "RAM in a file on tmpfs (memory-backend-file,share=on)"
    group = "memory-file"

    def setup(self, rig):
        self.path = pathlib.Path("/dev/shm") / rig.folder.name
        self.file = str(self.path)
        rig.stack.callback(self.path.unlink, missing_ok=True)

    def arguments(self, rig):
        backend = f"memory-backend-file,id=ram0,size=64M,share=on,mem-path={self.path}"
        return ["-object", backend, "-machine", "memory-backend=ram0"]


class NumaNodes(Memory):
    thing = "NUMA nodes with memory of their own (-numa node,memdev=), merge=off, dump=off"
    group = "memory-numa"
    places = ((16 * MIB, 16 * MIB), (0, 24 * MIB))

    def options(self, rig):
        return {"ram": "private", "memory_mib": 56, "vcpus": "2,sockets=2"}

    def arguments(self, rig):
        arguments = ["-object", "memory-backend-memfd,id=node0,size=24M,share=on,merge=off,dump=off"]
        arguments += ["-object", "memory-backend-memfd,id=node1,size=32M,share=on,merge=off"]
        arguments += ["-numa", "node,nodeid=0,cpus=0,memdev=node0", "-numa", "node,nodeid=1,cpus=1,memdev=node1"]
        return [*arguments, "-numa", "dist,src=0,dst=1,val=21"]


class BoundMemory(Memory):
    thing = "memory bound to nodes of the host (`host-nodes=`, `policy=bind` and `interleave`, `prealloc=on`)"
    means = "as above; the new process has the same policy"
    group = "memory-bound"
    places = ((16 * MIB, 16 * MIB), (0, 24 * MIB))
    policies = ("bind", "interleave")

    def options(self, rig):
        return {"ram": "private", "memory_mib": 56, "vcpus": "2,sockets=2"}

    def arguments(self, rig):
        arguments = []
        for number, (size, policy) in enumerate(zip((24, 32), self.policies, strict=True)):
            backend = f"memory-backend-memfd,id=node{number},size={size}M,share=on,prealloc=on"
            arguments += ["-object", f"{backend},host-nodes=0,policy={policy}"]
            arguments += ["-numa", f"node,nodeid={number},cpus={number},memdev=node{number}"]
        return arguments

    def seen(self, vm):
        maps = pathlib.Path(f"/proc/{vm.pid()}/numa_maps").read_text()
        return sorted(line.split()[1] for line in maps.splitlines() if "memfd:memory-backend" in line)

    def after(self, vm, moved):
        super().after(vm, moved)
        assert self.seen(vm) == ["bind:0", "interleave:0"], self.seen(vm)


class LockedMemory(Memory):
    thing = "memory that is locked (-overcommit mem-lock=on)"
    means = "the same bytes; the new process has it locked, too"
    group = "memory-locked"

    def arguments(self, rig):
        backend = "memory-backend-memfd,id=ram0,size=64M,share=on"
        return ["-object", backend, "-machine", "memory-backend=ram0", "-overcommit", "mem-lock=on"]

    def after(self, vm, moved):
        super().after(vm, moved)
        status = pathlib.Path(f"/proc/{vm.pid()}/status").read_text()
        locked = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmLck"))
        assert locked > 64 * 1024, status


class Dimms(Memory):
    thing = "memory on the command line beside -m (pc-dimm, nvdimm)"
    group = "memory-dimms"
    guest = "firmware"

    def options(self, rig):
        return {"ram": "memfd"}

    def setup(self, rig):
        self.path = rig.folder / "nvdimm.img"
        with open(self.path, "wb") as file:
            file.truncate(32 * MIB)

    def arguments(self, rig):
        arguments = ["-m", "64,slots=4,maxmem=1G", "-machine", "nvdimm=on"]
        arguments += ["-object", "memory-backend-memfd,id=dimm0,size=48M,share=on"]
        arguments += ["-device", "pc-dimm,id=dimm0-dev,memdev=dimm0"]
        arguments += ["-object", f"memory-backend-file,id=nv0,size=32M,share=on,mem-path={self.path}"]
        return [*arguments, "-device", "nvdimm,id=nv0-dev,memdev=nv0"]

    def begin(self, vm):
        self.dimms = {dimm["data"]["id"]: dimm["data"] for dimm in vm.qmp.execute("query-memory-devices")}
        self.places = ((16 * MIB, self.dimms["dimm0-dev"]["addr"] + 16 * MIB), (16 * MIB, 16 * MIB))

    def before(self, vm):
        super().before(vm)
        self.kept = os.urandom(64)
        poke(self.path, 0, self.kept)

    def after(self, vm, moved):
        super().after(vm, moved)
        assert {dimm["data"]["id"]: dimm["data"] for dimm in vm.qmp.execute("query-memory-devices")} == self.dimms
        assert peek(vm, self.dimms["nv0-dev"]["addr"], 64) == self.kept


class EightGib(Memory):
    thing = "guest with 8 GiB"
    group = "memory-8gib"
    places = ((16 * MIB, 16 * MIB),)

    def options(self, rig):
        return {"ram": "hot-upgrade", "memory_mib": 8192}

    def before(self, vm):
        super().before(vm)
        (file,) = backing_files(vm, self.file)
        self.high = os.urandom(64)
        # The last pages; what is above the hole of PCI devices begins at 4 GiB.
        poke(file, 8190 * MIB, self.high)

    def after(self, vm, moved):
        super().after(vm, moved)
        assert peek(vm, (8190 + 1024) * MIB, 64) == self.high


class VirtioMem(Row):
    thing = "virtio-mem with memory that the guest has taken"
    means = "not a page of it is lost; the guest can be given more"
    group = "memory-linux"
    guest = "linux"

    def options(self, rig):
        return {"parameters": {"module": "virtio_mem", "hotplug": "10.77.0.2/24"}}

    def arguments(self, rig):
        arguments = ["-m", "256,slots=2,maxmem=2G", "-object", "memory-backend-memfd,id=vm0,size=512M,share=on"]
        return [*arguments, "-device", "virtio-mem-pci,id=vm0-dev,memdev=vm0,requested-size=128M,block-size=2M"]

    def begin(self, vm):
        self.asked = 128
        self._wait(vm)

    def before(self, vm):
        self.address = self._data(vm)["memaddr"]
        (file,) = [link for link in backing_files(vm, "memfd:memory-backend-memfd") if link.stat().st_size == 512 * MIB]
        # What was plugged last has a file's blocks, but the guest does not use all of it.
        self.blocks = os.stat(file).st_blocks

    def after(self, vm, moved):
        data = self._data(vm)
        assert data["memaddr"] == self.address and data["size"] == self.asked * MIB, data
        (file,) = [link for link in backing_files(vm, "memfd:memory-backend-memfd") if link.stat().st_size == 512 * MIB]
        assert os.stat(file).st_blocks >= self.blocks * 9 // 10, "memory of the guest was given back to the host"
        self.asked += 32
        vm.qmp.execute("qom-set", path="/machine/peripheral/vm0-dev", property="requested-size", value=self.asked * MIB)
        self._wait(vm)

    def _data(self, vm):
        (device,) = [d for d in vm.qmp.execute("query-memory-devices") if d["type"] == "virtio-mem"]
        return device["data"]

    def _wait(self, vm):
        wait_for(lambda: self._data(vm)["size"] == self.asked * MIB, 90, "the guest takes the memory")


class VirtioPmem(Row):
    thing = "virtio-pmem that the guest writes to and flushes"
    means = "the same address; no write is lost, no flush stays without an answer"
    group = "memory-pmem"
    guest = "linux"

    def options(self, rig):
        return {"parameters": {"module": "virtio_pmem", "disk": "/dev/pmem0", "disk_rate_kib": 2048}}

    def setup(self, rig):
        self.path = rig.folder / "pmem.img"
        with open(self.path, "wb") as file:
            file.truncate(64 * MIB)

    def arguments(self, rig):
        backend = f"memory-backend-file,id=pm0,size=64M,share=on,mem-path={self.path}"
        return ["-m", "256,slots=2,maxmem=1G", "-object", backend, "-device", "virtio-pmem-pci,id=pm0-dev,memdev=pm0"]

    def before(self, vm):
        self.devices = vm.qmp.execute("query-memory-devices")
        assert [device["type"] for device in self.devices] == ["virtio-pmem"]
        self._written(vm)

    def after(self, vm, moved):
        assert vm.qmp.execute("query-memory-devices") == self.devices
        self._written(vm)

    def _written(self, vm):
        """Two batches were written, flushed and verified from now on: the second began after this was called."""
        batches = vm.batches()["pmem0"]
        wait_for(lambda: vm.batches()["pmem0"] >= batches + 2, 30, "the guest writes and flushes")


class Balloon(Row):
    thing = "virtio-balloon that was inflated"
    means = "the same size; it can be deflated"
    group = "memory-linux"
    guest = "linux"

    def begin(self, vm):
        self.size = 224
        self._set(vm)

    def after(self, vm, moved):
        assert vm.qmp.execute("query-balloon")["actual"] == self._wanted(vm), vm.qmp.execute("query-balloon")
        self.size = 464 - self.size  # 224, 240
        self._set(vm)

    def _wanted(self, vm):
        return self.size * MIB

    def _set(self, vm):
        vm.qmp.execute("balloon", value=self.size * MIB)
        wait_for(lambda: vm.qmp.execute("query-balloon")["actual"] == self._wanted(vm), 60, "the balloon follows")


class Nehalem(Row):
    thing = "CPU model Nehalem"
    means = "the same CPUID, bit for bit"
    group = "cpu-nehalem"

    def options(self, rig):
        return {"cpu": "Nehalem", "vcpus": "2,maxcpus=4"}

    def begin(self, vm):
        self.cpu = self._cpu(vm)

    def after(self, vm, moved):
        assert self._cpu(vm) == self.cpu

    @staticmethod
    def _cpu(vm):
        return vm.qmp.execute("query-hot-upgrade")["shape"]["cpus"]


class CpuMax(Row):
    thing = "CPU model max, which is another one in each version"
    means = "the same CPUID within a version; between versions it is refused, and the word that differs is named"
    group = "cpu-max"
    id = ""

    def refused_by(self, source, target):
        return "shape-differs" if source != target else None

    def options(self, rig):
        return {"cpu": "max"}

    def begin(self, vm):
        self.cpu = Nehalem._cpu(vm)

    def after(self, vm, moved):
        assert Nehalem._cpu(vm) == self.cpu


class GuestResets(Row):
    thing = "guest that is reset right before and right after an upgrade"
    means = "it boots once for each reset (within the pause: events_test.py)"
    group = "state-reset"

    def before(self, vm):
        self._reset(vm)

    def after(self, vm, moved):
        vm.serial.wait_ready(boot=self.boots)
        self._reset(vm)
        vm.serial.wait_ready(boot=self.boots)
        vm.serial.wait_count(3)
        assert vm.serial.boots == self.boots, (vm.serial.boots, self.boots)

    def _reset(self, vm):
        self.boots = vm.serial.boots + 1
        vm.serial.expect_reboot()
        vm.qmp.execute("system_reset")


class SuspendedGuest(Row):
    thing = "guest that sleeps (S3)"
    means = "it sleeps on, nobody is told anything, and it wakes when it is woken"
    group = "state-suspended"

    def before(self, vm):
        # What a guest's kernel does: SLP_TYP of S3 and SLP_EN into PM1_CNT, which SeaBIOS puts there.
        vm.qmp.hmp("o /h 0x604 0x2400")
        wait_for(lambda: vm.qmp.execute("query-status")["status"] == "suspended", 10, "the guest sleeps")
        vm.qmp.drain_events()

    def after(self, vm, moved):
        assert vm.qmp.execute("query-status")["status"] == "suspended"
        told = {event["event"] for event in vm.qmp.drain_events()} & {"STOP", "RESUME", "WAKEUP", "SUSPEND"}
        assert not told, told
        boots = vm.serial.boots + 1
        vm.serial.expect_reboot()
        vm.qmp.execute("system_wakeup")
        wait_for(lambda: vm.qmp.execute("query-status")["status"] == "running", 10, "the guest wakes")
        assert "WAKEUP" in {event["event"] for event in vm.qmp.drain_events()}
        vm.qmp.execute("system_reset")  # the boot sector has nothing to wake up to
        vm.serial.wait_ready(boot=boots)


class SleepingLinux(Row):
    thing = "Linux guest that sleeps (S3), with disk, NIC and balloon"
    means = "it sleeps on; woken, it goes on where it was"
    group = "state-suspended-linux"
    guest = "linux"
    net = True

    def options(self, rig):
        return {"console": True}

    def begin(self, vm):
        self.shell = vm.rig.stack.enter_context(contextlib.closing(Console(vm.console_path)))

    def before(self, vm):
        self.shell.type("echo mem > /sys/power/state\n")
        wait_for(lambda: vm.qmp.execute("query-status")["status"] == "suspended", 60, "the guest sleeps")
        self.boots, self.count = vm.serial.boots, vm.serial.count

    def after(self, vm, moved):
        assert vm.qmp.execute("query-status")["status"] == "suspended"
        vm.qmp.execute("system_wakeup")
        wait_for(lambda: vm.serial.count > self.count + 3, 60, "the guest goes on")
        assert vm.serial.boots == self.boots, "it booted"
        vm.serial.check()
        vm.serial.ping(30)


class PausedVm(Row):
    thing = "VM that its user has paused"
    means = "it is upgraded and stays paused; it runs on when it is continued"
    group = "state-paused"

    def before(self, vm):
        vm.qmp.execute("stop")

    def after(self, vm, moved):
        assert vm.qmp.execute("query-status")["status"] == "paused"
        count = vm.serial.count
        vm.qmp.execute("cont")
        vm.serial.wait_count(3)
        assert vm.serial.count > count


class Ivshmem(Blocked):
    thing = "ivshmem"
    group = "memory-blocked"
    blocker = "device"
    id = "device/ivshmem0"

    def arguments(self, rig):
        backend = "memory-backend-memfd,id=iv0,size=1M,share=on"
        return ["-object", backend, "-device", "ivshmem-plain,id=ivshmem0,memdev=iv0"]


class ReadOnlyMemory(Blocked):
    thing = "memory that is read-only (`readonly=on`)"
    group = "memory-blocked"
    blocker = "ram"
    id = "ram/ro0"

    def arguments(self, rig):
        path = rig.folder / "readonly.ram"
        path.write_bytes(bytes(16 * MIB))
        backend = f"memory-backend-file,id=ro0,size=16M,share=on,readonly=on,mem-path={path}"
        return ["-object", backend, "-device", "virtio-pmem-pci,memdev=ro0"]


class PrivateDimm(Blocked):
    thing = "memory added that is private to the process"
    group = "memory-blocked"
    blocker = "ram"
    id = "ram/private0"

    def arguments(self, rig):
        return ["-m", "64,slots=2,maxmem=1G"]

    def begin(self, vm):
        vm.qmp.execute("object-add", id="private0", size=16 * MIB, **{"qom-type": "memory-backend-ram"})
        vm.qmp.execute("device_add", driver="pc-dimm", id="private0-dev", memdev="private0")


class SgxMemory(Blocked):
    thing = "memory of SGX enclaves (memory-backend-epc)"
    blocker = "object"

    def needs(self):
        return "there is no SGX here; an object of that type is the blocker `object`"
