# SPDX-License-Identifier: GPL-2.0-or-later
"""Rows of the survival table: disks, and what is below and above them."""

import itertools
import json
import os
import pathlib
import struct
import subprocess

from block import LockProbe, assert_locked, assert_sound, create, disk, nodes, verify, write
from case import tool
from guest import Disk
from pair import open_files, wait_for
from processes import end_processes
from survival import Blocked, Row

PASSPHRASE = "the-passphrase-of-the-test"


# -- under a guest that writes, flushes and verifies all the time


class Written(Row):
    """A disk that the guest writes to, flushes and verifies; any damage is an error of the guest's."""

    group = "disks"
    guest = "linux"
    kind = "vd"  # of the guest's name
    disk_id = None  # as disk() wants it

    implicit = False  # its device is made by -drive if=virtio

    def count(self, rig):
        """The guest names disks by their slots: those of -device come first, each in the order of the command line."""
        self.all = rig.__dict__.setdefault("written", [])
        self.all.append(self)

    @property
    def guest_name(self):
        disks = sorted((row for row in self.all if row.kind == self.kind), key=lambda row: row.implicit)
        first = "b" if self.kind == "vd" else "a"  # vda is Guest's own
        return self.kind + chr(ord(first) + disks.index(self))

    def batches(self, vm):
        return vm.batches()[self.guest_name]

    def before(self, vm):
        self.had = disk(vm, self.disk_id)

    def after(self, vm, moved):
        has = disk(vm, self.disk_id)
        assert has == self.had, f"{self.had} became {has}"
        done = self.batches(vm)
        wait_for(lambda: self.batches(vm) != done, 30, f"the guest goes on with {self.guest_name}")
        vm.serial.check()


class Chain(Written):
    thing = "qcow2 with two backing files, `-drive if=virtio`, with cache, discard, detect-zeroes, werror"
    means = "same layers, options and node names; a guest that verifies what it wrote finds nothing; `qemu-img check` is clean"
    disk_id = "chain0"
    implicit = True

    def setup(self, rig):
        self.layers = [rig.folder / f"{name}.qcow2" for name in ("base", "middle", "top")]
        create(self.layers[0])
        create(self.layers[1], backing=self.layers[0])
        create(self.layers[2], backing="middle.qcow2")
        rig.stack.callback(lambda: [assert_sound(path) for path in self.layers])

    def arguments(self, rig):
        self.count(rig)
        options = "cache=none,discard=unmap,detect-zeroes=unmap,werror=stop,rerror=report"
        return ["-drive", f"file={self.layers[2]},if=virtio,id=chain0,format=qcow2,{options}"]

    def options(self, rig):
        # every disk of the guest, and how fast, so that an emulated guest can do it
        parameters = {"disk": "all:13", "disk_mib": 4, "disk_rate_kib": 128, "ram_percent": 5}
        return {"parameters": parameters, "vnc": None}

    def before(self, vm):
        super().before(vm)
        assert self.had["inserted"]["backing_file_depth"] == 2, self.had


class Native(Written):
    thing = "raw, `aio=native`, `-drive if=none`"
    means = "as above; the new process uses Linux AIO, too"
    disk_id = "native0"

    def setup(self, rig):
        self.path = create(rig.folder / "native.raw", format="raw")

    def arguments(self, rig):
        self.count(rig)
        drive = f"file={self.path},if=none,id=native0,format=raw,cache.direct=on,aio=native"
        return ["-drive", drive, "-device", "virtio-blk-pci,drive=native0,id=native0-dev"]

    def after(self, vm, moved):
        super().after(vm, moved)
        assert "[aio]" in pathlib.Path(f"/proc/{vm.pid()}/maps").read_text(), "no Linux AIO"


class IoUring(Written):
    thing = "virtio-blk with an iothread, two queues, `aio=io_uring`, `-blockdev`"
    means = "as above; what qom-set changed of the iothread stays; the new process uses io_uring, too"
    disk_id = "uring0-dev"

    def setup(self, rig):
        self.path = create(rig.folder / "uring.raw", format="raw")
        self.poll = 1000

    def arguments(self, rig):
        self.count(rig)
        file = f"driver=file,node-name=uring0-file,filename={self.path},aio=io_uring"
        arguments = ["-object", "iothread,id=io0", "-blockdev", file, "-blockdev", "raw,node-name=uring0,file=uring0-file"]
        return [*arguments, "-device", "virtio-blk-pci,drive=uring0,id=uring0-dev,iothread=io0,num-queues=2"]

    def before(self, vm):
        super().before(vm)
        self.poll += 1
        vm.qmp.execute("qom-set", {"path": "/objects/io0", "property": "poll-max-ns", "value": self.poll})

    def after(self, vm, moved):
        super().after(vm, moved)
        assert vm.qmp.execute("qom-get", {"path": "/objects/io0", "property": "poll-max-ns"}) == self.poll
        assert any("io_uring" in name for name in open_files(vm.pid())), "no io_uring"


class ScsiIothread(Written):
    thing = "virtio-scsi with an iothread"
    means = "as above"
    kind = "sd"
    disk_id = "scsi1-dev"

    def setup(self, rig):
        self.path = create(rig.folder / "scsi.qcow2")
        rig.stack.callback(assert_sound, self.path)

    def arguments(self, rig):
        self.count(rig)
        file = f"driver=file,filename={self.path},node-name=scsi1-file"
        arguments = ["-object", "iothread,id=io1", "-device", "virtio-scsi-pci,id=scsi1,iothread=io1"]
        arguments += ["-blockdev", file, "-blockdev", "qcow2,node-name=scsi1,file=scsi1-file,discard=unmap"]
        return [*arguments, "-device", "scsi-hd,drive=scsi1,id=scsi1-dev,bus=scsi1.0"]


class Throttled(Written):
    thing = "I/O limits of `-drive throttling.*`, changed with block_set_io_throttle"
    means = "the limits of now, not those of the start"
    disk_id = "slow0"
    implicit = True

    def setup(self, rig):
        self.path = create(rig.folder / "slow.qcow2")
        self.iops = 200

    def arguments(self, rig):
        self.count(rig)
        return ["-drive", f"file={self.path},if=virtio,id=slow0,format=qcow2,throttling.iops-total=100,throttling.group=g0"]

    def before(self, vm):
        self.iops += 1
        limits = dict.fromkeys(("bps", "bps_rd", "bps_wr", "iops_rd", "iops_wr"), 0)
        vm.qmp.execute("block_set_io_throttle", {**limits, "device": "slow0", "iops": self.iops, "iops_max": 2 * self.iops})
        super().before(vm)
        assert self.had["inserted"]["iops"] == self.iops, self.had


class ThrottleGroup(Written):
    thing = "throttle filter and throttle-group, changed with qom-set"
    means = "the limits of now, not those of the start"
    disk_id = "slow1-dev"

    def setup(self, rig):
        self.path = create(rig.folder / "slow1.raw", format="raw")
        self.iops = 300

    def arguments(self, rig):
        self.count(rig)
        arguments = ["-object", "throttle-group,id=group1,x-iops-total=100"]
        arguments += ["-blockdev", f"driver=raw,node-name=slow1-raw,file.driver=file,file.filename={self.path}"]
        arguments += ["-blockdev", "throttle,node-name=slow1,throttle-group=group1,file=slow1-raw"]
        return [*arguments, "-device", "virtio-blk-pci,drive=slow1,id=slow1-dev"]

    def limits(self, vm):
        return vm.qmp.execute("qom-get", {"path": "/objects/group1", "property": "limits"})

    def before(self, vm):
        super().before(vm)
        self.iops += 1
        limits = {"iops-total": self.iops}
        vm.qmp.execute("qom-set", {"path": "/objects/group1", "property": "limits", "value": limits})
        self.limited = self.limits(vm)
        assert self.limited["iops-total"] == self.iops

    def after(self, vm, moved):
        super().after(vm, moved)
        assert self.limits(vm) == self.limited, self.limits(vm)


class Luks(Written):
    thing = "LUKS, with a secret in a file, which is edited, or gone, or a pipe by now"
    means = "as above; the target has the secret that the source read; the passphrase is not in the shape"
    disk_id = "luks0"
    implicit = True

    def setup(self, rig):
        self.path = rig.folder / "luks.img"
        key = rig.folder / "key"
        key.write_text(PASSPHRASE)
        secret = ["--object", f"secret,id=key,file={key}", "-o", "key-secret=key,iter-time=10"]
        create(self.path, format="luks", options=secret)
        self.key = key

    def arguments(self, rig):
        self.count(rig)
        drive = f"file={self.path},if=virtio,id=luks0,format=luks,key-secret=key0"
        self.changes = itertools.cycle([lambda: self.key.write_text("other"), self.key.unlink, lambda: os.mkfifo(self.key)])
        return ["-object", f"secret,id=key0,file={self.key}", "-drive", drive]

    def before(self, vm):
        super().before(vm)
        if self.key.is_fifo():
            self.key.unlink()
        next(self.changes)()

    def after(self, vm, moved):
        super().after(vm, moved)
        info = vm.qmp.execute("query-hot-upgrade")
        del info["argv"]
        assert PASSPHRASE not in json.dumps(info), "the passphrase is in query-hot-upgrade"
        assert PASSPHRASE not in vm.log_path.read_text(), "the passphrase is in QEMU's log"


class HostDevice(Written):
    thing = "block device of the host (`host_device`), with direct I/O"
    means = "as above; the same device of the host is open"
    disk_id = "device0-dev"

    def needs(self):
        found = subprocess.run(["losetup", "-f"], capture_output=True, text=True, check=False)
        return None if found.returncode == 0 else f"no loop device here ({found.stderr.strip()})"

    def setup(self, rig):
        image = create(rig.folder / "device.raw", format="raw")
        add = ["losetup", "--find", "--show", image]
        self.device = subprocess.run(add, check=True, capture_output=True, text=True).stdout.strip()
        rig.stack.callback(subprocess.run, ["losetup", "-d", self.device], check=True)

    def arguments(self, rig):
        self.count(rig)
        node = f"driver=host_device,node-name=device0-host,filename={self.device},cache.direct=on"
        arguments = ["-blockdev", node, "-blockdev", "driver=raw,node-name=device0,file=device0-host,cache.direct=on"]
        return [*arguments, "-device", "virtio-blk-pci,drive=device0,id=device0-dev"]

    def after(self, vm, moved):
        super().after(vm, moved)
        assert open_files(vm.pid()).count(self.device) == 1, open_files(vm.pid())


class LatencyHistogram(Row):
    thing = "`block-latency-histogram-set`"
    means = "the same intervals; what was counted is still in it, and more is counted"
    group = "disks"
    guest = "linux"
    boundaries = (1000, 100000, 10000000)

    def begin(self, vm):
        where = {"id": "/machine/peripheral/disk0-dev/virtio-backend", "boundaries": list(self.boundaries)}
        vm.qmp.execute("block-latency-histogram-set", where)

    def seen(self, vm):
        stats = [one["stats"] for one in vm.qmp.execute("query-blockstats") if one["qdev"].startswith("/machine/peripheral/disk0-dev")]
        histogram = stats[0]["wr_latency_histogram"]
        assert histogram["boundaries"] == list(self.boundaries), histogram
        return sum(histogram["bins"])

    def before(self, vm):
        wait_for(lambda: self.seen(vm), 20, "the guest writes")
        self.was = self.seen(vm)

    def after(self, vm, moved):
        assert self.seen(vm) >= self.was, (self.seen(vm), self.was)
        wait_for(lambda: self.seen(vm) > self.was, 20, "more is counted")


class GuestStatistics(Row):
    thing = "what a balloon tells of the guest's memory, polled by QEMU"
    means = "polled on, at the interval that was set"
    group = "disks"
    guest = "linux"
    path = "/machine/peripheral/balloon0"

    def begin(self, vm):
        vm.qmp.execute("qom-set", {"path": self.path, "property": "guest-stats-polling-interval", "value": 1})

    def told(self, vm):
        stats = vm.qmp.execute("qom-get", path=self.path, property="guest-stats")
        return stats["last-update"] and stats["stats"]["stat-total-memory"]

    def before(self, vm):
        wait_for(lambda: self.told(vm), 20, "the guest tells how much memory it has")
        self.was = self.told(vm)

    def after(self, vm, moved):
        assert vm.qmp.execute("qom-get", path=self.path, property="guest-stats-polling-interval") == 1
        wait_for(lambda: self.told(vm) == self.was, 20, "the guest tells it to the new process")


class EncryptedQcow2(Written):
    thing = "encrypted qcow2 with a backing file, with a secret in the command line"
    means = "as above"
    disk_id = "crypt0-dev"

    def setup(self, rig):
        secret = ["--object", f"secret,id=key,data={PASSPHRASE}"]
        encrypt = [*secret, "-o", "encrypt.format=luks,encrypt.key-secret=key,encrypt.iter-time=10"]
        create(rig.folder / "plain.qcow2")
        self.path = create(rig.folder / "crypt.qcow2", backing=rig.folder / "plain.qcow2", options=encrypt)

        def check():
            image = f"driver=qcow2,encrypt.key-secret=key,file.filename={self.path}"
            assert_sound(image, options=[*secret, "--image-opts"])

        rig.stack.callback(check)

    def arguments(self, rig):
        self.count(rig)
        image = "driver=qcow2,node-name=crypt0,encrypt.format=luks,encrypt.key-secret=key1"
        arguments = ["-object", f"secret,id=key1,data={PASSPHRASE}"]
        arguments += ["-blockdev", f"{image},file.driver=file,file.filename={self.path}"]
        return [*arguments, "-device", "virtio-blk-pci,drive=crypt0,id=crypt0-dev"]


class Nbd(Written):
    """A disk on a real server."""

    def serve(self, rig, where):
        self.image = create(rig.folder / f"{self.disk_id}.raw", format="raw")
        command = [tool("qemu-nbd"), "-t", "-f", "raw", "-e", "4", "-x", "disk", *where, self.image]
        server = subprocess.Popen([str(word) for word in command])
        rig.stack.callback(server.wait)
        rig.stack.callback(end_processes, [server.pid])


class NbdUnix(Nbd):
    thing = "NBD over a Unix socket, `-drive file=nbd:…`"
    means = "as above; the target connects by itself"
    disk_id = "nbd0"
    implicit = True

    def setup(self, rig):
        self.path = rig.folder / "nbd.sock"
        self.serve(rig, ["-k", self.path])
        wait_for(self.path.exists, 10, "the NBD server")

    def arguments(self, rig):
        self.count(rig)
        return ["-drive", f"file=nbd:unix:{self.path}:exportname=disk,if=virtio,id=nbd0,format=raw"]


class NbdTcp(Nbd):
    thing = "NBD over TCP, `-blockdev`"
    means = "as above"
    disk_id = "nbd1-dev"

    def setup(self, rig):
        port_file = rig.folder / "nbd.pid"
        self.port = free_port()
        self.serve(rig, ["-b", "127.0.0.1", "-p", str(self.port), f"--pid-file={port_file}"])
        wait_for(port_file.exists, 10, "the NBD server")

    def arguments(self, rig):
        self.count(rig)
        server = f"server.type=inet,server.host=127.0.0.1,server.port={self.port}"
        node = f"driver=nbd,node-name=nbd1,{server},export=disk,reconnect-delay=5"
        return ["-blockdev", node, "-device", "virtio-blk-pci,drive=nbd1,id=nbd1-dev"]


class CopyOnRead(Written):
    thing = "copy-on-read, of `-drive` and as a filter"
    means = "as above"
    disk_id = "cor0"
    implicit = True

    def setup(self, rig):
        create(rig.folder / "cor-base.qcow2")
        self.path = create(rig.folder / "cor.qcow2", backing=rig.folder / "cor-base.qcow2")
        rig.stack.callback(assert_sound, self.path)

    def arguments(self, rig):
        self.count(rig)
        return ["-drive", f"file={self.path},if=virtio,id=cor0,format=qcow2,copy-on-read=on"]


class SnapshotUnderLoad(Written):
    thing = "external snapshots taken while the guest writes (blockdev-snapshot-sync)"
    means = "the target opens the layers of now; the guest's data is whole; every layer is sound"
    disk_id = "snap0"
    implicit = True

    def setup(self, rig):
        self.folder = rig.folder
        self.layers = [create(rig.folder / "snap0.qcow2")]
        rig.stack.callback(lambda: [assert_sound(path) for path in self.layers])

    def arguments(self, rig):
        self.count(rig)
        return ["-drive", f"file={self.layers[0]},if=virtio,id=snap0,format=qcow2"]

    def before(self, vm):
        self.layers.append(self.folder / f"snap{len(self.layers)}.qcow2")
        vm.qmp.execute("blockdev-snapshot-sync", {"device": "snap0", "snapshot-file": str(self.layers[-1])})
        super().before(vm)
        assert self.had["inserted"]["backing_file_depth"] == len(self.layers) - 1, self.had


class WriteCache(Written):
    thing = "write cache that the guest has switched off"
    means = "stays off: a guest that need not flush loses nothing when the host crashes"
    disk_id = "wce0-dev"

    def setup(self, rig):
        self.path = create(rig.folder / "wce.qcow2")

    def arguments(self, rig):
        self.count(rig)
        arguments = ["-blockdev", f"driver=qcow2,node-name=wce0,file.driver=file,file.filename={self.path}"]
        return [*arguments, "-device", "virtio-blk-pci,drive=wce0,id=wce0-dev"]

    def begin(self, vm):
        vm.serial.ask(f"cache {self.guest_name} through", f"cache {self.guest_name} through")

    def before(self, vm):
        super().before(vm)
        assert self.had["inserted"]["cache"]["writeback"] is False, self.had


class NodeNames(Row):
    thing = "block nodes"
    means = "query-named-block-nodes says the same, names that QEMU made up included"
    group = "disks"
    guest = "linux"

    def before(self, vm):
        self.had = nodes(vm)

    def after(self, vm, moved):
        has = nodes(vm)
        changed = {name for name in {*has, *self.had} if has.get(name) != self.had.get(name)}
        # the writable ones may grow
        assert not changed, {name: (self.had.get(name), has.get(name)) for name in changed}


class Counters(Row):
    thing = "counters of disks (query-blockstats)"
    means = "they go on: requests, bytes, times, failures, merges, the highest offset written"
    group = "disks"
    guest = "linux"
    counted = ("bytes", "operations", "total_time_ns", "merged", "highest_offset")

    def read(self, vm):
        found = {}
        for entry in vm.qmp.execute("query-blockstats"):
            name = entry["device"] or entry["qdev"]
            for key, value in entry["stats"].items():
                if key.endswith(self.counted) and "zone" not in key:
                    found[(name, key)] = value
            found[(name, "parent")] = entry.get("parent", {}).get("stats", {}).get("wr_highest_offset", 0)
        return found

    def before(self, vm):
        def has_written():
            self.had = self.read(vm)
            return self.had[("chain0", "wr_bytes")] and self.had[("chain0", "wr_highest_offset")]

        wait_for(has_written, 60, "the guest writes to its disk")

    def after(self, vm, moved):
        has = self.read(vm)
        less = {key: (value, has.get(key)) for key, value in self.had.items() if has.get(key, -1) < value}
        assert not less, f"counters went back: {less}"


class Locks(Row):
    thing = "locks of images"
    means = "held at every moment, by an outsider's look; who opens an image as QEMU does is refused"
    group = "disks"
    guest = "linux"

    def images(self, vm):
        return {"chain0": "qcow2", "slow0": "qcow2", "luks0": "luks"}

    def file_of(self, vm, name):
        return disk(vm, name)["inserted"]["image"]["filename"]

    def before(self, vm):
        self.probes = []
        for name in ("chain0", "slow0"):
            probe = LockProbe(self.file_of(vm, name), period_s=0.001)
            self.probes.append(probe.__enter__())

    def after(self, vm, moved):
        for probe in self.probes:
            probe.__exit__()
            assert probe.looks > 50 and probe.free == 0, f"free {probe.free} times of {probe.looks}"
        for name in ("chain0", "slow0"):
            assert_locked(self.file_of(vm, name), "qcow2")


def free_port():
    import socket

    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


# -- the graph has changed since the start


class Changed(Row):
    """A disk with a new graph before each move. A pattern is written before each change, and all are read after it."""

    group = "disk-graph"
    name = ""

    def setup(self, rig):
        self.folder = rig.folder
        self.patterns = {}
        self.path = create(self.folder / f"{self.name}.qcow2")
        rig.stack.callback(lambda: assert_sound(self.path))

    def arguments(self, rig):
        file = f"driver=file,node-name={self.name}-file,filename={self.path},auto-read-only=on"
        node = f"driver=qcow2,node-name={self.name}-0,file={self.name}-file"
        return ["-blockdev", file, "-blockdev", node, "-device", f"virtio-blk-pci,drive={self.name}-0,id={self.name}"]

    def options(self, rig):
        return {"disk": Disk("raw", device_options=",bootindex=0"), "vnc": None}

    def stamp(self, vm):
        number = len(self.patterns) + 1
        self.patterns[number * 65536] = number
        write(vm, self.name, number, number * 65536)

    def root(self, vm):
        return disk(vm, self.name)["inserted"]["node-name"]

    def before(self, vm):
        self.number = len(self.patterns) + 1
        self.stamp(vm)
        self.change(vm)
        self.had = disk(vm, self.name)

    def after(self, vm, moved):
        has = disk(vm, self.name)
        assert has == self.had, f"{self.had} became {has}"
        for offset, pattern in self.patterns.items():
            verify(vm, self.name, pattern, offset)
        self.stamp(vm)

    def job(self, vm, command, arguments, complete):
        vm.qmp.execute(command, {**arguments, "job-id": f"{self.name}-job"})
        if complete:
            vm.qmp.wait_event("BLOCK_JOB_READY", 20)
            vm.qmp.execute("block-job-complete", device=f"{self.name}-job")
        event = vm.qmp.wait_event("BLOCK_JOB_COMPLETED", 20)
        assert "error" not in event["data"], event
        wait_for(lambda: not vm.qmp.execute("query-jobs"), 10, "the job is gone")


class SnapshotNode(Changed):
    thing = "external snapshot of a node, taken since the start (blockdev-snapshot)"
    means = "the target opens the layers of now; what was written before and after is there"
    name = "over"

    def change(self, vm):
        top = create(self.folder / f"over-{self.number}.qcow2", backing=self.path)
        file = {"driver": "file", "filename": str(top), "node-name": f"over-file-{self.number}"}
        overlay = {"driver": "qcow2", "node-name": f"over-{self.number}", "file": file, "backing": None}
        vm.qmp.execute("blockdev-add", overlay)
        vm.qmp.execute("blockdev-snapshot", {"node": self.root(vm), "overlay": f"over-{self.number}"})
        self.path = top


class SnapshotOfTwo(Changed):
    thing = "external snapshot of several disks in one transaction"
    means = "as above"
    name = "both"

    def change(self, vm):
        self.path = self.folder / f"both-{self.number}.qcow2"
        data = {"snapshot-file": str(self.path), "snapshot-node-name": f"both-{self.number}", "node-name": self.root(vm)}
        other = {"snapshot-file": str(self.folder / f"twin-{self.number}.qcow2"), "device": "both-twin"}
        actions = [{"type": "blockdev-snapshot-sync", "data": snapshot} for snapshot in (data, other)]
        vm.qmp.execute("transaction", actions=actions)
        self.twin_had = disk(vm, "both-twin")

    def arguments(self, rig):
        twin = create(self.folder / "twin.qcow2")
        return [*super().arguments(rig), "-drive", f"file={twin},if=virtio,id=both-twin,format=qcow2"]

    def after(self, vm, moved):
        super().after(vm, moved)
        assert disk(vm, "both-twin") == self.twin_had


class Committed(Changed):
    thing = "snapshot that was committed into its base while the VM ran"
    means = "as above; the layer that is gone is not opened"
    name = "commit"

    def change(self, vm):
        top = self.folder / f"commit-{self.number}.qcow2"
        root = self.root(vm)
        node = f"commit-top-{self.number}"
        snapshot = {"node-name": root, "snapshot-file": str(top), "snapshot-node-name": node}
        vm.qmp.execute("blockdev-snapshot-sync", snapshot)
        self.stamp(vm)
        self.job(vm, "block-commit", {"device": node}, complete=True)
        top.unlink()
        assert self.root(vm) == root


class Streamed(Changed):
    thing = "layers that were streamed into their overlay while the VM ran"
    means = "as above"
    name = "stream"

    def change(self, vm):
        old, self.path = self.path, self.folder / f"stream-{self.number}.qcow2"
        node = f"stream-{self.number}"
        snapshot = {"node-name": self.root(vm), "snapshot-file": str(self.path), "snapshot-node-name": node}
        vm.qmp.execute("blockdev-snapshot-sync", snapshot)
        self.job(vm, "block-stream", {"device": node}, complete=False)
        assert disk(vm, self.name)["inserted"]["backing_file_depth"] == 0
        del old


class Mirrored(Changed):
    thing = "disk that was mirrored to another file while the VM ran (drive-mirror, pivot)"
    means = "the target opens the new file; the old one may be gone"
    name = "mirror"

    def change(self, vm):
        old, self.path = self.path, self.folder / f"mirror-{self.number}.qcow2"
        mirror = {"device": self.root(vm), "target": str(self.path), "format": "qcow2", "sync": "full"}
        self.job(vm, "drive-mirror", {**mirror, "node-name": f"mirror-{self.number}"}, complete=True)
        if self.number == 1:
            vm.qmp.execute("blockdev-del", {"node-name": "mirror-0"})
            vm.qmp.execute("blockdev-del", {"node-name": "mirror-file"})
        old.unlink()


class Reopened(Changed):
    thing = "node with options changed by blockdev-reopen"
    means = "the options of now"
    name = "reopen"

    def change(self, vm):
        self.direct = not getattr(self, "direct", False)
        cache = {"direct": self.direct, "no-flush": False}
        file = {"driver": "file", "node-name": "reopen-file", "filename": str(self.path), "auto-read-only": True}
        node = {"driver": "qcow2", "node-name": "reopen-0", "file": "reopen-file", "cache": cache, "discard": "unmap"}
        vm.qmp.execute("blockdev-reopen", {"options": [{**file, "cache": cache, "discard": "unmap"}, node]})
        assert disk(vm, self.name)["inserted"]["cache"]["direct"] == self.direct


class JobsAfterwards(Changed):
    thing = "snapshot from before an upgrade that is committed after it, with implicit layers of `-drive`"
    means = "layers that are read-only can be opened for writing as before"
    name = "later"

    def arguments(self, rig):
        base = self.path
        self.path = create(self.folder / "later-top.qcow2", backing=base)
        drive = f"file={self.path},if=none,id=later-drive,format=qcow2"
        return ["-drive", drive, "-device", "virtio-blk-pci,drive=later-drive,id=later"]

    def change(self, vm):
        self.layer = self.folder / f"later-{self.number}.qcow2"
        vm.qmp.execute("blockdev-snapshot-sync", {"device": "later-drive", "snapshot-file": str(self.layer)})
        self.stamp(vm)

    def after(self, vm, moved):
        super().after(vm, moved)
        self.job(vm, "block-commit", {"device": "later-drive", "base": str(self.path)}, complete=True)
        self.layer.unlink()
        assert disk(vm, self.name)["inserted"]["backing_file_depth"] == 1
        for offset, pattern in self.patterns.items():
            verify(vm, self.name, pattern, offset)


class DataFile(Changed):
    thing = "qcow2 with a data file of its own"
    means = "the same data"
    name = "data"

    def setup(self, rig):
        super().setup(rig)
        self.path.unlink()
        create(self.path, options=["-o", f"data_file={self.folder}/data.raw"])

    def change(self, vm):
        """As it was started."""


class Window(Changed):
    thing = "raw with offset and size"
    means = "the same part of the file"
    name = "window"

    def setup(self, rig):
        self.patterns = {}
        self.path = create(rig.folder / "window.raw", format="raw")

    def arguments(self, rig):
        node = f"driver=raw,node-name=window-0,offset=1048576,size=4194304,file.driver=file,file.filename={self.path}"
        return ["-blockdev", node, "-device", "virtio-blk-pci,drive=window-0,id=window"]

    def change(self, vm):
        """As it was started."""

    def after(self, vm, moved):
        super().after(vm, moved)
        with open(self.path, "rb") as file:
            for offset, pattern in self.patterns.items():
                file.seek((1 << 20) + offset)
                assert file.read(65536) == bytes([pattern]) * 65536, offset


# -- media


class Media(Row):
    group = "media"
    disk_id = ""

    def options(self, rig):
        return {"disk": Disk("raw", device_options=",bootindex=0"), "vnc": None}

    def setup(self, rig):
        self.folder = rig.folder
        self.number = 0

    def medium(self):
        self.number += 1
        path = self.folder / f"{self.disk_id}-{self.number}.img"
        path.write_bytes(bytes([self.number]) * 2048 * (100 + self.number))
        return path

    def before(self, vm):
        self.change(vm)
        self.had = disk(vm, self.disk_id)

    def after(self, vm, moved):
        has = disk(vm, self.disk_id)
        assert has == self.had, f"{self.had} became {has}"


class IdeCdrom(Media):
    thing = "CD-ROM on IDE, another medium before each move (blockdev-change-medium)"
    means = "the medium of now, read-only, with the tray as it was"
    disk_id = "cd0"

    def arguments(self, rig):
        drive = f"file={self.medium()},if=none,id=cd0,media=cdrom,format=raw,read-only=on"
        return ["-drive", drive, "-device", "ide-cd,drive=cd0,id=cd0-dev"]

    def change(self, vm):
        vm.qmp.execute("blockdev-change-medium", {"id": "cd0-dev", "filename": str(self.medium()), "format": "raw"})

    def after(self, vm, moved):
        super().after(vm, moved)
        verify(vm, "cd0-dev", self.number, 0, 2048 * (100 + self.number))


class ScsiCdrom(Media):
    thing = "CD-ROM on SCSI that starts empty: inserted, ejected, opened"
    means = "medium and tray as they were, an open tray included"
    disk_id = "cd1"

    def arguments(self, rig):
        return ["-device", "virtio-scsi-pci,id=scsi9", "-device", "scsi-cd,id=cd1,bus=scsi9.0"]

    def change(self, vm):
        if self.number == 0:
            vm.qmp.execute("blockdev-change-medium", {"id": "cd1", "filename": str(self.medium()), "format": "raw"})
        elif self.number == 1:
            self.number += 1
            vm.qmp.execute("blockdev-open-tray", id="cd1", force=True)
            assert disk(vm, "cd1")["tray_open"]
        elif self.number == 2:
            self.number += 1
            vm.qmp.execute("blockdev-remove-medium", id="cd1")
        elif self.number == 3:
            node = {"driver": "raw", "node-name": "cd1-node", "read-only": True}
            vm.qmp.execute("blockdev-add", {**node, "file": {"driver": "file", "filename": str(self.medium())}})
            vm.qmp.execute("blockdev-insert-medium", {"id": "cd1", "node-name": "cd1-node"})
            vm.qmp.execute("blockdev-close-tray", id="cd1")
        else:
            vm.qmp.execute("eject", id="cd1", force=True)


class EmptiedCdrom(Media):
    thing = "CD-ROM with a medium at the start, ejected since"
    means = "stays empty; the file of the command line need not exist any more"
    disk_id = "cd2"

    def arguments(self, rig):
        self.first = self.medium()
        drive = f"file={self.first},if=none,id=cd2,media=cdrom,format=raw"
        return ["-drive", drive, "-device", "scsi-cd,drive=cd2,id=cd2-dev,bus=scsi9.0"]

    def change(self, vm):
        if self.first.exists():
            vm.qmp.execute("eject", id="cd2-dev", force=True)
            self.first.unlink()


class Floppy(Media):
    thing = "floppy disk of the machine"
    means = "the medium of now"
    disk_id = "floppy0"

    def medium(self):
        path = super().medium()
        path.write_bytes(bytes([self.number]) * 1474560)
        return path

    def arguments(self, rig):
        return ["-drive", f"file={self.medium()},if=floppy,id=floppy0,format=raw"]

    def change(self, vm):
        vm.qmp.execute("blockdev-change-medium", {"device": "floppy0", "filename": str(self.medium()), "format": "raw"})


# -- what must be refused


class Geometry(Row):
    thing = "disks whose geometry QEMU guessed, and to which the guest wrote another partition table since (IDE, virtio-blk, SCSI)"
    means = "the same geometry: a sector addressed by cylinder, head and sector is the same one"
    group = "disk-geometry"
    buses = ("ide-hd,bus=ide.0,unit=0", "virtio-blk-pci", "scsi-hd,bus=geoscsi.0")
    # One entry of 6000 sectors from sector 63: who guesses from it has 4 heads and 17 sectors.
    table = struct.pack("<446x8BII48x2s", 0, 1, 1, 0, 0x83, 3, 17, 88, 63, 6000, b"\x55\xaa")

    def options(self, rig):
        return {"disk": Disk("raw", device_options=",bootindex=0")}

    def arguments(self, rig):
        self.paths = [rig.folder / f"geometry{number}.raw" for number in range(len(self.buses))]
        words = ["-device", "virtio-scsi-pci,id=geoscsi"]
        for number, (path, device) in enumerate(zip(self.paths, self.buses, strict=True)):
            path.write_bytes(bytes(512) + b"".join(struct.pack("<H", sector) * 256 for sector in range(1, 4096)))
            os.truncate(path, 64 << 20)
            words += ["-blockdev", f"driver=raw,node-name=geo{number},file.driver=file,file.filename={path}"]
            words += ["-device", f"{device},drive=geo{number},id=geo{number}-dev"]
        return words

    def begin(self, vm):
        self.was = self.seen(vm)
        assert self.was == ([(130, 16, 63)] * 3, 1 * 16 * 63), self.was
        for path in self.paths:
            with open(path, "r+b") as file:
                file.write(self.table)

    def seen(self, vm):
        names = [f"/machine/peripheral/geo{number}-dev" for number in range(len(self.buses))]
        geometry = [tuple(vm.qmp.execute("qom-get", path=n, property=p) for p in ("cyls", "heads", "secs")) for n in names]
        return geometry, self.sector_at(vm, 1, 0, 1)

    @staticmethod
    def sector_at(vm, cylinder, head, sector):
        """Which one the first IDE disk reads there: each has its number in it."""
        for port, value in ((6, 0xA0 | head), (2, 1), (3, sector), (4, cylinder), (5, 0), (7, 0x20)):
            vm.qmp.hmp(f"o /b {0x1F0 + port:#x} {value:#x}")
        wait_for(lambda: vm.qmp.hmp("i /b 0x1f7").split()[-1] == "0x58", 5, "the disk has read")
        words = {int(vm.qmp.hmp("i /h 0x1f0").split()[-1], 16) for _ in range(256)}
        assert len(words) == 1, words
        return words.pop()

    def after(self, vm, moved):
        assert self.seen(vm) == self.was, self.seen(vm)


class Resized(Row):
    thing = "raw image that another program made longer while the VM runs"
    means = "refused: a new QEMU would show the new size"
    group = "disk-resized"

    def refused_by(self, source, target):
        return "shape-differs"

    def arguments(self, rig):
        self.path = rig.folder / "resized.raw"
        self.path.write_bytes(bytes(1 << 20))
        return ["-drive", f"file={self.path},format=raw,if=virtio,id=resized0"]

    def begin(self, vm):
        os.truncate(self.path, 5 << 20)


class Exchanged(Row):
    """Each image still has a name that the VM knows: only the block nodes tell that it is another's."""

    thing = "two disk images of one VM whose names were exchanged while it runs"
    means = "refused: a new QEMU would exchange the disks"
    group = "disks-exchanged"

    def refused_by(self, source, target):
        return "shape-differs"

    def arguments(self, rig):
        self.paths = [create(rig.folder / name, size="1M", format="raw") for name in ("one.raw", "other.raw")]
        drives = [f"file={path},format=raw,if=virtio" for path in self.paths]
        return ["-drive", drives[0], "-drive", drives[1]]

    def begin(self, vm):
        one, other = self.paths
        aside = one.with_suffix(".aside")
        one.rename(aside)
        other.rename(one)
        aside.rename(other)


class ExchangedLinks(Exchanged):
    thing = "two disk images, qcow2 and read-only, behind symbolic links that were exchanged while the VM runs"
    group = "disks-exchanged-links"

    def arguments(self, rig):
        self.paths = [rig.folder / "link-one", rig.folder / "link-other"]
        for path in self.paths:
            path.symlink_to(create(path.with_suffix(".img"), size="1M"))
        drives = [f"file={path},format=qcow2,if=virtio" for path in self.paths]
        return ["-drive", drives[0] + ",readonly=on", "-drive", drives[1] + ",readonly=on"]


class BlockedDisk(Blocked):
    group = "disks-blocked"

    def options(self, rig):
        return {"disk": Disk("raw", device_options=",bootindex=0"), "vnc": None}

    def image(self, rig, **options):
        return create(rig.folder / f"{type(self).__name__}.img", size="1M", **options)


class SnapshotOn(BlockedDisk):
    thing = "temporary snapshot (`snapshot=on`)"
    blocker = "snapshot"
    id = "block/tmp0"

    def arguments(self, rig):
        return ["-drive", f"file={self.image(rig)},if=virtio,id=tmp0,format=qcow2,snapshot=on"]


class Fdset(BlockedDisk):
    thing = "disk opened through a descriptor set"
    blocker = "fdset"

    def begin(self, vm):
        with open(create(vm.rig.folder / "fdset.raw", size="1M", format="raw"), "rb") as file:
            vm.qmp.wait(vm.qmp.send("add-fd", {"fdset-id": 7}, fds=[file.fileno()]))
        file = {"driver": "file", "filename": "/dev/fdset/7", "node-name": "fdset0", "read-only": True}
        vm.qmp.execute("blockdev-add", file)


class Blkdebug(BlockedDisk):
    thing = "blkdebug"
    blocker = "block-driver"
    id = "block/debug0"

    def arguments(self, rig):
        image = f"driver=blkdebug,image.driver=file,image.filename={self.image(rig, format='raw')}"
        return ["-drive", f"{image},if=virtio,id=debug0"]


class Quorum(BlockedDisk):
    thing = "quorum"
    blocker = "block-driver"
    id = "node/quorum0"

    def arguments(self, rig):
        copies = [create(rig.folder / f"copy{i}.raw", size="1M", format="raw") for i in range(2)]
        children = [{"driver": "file", "filename": str(path)} for path in copies]
        node = {"driver": "quorum", "node-name": "quorum0", "vote-threshold": 1, "children": children}
        return ["-blockdev", json.dumps(node)]


class Preallocate(BlockedDisk):
    thing = "preallocate filter"
    blocker = "block-driver"
    id = "node/prealloc0"

    def arguments(self, rig):
        file = f"file.driver=file,file.filename={self.image(rig, format='raw')}"
        return ["-blockdev", f"driver=preallocate,node-name=prealloc0,{file}"]


class LazyRefcounts(BlockedDisk):
    thing = "qcow2 with lazy refcounts in use"
    blocker = "lazy-refcounts"
    id = "block/lazy0"

    def arguments(self, rig):
        image = self.image(rig, options=["-o", "lazy_refcounts=on"])
        return ["-drive", f"file={image},if=virtio,id=lazy0,format=qcow2"]


class Bitmap(Row):
    thing = "dirty bitmap in memory, recording or not"
    means = "not a block of it is lost; an incremental backup after the last step has all that was written"
    group = "disk-bitmaps"

    def options(self, rig):
        return {"disk": Disk("raw", device_options=",bootindex=0"), "vnc": None}

    def arguments(self, rig):
        self.image = create(rig.folder / "bitmap.qcow2", size="65M")
        return ["-drive", f"file={self.image},if=virtio,id=bitmap0,format=qcow2"]

    def begin(self, vm):
        vm.qmp.execute("block-dirty-bitmap-add", node="bitmap0", name="dirty", granularity=65536)
        vm.qmp.execute("block-dirty-bitmap-add", node="bitmap0", name="stopped", granularity=4096)
        self.written = 0
        self.write_more(vm)
        vm.qmp.execute("block-dirty-bitmap-disable", node="bitmap0", name="stopped")

    def write_more(self, vm):
        self.written += 1
        write(vm, "bitmap0", 0x30 + self.written, self.written * (5 << 20) + 4096, 150000)

    def read(self, vm):
        (entry,) = (entry for entry in vm.qmp.execute("query-block") if entry["device"] == "bitmap0")
        found = {bitmap["name"]: bitmap for bitmap in entry["inserted"]["dirty-bitmaps"]}
        for name, bitmap in found.items():
            bitmap.update(vm.qmp.execute("x-debug-block-dirty-bitmap-sha256", node="bitmap0", name=name))
        return found

    def before(self, vm):
        self.write_more(vm)
        self.had = self.read(vm)
        assert self.had["dirty"]["recording"] and not self.had["stopped"]["recording"], self.had
        assert self.had["dirty"]["count"] >= self.written * 150000 > self.had["stopped"]["count"] > 0, self.had

    def after(self, vm, moved):
        has = self.read(vm)
        assert has == self.had, f"{has}, not {self.had}"

    def finish(self, vm):
        self.write_more(vm)
        backup = create(vm.rig.folder / "backup.qcow2", size="65M")
        file = {"driver": "file", "filename": str(backup)}
        vm.qmp.execute("blockdev-add", {"driver": "qcow2", "node-name": "backup", "file": file})
        job = {"job-id": "backup0", "device": "bitmap0", "target": "backup", "sync": "incremental", "bitmap": "dirty"}
        vm.qmp.execute("blockdev-backup", job)
        assert vm.qmp.wait_event("BLOCK_JOB_COMPLETED", 30)["data"].get("error") is None
        vm.qmp.execute("blockdev-del", {"node-name": "backup"})
        subprocess.run([tool("qemu-img"), "compare", "-q", "-U", self.image, backup], check=True)
        # The disk was empty when the bitmap began, so the backup has to be all of it.
        verify(vm, "bitmap0", 0x30 + self.written, self.written * (5 << 20) + 4096, 150000)
        # Another VM comes on the other base.
        self.image.unlink()
        backup.unlink()


class LargeBitmap(BlockedDisk):
    thing = "dirty bitmap in memory of more than 256 KiB"
    blocker = "bitmap"
    id = "block/bitmap2"

    def arguments(self, rig):
        image = create(rig.folder / "large.qcow2", size="2T")
        return ["-drive", f"file={image},if=virtio,id=bitmap2,format=qcow2"]

    def begin(self, vm):
        vm.qmp.execute("block-dirty-bitmap-add", node="bitmap2", name="large")


class PersistentBitmap(BlockedDisk):
    thing = "dirty bitmap in the image"
    blocker = "bitmap"
    id = "block/bitmap1"

    def arguments(self, rig):
        return ["-drive", f"file={self.image(rig)},if=virtio,id=bitmap1,format=qcow2"]

    def begin(self, vm):
        vm.qmp.execute("block-dirty-bitmap-add", {"node": "bitmap1", "name": "kept", "persistent": True})


class WriteThreshold(BlockedDisk):
    thing = "write threshold"
    blocker = "write-threshold"
    id = "node/threshold0"

    def arguments(self, rig):
        image = self.image(rig, format="raw")
        return ["-blockdev", f"driver=raw,node-name=threshold0,file.driver=file,file.filename={image}"]

    def begin(self, vm):
        vm.qmp.execute("block-set-write-threshold", {"node-name": "threshold0", "write-threshold": 65536})


class RunningJob(BlockedDisk):
    thing = "block job that runs"
    blocker = "block-job"
    id = "job/slow-job"

    def arguments(self, rig):
        image = self.image(rig, format="raw")
        return ["-blockdev", f"driver=raw,node-name=job0,file.driver=file,file.filename={image}"]

    def begin(self, vm):
        write_through = {"node-name": "job0-target", "driver": "null-co", "size": 1 << 20}
        vm.qmp.execute("blockdev-add", write_through)
        mirror = {"device": "job0", "target": "job0-target", "sync": "full", "job-id": "slow-job"}
        vm.qmp.execute("blockdev-mirror", mirror)
        vm.qmp.wait_event("BLOCK_JOB_READY", 20)

    def finish(self, vm):
        vm.qmp.execute("block-job-cancel", device="slow-job", force=True)


class BackupJob(RunningJob):
    thing = "backup that runs"
    id = "job/backup-job"

    def arguments(self, rig):
        self.path = self.image(rig, format="raw")
        return ["-blockdev", f"driver=raw,node-name=saved0,file.driver=file,file.filename={self.path}"]

    def begin(self, vm):
        vm.qmp.execute("blockdev-add", {"node-name": "saved0-target", "driver": "null-co", "size": self.path.stat().st_size})
        job = {"device": "saved0", "target": "saved0-target", "sync": "full", "job-id": "backup-job", "speed": 1}
        vm.qmp.execute("blockdev-backup", job)

    def before(self, vm):
        # One reason, not one for each node that the job made.
        blockers = vm.qmp.execute("query-hot-upgrade")["blockers"]
        mine = [blocker for blocker in blockers if "saved0" in str(blocker) or "backup" in str(blocker)]
        assert [blocker["class"] for blocker in mine] == ["block-job"], mine

    def finish(self, vm):
        vm.qmp.execute("block-job-cancel", device="backup-job", force=True)


class NbdServer(BlockedDisk):
    thing = "NBD server with an export"
    blocker = "export"

    def arguments(self, rig):
        image = self.image(rig, format="raw")
        return ["-blockdev", f"driver=raw,node-name=export0,read-only=on,file.driver=file,file.filename={image}"]

    def begin(self, vm):
        address = {"type": "unix", "data": {"path": str(vm.rig.folder / "export.sock")}}
        vm.qmp.execute("nbd-server-start", addr=address)
        vm.qmp.execute("block-export-add", {"type": "nbd", "id": "export0", "node-name": "export0"})


class NbdTls(BlockedDisk):
    thing = "NBD with TLS"
    blocker = "block-driver"
    id = "node/tls0"

    def setup(self, rig):
        self.folder = rig.folder / "tls"
        self.folder.mkdir()
        (self.folder / "keys.psk").write_text("qemu:" + "5a" * 32 + "\n")
        socket = rig.folder / "tls.sock"
        secret = ["--object", f"tls-creds-psk,id=tls1,endpoint=server,dir={self.folder}", "--tls-creds", "tls1"]
        command = [tool("qemu-nbd"), "-t", "-f", "raw", *secret, "-k", socket, "-x", "disk", self.image(rig, format="raw")]
        server = subprocess.Popen([str(word) for word in command])
        rig.stack.callback(server.wait)
        rig.stack.callback(end_processes, [server.pid])
        wait_for(socket.exists, 10, "the NBD server")

    def arguments(self, rig):
        node = f"driver=nbd,node-name=tls0,server.type=unix,server.path={rig.folder}/tls.sock,export=disk,tls-creds=tls2"
        return ["-object", f"tls-creds-psk,id=tls2,endpoint=client,username=qemu,dir={self.folder}", "-blockdev", node]
