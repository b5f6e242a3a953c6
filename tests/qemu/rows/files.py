# SPDX-License-Identifier: GPL-2.0-or-later
"""Rows of the survival table: files that the command line names and that say something else by now, or are gone."""

import os
import shutil
import time

from guest import find_guest
from survival import Blocked, Row


def picture(color):
    """A BMP of one pixel with 24 bits."""
    header = b"BM" + (58).to_bytes(4, "little") + bytes(4) + (54).to_bytes(4, "little")
    info = b"".join(n.to_bytes(4, "little") for n in (40, 1, 1)) + (1).to_bytes(2, "little") + (24).to_bytes(2, "little")
    return header + info + bytes(24) + bytes([color, 0, 0, 0])


class Replaced(Blocked):
    group = "files-blocked"
    name = ""
    was, now = b"", b""

    def arguments(self, rig):
        self.path = rig.folder / self.name
        self.path.write_bytes(self.was)
        return self.option()

    def begin(self, vm):
        assert not [one for one in vm.qmp.execute("query-hot-upgrade")["blockers"] if one["id"] == self.id]
        self.path.unlink()
        self.path.write_bytes(self.now)

    blocker = "command-line"


class OptionRom(Replaced):
    thing = "file of `-option-rom` that was replaced since the start"
    id, name = "process/option-rom/nothing.rom", "nothing.rom"
    was, now = bytes(2048), b"\1" * 2048

    def option(self):
        return ["-option-rom", self.path]


class Splash(Replaced):
    thing = "picture of `-boot splash=` that was replaced since the start"
    id, name = "process/boot/one.bmp", "one.bmp"
    was, now = picture(1), picture(2)

    def option(self):
        return ["-boot", f"menu=on,splash={self.path}"]


class AcpiTable(Replaced):
    thing = "second file of one `-acpitable` that was replaced since the start"
    id, name = "process/acpitable/table-2", "table-2"
    was, now = b"t" * 64, b"T" * 64

    def option(self):
        first = self.path.with_name("table-1")
        first.write_bytes(bytes(32))
        return ["-acpitable", f"sig=QHUP,data={first}:{self.path}"]


class LargeFile(Replaced):
    thing = "file of `-fw_cfg` of more than 16 KiB that was replaced since the start"
    id, name = "process/fw_cfg/large", "large"
    was, now = b"0" * 20000, b"1" * 20000

    def option(self):
        return ["-fw_cfg", f"name=opt/qhup/large,file={self.path}"]


class Kernel(Replaced):
    thing = "file of `-kernel` that was replaced since the start"
    group, guest = "files-kernel-blocked", "linux"
    id, name = "process/kernel/vmlinuz", "vmlinuz"

    def arguments(self, rig):
        self.was = (find_guest() / "vmlinuz").read_bytes()
        self.now = self.was + b"\0"
        return super().arguments(rig)

    def option(self):
        return ["-kernel", self.path]


class Initrd(Kernel):
    thing = "file of `-initrd` that is gone since the start"
    id, name = "process/initrd/initrd", "initrd"

    def arguments(self, rig):
        self.path = rig.folder / self.name
        shutil.copy(find_guest() / self.name, self.path)
        return ["-initrd", self.path]

    def begin(self, vm):
        self.path.unlink()


class SameAgain(Row):
    thing = "`-kernel`, `-initrd` and large `-fw_cfg` files that were written again since the start, with the same contents"
    means = "is no difference"
    group, guest = "files-kernel", "linux"

    def arguments(self, rig):
        self.paths = [rig.folder / name for name in ("vmlinuz", "initrd", "large")]
        for path in self.paths[:2]:
            shutil.copy(find_guest() / path.name, path)
        self.paths[2].write_bytes(os.urandom(100000))
        kernel, initrd, large = self.paths
        return ["-kernel", kernel, "-initrd", initrd, "-fw_cfg", f"name=opt/qhup/large,file={large}"]

    def before(self, vm):
        for path in self.paths:
            text = path.read_bytes()
            path.unlink()
            path.write_bytes(text)
        began = time.monotonic()
        assert vm.qmp.execute("query-hot-upgrade")["blockers"] == []
        first = time.monotonic() - began
        began = time.monotonic()
        assert vm.qmp.execute("query-hot-upgrade")["blockers"] == []
        second = time.monotonic() - began
        print(f"    files looked at: {first * 1000:.1f} ms when they were written, {second * 1000:.1f} ms when not")

    def after(self, vm, moved):
        assert vm.qmp.execute("query-hot-upgrade")["blockers"] == []
