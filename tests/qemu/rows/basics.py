# SPDX-License-Identifier: GPL-2.0-or-later
"""Rows of the survival table: what nearly every VM has."""

import socket

from survival import Blocked, Row


class SerialSocket(Row):
    thing = "serial port on a listening Unix socket"
    means = "the connection stays; no line lost, doubled or torn"
    group = "basics"

    def after(self, vm, moved):
        vm.serial.wait_count(5)
        vm.serial.check()


class QmpSession(Row):
    thing = "QMP monitor with a client"
    means = "the session stays negotiated; events arrive; a command is answered"
    group = "basics"

    def after(self, vm, moved):
        vm.qmp.execute("stop")
        vm.qmp.wait_event("STOP")
        vm.qmp.execute("cont")
        vm.qmp.wait_event("RESUME")


class VncUnix(Row):
    thing = "VNC on a Unix socket"
    means = "the same socket answers"
    group = "basics"

    def after(self, vm, moved):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
            client.settimeout(5)
            client.connect(str(vm.vnc_path))
            banner = client.recv(12)
        assert banner.startswith(b"RFB "), banner


class PrivateRam(Blocked):
    thing = "RAM that is private to the process"
    blocker = "ram"

    def options(self, rig):
        return {"ram": "private"}
