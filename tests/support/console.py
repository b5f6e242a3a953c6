# SPDX-License-Identifier: GPL-2.0-or-later
"""A shell of the Linux guest on its second serial port: Guest(console=True).

    console = Console(vm.console_path)
    console.run("cat /proc/interrupts")       # what it printed; AssertionError if its exit status is not 0
"""

import itertools
import socket
import time


class Console:
    """The connection stays through upgrades, so one object serves the VM's whole life."""

    def __init__(self, path):
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.connect(str(path))
        self._numbers = itertools.count(1)
        self._text = ""
        self._wait_for_shell()

    def _wait_for_shell(self):
        # What is sent before the guest has opened its port may be lost, in whole or in part.
        deadline = time.monotonic() + 120
        while True:
            try:
                self._socket.sendall(b"\n\n")
                self.result("true", 3)
                return
            except AssertionError:
                if time.monotonic() > deadline:
                    raise

    def close(self):
        self._socket.close()

    def type(self, text):
        """Sends it, and waits for nothing."""
        self._socket.sendall(text.encode())

    def run(self, command, timeout=120.0):
        """What the command printed, without the last newline."""
        output, status = self.result(command, timeout)
        assert status == 0, f"{command}: exit status {status}: {output}"
        return output

    def result(self, command, timeout=120.0):
        """(what it printed, exit status)"""
        mark = f"=={next(self._numbers)}=="
        # The mark is not in the command as it will be printed, should the port still echo.
        self._socket.sendall(f"{command}\necho \"{mark[:2]}\"\"{mark[2:]}$?.\"\n".encode())
        deadline = time.monotonic() + timeout
        while True:
            at = self._text.find(mark)
            end = self._text.find(".", at)
            if at >= 0 and end >= 0:
                output, status = self._text[:at], self._text[at + len(mark) : end]
                self._text = self._text[end + 1 :].lstrip("\r\n")
                return output.replace("\r", "").strip("\n"), int(status)
            self._socket.settimeout(max(deadline - time.monotonic(), 0.01))
            try:
                data = self._socket.recv(65536)
            except TimeoutError:
                raise AssertionError(f"no answer to {command!r} in {timeout:g} s: {self._text[-500:]!r}") from None
            if not data:
                raise AssertionError(f"the guest's console was closed: {self._text[-500:]!r}")
            self._text += data.decode(errors="replace")
