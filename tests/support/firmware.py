# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest of 512 bytes: a boot sector that counts on the serial port for ever. It is up in a moment, also under a
/dev/kvm that cannot run a whole kernel, and so cheap that a test may lose it.

It prints `ready` and then `count N` every 10 ms as tests/guest does, so that SerialWatcher judges it the same way; N
has leading zeros. It knows no `ping` and no `stat`.
"""

import functools
import pathlib
import struct
import subprocess
import tempfile
from dataclasses import dataclass

from guest import Disk, Guest
from pair import wait_for

_SOURCE = r"""
        .code16
        .globl  _start
_start: xor     %ax, %ax
        mov     %ax, %ds
        mov     %ax, %es
        mov     %ax, %ss
        mov     $0x7c00, %sp
        cld
.if PAYLOAD                             # words behind the sector: their sum must be 0, else nothing is printed
        mov     $0x7e0, %ax
        mov     %ax, %ds
        xor     %si, %si
        xor     %dx, %dx
        mov     $PAYLOAD, %cx
sum:    lodsw
        rol     $1, %dx
        add     %ax, %dx
        loop    sum
        xor     %ax, %ax
        mov     %ax, %ds
        test    %dx, %dx
torn:   jnz     torn
.endif
        mov     $ready, %si
        call    print
next:   mov     $last, %di              # add one to the decimal number
carry:  incb    (%di)
        cmpb    $'9', (%di)
        jbe     show
        movb    $'0', (%di)
        dec     %di
        jmp     carry
show:   mov     $line, %si
        call    print
        xor     %cx, %cx                # wait 10,000 us
        mov     $10000, %dx
        mov     $0x86, %ah
        int     $0x15
        jmp     next

print:  lodsb
        test    %al, %al
        jz      done
        mov     %al, %bl
wait:   mov     $0x3fd, %dx
        in      %dx, %al
        test    $0x20, %al
        jz      wait
        mov     $0x3f8, %dx
        mov     %bl, %al
        out     %al, %dx
        jmp     print
done:   ret

ready:  .asciz  "ready guest=firmware\r\n"
line:   .ascii  "count 000000000"
last:   .asciz  "0\r\n"
        .org    510
        .word   0xaa55
"""


def make_payload(rng, words):
    """Random bytes that boot_sector(words) finds whole."""
    numbers, total = [rng.randrange(65536) for _ in range(words - 1)], 0
    for number in numbers:
        total = ((total << 1 | total >> 15) + number) & 0xFFFF
    numbers.append(-(total << 1 | total >> 15) & 0xFFFF)
    return struct.pack(f"<{words}H", *numbers)


@functools.cache
def boot_sector(payload=0):
    """The 512 bytes, from binutils. With `payload` it counts only if make_payload()'s words follow it in memory."""
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        (folder / "boot.s").write_text(_SOURCE)
        subprocess.run(["as", "--32", "--defsym", f"PAYLOAD={payload}", "-o", folder / "boot.o", folder / "boot.s"], check=True)
        link = ["ld", "-m", "elf_i386", "-Ttext", "0x7c00", "--oformat", "binary"]
        subprocess.run([*link, "-o", folder / "boot.bin", folder / "boot.o"], check=True)
        return (folder / "boot.bin").read_bytes()


@dataclass
class FirmwareGuest(Guest):
    """A Guest whose kernel is the boot sector, on its own disk."""

    memory_mib: int = 64

    def arguments(self):
        arguments, kept = iter(super().arguments()), []
        for word in arguments:
            if word in ("-kernel", "-initrd", "-append"):
                next(arguments)
            else:
                kept.append(word)
        return kept

    def _make_disk(self):
        self.disk.format = "raw"
        self.disk.path = self.folder / "disk.raw"
        self.disk.path.write_bytes(boot_sector() + bytes((1 << 20) - 512))

    def check(self):
        """Raises AssertionError unless the guest counts and lost no number."""
        before = self.serial.count
        self.serial.wait_count(5)
        wait_for(lambda: self.serial.count > before, 5, "the guest counts")
        self.serial.check()


@dataclass
class SilentGuest(FirmwareGuest):
    """A FirmwareGuest that need not come as far as its boot sector: nothing is said about its serial port."""

    def wait_ready(self, timeout=None):
        """It is ready when it runs."""

    def check(self):
        """Raises AssertionError unless the VM runs."""
        status = self.qmp.execute("query-status")["status"]
        if status != "running":
            raise AssertionError(f"the VM is {status}")


__all__ = ["Disk", "FirmwareGuest", "SilentGuest", "boot_sector", "make_payload"]


def fw_cfg_read(vm, key, size):
    """What firmware reads from the file with that number."""
    vm.qmp.hmp(f"o /h 0x510 {key:#x}")
    answers = (vm.qmp.hmp("i /b 0x511") for _ in range(size))
    return bytes(int(answer.rsplit("=", 1)[1], 16) for answer in answers)


def fw_cfg_files(vm):
    """Name to (number, size), as firmware reads it."""
    count = int.from_bytes(fw_cfg_read(vm, 0x19, 4), "big")
    directory = fw_cfg_read(vm, 0x19, 4 + 64 * count)[4:]
    files = {}
    for at in range(0, len(directory), 64):
        size, key, _, name = struct.unpack(">IHH56s", directory[at : at + 64])
        files[name.rstrip(b"\0").decode()] = (key, size)
    return files
