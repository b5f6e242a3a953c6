# SPDX-License-Identifier: GPL-2.0-or-later
"""A small synchronous QMP client for the tests: ids, events, descriptors by SCM_RIGHTS.

It believes QEMU (unlike qmp-client/, it bounds nothing), and is for one thread. Answers may come in any order, as on
the control socket of a patched QEMU:

    with Qmp.connect("/run/x/qmp.sock") as vm:
        vm.execute("query-status")                      # -> {"running": True, ...} or raises QmpError
        switch = vm.send("hot-upgrade-switch")           # does not wait
        vm.execute("query-hot-upgrade")
        vm.wait(switch, timeout=5)
        vm.wait_event("HOT_UPGRADE_STATE", timeout=5, match=lambda data: data["state"] == "ceded")
        with open("/usr/bin/qemu-system-x86_64", "rb") as binary:
            vm.send_fd("binary", binary.fileno())        # getfd
"""

import array
import json
import os
import socket
import struct
import time
from collections import deque


class QmpError(Exception):
    """QEMU was asked and refused. `cls` is QMP's class, `code` the stable code of a control socket (or None)."""

    def __init__(self, command, error):
        self.command = command
        self.cls = error.get("class")
        self.code = error.get("code")
        self.desc = error.get("desc")
        super().__init__(f"{command}: {self.desc} ({self.code or self.cls})")


class QmpClosed(Exception):
    """The connection ended, or no answer came in time: it is unknown what became of the command."""


class QmpTimeout(QmpClosed):
    """No answer, or no such event, before the deadline. The connection can still be used."""


class Qmp:
    """One connection. Not thread-safe."""

    def __init__(self, connected_socket, *, negotiate=True, timeout=10.0):
        self._socket = connected_socket
        self._buffer = b""
        self._last_id = 0
        self._replies = {}
        self.events = deque()  # those that no wait_event() has taken yet, oldest first
        self.default_timeout = timeout
        self.greeting = self._next_greeting(timeout)
        if negotiate:
            self.execute("qmp_capabilities")

    @classmethod
    def connect(cls, path, *, timeout=10.0, **options):
        """Connects to the Unix socket `path`, waiting for it to appear until `timeout` (seconds)."""
        deadline = time.monotonic() + timeout
        while True:
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                sock.connect(os.fspath(path))
                return cls(sock, timeout=timeout, **options)
            except (FileNotFoundError, ConnectionRefusedError):
                sock.close()
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.01)
            except BaseException:
                sock.close()
                raise

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self._socket.close()

    def fileno(self):
        return self._socket.fileno()

    def peer_pid(self):
        """The pid that listened on the socket (SO_PEERCRED): after an upgrade the old one, until the target listens."""
        size = struct.calcsize("3i")
        return struct.unpack("3i", self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))[0]

    # -- commands

    def send(self, command, arguments=None, *, fds=(), **more):
        """Sends `command` and returns its id; `wait` has the reply. Underscores in `more`'s names become dashes."""
        self._last_id += 1
        message = {"execute": command, "id": self._last_id}
        arguments = {**(arguments or {}), **{name.replace("_", "-"): value for name, value in more.items()}}
        if arguments:
            message["arguments"] = arguments
        line = json.dumps(message).encode() + b"\r\n"
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        self._replies[self._last_id] = (command, None)
        try:
            sent = self._socket.sendmsg([line], ancillary)
            if sent < len(line):
                self._socket.sendall(line[sent:])
        except OSError as error:
            raise QmpClosed(f"{command}: {error}") from error
        return self._last_id

    def wait(self, command_id, timeout=None):
        """The `return` value of the command with this id. Raises QmpError, QmpTimeout or QmpClosed."""
        deadline = time.monotonic() + (self.default_timeout if timeout is None else timeout)
        while self._replies[command_id][1] is None:
            self._read_one(deadline, self._replies[command_id][0])
        command, reply = self._replies.pop(command_id)
        if "error" in reply:
            raise QmpError(command, reply["error"])
        return reply["return"]

    def execute(self, command, arguments=None, *, timeout=None, **more):
        """send() and wait() in one."""
        return self.wait(self.send(command, arguments, **more), timeout)

    def send_fd(self, name, fd):
        """Gives the descriptor to QEMU under `name` (getfd)."""
        return self.wait(self.send("getfd", {"fdname": name}, fds=[fd]))

    def hmp(self, line):
        """Runs a line of the human monitor."""
        return self.execute("human-monitor-command", {"command-line": line})

    # -- events

    def wait_event(self, name, timeout=None, match=lambda data: True):
        """The oldest event called `name` whose data fits `match`; takes it off `events`. Others stay there."""
        deadline = time.monotonic() + (self.default_timeout if timeout is None else timeout)
        while True:
            for event in self.events:
                if event["event"] == name and match(event.get("data", {})):
                    self.events.remove(event)
                    return event
            self._read_one(deadline, f"event {name}")

    def drain_events(self):
        """Reads what has arrived, then returns and forgets all events."""
        try:
            while True:
                self._read_one(time.monotonic(), "events")
        except QmpTimeout:
            pass
        taken = list(self.events)
        self.events.clear()
        return taken

    # -- reading

    def _next_greeting(self, timeout):
        deadline = time.monotonic() + timeout
        while True:
            message = self._next_message(deadline, "greeting")
            if "QMP" in message:
                return message["QMP"]

    def _read_one(self, deadline, what):
        message = self._next_message(deadline, what)
        if "event" in message:
            self.events.append(message)
        elif message.get("id") in self._replies:
            command, _ = self._replies[message["id"]]
            self._replies[message["id"]] = (command, message)
        elif "error" in message and "id" not in message:
            raise QmpError("(not understood)", message["error"])

    def _next_message(self, deadline, what):
        while b"\n" not in self._buffer:
            # A deadline that has passed still takes what is there.
            self._socket.settimeout(max(deadline - time.monotonic(), 0.001))
            try:
                data = self._socket.recv(65536)
            except socket.timeout as error:
                raise QmpTimeout(f"{what}: nothing came in time") from error
            except OSError as error:
                raise QmpClosed(f"{what}: {error}") from error
            finally:
                self._socket.settimeout(None)
            if not data:
                raise QmpClosed(f"{what}: the connection ended")
            self._buffer += data
        line, self._buffer = self._buffer.split(b"\n", 1)
        return json.loads(line)
