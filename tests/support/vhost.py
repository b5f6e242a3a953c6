# SPDX-License-Identifier: GPL-2.0-or-later
"""Parts of tests with vhost devices: a network behind a vhost-user back end."""

import ctypes
import fcntl
import os
import select
import socket
import struct
import threading
import time

_CLONE_NEWNET = 0x40000000
_TUNSETIFF = 0x400454CA
_IFF_TAP, _IFF_NO_PI = 0x0002, 0x1000


def free_port():
    """A UDP port of the loopback that nobody has now."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class UdpBridge:
    """Carries frames between a tap of a NetRig and a UDP port, where a vhost-user-bridge sends and gets them.

    Call begin() when the guest is up: the bridge cannot take a frame before.
    """

    def __init__(self, net, tap, peer_port):
        self._tap = _open_tap(net, tap.name)
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self._peer = ("127.0.0.1", peer_port)
        self.port = self._socket.getsockname()[1]
        self._stop, self._stopped = os.pipe()
        self._is_held = False
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self):
        return self

    def begin(self):
        self._thread.start()

    def hold(self):
        """Nothing more reaches the back end; it waits in the tap. What is under way has arrived when this returns."""
        self._is_held = True
        time.sleep(0.5)

    def release(self):
        self._is_held = False

    def __exit__(self, *_):
        os.close(self._stopped)
        if self._thread.is_alive():
            self._thread.join()
        os.close(self._stop)
        os.close(self._tap)
        self._socket.close()

    def _run(self):
        while True:
            sources = [self._stop, self._socket, *([] if self._is_held else [self._tap])]
            ready = select.select(sources, [], [], 0.05)[0]
            if self._stop in ready:
                return
            try:
                if self._tap in ready:
                    self._socket.sendto(os.read(self._tap, 65536), self._peer)
                if self._socket in ready:
                    os.write(self._tap, self._socket.recv(65536))
            except OSError:
                pass  # the other side is not there now: as on a network


def _open_tap(net, name):
    """The descriptor of a tap in the namespace of `net`."""
    made = []

    def make():
        # Only this thread enters; it ends afterwards.
        with open(net.path, "rb") as namespace:
            if ctypes.CDLL(None, use_errno=True).setns(namespace.fileno(), _CLONE_NEWNET) != 0:
                made.append(OSError(ctypes.get_errno(), f"cannot enter {net.path}"))
                return
        fd = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
        fcntl.ioctl(fd, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TAP | _IFF_NO_PI))
        made.append(fd)

    thread = threading.Thread(target=make)
    thread.start()
    thread.join()
    if isinstance(made[0], OSError):
        raise made[0]
    return made[0]


__all__ = ["UdpBridge", "free_port"]
