# SPDX-License-Identifier: GPL-2.0-or-later
"""A network of its own for the guests of a test: one namespace with a bridge, and a tap for each VM.

Nothing of it touches the host's network. Needs root. All taps are ports of one bridge, which has the host's address:

    with NetRig() as net:                        # namespace qhup-<run id>, bridge br0 = 10.77.0.1/24
        tap = net.add_tap()                      # -> Tap(name="tap1", guest_ip="10.77.0.2", cidr=".../24", mac=...)
        net.run(["ping", "-c1", tap.guest_ip])   # a command in the namespace
        sock = net.connect(tap.guest_ip, 7)      # a socket of the namespace, used from here

Only the *network* namespace is entered (nsenter --net), never a mount namespace as `ip netns exec` makes one: a QEMU
in another mount namespace than its upgrader is a case of its own.

The namespace is removed, and what still runs in it is killed, when the context ends, also through SIGINT or SIGTERM if
the program called processes.exit_on_signals(). What a killed run (SIGKILL) left is removed by the next NetRig: the run
id has the pid in it.
"""

import contextlib
import ctypes
import ipaddress
import json
import os
import secrets
import socket
import subprocess
import threading
from dataclasses import dataclass

from processes import end_processes

PREFIX = "qhup-"
_CLONE_NEWNET = 0x40000000


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

    def add_tap(self, *, queues=1, vnet_hdr=True, txqueuelen=None):
        """A persistent tap on the bridge, up. `queues` > 1 makes it multi-queue."""
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
        self._inside("link", "set", tap.name, "master", "br0", "up")
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

    def socket(self, family=socket.AF_INET, kind=socket.SOCK_STREAM):
        """A socket that lives in the namespace, though we do not."""
        made = []

        def make():
            # Only this thread enters; it ends afterwards.
            with open(self.path, "rb") as namespace:
                if ctypes.CDLL(None, use_errno=True).setns(namespace.fileno(), _CLONE_NEWNET) != 0:
                    made.append(OSError(ctypes.get_errno(), f"cannot enter {self.path}"))
                    return
            made.append(socket.socket(family, kind))

        thread = threading.Thread(target=make)
        thread.start()
        thread.join()
        if isinstance(made[0], OSError):
            raise made[0]
        return made[0]

    def connect(self, host, port, timeout=10.0):
        """A TCP connection from inside the namespace."""
        sock = self.socket()
        try:
            sock.settimeout(timeout)
            sock.connect((host, port))
        except BaseException:
            sock.close()
            raise
        return sock

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
