# SPDX-License-Identifier: GPL-2.0-or-later
"""Rows of the survival table: taps, whichever way they were opened, and the networks that do not cross."""

import os
import pathlib
import random
import textwrap

import processes
from firmware import boot_sector, make_payload
from netrig import BootServer, TcpEcho, TcpStream
from pair import wait_for
from prober import Prober
from survival import Blocked, Row


class TapRow(Row):
    """A NIC of the Linux guest on a bridge of its own. After every step the kernel's settings of the tap are as before,
    a connection stays, and a new one can be made.
    """

    group = "net"
    guest = "linux"
    net = True
    queues = 1
    netdev = ""  # the id; also names the device
    vnet_hdr = True
    nic = "virtio-net-pci"
    nic_options = ""
    lan = None

    def setup(self, rig):
        self.net = rig.net
        self.lan = rig.net.add_lan()
        self.make(rig)

    def make(self, rig):
        """Makes the tap."""
        self.tap = rig.net.add_tap(queues=self.queues, vnet_hdr=self.vnet_hdr, lan=self.lan)

    def netdev_arguments(self, rig):
        queues = f",queues={self.queues}" if self.queues > 1 else ""
        return f"tap,id={self.netdev},ifname={self.tap.name},script=no,downscript=no{queues}"

    def arguments(self, rig):
        multi = f",mq=on,vectors={2 * self.queues + 2}" if self.queues > 1 else ""
        device = f"{self.nic},netdev={self.netdev},id={self.netdev}-nic,mac={self.lan.mac},romfile="
        return ["-netdev", self.netdev_arguments(rig), "-device", device + multi + self.nic_options]

    def begin(self, vm):
        self.echo = self.net.connect(self.lan.guest_ip, 7, 20)
        self.echo.close()
        self.echo = TcpEcho(self.net, self.lan.guest_ip, timeout=30)
        vm.rig.stack.callback(self.echo.close)
        self.exchange()

    def exchange(self):
        for size in (1, 1400, 60000):
            self.echo.exchange(os.urandom(size))

    def settings(self, vm):
        return self.net.tap_settings(vm, self.netdev)

    def before(self, vm):
        self.exchange()
        self.known = self.settings(vm)
        assert self.known["link"]["master"] == self.lan.bridge, self.known
        assert self.known["queues"][0]["attached"], self.known

    def after(self, vm, moved):
        now = self.settings(vm)
        assert now == self.known, f"the tap was {self.known}, is {now}"
        self.exchange()
        with TcpEcho(self.net, self.lan.guest_ip, timeout=30) as fresh:
            fresh.exchange(os.urandom(3000))


class FullRateStream(TapRow):
    thing = "tap with one queue; a TCP stream of the guest at full rate"
    means = "the stream goes on, every byte right both ways; header, offloads, send buffer, bridge as they were"
    group = "net-stream"
    netdev = "one"

    def begin(self, vm):
        super().begin(vm)
        self.stream = TcpStream(self.net, self.lan.guest_ip)
        vm.rig.stack.callback(self.stream.close)

    def before(self, vm):
        self.stream.check(1 << 20)
        super().before(vm)

    def after(self, vm, moved):
        self.stream.check(1 << 20)
        super().after(vm, moved)


class ManyPackets(TapRow):
    thing = "10,000 packets per second to the guest"
    means = "none is lost while pause × rate stays below the tap's queue"
    group = "net-rate"
    netdev = "busy"

    def make(self, rig):
        # Room for as long as a busy test machine may take.
        self.tap = rig.net.add_tap(lan=self.lan, txqueuelen=60000)

    def before(self, vm):
        super().before(vm)
        self.prober = Prober(self.net, self.lan.guest_ip, port=9, interval_us=100, sink=True, size=200, drain_ms=0)
        self.prober.__enter__()

    def after(self, vm, moved):
        try:
            sent = self.prober.finish()["sent"]
        finally:
            self.prober.__exit__()
        dropped = self.net.statistics(self.tap.name)["tx"]["dropped"]
        before, got = None, self.arrived(vm)
        while got != before and got[0] < sent:
            vm.serial.wait_count(20)
            before, got = got, self.arrived(vm)
        assert dropped == 0, f"the tap's queue overflowed by {dropped} of {sent} packets"
        assert sent > 1000 and got == (sent, sent, 0), f"sent {sent}; arrived, of them distinct, bad: {got}"
        super().after(vm, moved)

    def arrived(self, vm):
        answer = vm.serial.ask("sink", r"sink packets=(\d+) distinct=(\d+) \S+ bad=(\d+)")
        return tuple(int(word) for word in answer.groups())


class TwoQueues(TapRow):
    thing = "tap with 2 queues, both in use"
    means = "both are attached and carry packets; settings of each as they were"
    netdev = "two"
    queues = 2
    used = 2

    def begin(self, vm):
        super().begin(vm)
        # Flows go to queues by their hash.
        self.streams = [
            TcpStream(self.net, self.lan.guest_ip, seed=number, rate=200_000) for number in range(2 * self.queues)
        ]
        for stream in self.streams:
            vm.rig.stack.callback(stream.close)

    def attached(self, settings):
        return sum(queue["attached"] for queue in settings["queues"])

    def before(self, vm):
        super().before(vm)
        assert len(self.known["queues"]) == self.queues and self.attached(self.known) == self.used, self.known

    def after(self, vm, moved):
        for stream in self.streams:
            stream.check(20000)
        super().after(vm, moved)


class FourQueues(TwoQueues):
    thing = "tap with 4 queues, all in use"
    means = TwoQueues.means
    netdev = "four"
    queues = used = 4

    def options(self, rig):
        return {"vcpus": 4}


class FewerQueues(TwoQueues):
    thing = "tap with 4 queues of which the guest uses 1 to 3, and changes its mind after"
    means = "the others stay detached; the guest can attach and detach any of them later"
    netdev = "fewer"
    queues = 4
    used = 4

    def before(self, vm):
        self.use(vm, self.used % 3 + 1)
        super().before(vm)

    def after(self, vm, moved):
        super().after(vm, moved)
        used = self.used
        for number in (4, used):
            self.use(vm, number)
            assert self.attached(self.settings(vm)) == number, self.settings(vm)
            for stream in self.streams:
                stream.check(20000)

    def use(self, vm, number):
        answer = vm.serial.ask(f"channels {self.lan.guest_ip} {number}", rf"channels {number} error=(\d+)", 30)
        assert answer[1] == "0", f"ethtool -L: errno {answer[1]}"
        self.used = number


class LinkDown(TapRow):
    thing = "link that set_link took down"
    means = "it stays down, for the NIC or for NIC and netdev, and can be taken up"
    netdev = "plug"
    pulled = "plug"

    def before(self, vm):
        super().before(vm)
        self.pulled = "plug" if self.pulled == "plug-nic" else "plug-nic"
        vm.qmp.execute("set_link", name=self.pulled, up=False)
        assert not self.answers()

    def after(self, vm, moved):
        assert not self.answers(), "the link came up"
        if self.pulled == "plug":
            # The netdev has a link of its own, which no device saves.
            vm.qmp.execute("set_link", name="plug-nic", up=True)
            assert not self.answers(), "the link of the netdev came up"
        vm.qmp.execute("set_link", name=self.pulled, up=True)
        wait_for(self.answers, 20, "the link is up")
        super().after(vm, moved)

    def answers(self):
        """Can the guest be reached over this NIC?"""
        try:
            self.net.connect(self.lan.guest_ip, 7, 1.5).close()
            return True
        except OSError:
            return False


# ---- ways to open a tap


class PassedDescriptor(TapRow):
    thing = "-netdev tap,fd="
    means = "the target has the same queue by its id; the number on the command line means nothing there"
    group = "net-ways"
    netdev = "byfd"

    def make(self, rig):
        self.fds = passed(rig)[: self.queues]
        rig.net.plug("byfd", self.lan)

    def options(self, rig):
        return {"pass_fds": tuple(passed(rig))}

    def netdev_arguments(self, rig):
        return f"tap,id={self.netdev},fd={passed(rig)[0]}"


class PassedDescriptors(PassedDescriptor):
    thing = "-netdev tap,fds= with 2 queues, of which the guest uses 1"
    means = "the same queues by their ids; the second stays detached"
    netdev = "byfds"
    queues = 2

    def make(self, rig):
        passed(rig)
        rig.net.plug("byfds", self.lan)

    def netdev_arguments(self, rig):
        return f"tap,id={self.netdev},fds={passed(rig)[1]}:{passed(rig)[2]}"

    def before(self, vm):
        super().before(vm)
        assert [queue["attached"] for queue in self.known["queues"]] == [True, False], self.known


def passed(rig):
    """The descriptors of byfd and byfds, made once for a rig."""
    if not hasattr(rig, "passed"):
        rig.passed = rig.net.open_tap("byfd") + rig.net.open_tap("byfds", queues=2)
        for fd in rig.passed:
            rig.stack.callback(os.close, fd)
    return rig.passed


HELPER = r"""
    #!/usr/bin/python3
    # What qemu-bridge-helper does: a tap on the bridge --br, its descriptor sent over the socket --fd.
    import fcntl, os, socket, struct, subprocess, sys
    options = dict(word[2:].split("=") for word in sys.argv[1:] if "=" in word)
    tap = os.open("/dev/net/tun", os.O_RDWR)
    name = fcntl.ioctl(tap, 0x400454CA, struct.pack("16sH22x", b"tap%d", 0x2 | 0x1000 | 0x4000))[:16]
    name = name.split(b"\0")[0].decode()
    subprocess.run(["ip", "link", "set", name, "master", options["br"], "up"], check=True)
    with socket.socket(fileno=int(options["fd"])) as to:
        socket.send_fds(to, [b"1"], [tap])
    with open(LOG, "a") as log:
        log.write(name + "\n")
"""


class Helper(TapRow):
    thing = "-netdev tap,helper="
    means = "the helper runs once in the life of the VM; the tap stays on its bridge"
    group = "net-ways"
    netdev = "helped"

    def make(self, rig):
        self.log = rig.folder / f"{self.netdev}.log"
        self.helper = rig.folder / f"{self.netdev}-helper"
        self.helper.write_text(textwrap.dedent(HELPER).lstrip().replace("LOG", repr(str(self.log))))
        self.helper.chmod(0o755)

    def netdev_arguments(self, rig):
        return f"tap,id={self.netdev},helper={self.helper},br={self.lan.bridge}"

    def after(self, vm, moved):
        super().after(vm, moved)
        assert len(self.log.read_text().split()) == 1, self.log.read_text()


class Bridge(Helper):
    thing = "-netdev bridge"
    means = Helper.means
    netdev = "bridged"

    def netdev_arguments(self, rig):
        return f"bridge,id={self.netdev},helper={self.helper},br={self.lan.bridge}"


class Nic(TapRow):
    thing = "-nic tap"
    means = "as with -netdev, though QEMU makes up another id in each process"
    group = "net-ways"
    netdev = "#net0"

    def arguments(self, rig):
        return ["-nic", f"tap,ifname={self.tap.name},script=no,downscript=no,model=virtio-net-pci,mac={self.lan.mac}"]


class SendBuffer(FullRateStream):
    thing = "tap with a small sndbuf, always full"
    means = "the limit stays; what the guest sent and the host did not take is sent after the pause"
    group = "net-ways"
    netdev = "small"

    def netdev_arguments(self, rig):
        return super().netdev_arguments(rig) + ",sndbuf=20000"

    def before(self, vm):
        super().before(vm)
        assert self.known["queues"][0]["send-buffer"] == 20000, self.known


class NoHeader(TapRow):
    thing = "tap with vnet_hdr=off"
    means = "it stays without a header and without offloads"
    group = "net-ways"
    netdev = "plain"
    vnet_hdr = False

    def netdev_arguments(self, rig):
        return super().netdev_arguments(rig) + ",vnet_hdr=off"


class Hash(TwoQueues):
    thing = "virtio-net with RSS and hash reports, 2 queues"
    means = "the long header (20 bytes) stays"
    group = "net-ways"
    netdev = "hashed"
    used = 1
    nic_options = ",rss=on,hash=on"

    def before(self, vm):
        super().before(vm)
        assert self.known["queues"][0]["vnet-header"] == 20, self.known


class OldHeader(TapRow):
    thing = "legacy virtio-net without mergeable buffers and without control of offloads"
    means = "the short header (10 bytes) and the offloads of the features stay"
    group = "net-ways"
    netdev = "legacy"
    nic_options = ",disable-modern=on,disable-legacy=off,mrg_rxbuf=off,ctrl_guest_offloads=off"

    def before(self, vm):
        super().before(vm)
        assert self.known["queues"][0]["vnet-header"] == 10, self.known


class Vmxnet3(TapRow):
    thing = "vmxnet3 on a tap"
    means = "connections stay"
    group = "net-ways"
    netdev = "vmx"
    nic = "vmxnet3"

    def options(self, rig):
        return {"parameters": {"module": "vmxnet3"}}


class Scripts(Row):
    thing = "script= and downscript= of a tap that QEMU makes itself, without a name"
    means = "the first ran when the VM started, the second runs when it ends, in between none"
    group = "net-scripts"
    net = True

    def setup(self, rig):
        self.net = rig.net
        self.log = rig.folder / "scripts.log"
        for name in ("up", "down"):
            script = rig.folder / name
            script.write_text(f'#!/bin/sh\necho "{name} $1" >>{self.log}\n' + 'ip link set "$1" up\n' * (name == "up"))
            script.chmod(0o755)

    def arguments(self, rig):
        netdev = f"tap,id=own,script={rig.folder}/up,downscript={rig.folder}/down"
        return ["-netdev", netdev, "-device", "virtio-net-pci,netdev=own,id=own-nic,romfile="]

    def ran(self):
        return self.log.read_text().splitlines()

    def before(self, vm):
        self.known = self.net.tap_settings(vm, "own")
        self.name = self.known["link"]["ifname"]
        assert self.ran() == [f"up {self.name}"], self.ran()

    def after(self, vm, moved):
        assert self.ran() == [f"up {self.name}"], self.ran()
        assert self.net.tap_settings(vm, "own") == self.known

    def finish(self, vm):
        pid = vm.pid()
        vm.serial.expect_end()
        vm.qmp.execute("quit")
        assert processes.wait_gone(pid, 20)
        assert self.ran() == [f"up {self.name}", f"down {self.name}"], self.ran()
        assert not pathlib.Path(f"/proc/{pid}").exists()


class BootRom(Row):
    """A NIC that the test guest has no driver for: its boot ROM has one, and downloads while the VM is moved."""

    net = True
    WORDS = 30000

    def setup(self, rig):
        self.net = rig.net
        self.lan = rig.net.add_lan()
        self.tap = rig.net.add_tap(lan=self.lan)
        content = boot_sector(self.WORDS) + make_payload(random.Random(self.thing), self.WORDS)
        self.server = BootServer(rig.net, self.lan, content)
        rig.stack.callback(self.server.close)

    def arguments(self, rig):
        return [
            *("-netdev", f"tap,id=rom,ifname={self.tap.name},script=no,downscript=no"),
            *("-device", f"{self.nic},netdev=rom,id=rom-nic,mac={self.lan.mac},bootindex=0"),
        ]

    def before(self, vm):
        self.known = self.net.tap_settings(vm, "rom")
        self.boots = vm.serial.boots
        self.server.delay = 0.4
        done = self.server.blocks
        vm.serial.expect_reboot()
        vm.qmp.execute("system_reset")
        wait_for(lambda: self.server.blocks > done + 3, 60, "a download of the boot ROM")

    def after(self, vm, moved):
        assert vm.serial.boots == self.boots, "the download ended too early to show anything"
        assert self.net.tap_settings(vm, "rom") == self.known
        self.server.delay = 0
        vm.serial.wait_ready(90, boot=self.boots + 1)


class E1000(BootRom):
    thing = "e1000 on a tap"
    means = "a download of its boot ROM, before, in and after the pause, is whole; settings of the tap as they were"
    group = "net-e1000"
    nic = "e1000"


class E1000e(BootRom):
    thing = "e1000e on a tap"
    means = E1000.means
    group = "net-e1000e"
    nic = "e1000e"


class Rtl8139(BootRom):
    thing = "rtl8139 on a tap"
    means = E1000.means
    group = "net-rtl8139"
    nic = "rtl8139"


# ---- what is refused


class UserNetwork(Blocked):
    thing = "user-mode network"
    blocker = "netdev"
    id = "netdev/slirp0"

    def arguments(self, rig):
        return ["-netdev", "user,id=slirp0"]


class UserNetworkForward(Blocked):
    thing = "user-mode network with a host forward"
    blocker = "netdev"
    id = "netdev/slirp1"

    def arguments(self, rig):
        return ["-netdev", "user,id=slirp1,hostfwd=tcp:127.0.0.1:0-:80"]


class SocketNetdev(Blocked):
    thing = "-netdev socket"
    blocker = "netdev"
    id = "netdev/sock0"

    def arguments(self, rig):
        return ["-netdev", "socket,id=sock0,udp=127.0.0.1:9,localaddr=127.0.0.1:0"]


class StreamNetdev(Blocked):
    thing = "-netdev stream"
    blocker = "netdev"
    id = "netdev/stream0"

    def arguments(self, rig):
        return ["-netdev", f"stream,id=stream0,server=on,addr.type=unix,addr.path={rig.folder}/stream.sock"]


class DgramNetdev(Blocked):
    thing = "-netdev dgram"
    blocker = "netdev"
    id = "netdev/dgram0"

    def arguments(self, rig):
        ends = f"local.type=unix,local.path={rig.folder}/a.sock,remote.type=unix,remote.path={rig.folder}/b.sock"
        return ["-netdev", f"dgram,id=dgram0,{ends}"]


class Hub(Blocked):
    thing = "hub (-net nic -net tap, -netdev hubport)"
    blocker = "netdev"
    id = "netdev/hub"
    net = True

    def arguments(self, rig):
        tap = rig.net.add_tap()
        return ["-net", "nic,model=virtio-net-pci", "-net", f"tap,ifname={tap.name},script=no,downscript=no"]


class Filter(Blocked):
    thing = "net filter on a netdev"
    blocker = "netdev"
    id = "netdev/net0"
    net = True

    def arguments(self, rig):
        return ["-object", f"filter-dump,id=dump0,netdev=net0,file={rig.folder}/dump"]
