#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Random legal command lines, and commands given to the VM: each VM either crosses and is well, or is refused by name. Never anything else.

    tests/qemu/fuzz_test.py                          # $QHUP_FUZZ_RUNS (40) command lines from $QHUP_FUZZ_SEED (1)
    QHUP_FUZZ_SEED=4711 QHUP_FUZZ_RUNS=1 tests/qemu/fuzz_test.py     # one again, as the message of a failure says

A command line with which the source does not start, or its guest not boot, proves nothing; a third of them at most may
be so.
"""

import contextlib
import json
import os
import pathlib
import random
import shutil
import subprocess
import sys
import tempfile
import time
import unittest

from case import Disk, find_qemu, keep, main, tool
from firmware import FirmwareGuest
from guest import folder_of_tests
from netrig import NetRig
from pair import assert_runs_on_one, sockets_in
from qmp import QmpError
from survival import patient_daemon, release_of

RUNS = int(os.environ.get("QHUP_FUZZ_RUNS", "40"))
SEED = int(os.environ.get("QHUP_FUZZ_SEED", "1"))


class Line:
    """One random command line, and what it needs."""

    def __init__(self, seed, folder):
        self.random = random.Random(seed)
        self.folder = folder
        self.number = 0
        self.options = {
            "machine": self.pick(["pc", "pc", "q35", "q35", "pc-i440fx-6.2", "pc-q35-5.2", "pc-i440fx-2.12"]),
            "vcpus": self.pick([1, 1, 2, 3, 4]),
            "memory_mib": self.pick([48, 64, 130]),
            "ram": self.pick(["hot-upgrade", "hot-upgrade", "memfd", "memfd", "private"]),
            "cpu": self.pick(["qemu64", "qemu64", "Nehalem", "kvm64", "qemu64,-sse2", "SandyBridge", "max"]),
            "vnc": self.pick(["unix", "unix", None]),
            "pidfile": self.pick([True, False]),
        }
        atoms = [value for name, value in vars(type(self)).items() if name.startswith("add_")]
        self.options["extra"] = self.memory()
        for _ in range(self.random.randint(1, 7)):
            self.options["extra"] += self.pick(atoms)(self)
        acts = [value for name, value in vars(type(self)).items() if name.startswith("act_")]
        self.acts = [self.pick(acts)(self) for _ in range(self.pick([0, 0, 1, 2, 4]))]

    def __str__(self):
        return f"{' '.join(self.options['extra'])}\n{self.acts}"

    def pick(self, choices):
        return self.random.choice(choices)

    def some(self, *options):
        """Each of the options, or not, as further properties."""
        return "".join(f",{option}" for option in options if self.random.random() < 0.4)

    def id(self, kind):
        self.number += 1
        return f"{kind}{self.number}"

    def is_q35(self):
        """Its firmware waits half a minute for a disk of AHCI that it cannot boot from."""
        return "q35" in self.options["machine"]

    def image(self, form):
        path = self.folder / f"{self.id('image')}.{form}"
        subprocess.run([tool("qemu-img"), "create", "-q", "-f", form, path, "8M"], check=True)
        return path

    def memory(self):
        """Room for more, and maybe more."""
        if self.random.random() < 0.7:
            return []
        words = ["-m", f"{self.options['memory_mib']},slots=4,maxmem=2G"]
        for _ in range(self.random.randint(0, 2)):
            name = self.id("memory")
            path = self.folder / f"{name}.ram"
            backend = self.pick(
                [
                    f"memory-backend-memfd,id={name},size=32M,share=on",
                    f"memory-backend-memfd,id={name},size=32M,share=on,merge=off,prealloc=on",
                    f"memory-backend-file,id={name},size=32M,share=on,mem-path={path}",
                    f"memory-backend-file,id={name},size=32M,share=off,mem-path={path}",
                    f"memory-backend-ram,id={name},size=32M",
                ]
            )
            device = self.pick(["pc-dimm", "pc-dimm", "nvdimm", "virtio-pmem-pci", "virtio-mem-pci,requested-size=8M"])
            if device == "nvdimm":
                words += ["-machine", "nvdimm=on"]
            words += ["-object", backend, "-device", f"{device},id={name}-dev,memdev={name}"]
        return words

    # -- one thing each

    def add_drive(self):
        form = self.pick(["raw", "qcow2"])
        cache = self.pick(["writeback", "none", "writethrough", "unsafe"])
        more = self.some("discard=unmap", "detect-zeroes=on", "werror=stop", "rerror=report", "throttling.iops-total=5000")
        interface = self.pick(["virtio", "ide", "none"])
        if interface == "ide" and self.is_q35():
            interface = "virtio"
        name = self.id("drive")
        words = ["-drive", f"file={self.image(form)},format={form},if={interface},id={name},cache={cache}{more}"]
        if interface == "none":
            controller = self.id("scsi")
            words += ["-device", f"virtio-scsi-pci,id={controller}{self.some('num_queues=2')}"]
            words += ["-device", f"scsi-hd,drive={name},bus={controller}.0{self.some('serial=abc', 'share-rw=on')}"]
        return words

    def add_blockdev(self):
        form, name = self.pick(["raw", "qcow2"]), self.id("node")
        file = f"driver=file,node-name={name}-file,filename={self.image(form)}"
        words = ["-blockdev", file + self.some("discard=unmap", "aio=io_uring")]
        words += ["-blockdev", f"driver={form},node-name={name},file={name}-file{self.some('read-only=on')}"]
        device = self.pick(["virtio-blk-pci", "virtio-blk-pci-non-transitional"])
        if self.pick([True, False]):
            thread = self.id("thread")
            words += ["-object", f"iothread,id={thread}"]
            device += f",iothread={thread}"
        return [*words, "-device", f"{device},drive={name}{self.some('serial=s1', 'write-cache=off')}"]

    def add_cd(self):
        if self.is_q35():
            return []
        name = self.id("cd")
        medium = self.pick([f"file={self.image('raw')},format=raw,", ""])
        return ["-drive", f"{medium}if=none,media=cdrom,id={name}", "-device", f"ide-cd,drive={name}"]

    def add_chardev(self):
        name = self.id("char")
        path = self.folder / name
        kind = self.pick(
            [
                "null",
                "pty",
                "ringbuf,size=4096",
                f"file,path={path}",
                f"socket,path={path},server=on,wait=off",
                "socket,host=127.0.0.1,port=0,server=on,wait=off",
                "socket,host=127.0.0.1,port=0,server=on,wait=off,telnet=on",
                "socket,host=127.0.0.1,port=0,server=on,wait=off,websocket=on",
                "udp,host=127.0.0.1,port=9",
                f"socket,path={path},server=on,wait=off,mux=on",
                f"socket,path={path},server=on,wait=off,logfile={path}.log",
            ]
        )
        backend, _, options = kind.partition(",")
        words = ["-chardev", f"{backend},id={name}{',' if options else ''}{options}"]
        user = self.pick(["serial", "virtserialport", "virtconsole", "monitor", "debugcon", "nobody"])
        if user == "serial":
            words += ["-device", f"pci-serial,chardev={name}"]
        elif user in ("virtserialport", "virtconsole"):
            bus = self.id("vserial")
            words += ["-device", f"virtio-serial-pci,id={bus}", "-device", f"{user},bus={bus}.0,chardev={name}"]
        elif user == "monitor":
            words += ["-mon", f"chardev={name},mode={self.pick(['control', 'readline'])}"]
        elif user == "debugcon":
            words += ["-device", f"isa-debugcon,iobase=0x{self.pick([0x402, 0xe9]):x},chardev={name}"]
        return words

    def add_usb(self):
        bus = self.id("usb")
        controller = self.pick(["qemu-xhci", "nec-usb-xhci", "piix3-usb-uhci", "usb-ehci"])
        device = self.pick(["usb-tablet", "usb-kbd", "usb-mouse", "usb-hub"])
        return ["-device", f"{controller},id={bus}", "-device", f"{device},bus={bus}.0"]

    def add_controller(self):
        """Of disks, other than virtio's."""
        bus, name = self.id("hba"), self.id("disk")
        kind = self.pick(["lsi53c895a", "megasas", "megasas-gen2", "mptsas1068", "pvscsi", "am53c974", "ich9-ahci", "usb"])
        words = ["-drive", f"file={self.image('qcow2')},format=qcow2,if=none,id={name}"]
        if kind == "usb":
            return [*words, "-device", f"qemu-xhci,id={bus}", "-device", f"usb-storage,bus={bus}.0,drive={name}"]
        if kind == "ich9-ahci":
            return [*words, "-device", f"ich9-ahci,id={bus}", "-device", f"ide-cd,bus={bus}.1,drive={name}"]
        return [*words, "-device", f"{kind},id={bus}", "-device", f"scsi-cd,bus={bus}.0,drive={name}"]

    def add_sound(self):
        name = self.id("audio")
        words = ["-audiodev", f"none,id={name}"]
        if self.pick([True, False]):
            return [*words, "-device", self.pick([f"AC97,audiodev={name}", f"ES1370,audiodev={name}"])]
        codec = self.pick(["hda-duplex", "hda-micro", "hda-output"])
        return [*words, "-device", f"intel-hda,id=hda{name}", "-device", f"{codec},bus=hda{name}.0,audiodev={name}"]

    def add_bridge(self):
        """With a device behind it."""
        bus = self.id("bridge")
        kind = self.pick(["pcie-root-port", "ioh3420"]) if self.is_q35() else "pci-bridge"
        number = self.number
        place = f"chassis={number},slot={number}" if self.is_q35() else f"chassis_nr={number}"
        behind = self.pick(["virtio-rng-pci", "e1000e,romfile=", "vmxnet3,romfile=", "qemu-xhci", "pvpanic-pci"])
        return ["-device", f"{kind},id={bus},{place}", "-device", f"{behind},bus={bus}{'' if self.is_q35() else ',addr=1'}"]

    def add_device(self):
        return [
            "-device",
            self.pick(
                [
                    "virtio-rng-pci",
                    "virtio-balloon-pci-non-transitional",
                    "virtio-gpu-pci",
                    "virtio-keyboard-pci",
                    "virtio-tablet-pci",
                    "pvpanic",
                    "i6300esb",
                    "vmgenid,guid=auto",
                    "intel-hda",
                    "AC97",
                    "e1000",
                    "edu",
                    "pci-bridge,chassis_nr=7",
                    "vmcoreinfo",
                    "ib700",
                    "virtio-crypto-pci",
                    "nvme,serial=x",
                    "e1000e,romfile=",
                    "vmxnet3,romfile=",
                    "bochs-display",
                    "secondary-vga",
                    "virtio-mouse-pci",
                    "pvpanic-pci",
                    "pci-serial",
                    "ivshmem-doorbell",
                    "vhost-vsock-pci,guest-cid=3",
                    "intel-iommu",
                    "sdhci-pci",
                ]
            ),
        ]

    def add_netdev(self):
        name = self.id("net")
        backend = self.pick(["user", "hubport,hubid=1", "hubport,hubid=1", "socket,udp=127.0.0.1:1,localaddr=127.0.0.1:0"])
        kind, _, options = backend.partition(",")
        words = ["-netdev", f"{kind},id={name}{',' if options else ''}{options}"]
        device = self.pick(["virtio-net-pci", "e1000", "rtl8139"])
        return [*words, "-device", f"{device},netdev={name},romfile="]

    def add_object(self):
        name = self.id("object")
        return [
            "-object",
            self.pick(
                [
                    f"rng-builtin,id={name}",
                    f"iothread,id={name}",
                    f"secret,id={name},data=x",
                    f"throttle-group,id={name}",
                    f"memory-backend-memfd,id={name},size=16M,share=on",
                    f"memory-backend-ram,id={name},size=16M",
                    f"cryptodev-backend-builtin,id={name}",
                    f"authz-simple,id={name},identity=a",
                ]
            ),
        ]

    def add_setting(self):
        return self.pick(
            [
                ["-rtc", "base=localtime"],
                ["-rtc", "base=2020-02-02T02:02:02,clock=vm"],
                ["-boot", "menu=off,strict=on"],
                ["-global", "virtio-blk-pci.disable-legacy=on"],
                ["-watchdog-action", "pause"],
                ["-action", "reboot=reset,panic=pause"],
                ["-msg", "timestamp=on"],
                ["-smbios", "type=1,serial=abc"],
                ["-fw_cfg", "name=opt/qhup/test,string=abc"],
                ["-D", str(self.folder / "qemu.log2")],
                ["-numa", "node"],
                ["-overcommit", "mem-lock=off"],
                ["-k", "de"],
                ["-no-user-config"],
                ["-sandbox", "on"],
                ["-icount", "shift=auto"],
                ["-snapshot"],
                ["-numa", "node,cpus=0", "-smp", "1"],
                ["-global", "PIIX4_PM.disable_s3=1"],
                ["-global", "virtio-net-pci.mq=on"],
                ["-smbios", "type=11,value=hello"],
                ["-acpitable", "sig=TEST,data=/dev/null"],
                ["-fw_cfg", "name=opt/qhup/other,string=" + "x" * 4096],
                ["-trace", "enable=virtio_notify"],
                ["-uuid", "00000000-1111-2222-3333-444444444444"],
                ["-compat", "deprecated-output=hide"],
                ["-machine", "usb=on"],
                ["-machine", "vmport=off"],
                ["-machine", "pcspk-audiodev=none0", "-audiodev", "none,id=none0"],
                ["-no-reboot"],
                ["-plugin", "/nowhere.so"],
                ["-set", "device.nobody.addr=5"],
            ]
        )

    # -- one command each, given to the VM when it runs; it may refuse them

    def act_object(self):
        name = self.id("added")
        return self.pick(
            [
                ("object-add", {"qom-type": "iothread", "id": name}),
                ("object-add", {"qom-type": "secret", "id": name, "data": "x"}),
                ("object-add", {"qom-type": "throttle-group", "id": name}),
                ("object-add", {"qom-type": "memory-backend-memfd", "id": name, "size": 16 << 20, "share": True}),
                ("object-add", {"qom-type": "memory-backend-ram", "id": name, "size": 16 << 20}),
            ]
        )

    def act_device(self):
        driver = self.pick(["virtio-rng-pci", "virtio-balloon-pci", "e1000", "usb-tablet", "virtio-keyboard-pci", "edu"])
        return "device_add", {"driver": driver, "id": self.id("added")}

    def act_dimm(self):
        return "device_add", {"driver": "pc-dimm", "id": self.id("added"), "memdev": f"added{self.number - 1}"}

    def act_chardev(self):
        name = self.id("added")
        kind = self.pick(["null", "ringbuf", "pty"])
        return "chardev-add", {"id": name, "backend": {"type": kind, "data": {}}}

    def act_blockdev(self):
        name = self.id("added")
        file = {"driver": "file", "filename": str(self.image("qcow2")), "node-name": f"{name}-file"}
        return "blockdev-add", {"driver": "qcow2", "node-name": name, "file": file}

    def act_disk(self):
        driver = self.pick(["virtio-blk-pci", "virtio-blk-pci", "ide-hd", "usb-storage"])
        return "device_add", {"driver": driver, "drive": f"added{self.number}", "id": self.id("added")}

    def act_netdev(self):
        return "netdev_add", {"type": "hubport", "id": self.id("added"), "hubid": 3}

    def act_removal(self):
        """Of something that an earlier command may have added, or of nothing."""
        command, key = self.pick(
            [
                ("device_del", "id"),
                ("object-del", "id"),
                ("chardev-remove", "id"),
                ("blockdev-del", "node-name"),
                ("netdev_del", "id"),
            ]
        )
        return command, {key: f"added{max(1, self.number - self.random.randint(0, 2))}"}

    def act_snapshot(self):
        """Of what act_blockdev may have made."""
        overlay = self.image("qcow2")
        return "blockdev-snapshot-sync", {
            "node-name": f"added{self.number - 1}",
            "snapshot-file": str(overlay),
            "format": "qcow2",
            "snapshot-node-name": self.id("layer"),
        }

    def act_machine(self):
        return self.pick(
            [
                ("balloon", {"value": 40 << 20}),
                ("watchdog-set-action", {"action": "none"}),
                ("set-action", {"panic": "none"}),
                ("migrate-set-parameters", {"max-bandwidth": 12345678}),
                ("migrate-set-capabilities", {"capabilities": [{"capability": "xbzrle", "state": True}]}),
                ("qom-set", {"path": "/machine", "property": "graphics", "value": False}),
                ("set_link", {"name": "net1", "up": False}),
                ("trace-event-set-state", {"name": "virtio_notify", "enable": True}),
                ("human-monitor-command", {"command-line": "log guest_errors"}),
                ("human-monitor-command", {"command-line": "boot_set c"}),
                ("human-monitor-command", {"command-line": "mouse_set 1"}),
                ("human-monitor-command", {"command-line": "wavcapture /dev/null audio1"}),
                ("human-monitor-command", {"command-line": "gdbserver none"}),
                ("display-update", {"type": "vnc", "addresses": []}),
                ("block-latency-histogram-set", {"id": "disk0-dev"}),
            ]
        )


class Fuzz(unittest.TestCase):
    longMessage = True

    @classmethod
    def setUpClass(cls):
        cls.daemon = keep(patient_daemon())
        cls.net = keep(NetRig())

    def test_random_vm_crosses_or_is_refused_by_name(self):
        counts = {"upgraded": 0, "refused": 0, "not legal": 0}
        classes = {}
        for seed in range(SEED, SEED + RUNS):
            with self.subTest(f"QHUP_FUZZ_SEED={seed} QHUP_FUZZ_RUNS=1"):
                started = time.monotonic()
                outcome, blockers = self.one(seed)
                if os.environ.get("QHUP_FUZZ_VERBOSE"):
                    print(seed, outcome, f"{time.monotonic() - started:.1f} s", [b["class"] for b in blockers], flush=True)
                counts[outcome] += 1
                for blocker in {blocker["class"] for blocker in blockers}:
                    classes[blocker] = classes.get(blocker, 0) + 1
        print(f"  {counts}, by {dict(sorted(classes.items()))}", flush=True)
        if RUNS >= 20:
            self.assertLessEqual(counts["not legal"], RUNS // 3, "most command lines prove nothing")
            self.assertGreater(counts["upgraded"], RUNS // 20)
            self.assertGreater(counts["refused"], RUNS // 10)

    def one(self, seed):
        folder = pathlib.Path(tempfile.mkdtemp(prefix=f"qf-{os.getpid()}-", dir=folder_of_tests()))
        with contextlib.ExitStack() as stack:
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
            line = Line(seed, folder)
            source, target = line.pick([("7.2", "7.2"), ("7.2", "10.0"), ("10.0", "10.0"), ("10.0", "7.2")])
            net = self.net if line.pick([True, False]) else None
            vm = FirmwareGuest(find_qemu(source), net=net, name=f"fuzz{seed}", disk=Disk("raw", device_options=",bootindex=0"), **line.options)
            try:
                stack.enter_context(vm)
                vm.wait_ready(30)
            except (RuntimeError, OSError, AssertionError):
                return "not legal", []
            for command, arguments in line.acts:
                with contextlib.suppress(QmpError):
                    vm.qmp.execute(command, **arguments)
            pid = vm.pid()
            sockets = sockets_in(vm.folder)
            vm.qmp.drain_events()
            done = self.daemon.ctl("--json", "upgrade", "--yes", vm.name, "--to", release_of(source, target), check=False)
            self.assertIn(done.returncode, (0, 6), f"{line}\n{done.stdout}{done.stderr}")
            entry = json.loads(done.stdout)["vms"][0]
            if done.returncode == 0:
                self.assertEqual(entry["outcome"], "upgraded", entry)
            else:
                # shape_differs comes with a sentence instead: the versions cannot build the same machine
                self.assertTrue(entry["blockers"] or entry["code"] == "shape_differs", entry)
                self.assertTrue(entry["message"] or all(blocker["reason"] for blocker in entry["blockers"]), entry)
                self.assertEqual(vm.pid(), pid, "refused, but another process answers")
                self.assertFalse([e for e in vm.qmp.drain_events() if e["event"] == "STOP"], "refused, but paused")
            assert_runs_on_one(vm)
            vm.check()
            self.assertEqual(sockets_in(vm.folder), sockets)
            self.assertEqual(vm.qmp.execute("query-status")["status"], "running")
            return ("upgraded" if done.returncode == 0 else "refused"), entry["blockers"]


if __name__ == "__main__":
    print(f"seed {SEED}, {RUNS} command lines", file=sys.stderr)
    main()
