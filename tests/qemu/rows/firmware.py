# SPDX-License-Identifier: GPL-2.0-or-later
"""Rows of the survival table: firmware, and guests that are still in it."""

import pathlib
import secrets
import shutil
import time

from console import Console
from pair import wait_for
from survival import Row

OVMF = pathlib.Path("/usr/share/OVMF")
GUID = "91d3ad1c-6d6c-4a1c-8f4a-2f3b54a0c7d1"


class Ovmf:
    """UEFI firmware in two images; the guest writes variables into the second."""

    def needs(self):
        return None if (OVMF / "OVMF_CODE_4M.fd").exists() else "OVMF is not here (package ovmf)"

    def setup(self, rig):
        self.image = rig.folder / "vars.fd"
        shutil.copyfile(OVMF / "OVMF_VARS_4M.fd", self.image)
        self.written = {}

    def write(self, vm):
        """The guest writes one more variable, which is in the image then."""
        name, text = f"qhup{len(self.written)}", secrets.token_hex(8)
        self.set_variable(vm, name, text)
        self.written[name] = text
        wait_for(lambda: text.encode() in self.image.read_bytes(), 20, f"{name} is in the image")

    def begin(self, vm):
        self.write(vm)

    def before(self, vm):
        self.write(vm)

    def after(self, vm, moved):
        image = self.image.read_bytes()
        for name, text in self.written.items():
            assert text.encode() in image, f"{name} is not in the image any more"
            assert self.get_variable(vm, name) == text, f"{name} is {self.get_variable(vm, name)!r}, not {text!r}"
        self.write(vm)


class OvmfShell(Ovmf, Row):
    thing = "guest in the shell of OVMF, `-drive if=pflash`"
    means = "the shell goes on; variables written before stay, in the image too, and more are written"
    group = "pflash-drive"
    guest = "silent"

    def options(self, rig):
        return {"machine": "q35", "memory_mib": 128}

    def arguments(self, rig):
        code = f"if=pflash,unit=0,format=raw,readonly=on,file={OVMF}/OVMF_CODE_4M.fd"
        return ["-drive", code, "-drive", f"if=pflash,unit=1,format=raw,file={self.image}"]

    def begin(self, vm):
        wait_for(lambda: any("Press" in line for line in list(vm.serial.lines) if line), 90, "the shell of OVMF")
        vm.serial.send("", end="\x1b")
        super().begin(vm)

    def set_variable(self, vm, name, text):
        vm.serial.send(f'setvar {name} -guid {GUID} -bs -rt -nv =S"{text}"', end="\r")

    def get_variable(self, vm, name):
        answer = vm.serial.ask(f"setvar {name} -guid {GUID}", r".*?((?:[0-9A-F]{2} ){16}).*", 20, end="\r")
        return bytes.fromhex(answer[1]).decode()


class OvmfLinux(Ovmf, Row):
    thing = "Linux guest that OVMF booted, `-blockdev` and `pflash0=`, `pflash1=`"
    means = "the services of the firmware work: as in the shell"
    group = "pflash-blockdev"
    guest = "linux"
    folder = "/sys/firmware/efi/efivars"

    def options(self, rig):
        pflash = ",pflash0=code,pflash1=vars"
        return {"machine": "q35", "machine_options": pflash, "console": True, "parameters": {"module": "efivarfs"}}

    def arguments(self, rig):
        return [
            *("-blockdev", f"driver=file,node-name=code0,filename={OVMF}/OVMF_CODE_4M.fd,read-only=on"),
            *("-blockdev", "driver=raw,node-name=code,file=code0,read-only=on"),
            *("-blockdev", f"driver=file,node-name=vars0,filename={self.image}", "-blockdev", "driver=raw,node-name=vars,file=vars0"),
        ]

    def begin(self, vm):
        self.console = Console(vm.console_path)
        vm.rig.stack.callback(self.console.close)
        self.console.run(f"mount -t efivarfs none {self.folder}")
        super().begin(vm)

    def set_variable(self, vm, name, text):
        # First its attributes: non-volatile, boot services, runtime
        self.console.run(f"printf '\\007\\000\\000\\000{text}' >{self.folder}/{name}-{GUID}")

    def get_variable(self, vm, name):
        return self.console.run(f"tail -c +5 {self.folder}/{name}-{GUID}; echo")


class BootMenu(Row):
    thing = "guest in the boot menu of SeaBIOS"
    means = "the menu stands there, and boots what is chosen after all the moves"
    group = "boot-menu"
    guest = "silent"

    def arguments(self, rig):
        return ["-boot", "menu=on,splash-time=20000"]

    def screen(self, vm):
        """The text of the display."""
        path = vm.rig.folder / "text"
        vm.qmp.execute("pmemsave", val=0xB8000, size=4000, filename=str(path))
        text = path.read_bytes()[::2].decode("cp437")
        return "\n".join(text[at : at + 80].rstrip() for at in range(0, 2000, 80)).strip()

    def stands(self, vm):
        self.seen = self.screen(vm)
        time.sleep(0.5)
        return self.screen(vm) == self.seen

    def press(self, vm, key):
        vm.qmp.execute("send-key", keys=[{"type": "qcode", "data": key}])

    def begin(self, vm):
        wait_for(lambda: "Press ESC for boot menu" in self.screen(vm), 20, "the firmware asks for a key")
        self.press(vm, "esc")
        wait_for(lambda: "Select boot device" in self.screen(vm), 20, "the menu")
        wait_for(lambda: self.stands(vm), 20, "the whole menu")

    def after(self, vm, moved):
        self.press(vm, "f12")  # no choice
        assert self.screen(vm) == self.seen, f"{self.screen(vm)}\nis not\n{self.seen}"
        assert vm.serial.boots == 0, "it booted on its own"

    def finish(self, vm):
        choice = next(line for line in self.seen.split("\n") if "virtio" in line.lower())
        self.press(vm, choice[0])
        vm.serial.wait_ready(20)
