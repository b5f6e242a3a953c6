# SPDX-License-Identifier: GPL-2.0-or-later
"""A VM that a systemd unit starts and ends: the test prepares its folder, and looks at it while it runs."""

from firmware import FirmwareGuest
from serial_watcher import SerialWatcher


class UnitGuest(FirmwareGuest):
    def prepare(self):
        self.folder.mkdir(parents=True)
        self._make_disk()
        return self

    def connect(self):
        self.serial = SerialWatcher(self.serial_path, timeout=20)
        self.wait_ready()

    def disconnect(self):
        self.serial.expect_end()
        if self._qmp is not None:
            self._qmp.close()
        self.serial.close()
