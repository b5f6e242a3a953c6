# SPDX-License-Identifier: GPL-2.0-or-later
"""Rows of the survival table: devices whose work another process does, over vhost-user or in the kernel."""

import os
import pathlib
import subprocess
import threading

from case import tool
from netrig import NetRig, TcpEcho
from pair import wait_for
from preload import find_preload
from processes import end_processes
from survival import Blocked, Row
from vhost import UdpBridge, free_port

VIRTIOFSD = pathlib.Path("/usr/lib/qemu/virtiofsd")


def start_back_end(rig, command, socket):
    """A back end that serves `socket`; it ends with the rig."""
    log = rig.stack.enter_context(open(rig.folder / f"{socket.stem}.log", "ab"))
    process = subprocess.Popen([str(word) for word in command], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    rig.stack.callback(process.wait)
    rig.stack.callback(end_processes, [process.pid], grace=0)
    wait_for(lambda: socket.exists() or process.poll() is not None, 10, f"{command[0]} listens")
    assert process.poll() is None, (rig.folder / f"{socket.stem}.log").read_text()
    return process


class Storage(Row):
    """The guest's checksummed writer works on it all the time."""

    group = "vhost"
    guest = "linux"
    writer = ""  # as the guest calls it

    def before(self, vm):
        before = vm.batches()[self.writer]
        wait_for(lambda: vm.batches()[self.writer] > before, 30, "the writer writes")

    def after(self, vm, moved):
        before = vm.batches()[self.writer]
        wait_for(lambda: vm.batches()[self.writer] > before + 10, 30, "the writer goes on")
        assert self.back_end.poll() is None, "the back end ended"


class VhostUserBlk(Storage):
    thing = "vhost-user-blk with qemu-storage-daemon"
    means = "the daemon keeps its connection; no request of the guest is lost or run twice"
    writer = "vdb"

    def setup(self, rig):
        image, socket = rig.folder / "vhost.raw", rig.folder / "blk.sock"
        with open(image, "wb") as file:
            file.truncate(32 << 20)
        command = [tool("qemu-storage-daemon", rig.base), "--blockdev", f"driver=file,node-name=image,filename={image}"]
        export = f"type=vhost-user-blk,id=export,node-name=image,writable=on,num-queues=2,addr.type=unix,addr.path={socket}"
        self.back_end = start_back_end(rig, [*command, "--export", export], socket)

    def arguments(self, rig):
        device = "vhost-user-blk-pci,chardev=blk0,id=vhostblk0,num-queues=2"
        return ["-chardev", f"socket,id=blk0,path={rig.folder}/blk.sock", "-device", device]

    def options(self, rig):
        return {"parameters": {"disk": "vdb", "fs": "share", "file": "/mnt/data", "disk_rate_kib": 1024}}


class VhostUserFs(Storage):
    thing = "vhost-user-fs with virtiofsd"
    means = "the file system stays mounted, files stay open; no request of the guest is lost or run twice"
    writer = "data"

    def needs(self):
        return None if VIRTIOFSD.exists() else f"there is no {VIRTIOFSD}"

    def setup(self, rig):
        share, socket = rig.folder / "share", rig.folder / "fs.sock"
        share.mkdir()
        options = ["-o", f"source={share}", "-o", "sandbox=chroot", "-o", "cache=none"]
        self.back_end = start_back_end(rig, [VIRTIOFSD, "-f", f"--socket-path={socket}", *options], socket)

    def arguments(self, rig):
        device = "vhost-user-fs-pci,chardev=fs0,id=vhostfs0,tag=share,queue-size=256"
        return ["-chardev", f"socket,id=fs0,path={rig.folder}/fs.sock", "-device", device]

    def options(self, rig):
        return VhostUserBlk.options(self, rig)


class VhostUserNet(Row):
    thing = "vhost-user-net with vhost-user-bridge"
    means = "a TCP connection to the guest goes on (this back end, a test of QEMU's, ends when a frame comes while its rings start)"
    group = "vhost-net"
    guest = "linux"

    def setup(self, rig):
        self.net = rig.stack.enter_context(NetRig())
        self.tap = self.net.add_tap(vnet_hdr=False)
        socket, port = rig.folder / "net.sock", free_port()
        self.bridge = bridge = rig.stack.enter_context(UdpBridge(self.net, self.tap, port))
        command = [tool("vhost-user-bridge", rig.base), "-u", socket, "-l", f"127.0.0.1:{port}", "-r", f"127.0.0.1:{bridge.port}"]
        self.back_end = start_back_end(rig, command, socket)

    def arguments(self, rig):
        arguments = ["-chardev", f"socket,id=vnet0,path={rig.folder}/net.sock", "-netdev", "vhost-user,id=net0,chardev=vnet0"]
        # vectors=0: under TCG, QEMU's own virtio-net with vhost-user and MSI-X crashes when the driver starts
        return [*arguments, "-device", f"virtio-net-pci,netdev=net0,id=nic0,mac={self.tap.mac},romfile=,vectors=0"]

    def options(self, rig):
        return {"parameters": {"ip": self.tap.cidr}}

    def begin(self, vm):
        self.bridge.begin()
        self.echo = vm.rig.stack.enter_context(TcpEcho(self.net, self.tap.guest_ip, timeout=30))

    def before(self, vm):
        self.stop, self.rounds, self.error = threading.Event(), 0, None
        self.thread = threading.Thread(target=self.talk, daemon=True)
        self.thread.start()
        wait_for(lambda: self.rounds or self.error, 30, "the guest answers")
        # A frame between QEMU's messages SET_VRING_KICK and SET_VRING_CALL ends this back end, also after stop and cont.
        self.bridge.hold()

    def talk(self):
        try:
            while not self.stop.is_set():
                self.echo.exchange(os.urandom(4000))
                self.rounds += 1
        except (AssertionError, OSError) as error:
            self.error = error

    def after(self, vm, moved):
        self.bridge.release()
        rounds = self.rounds
        wait_for(lambda: self.rounds > rounds + 3 or self.error, 30, "the guest answers")
        self.stop.set()
        self.thread.join()
        log = (vm.rig.folder / "net.log").read_text()[-1000:]
        assert self.back_end.poll() is None, f"the back end ended ({self.back_end.returncode}): {log}"
        assert self.error is None, f"{self.error}: {log}"


class VhostUserGone(Blocked):
    thing = "vhost-user with a back end that is not connected"
    blocker = "vhost-user"
    id = "chardev/gone0"
    group = "vhost-blocked"

    def setup(self, rig):
        image, socket = rig.folder / "gone.raw", rig.folder / "gone.sock"
        image.write_bytes(bytes(1 << 20))
        command = [tool("qemu-storage-daemon", rig.base), "--blockdev", f"driver=file,node-name=image,filename={image}"]
        export = f"type=vhost-user-blk,id=export,node-name=image,addr.type=unix,addr.path={socket}"
        self.back_end = start_back_end(rig, [*command, "--export", export], socket)

    def arguments(self, rig):
        chardev = f"socket,id=gone0,path={rig.folder}/gone.sock,reconnect=1"
        return ["-chardev", chardev, "-device", "vhost-user-blk-pci,chardev=gone0,num-queues=1"]

    def begin(self, vm):
        end_processes([self.back_end.pid], grace=0)
        self.back_end.wait()


class InKernel(Blocked):
    """Devices of the kernel that most test machines lack: QEMU is made to believe that they are there."""

    group = "vhost-blocked"
    net = True

    def setup(self, rig):
        if "LD_PRELOAD" not in os.environ:
            os.environ["LD_PRELOAD"] = str(find_preload("vhost_shim.c"))
            rig.stack.callback(os.environ.pop, "LD_PRELOAD")


class VhostNet(InKernel):
    thing = "vhost-net (not tried on hardware; the order of stop and start is tested)"
    blocker = "netdev"
    id = "netdev/vhost0"

    def arguments(self, rig):
        tap = rig.net.add_tap()
        netdev = f"tap,id=vhost0,ifname={tap.name},script=no,downscript=no,vhost=on"
        return ["-netdev", netdev, "-device", "virtio-net-pci,netdev=vhost0,romfile="]


class VhostVsock(InKernel):
    thing = "virtio-vsock (vhost-vsock-pci; not tried on hardware)"
    blocker = "device"
    id = "device/vsock0"

    def arguments(self, rig):
        return ["-device", "vhost-vsock-pci,guest-cid=42,id=vsock0"]


class VhostScsi(InKernel):
    thing = "vhost-scsi-pci"
    blocker = "device"
    id = "device/vscsi0"

    def begin(self, vm):
        # not before: the firmware would wait for its rings
        vm.qmp.execute("device_add", driver="vhost-scsi-pci", wwpn="naa.5001405324af0985", id="vscsi0")
