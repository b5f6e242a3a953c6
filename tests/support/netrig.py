# SPDX-License-Identifier: GPL-2.0-or-later
"""A network of its own for the guests of a test: one namespace with a bridge, and a tap for each VM.

Nothing of it touches the host's network. Needs root. All taps are ports of one bridge, which has the host's address:

    with NetRig() as net:                        # namespace qhup-<run id>, bridge br0 = 10.77.0.1/24
        tap = net.add_tap()                      # -> Tap(name="tap1", guest_ip="10.77.0.2", cidr=".../24", mac=...)
        net.run(["ping", "-c1", tap.guest_ip])   # a command in the namespace
        sock = net.connect(tap.guest_ip, 7)      # a socket of the namespace, used from here
        lan = net.add_lan()                      # another bridge: br1 = 10.77.1.1/24; the test guest knows its NICs by
        tap = net.add_tap(lan=lan)               # their MAC, and takes 10.77.1.2/24
        fds = net.open_tap("tap9", queues=2)     # a tap as libvirt makes one: descriptors, nothing persistent

`tap_settings()` says what the kernel has of a VM's tap, and TcpStream keeps a connection of a guest busy.

Only the *network* namespace is entered (nsenter --net), never a mount namespace as `ip netns exec` makes one: a QEMU
in another mount namespace than its upgrader is a case of its own.

The namespace is removed, and what still runs in it is killed, when the context ends, also through SIGINT or SIGTERM if
the program called processes.exit_on_signals(). What a killed run (SIGKILL) left is removed by the next NetRig: the run
id has the pid in it.
"""

import contextlib
import ctypes
import fcntl
import ipaddress
import json
import os
import random
import secrets
import socket
import struct
import subprocess
import threading
import time
from dataclasses import dataclass

from processes import end_processes

PREFIX = "qhup-"
_CLONE_NEWNET = 0x40000000


_TUNSETIFF, _TUNGETIFF = 0x400454CA, 0x800454D2
_TUN_GETTERS = {
    "vnet-header": 0x800454D7,
    "send-buffer": 0x800454D3,
    "little-endian": 0x800454DD,
    "big-endian": 0x800454DF,
}
_IFF_TAP, _IFF_NO_PI, _IFF_VNET_HDR, _IFF_MULTI_QUEUE = 0x2, 0x1000, 0x4000, 0x100
IFF_DETACH_QUEUE = 0x400


@dataclass(frozen=True)
class Lan:
    """A bridge with a subnet of its own, for one NIC of a guest."""

    bridge: str
    host_ip: str
    guest_ip: str
    cidr: str
    mac: str


@dataclass(frozen=True)
class Tap:
    """A tap in the namespace, and what the guest behind it is called."""

    name: str
    guest_ip: str
    cidr: str
    mac: str
    queues: int = 1


def new_run_id():
    """Unique to this run; begins with our pid, so that others can see whether the run still lives."""
    return f"{os.getpid()}-{secrets.token_hex(2)}"


class NetRig:
    """The namespace. Enter it as a context, or call start() and stop()."""

    def __init__(self, run_id=None, subnet="10.77.0.0/24"):
        self.run_id = run_id or new_run_id()
        self.name = PREFIX + self.run_id
        self.path = f"/run/netns/{self.name}"
        self.subnet = ipaddress.ip_network(subnet)
        self.host_ip = str(self.subnet[1])
        self.taps = []
        self.lans = []
        self._started = False

    def __enter__(self):
        return self.start()

    def __exit__(self, *_):
        self.stop()

    def start(self):
        """Creates the namespace. After failure: nothing is left."""
        remove_leftovers()
        self._ip("netns", "add", self.name)
        self._started = True
        try:
            self._inside("link", "set", "lo", "up")
            self._inside("link", "add", "br0", "type", "bridge", "stp_state", "0", "forward_delay", "0")
            self._inside("address", "add", f"{self.host_ip}/{self.subnet.prefixlen}", "dev", "br0")
            self._inside("link", "set", "br0", "up")
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self):
        """Kills what runs in the namespace and removes it. May be called again."""
        if self._started:
            self._started = False
            _remove(self.name)

    def add_lan(self):
        """A bridge for one more NIC."""
        number = len(self.lans) + 1
        lan = Lan(
            bridge=f"br{number}",
            host_ip=f"10.77.{number}.1",
            guest_ip=f"10.77.{number}.2",
            cidr=f"10.77.{number}.2/24",
            mac=f"52:54:00:4d:{number:02x}:02",
        )
        self._inside("link", "add", lan.bridge, "type", "bridge", "stp_state", "0", "forward_delay", "0")
        self._inside("address", "add", f"{lan.host_ip}/24", "dev", lan.bridge)
        self._inside("link", "set", lan.bridge, "up")
        self.lans.append(lan)
        return lan

    def plug(self, link, lan):
        """Makes a link a port of the bridge, and takes it up."""
        self._inside("link", "set", link, "master", lan.bridge, "up")

    def open_tap(self, name, *, queues=1):
        """A tap that lives as long as one of the descriptors that are returned."""
        flags = _IFF_TAP | _IFF_NO_PI | _IFF_VNET_HDR | (_IFF_MULTI_QUEUE if queues > 1 else 0)

        def make():
            fd = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
            fcntl.ioctl(fd, _TUNSETIFF, struct.pack("16sH22x", name.encode(), flags))
            return fd

        return [self.inside(make) for _ in range(queues)]

    def tap_settings(self, vm, netdev):
        """What the kernel has of the tap that `vm` uses for `netdev`, read through QEMU's own descriptors."""
        descriptors = {d["id"]: d["fd"] for d in vm.qmp.execute("query-hot-upgrade")["descriptors"]}
        pidfd = os.pidfd_open(vm.pid())
        queues = []
        try:
            while f"tap/{netdev}/{len(queues)}" in descriptors:
                fd = _pidfd_getfd(pidfd, descriptors[f"tap/{netdev}/{len(queues)}"])
                try:
                    queues.append(_tap_queue(fd))
                finally:
                    os.close(fd)
        finally:
            os.close(pidfd)
        if not queues:
            raise AssertionError(f"no descriptor of {netdev} in {sorted(descriptors)}")
        name = queues[0]["name"]
        shown = json.loads(
            self.run(["ip", "-details", "-json", "link", "show", name], capture_output=True, text=True).stdout
        )[0]
        kept = ("ifname", "ifindex", "master", "mtu", "txqlen", "address", "promiscuity", "linkinfo", "operstate")
        return {
            "queues": queues,
            "link": {key: shown.get(key) for key in kept},
            "offloads": self.offloads(name),
        }

    def offloads(self, link):
        """The features of the link that are on, as the kernel's bits: TUNSETOFFLOAD sets some of them."""
        words = 4
        query = bytearray(struct.pack("II", 0x3A, words) + bytes(16 * words))  # ETHTOOL_GFEATURES
        buffer = (ctypes.c_char * len(query)).from_buffer(query)
        request = struct.pack("16sQ16x", link.encode(), ctypes.addressof(buffer))
        with self.socket(kind=socket.SOCK_DGRAM) as sock:
            fcntl.ioctl(sock, 0x8946, request)  # SIOCETHTOOL
        blocks = struct.iter_unpack("IIII", bytes(query[8:]))
        return [active for _available, _requested, active, _never in blocks]

    def add_tap(self, *, queues=1, vnet_hdr=True, txqueuelen=None, lan=None):
        """A persistent tap on the bridge, up. `queues` > 1 makes it multi-queue. `lan`: on that bridge instead."""
        number = len(self.taps) + 1
        address = str(self.subnet[number + 1])
        last = [f"{byte:02x}" for byte in ipaddress.ip_address(address).packed[1:]]
        tap = Tap(
            name=f"tap{number}",
            guest_ip=address,
            cidr=f"{address}/{self.subnet.prefixlen}",
            mac=":".join(["52", "54", "00", *last]),
            queues=queues,
        )
        options = (["multi_queue"] if queues > 1 else []) + (["vnet_hdr"] if vnet_hdr else [])
        self._inside("tuntap", "add", "dev", tap.name, "mode", "tap", *options)
        if txqueuelen is not None:
            self._inside("link", "set", tap.name, "txqueuelen", str(txqueuelen))
        if lan is not None:
            tap = Tap(name=tap.name, guest_ip=lan.guest_ip, cidr=lan.cidr, mac=lan.mac, queues=queues)
        self._inside("link", "set", tap.name, "master", lan.bridge if lan else "br0", "up")
        self.taps.append(tap)
        return tap

    def wrap(self, command):
        """The command line that runs `command` in the namespace. exec, no fork: the pid is the command's own."""
        return ["nsenter", f"--net={self.path}", "--", *map(str, command)]

    def run(self, command, **options):
        """subprocess.run in the namespace; raises when the command fails."""
        return subprocess.run(self.wrap(command), **{"check": True, **options})

    def popen(self, command, **options):
        """subprocess.Popen in the namespace."""
        return subprocess.Popen(self.wrap(command), **options)

    def statistics(self, link):
        """The link's counters, e.g. {"rx": {"packets": 1, "dropped": 0, ...}, "tx": {...}}."""
        text = self.run(["ip", "-s", "-json", "link", "show", link], capture_output=True).stdout
        return json.loads(text)[0]["stats64"]

    def inside(self, function):
        """Calls the function in the namespace, though we do not live there; returns what it returns."""
        done = []

        def call():
            # Only this thread enters; it ends afterwards.
            try:
                with open(self.path, "rb") as namespace:
                    if ctypes.CDLL(None, use_errno=True).setns(namespace.fileno(), _CLONE_NEWNET) != 0:
                        raise OSError(ctypes.get_errno(), f"cannot enter {self.path}")
                done.append((function(), None))
            except BaseException as error:  # noqa: BLE001 - raised again by the caller's thread
                done.append((None, error))

        thread = threading.Thread(target=call)
        thread.start()
        thread.join()
        value, error = done[0]
        if error is not None:
            raise error
        return value

    def socket(self, family=socket.AF_INET, kind=socket.SOCK_STREAM):
        """A socket that lives in the namespace, though we do not."""
        return self.inside(lambda: socket.socket(family, kind))

    def connect(self, host, port, timeout=10.0):
        """A TCP connection from inside the namespace. A guest that has just booted on a busy host may answer late."""
        deadline = time.monotonic() + timeout
        while True:
            sock = self.socket()
            try:
                sock.settimeout(timeout)
                sock.connect((host, port))
                return sock
            except BaseException as error:
                sock.close()
                if not isinstance(error, OSError) or time.monotonic() > deadline:
                    raise
            time.sleep(0.1)

    def _inside(self, *arguments):
        self._ip("-n", self.name, *arguments)

    @staticmethod
    def _ip(*arguments):
        done = subprocess.run(["ip", *arguments], capture_output=True, text=True)
        if done.returncode != 0:
            raise RuntimeError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")


class TcpEcho:
    """A TCP connection to a guest's echo port that must survive everything: what comes back is what was sent.

    with TcpEcho(net, tap.guest_ip) as echo:
        echo.exchange(b"before")
        ...upgrade...
        echo.exchange(b"after")       # raises if the connection was lost or a byte changed
    """

    def __init__(self, net, host, port=7, timeout=10.0):
        self._socket = net.connect(host, port, timeout)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self._socket.close()

    def exchange(self, data):
        """Sends `data`, and returns when the same has come back."""
        self._socket.sendall(data)
        got = b""
        while len(got) < len(data):
            part = self._socket.recv(len(data) - len(got))
            if not part:
                raise ConnectionError("the guest closed the echo connection")
            got += part
        if got != data:
            raise AssertionError(f"sent {data!r}, got back {got!r}")


class TcpStream:
    """A TCP connection to a guest's echo port that is busy all the time, both ways: every byte that comes back is
    compared with what was sent. `check()` raises when the connection failed, a byte changed, or nothing moved.
    """

    _BLOCK = 1 << 20  # what is sent repeats after so many bytes
    _MOST_UNDER_WAY = 256 << 10

    def __init__(self, net, host, port=7, *, seed=1, rate=None):
        self._socket = net.connect(host, port, 20)
        self._socket.settimeout(60)
        self._data = random.Random(seed).randbytes(self._BLOCK)
        self._rate = rate  # bytes per second; None: as fast as it goes
        self.received = 0
        self.longest_stall = 0.0  # seconds without a byte
        self._sent = 0
        self._error = None
        self._stop = False
        self._changed = threading.Condition()
        self._threads = [threading.Thread(target=run, daemon=True) for run in (self._send, self._receive)]
        for thread in self._threads:
            thread.start()

    def close(self):
        with self._changed:
            self._stop = True
            self._changed.notify_all()
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        self._socket.close()

    def check(self, more=65536, timeout=60.0):
        """Waits for `more` bytes; raises AssertionError if they do not come, or if anything ever went wrong."""
        deadline = time.monotonic() + timeout
        with self._changed:
            wanted = self.received + more
            while self.received < wanted and self._error is None:
                if not self._changed.wait(max(0, deadline - time.monotonic())) and time.monotonic() > deadline:
                    raise AssertionError(f"the TCP stream stands still after {self.received} bytes")
            if self._error is not None:
                raise AssertionError(f"the TCP stream failed after {self.received} bytes: {self._error}")

    def _fail(self, error):
        with self._changed:
            if not self._stop and self._error is None:
                self._error = error
            self._changed.notify_all()

    def _send(self):
        began = time.monotonic()
        try:
            while not self._stop:
                with self._changed:
                    while self._sent - self.received > self._MOST_UNDER_WAY and not self._stop and not self._error:
                        self._changed.wait(1)
                if self._rate and self._sent > self._rate * (time.monotonic() - began):
                    time.sleep(0.02)
                    continue
                at = self._sent % self._BLOCK
                self._sent += self._socket.send(self._data[at : at + 16384])
        except OSError as error:
            self._fail(f"send: {error}")

    def _receive(self):
        last = time.monotonic()
        try:
            while not self._stop:
                got = self._socket.recv(65536)
                if not got:
                    self._fail("the guest closed it")
                    return
                at = self.received % self._BLOCK
                wanted = (self._data[at:] + self._data)[: len(got)]
                if got != wanted:
                    self._fail("a byte changed on the way")
                    return
                now = time.monotonic()
                with self._changed:
                    self.received += len(got)
                    self.longest_stall = max(self.longest_stall, now - last)
                    self._changed.notify_all()
                last = now
        except OSError as error:
            self._fail(f"receive: {error}")


class BootServer:
    """DHCP and TFTP on a Lan, for the boot ROM of a NIC: gives out one file, a block every `delay` seconds."""

    def __init__(self, net, lan, content):
        self.delay = 0.0
        self.blocks = 0  # sent so far, of all transfers
        self._lan = lan
        self._content = content
        self._stop = False

        def make(port):
            sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, lan.bridge.encode())
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(("", port))
            sock.settimeout(0.2)
            return sock

        self._dhcp = net.inside(lambda: make(67))
        self._tftp = net.inside(lambda: make(69))
        self._data = net.inside(lambda: make(0))
        self._threads = [threading.Thread(target=run, daemon=True) for run in (self._serve_dhcp, self._serve_tftp)]
        for thread in self._threads:
            thread.start()

    def close(self):
        self._stop = True
        for thread in self._threads:
            thread.join()
        for sock in (self._dhcp, self._tftp, self._data):
            sock.close()

    def _receive(self, sock):
        with contextlib.suppress(TimeoutError):
            return sock.recvfrom(2048)
        return None, None

    def _serve_dhcp(self):
        while not self._stop:
            request, _ = self._receive(self._dhcp)
            kind = request and _dhcp_kind(request)
            if kind not in (1, 3):  # discover, request
                continue
            server, guest = (socket.inet_aton(ip) for ip in (self._lan.host_ip, self._lan.guest_ip))
            # what it was asked, then ciaddr, yiaddr, siaddr; giaddr and chaddr; sname; file
            answer = b"\2" + request[1:12] + bytes(4) + guest + server
            answer += request[24:44] + bytes(64) + b"boot".ljust(128, b"\0")
            answer += b"\x63\x82\x53\x63" + bytes([53, 1, 2 if kind == 1 else 5])
            answer += bytes([54, 4]) + server + bytes([51, 4, 0, 0, 0xE, 0x10, 1, 4, 255, 255, 255, 0])
            answer += bytes([175, 3, 176, 1, 1, 255])  # for iPXE: nobody else will answer
            self._dhcp.sendto(answer.ljust(300, b"\0"), ("255.255.255.255", 68))

    def _serve_tftp(self):
        last = None
        while not self._stop:
            request, client = self._receive(self._tftp)
            # One that asks again is served already.
            if request and request[:2] == b"\0\1" and client != last:
                last = client
                words = request[2:].split(b"\0")
                options = dict(zip(words[2::2], words[3::2], strict=False))
                self._send_file(client, int(options.get(b"blksize", b"512")), b"blksize" in options)

    def _send_file(self, client, size, has_options):
        blocks = [self._content[at : at + size] for at in range(0, len(self._content) + 1, size)]
        packets = [b"\0\3" + struct.pack(">H", i + 1) + block for i, block in enumerate(blocks)]
        if has_options:
            length = str(len(self._content)).encode()
            packets.insert(0, b"\0\6blksize\0" + str(size).encode() + b"\0tsize\0" + length + b"\0")
        for packet in packets:
            expected = packet[2:4] if packet[:2] == b"\0\3" else b"\0\0"
            time.sleep(self.delay)
            for _ in range(300):  # a minute for an answer
                self._data.sendto(packet, client)
                answer, _ = self._receive(self._data)
                while answer and answer[:4] != b"\0\4" + expected:
                    answer, _ = self._receive(self._data)
                if answer or self._stop:
                    break
            self.blocks += 1
            if self._stop:
                return


def _dhcp_kind(request):
    """The type of a DHCP message; None if it is not one."""
    at = 240
    while at + 2 < len(request) and request[at] != 255:
        if request[at] == 53:
            return request[at + 2]
        at += 1 if request[at] == 0 else 2 + request[at + 1]
    return None


def _pidfd_getfd(pidfd, fd):
    number = ctypes.CDLL(None, use_errno=True).syscall(438, pidfd, fd, 0)
    if number < 0:
        raise OSError(ctypes.get_errno(), f"pidfd_getfd {fd}")
    return number


def _tap_queue(fd):
    name, flags = struct.unpack("16sH22x", fcntl.ioctl(fd, _TUNGETIFF, bytes(40)))
    queue = {"name": name.split(b"\0")[0].decode(), "flags": flags, "attached": not flags & IFF_DETACH_QUEUE}
    for what, number in _TUN_GETTERS.items():
        try:
            queue[what] = struct.unpack("i", fcntl.ioctl(fd, number, bytes(4)))[0]
        except OSError:
            queue[what] = None  # a kernel without it
    return queue


def remove_leftovers():
    """Removes the namespaces of runs whose process is gone."""
    with contextlib.suppress(FileNotFoundError):
        for name in os.listdir("/run/netns"):
            pid = name[len(PREFIX) :].split("-")[0]
            if name.startswith(PREFIX) and pid.isdigit() and not os.path.exists(f"/proc/{pid}"):
                _remove(name)


def _remove(name):
    pids = subprocess.run(["ip", "netns", "pids", name], capture_output=True, text=True).stdout.split()
    end_processes([int(pid) for pid in pids if int(pid) != os.getpid()], grace=0.5)
    done = subprocess.run(["ip", "netns", "delete", name], capture_output=True, text=True)
    if done.returncode != 0 and os.path.exists(f"/run/netns/{name}"):
        raise RuntimeError(f"ip netns delete {name}: {done.stderr.strip()}")
