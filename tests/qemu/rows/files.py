# SPDX-License-Identifier: GPL-2.0-or-later
"""Rows of the survival table: files that the command line names and that say something else by now, or are gone."""

import os
import shutil
import time

from block import create, disk
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


class LostImage(Blocked):
    """Group of its own: the VM of the others would be refused for this, too."""

    group = "images-blocked"
    blocker = "image"
    format, flags = "raw", ""

    def arguments(self, rig):
        self.path = rig.folder / f"{type(self).__name__}.img"
        self.id = f"engine/image{self.path}"
        name = type(self).__name__.lower()
        drive = f"file={self.make()},if=none,id={name},format={self.format}{self.flags}"
        return ["-drive", drive, "-device", f"virtio-blk-pci,drive={name}"]

    def make(self):
        return create(self.path, size="1M", format=self.format)

    def begin(self, vm):
        self.take_away()
        assert vm.qmp.execute("query-hot-upgrade")["blockers"] == []

    def replacement(self):
        return create(self.path.with_suffix(".new"), size="1M", format=self.format)


class DeletedImage(LostImage):
    thing = "disk image, raw, that was deleted since the start"

    def take_away(self):
        self.path.unlink()


class DeletedBacking(LostImage):
    thing = "backing file that was deleted since the start"
    format = "qcow2"

    def make(self):
        return create(self.path.with_suffix(".top"), backing=super().make())

    def take_away(self):
        self.path.unlink()


class ReplacedImage(LostImage):
    thing = "disk image, qcow2, that another file was renamed over since the start"
    format = "qcow2"

    def take_away(self):
        self.replacement().rename(self.path)


class ReplacedReadOnly(ReplacedImage):
    thing = "read-only disk image that another file was renamed over since the start"
    format, flags = "raw", ",readonly=on"


class MovedImage(LostImage):
    thing = "disk image that was moved away since the start, with another one in its place"

    def take_away(self):
        self.path.rename(self.path.with_suffix(".old"))
        self.replacement().rename(self.path)


class NamedImage(Row):
    """What looks as if it were lost and is not."""

    group = "images"

    def before(self, vm):
        self.change(vm)
        self.had = disk(vm, self.name)

    def after(self, vm, moved):
        has = disk(vm, self.name)
        assert has == self.had, f"{self.had} became {has}"

    def drive(self, path):
        drive = f"file={path},if=none,id={self.name},format=raw"
        return ["-drive", drive, "-device", f"virtio-blk-pci,drive={self.name}"]

    def change(self, vm):
        pass


class LinkedImage(NamedImage):
    thing = "disk image behind two symbolic links, by a relative name that looks as if it had been deleted"
    means = "the same disk"
    name = "linked"

    def options(self, rig):
        return {"cwd": rig.folder}

    def arguments(self, rig):
        create(rig.folder / "file (deleted)", size="1M", format="raw")
        (rig.folder / "inner").symlink_to("file (deleted)")
        (rig.folder / "outer").symlink_to(rig.folder / "inner")
        return self.drive("outer")


class NamedAgain(NamedImage):
    thing = "disk image that was deleted, and has its name again (hard link)"
    means = "the same disk"
    name = "again"

    def arguments(self, rig):
        self.path = create(rig.folder / "again.img", size="1M", format="raw")
        self.spare = rig.folder / "spare.img"
        self.spare.hardlink_to(self.path)
        return self.drive(self.path)

    def change(self, vm):
        self.path.unlink()
        self.path.hardlink_to(self.spare)


class NamelessImage(NamedImage):
    thing = "disk image that never had a name: a memfd of another process, by its /proc/PID/fd"
    means = "the same disk"
    name = "nameless"

    def arguments(self, rig):
        memory = os.memfd_create("image")
        rig.stack.callback(os.close, memory)
        os.ftruncate(memory, 1 << 20)
        return self.drive(f"/proc/{os.getpid()}/fd/{memory}")
