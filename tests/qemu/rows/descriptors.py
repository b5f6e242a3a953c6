# SPDX-License-Identifier: GPL-2.0-or-later
"""Rows of the survival table: open descriptors that belong to nothing."""

import os
import socket

from survival import Blocked


class StrayFile(Blocked):
    thing = "file that QEMU inherited from its parent"
    blocker = "descriptor"
    group = "descriptors-blocked"
    id = "fd/57"

    def setup(self, rig):
        for number, flags in ((57, os.O_RDWR | os.O_CREAT), (58, os.O_RDONLY)):
            fd = os.open(rig.folder / "stray" if number == 57 else "/dev/zero", flags)
            os.dup2(fd, number)
            os.close(fd)
            rig.stack.callback(os.close, number)
        self.left, right = socket.socketpair()
        rig.stack.enter_context(self.left)
        os.dup2(right.fileno(), 59)
        right.close()
        rig.stack.callback(os.close, 59)

    def options(self, rig):
        return {"pass_fds": (57, 58, 59)}


class StraySocket(Blocked):
    thing = "socket that QEMU inherited from its parent"
    blocker = "descriptor"
    group = "descriptors-blocked"
    id = "fd/59"
