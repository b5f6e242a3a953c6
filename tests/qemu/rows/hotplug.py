# SPDX-License-Identifier: GPL-2.0-or-later
"""Rows of the survival table: what came and went since the VM was started."""

import fcntl
import os
import pathlib
import socket
import struct
import time

from guest import Disk
from netrig import TcpEcho
from pair import wait_for
from survival import Blocked, Row


F_OFD_GETLK = 36


def make_file(rig, name, mib=1):
    """A file of zeros in the rig's folder."""
    path = rig.folder / name
    with open(path, "wb") as file:
        file.truncate(mib << 20)
    return path


def file_node(name, path, **options):
    """A blockdev-add of a raw image with the file below it as a node of its own."""
    below = {"driver": "file", "filename": str(path), "node-name": f"{name}-file"}
    return {"driver": "raw", "node-name": name, "file": below, **options}


def user_devices(vm):
    """Ids of the devices of the user."""
    return {entry["name"] for entry in vm.qmp.execute("qom-list", path="/machine/peripheral")}


def nodes(vm):
    """Names of the block nodes."""
    return {node["node-name"] for node in vm.qmp.execute("query-named-block-nodes")}


def chardevs(vm):
    return {chardev["label"] for chardev in vm.qmp.execute("query-chardev")}


def objects(vm):
    return {entry["name"] for entry in vm.qmp.execute("qom-list", path="/objects")}


def hmp(vm, line):
    """A command for people; says what it printed."""
    return vm.qmp.execute("human-monitor-command", **{"command-line": line})


def write_through(vm, device, path):
    """Writes through the device's back end; it must arrive in the file."""
    pattern = os.urandom(1)[0] | 1
    before = path.read_bytes()[512]
    pattern ^= 2 if pattern == before else 0
    said = hmp(vm, f'qemu-io -d {device} "write -P {pattern} 0 4k"')
    assert path.read_bytes()[:4096] == bytes([pattern]) * 4096, said


def is_locked(path):
    """Has somebody taken QEMU's write lock (byte 101 of the image)? The kernel tells without our taking it."""
    with open(path, "rb") as file:
        question = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 101, 1, 0)
        return struct.unpack("hhqqi4x", fcntl.fcntl(file.fileno(), F_OFD_GETLK, question))[0] != fcntl.F_UNLCK


def delete(vm, what, timeout=None):
    """device_del, and waits until it has happened."""
    path = what if what.startswith("/") else f"/machine/peripheral/{what}"
    vm.qmp.execute("device_del", id=what)
    vm.qmp.wait_event("DEVICE_DELETED", timeout, match=lambda data: data["path"] == path)


class AddedDisk(Row):
    thing = "disk added with blockdev-add and device_add"
    means = "the same node, device and lock; it can be removed and added again"
    group = "hotplug"

    def setup(self, rig):
        self.path = make_file(rig, "added.raw")

    def options(self, rig):
        return {"disk": Disk("raw", device_options=",bootindex=0")}

    def arguments(self, rig):
        return ["-device", "virtio-scsi-pci,id=scsi0"]

    def begin(self, vm):
        vm.qmp.execute("blockdev-add", **file_node("added", self.path))
        vm.qmp.execute("device_add", driver="scsi-hd", id="added-dev", bus="scsi0.0", drive="added", lun=5)

    def before(self, vm):
        # Not the same one each time.
        delete(vm, "added-dev")
        vm.qmp.execute("blockdev-del", **{"node-name": "added"})
        self.begin(vm)

    def after(self, vm, moved):
        assert "added-dev" in user_devices(vm)
        assert {"added", "added-file"} <= nodes(vm), nodes(vm)
        assert vm.qmp.execute("qom-get", path="/machine/peripheral/added-dev", property="lun") == 5
        assert is_locked(self.path)
        write_through(vm, "added-dev", self.path)


class RemovedDisk(Row):
    thing = "disk of the command line that was removed"
    means = "it stays away, its file is not touched; the disks after it stay where they were"
    group = "hotplug"

    def setup(self, rig):
        self.paths = [make_file(rig, name) for name in ("gone.raw", "anon.raw", "stays.raw")]

    def arguments(self, rig):
        arguments = ["-device", "virtio-scsi-pci,id=scsi1"]
        for name, path in zip(("gone", "anon", "stays"), self.paths, strict=True):
            arguments += ["-blockdev", f"driver=file,node-name={name},filename={path}"]
        arguments += ["-device", "scsi-hd,id=gone-dev,bus=scsi1.0,drive=gone"]
        arguments += ["-device", "scsi-hd,bus=scsi1.0,drive=anon"]
        return [*arguments, "-device", "scsi-hd,id=stays-dev,bus=scsi1.0,drive=stays"]

    def begin(self, vm):
        self.place = self._place(vm)
        delete(vm, "gone-dev")
        vm.qmp.execute("blockdev-del", **{"node-name": "gone"})
        anonymous = vm.qmp.execute("qom-list", path="/machine/peripheral-anon")
        disk = next(entry["name"] for entry in anonymous if entry["type"] == "child<scsi-hd>")
        delete(vm, f"/machine/peripheral-anon/{disk}")
        vm.qmp.execute("blockdev-del", **{"node-name": "anon"})

    def after(self, vm, moved):
        assert "gone-dev" not in user_devices(vm)
        anonymous = vm.qmp.execute("qom-list", path="/machine/peripheral-anon")
        assert "child<scsi-hd>" not in {entry["type"] for entry in anonymous}
        assert not {"gone", "anon"} & nodes(vm)
        assert self._place(vm) == self.place
        for path in self.paths[:2]:
            inode = path.stat().st_ino
            links = (pathlib.Path(f"/proc/{vm.pid()}/fd")).iterdir()
            assert inode not in [link.stat().st_ino for link in links if link.exists()], f"{path} is open"

    @staticmethod
    def _place(vm):
        get = {name: "/machine/peripheral/stays-dev" for name in ("scsi-id", "lun", "channel")}
        return {name: vm.qmp.execute("qom-get", path=path, property=name) for name, path in get.items()}


class ReplacedDisk(Row):
    thing = "disk of the command line replaced under the same names"
    means = "the new file, not the one of the command line"
    group = "hotplug"

    def setup(self, rig):
        self.old, self.new = make_file(rig, "old.raw"), make_file(rig, "new.raw")

    def arguments(self, rig):
        arguments = ["-blockdev", f"driver=file,node-name=replaced,filename={self.old}"]
        arguments += ["-device", "virtio-scsi-pci,id=scsi2"]
        return [*arguments, "-device", "scsi-hd,id=replaced-dev,bus=scsi2.0,drive=replaced"]

    def begin(self, vm):
        delete(vm, "replaced-dev")
        vm.qmp.execute("blockdev-del", **{"node-name": "replaced"})
        vm.qmp.execute("blockdev-add", driver="file", filename=str(self.new), **{"node-name": "replaced"})
        vm.qmp.execute("device_add", driver="scsi-hd", id="replaced-dev", bus="scsi2.0", drive="replaced")

    def after(self, vm, moved):
        write_through(vm, "replaced-dev", self.new)
        assert not any(self.old.read_bytes())
        assert is_locked(self.new) and not is_locked(self.old)


class HmpDrive(Row):
    thing = "drive and device added and removed from the monitor for people (drive_add, device_add)"
    means = "the drive is there; the one that was removed is not"
    group = "hotplug"

    def setup(self, rig):
        self.path, self.gone = make_file(rig, "hmp.raw"), make_file(rig, "hmp-gone.raw")

    def arguments(self, rig):
        arguments = ["-device", "virtio-scsi-pci,id=scsi3"]
        arguments += ["-drive", f"if=none,id=hmpgone,format=raw,file={self.gone}"]
        return [*arguments, "-device", "scsi-hd,drive=hmpgone,id=hmpgone-dev,bus=scsi3.0"]

    def begin(self, vm):
        delete(vm, "hmpgone-dev")
        assert hmp(vm, f"drive_add auto if=none,id=hmpdrive,format=raw,file={self.path}").strip() == "OK"
        assert hmp(vm, "device_add scsi-hd,id=hmp-dev,bus=scsi3.0,drive=hmpdrive") == ""
        assert hmp(vm, "object_add rng-builtin,id=hmp-rng") == ""
        assert hmp(vm, "chardev-add null,id=hmp-null") == ""

    def after(self, vm, moved):
        drives = {info["device"]: info for info in vm.qmp.execute("query-block")}
        assert drives["hmpdrive"]["inserted"]["file"] == str(self.path)
        assert "hmpgone" not in drives
        assert "hmp-dev" in user_devices(vm) and "hmpgone-dev" not in user_devices(vm)
        assert "hmp-rng" in objects(vm) and "hmp-null" in chardevs(vm)
        assert is_locked(self.path) and not is_locked(self.gone)


class AnonymousDevice(Row):
    thing = "device without an id added and removed"
    means = "the same name in QEMU's tree; later ones are numbered as if nothing had happened"
    group = "hotplug"

    def arguments(self, rig):
        return ["-device", "qemu-xhci,id=xhci"]

    def begin(self, vm):
        self.names = None
        vm.qmp.execute("device_add", driver="usb-tablet", bus="xhci.0")
        vm.qmp.execute("device_add", driver="usb-kbd", bus="xhci.0", id="kbd")
        self.ports = self._ports(vm)

    def before(self, vm):
        before = set(self._tablets(vm))
        vm.qmp.execute("device_add", driver="usb-tablet", bus="xhci.0")
        (extra,) = set(self._tablets(vm)) - before
        delete(vm, f"/machine/peripheral-anon/{extra}")
        self.number = int(extra.strip("device[]"))
        self.names = sorted(before)

    def after(self, vm, moved):
        assert self._tablets(vm) == self.names
        assert self._ports(vm) == self.ports
        vm.qmp.execute("device_add", driver="usb-tablet", bus="xhci.0")
        (extra,) = set(self._tablets(vm)) - set(self.names)
        assert int(extra.strip("device[]")) == self.number + 1, (extra, self.number)
        delete(vm, f"/machine/peripheral-anon/{extra}")

    @staticmethod
    def _tablets(vm):
        entries = vm.qmp.execute("qom-list", path="/machine/peripheral-anon")
        return sorted(entry["name"] for entry in entries if entry["type"] == "child<usb-tablet>")

    @staticmethod
    def _ports(vm):
        lines = hmp(vm, "info usb").splitlines()
        return sorted(line.split(",")[1] for line in lines if "Keyboard" in line)


class AddedChardevs(Row):
    thing = "chardevs added, removed and changed"
    means = "a client of an added socket stays connected; a removed one is not made again; a changed one is the new one"
    group = "hotplug"

    def setup(self, rig):
        self.paths = {name: rig.folder / f"{name}.sock" for name in ("added", "gone", "before", "changed")}

    def arguments(self, rig):
        arguments = ["-chardev", f"socket,id=ch-gone,path={self.paths['gone']},server=on,wait=off"]
        return [*arguments, "-chardev", f"socket,id=ch-changed,path={self.paths['before']},server=on,wait=off"]

    def begin(self, vm):
        vm.qmp.execute("chardev-add", id="ch-added", backend=self._socket("added"))
        vm.qmp.execute("chardev-remove", id="ch-gone")
        vm.qmp.execute("chardev-change", id="ch-changed", backend=self._socket("changed"))
        self.client = self._connect("added")

    def after(self, vm, moved):
        assert {"ch-added", "ch-changed"} <= chardevs(vm) and "ch-gone" not in chardevs(vm)
        self.client.settimeout(0.2)
        try:
            raise AssertionError(f"the connection ended: {self.client.recv(1)}")
        except TimeoutError:
            pass
        self._connect("changed").close()
        assert not self.paths["gone"].exists() and not self.paths["before"].exists()

    def finish(self, vm):
        self.client.close()

    def _socket(self, name):
        address = {"type": "unix", "data": {"path": str(self.paths[name])}}
        return {"type": "socket", "data": {"addr": address, "server": True, "wait": False}}

    def _connect(self, name):
        client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        client.settimeout(5)
        client.connect(str(self.paths[name]))
        return client


class AddedObjects(Row):
    thing = "objects added and removed with object-add and object-del"
    means = "the same objects; what a secret holds is in no reply and no log"
    group = "hotplug"
    SECRET = "hotplug-secret-of-the-test"

    def arguments(self, rig):
        return ["-object", "rng-builtin,id=rng-gone"]

    def begin(self, vm):
        vm.qmp.execute("object-add", id="rng-added", **{"qom-type": "rng-builtin"})
        vm.qmp.execute("object-add", id="secret-added", data=self.SECRET, **{"qom-type": "secret"})
        vm.qmp.execute("device_add", driver="virtio-rng-pci", id="rng-added-dev", rng="rng-added")
        vm.qmp.execute("object-del", id="rng-gone")

    def after(self, vm, moved):
        assert {"rng-added", "secret-added"} <= objects(vm) and "rng-gone" not in objects(vm)
        assert vm.qmp.execute("qom-get", path="/machine/peripheral/rng-added-dev", property="rng") == "/objects/rng-added"
        assert self.SECRET not in str(vm.qmp.execute("query-hot-upgrade"))
        assert self.SECRET not in vm.log_path.read_text(errors="replace")


class AddedIothread(Row):
    thing = "iothread and limits added with object-add, used by an added disk"
    means = "the disk is served by the same iothread and has the same limits"
    group = "hotplug"

    def setup(self, rig):
        self.path = make_file(rig, "threaded.raw")

    def begin(self, vm):
        vm.qmp.execute("object-add", id="io-added", **{"qom-type": "iothread"})
        limits = {"iops-total": 5000}
        vm.qmp.execute("object-add", id="limits-added", limits=limits, **{"qom-type": "throttle-group"})
        below = {"driver": "file", "filename": str(self.path)}
        options = {"driver": "throttle", "node-name": "threaded", "throttle-group": "limits-added", "file": below}
        vm.qmp.execute("blockdev-add", **options)
        vm.qmp.execute("device_add", driver="virtio-blk-pci", id="threaded-dev", drive="threaded", iothread="io-added")

    def after(self, vm, moved):
        assert "io-added" in {thread["id"] for thread in vm.qmp.execute("query-iothreads")}
        path = "/machine/peripheral/threaded-dev/virtio-backend"
        assert vm.qmp.execute("qom-get", path=path, property="iothread") == "/objects/io-added"
        limits = vm.qmp.execute("qom-get", path="/objects/limits-added", property="limits")
        assert limits["iops-total"] == 5000, limits
        assert is_locked(self.path)


class AddedNetdev(Row):
    thing = "tap added with netdev_add and device_add; NIC and tap of the command line removed from QEMU"
    means = "the same taps, MAC and slot; nothing is opened that was given back"
    group = "hotplug"
    net = True

    def setup(self, rig):
        self.tap = rig.net.add_tap()
        self.gone = rig.net.add_tap()

    def arguments(self, rig):
        return ["-netdev", f"tap,id=net-gone,ifname={self.gone.name},script=no,downscript=no"]

    def begin(self, vm):
        vm.qmp.execute("netdev_del", id="net-gone")
        vm.qmp.execute("netdev_add", type="tap", id="net-added", ifname=self.tap.name, script="no", downscript="no")
        vm.qmp.execute("device_add", driver="virtio-net-pci", id="nic-added", netdev="net-added")
        self.place = self._place(vm)

    def after(self, vm, moved):
        assert self._place(vm) == self.place
        assert self._is_open(vm, self.tap) and not self._is_open(vm, self.gone)

    @staticmethod
    def _place(vm):
        path = "/machine/peripheral/nic-added"
        return [vm.qmp.execute("qom-get", path=path, property=name) for name in ("mac", "addr", "netdev")]

    @staticmethod
    def _is_open(vm, tap):
        """Has somebody the tap open? Then it has a carrier."""
        shown = vm.rig.net.run(["ip", "link", "show", tap.name], capture_output=True, text=True).stdout
        return "LOWER_UP" in shown


class AddedMemory(Row):
    thing = "memory added with object-add and device_add (pc-dimm)"
    means = "the same place in the guest's memory and the same bytes"
    group = "hotplug"
    SIZE = 16 << 20

    def arguments(self, rig):
        return ["-m", "64,slots=4,maxmem=1G"]

    def begin(self, vm):
        backend = {"qom-type": "memory-backend-memfd", "size": self.SIZE, "share": True}
        # The first one goes before the second one comes: only the order tells the second one's address.
        for number in (1, 2):
            vm.qmp.execute("object-add", id=f"dimm{number}", **backend)
            vm.qmp.execute("device_add", driver="pc-dimm", id=f"dimm{number}-dev", memdev=f"dimm{number}")
        self.dimms = vm.qmp.execute("query-memory-devices")
        assert len(self.dimms) == 2

    def before(self, vm):
        self.words = os.urandom(64)
        self._poke(vm, self.words)

    def after(self, vm, moved):
        assert vm.qmp.execute("query-memory-devices") == self.dimms
        for dimm in self.dimms:
            path = vm.rig.folder / "pmem"
            vm.qmp.execute("pmemsave", val=dimm["data"]["addr"] + 4096, size=64, filename=str(path))
            assert path.read_bytes() == self.words, f"{dimm} lost its bytes"

    def _poke(self, vm, words):
        """Into all memfds of that size, as the guest would write."""
        written = set()
        for link in pathlib.Path(f"/proc/{vm.pid()}/fd").iterdir():
            if "memfd:memory-backend" not in os.readlink(link):
                continue
            with open(link, "r+b", buffering=0) as file:
                inode = os.fstat(file.fileno())
                if inode.st_size == self.SIZE and inode.st_ino not in written:
                    written.add(inode.st_ino)
                    os.pwrite(file.fileno(), words, 4096)
        assert len(written) == 2, written


class UnpluggedDevice(Row):
    thing = "PCI device of the command line that the guest let go"
    means = "it stays away; the devices after it stay in their slots"
    group = "hotplug-linux"
    guest = "linux"
    net = True

    def options(self, rig):
        # Address of the NIC that comes, and a CPU that comes.
        return {"vcpus": "1,sockets=2,cores=1,threads=1,maxcpus=2", "parameters": {"hotplug": "10.77.0.2/24"}}

    def arguments(self, rig):
        return ["-m", "256,slots=2,maxmem=1G"]

    def begin(self, vm):
        self.slots = self._slots(vm)
        delete(vm, "balloon0", 60)

    def after(self, vm, moved):
        assert "balloon0" not in user_devices(vm)
        slots = self._slots(vm)
        for name, slot in self.slots.items():
            assert name in ("balloon0", "nic0") or slots[name] == slot, (name, slot, slots)

    @staticmethod
    def _slots(vm):
        (bus,) = vm.qmp.execute("query-pci")
        return {device["qdev_id"]: device["slot"] for device in bus["devices"] if device["qdev_id"]}


class ReplacedNic(Row):
    thing = "NIC and tap of the command line unplugged, others plugged in"
    means = "a TCP connection over the new NIC goes on; the old tap is not opened again"
    group = "hotplug-linux"
    guest = "linux"
    net = True

    def setup(self, rig):
        self.tap = rig.net.add_tap()

    def begin(self, vm):
        delete(vm, "nic0", 60)
        vm.qmp.execute("netdev_del", id="net0")
        time.sleep(3)  # a guest that is still busy with what went may miss what comes
        vm.qmp.execute("netdev_add", type="tap", id="net1", ifname=self.tap.name, script="no", downscript="no")
        vm.qmp.execute("device_add", driver="virtio-net-pci", id="nic1", netdev="net1", mac=self.tap.mac)
        self.echo = self._echo(vm)

    def before(self, vm):
        self.echo.exchange(b"before")

    def after(self, vm, moved):
        self.echo.exchange(b"after")
        link = vm.net.run(["ip", "link", "show", vm.tap.name], capture_output=True, text=True).stdout
        assert "LOWER_UP" not in link, link

    def finish(self, vm):
        self.echo.close()

    @staticmethod
    def _echo(vm):
        deadline = time.monotonic() + 120
        while True:
            try:
                return TcpEcho(vm.net, "10.77.0.2", timeout=20)
            except OSError as error:
                if time.monotonic() > deadline:
                    seen = vm.qmp.execute("query-rx-filter"), vm.stat()
                    raise AssertionError(f"the guest does not answer at its new NIC: {seen}") from error


class AddedCpu(Row):
    thing = "CPU added with device_add"
    means = "it goes on working; its number and place are the same"
    group = "hotplug-linux"
    guest = "linux"
    net = True

    def begin(self, vm):
        place = {"socket-id": 1, "core-id": 0, "thread-id": 0}
        vm.qmp.execute("device_add", driver="qemu64-x86_64-cpu", id="cpu1", **place)
        self.cpus = self._cpus(vm)
        assert len(self.cpus) == 2
        self._must_work(vm)

    def after(self, vm, moved):
        assert self._cpus(vm) == self.cpus
        assert "cpu1" in user_devices(vm)
        self._must_work(vm)

    @staticmethod
    def _cpus(vm):
        return [(cpu["cpu-index"], cpu["qom-path"], cpu["props"]) for cpu in vm.qmp.execute("query-cpus-fast")]

    @staticmethod
    def _must_work(vm):
        """A program of the guest that may only run there wakes all the time (tests/guest/init)."""
        thread = next(c["thread-id"] for c in vm.qmp.execute("query-cpus-fast") if c["qom-path"].endswith("/cpu1"))
        path = pathlib.Path(f"/proc/{vm.pid()}/task/{thread}/stat")

        def used():
            return int(path.read_text().rpartition(")")[2].split()[11])

        for _ in range(3):
            before = used()
            wait_for(lambda before=before: used() > before, 60, "the CPU that was added works")


class UsedDimm(Row):
    thing = "memory added that the guest uses (pc-dimm)"
    means = "the guest goes on with it, and gives it back when asked"
    group = "hotplug-linux"
    guest = "linux"
    net = True

    def begin(self, vm):
        vm.qmp.execute("object-add", id="used0", size=128 << 20, share=True, **{"qom-type": "memory-backend-memfd"})
        vm.qmp.execute("device_add", driver="pc-dimm", id="used0-dev", memdev="used0")
        (dimm,) = vm.qmp.execute("query-memory-devices")
        self.dimm = dimm["data"]

    def after(self, vm, moved):
        (dimm,) = vm.qmp.execute("query-memory-devices")
        assert dimm["data"] == self.dimm, dimm

    def finish(self, vm):
        delete(vm, "used0-dev", 60)
        vm.qmp.execute("object-del", id="used0")


class SetAction(Row):
    thing = "what is done at a reboot, as set with `set-action`"
    means = "the same is done"
    group = "hotplug-actions"

    def begin(self, vm):
        vm.qmp.execute("set-action", reboot="shutdown")

    def finish(self, vm):
        vm.qmp.execute("system_reset")
        vm.qmp.wait_event("SHUTDOWN", 10)


class FailoverNic(Blocked):
    thing = "NIC with failover=on"
    blocker = "device"
    id = "device/nic-fo"

    def arguments(self, rig):
        return ["-device", "virtio-net-pci,id=nic-fo,failover=on,romfile="]


class PendingUnplug(Blocked):
    thing = "device whose unplug the guest has not answered"
    blocker = "unplug"
    id = "device/balloon0"

    def begin(self, vm):
        # The boot sector knows nothing of ACPI.
        vm.qmp.execute("device_del", id="balloon0")
