# SPDX-License-Identifier: GPL-2.0-or-later
"""Rows of the survival table: devices, their back ends and objects.

The guests of most groups are Linux with the drivers of the devices; a shell on a second serial port (console.py) looks at
them from inside.
"""

import hashlib
import re
import secrets
import shutil
import socket
import subprocess
import time

from console import Console
from pair import wait_for
from survival import Blocked, Row

Q35_MODULES = (
    "ehci_pci,uhci_hcd,xhci_pci,usbhid,hid-generic,usb_storage,virtio_input,virtio-gpu,bochs,snd-hda-codec-generic,"
    "snd-hda-intel,qemu_fw_cfg"
)
PC_MODULES = (
    "ehci_pci,uhci_hcd,ohci_pci,xhci_pci,usb_storage,usbhid,hid-generic,snd-intel8x0,snd-ens1370,sym53c8xx,"
    "megaraid_sas,mptsas,vmw_pvscsi,ahci,virtio_input"
)


def console(vm):
    """The shell of the guest; one for all rows."""
    found = getattr(vm, "console_session", None)
    if found is None:
        found = vm.console_session = Console(vm.console_path)
        vm.rig.stack.callback(found.close)
        found.run("echo 0 >/sys/class/graphics/fbcon/cursor_blink || true")
    return found


class Q35Row(Row):
    group = "devices-q35"
    guest = "linux"

    def options(self, rig):
        kernel = "intel_iommu=on"
        return {"machine": "q35", "devices": True, "console": True, "modules": Q35_MODULES, "append": kernel}


class PcRow(Row):
    group = "devices-pc"
    guest = "linux"

    def options(self, rig):
        return {"machine": "pc", "devices": True, "console": True, "modules": PC_MODULES}


# ---- input


class Input:
    """Events of one device, as the guest reads them from evdev."""

    def __init__(self, vm, name):
        self.vm = vm
        listing = console(vm).run("cat /proc/bus/input/devices")
        found = [text for text in listing.split("\n\n") if f'Name="{name}"' in text]
        assert found, f"no input device {name!r} in {listing}"
        self.path = "/dev/input/" + re.search(r"event\d+", found[-1])[0]

    def read(self, make_events):
        """(type, code, value) of what the guest read while make_events() ran."""
        shell = console(self.vm)
        shell.run(f"(timeout 20 cat {self.path} >/tmp/events) & echo $! >/tmp/events.pid; usleep 200000")
        make_events()
        for _ in range(40):
            if int(shell.run("wc -c </tmp/events")) >= 48:
                break
            shell.run("usleep 50000")
        shell.run("kill $(cat /tmp/events.pid) || true; usleep 50000")
        data = bytes.fromhex(shell.run("xxd -p /tmp/events").replace("\n", ""))
        events = [data[at + 16 : at + 24] for at in range(0, len(data) - 23, 24)]
        return [
            (int.from_bytes(e[:2], "little"), int.from_bytes(e[2:4], "little"), int.from_bytes(e[4:], "little", signed=True))
            for e in events
        ]


EV_KEY, EV_REL, EV_ABS = 1, 2, 3


class Pointer:
    """Sends an event that only devices of one kind take, and looks for it in the guest."""

    evdev = ""  # the name in the guest
    kind = ""  # abs, rel or key
    number = 100

    def begin(self, vm):
        self.check(vm)

    def after(self, vm, moved):
        self.check(vm)

    def send(self, vm):
        Pointer.number += 37
        if self.kind == "key":
            vm.qmp.execute("send-key", keys=[{"type": "qcode", "data": "a"}])
            return EV_KEY, 30, 1
        name = self.evdev.replace("QEMU QEMU USB", "QEMU HID")
        index = next(m["index"] for m in vm.qmp.execute("query-mice") if m["name"] == name)
        vm.qmp.hmp(f"mouse_set {index}")
        event = {"type": self.kind, "data": {"axis": "x", "value": Pointer.number % 100 + 10}}
        if self.kind == "abs":
            event["data"]["value"] = 5000 + Pointer.number % 20000
        vm.qmp.execute("input-send-event", events=[event])
        value = event["data"]["value"]
        return (EV_ABS if self.kind == "abs" else EV_REL), 0, value

    def check(self, vm):
        receiver = Input(vm, self.evdev)
        sent = []
        for _ in range(6):  # a device that nobody has opened yet drops what it gets
            seen = receiver.read(lambda: sent.append(self.send(vm)))
            kind, code, value = sent[-1]
            near = [e for e in seen if e[:2] == (kind, code) and abs(e[2] - value) <= (2 if self.kind == "abs" else 0)]
            if near:
                break
        assert near, f"{self.evdev}: sent {sent}, the guest saw {seen}"
        lost = console(vm).run("dmesg | grep -c 'USB disconnect' || true")
        assert lost == "0", f"the guest lost {lost} USB devices"


class SeveralPointers(Q35Row):
    thing = "several pointing devices, chosen with `mouse_set`; virtio-tablet"
    means = "there as before; which of several input devices gets what is sent stays the same"

    def arguments(self, rig):
        return ["-device", "virtio-tablet-pci,id=vtablet"]

    def begin(self, vm):
        mice = vm.qmp.execute("query-mice")
        tablet = next(m for m in mice if "HID Tablet" in m["name"])
        # Neither the first nor the last that the guest made active
        vm.qmp.hmp(f"mouse_set {tablet['index']}")

    def before(self, vm):
        self.mice = self.look(vm)
        self.devices = console(vm).run("cat /proc/bus/input/devices")

    def after(self, vm, moved):
        assert self.look(vm) == self.mice, f"{self.mice} became {self.look(vm)}"
        assert console(vm).run("cat /proc/bus/input/devices") == self.devices

    @staticmethod
    def look(vm):
        return [(m["name"], m["current"], m["absolute"]) for m in vm.qmp.execute("query-mice")]


class UsbTablet(Pointer, Q35Row):
    thing = "USB tablet, behind a hub on xHCI"
    means = "not unplugged in the guest's eyes; an event arrives there as it did before"
    evdev = "QEMU QEMU USB Tablet"
    kind = "abs"

    def arguments(self, rig):
        return [
            *("-device", "qemu-xhci,id=xhci", "-device", "usb-hub,bus=xhci.0,port=1,id=hub"),
            *("-device", "usb-tablet,bus=xhci.0,port=1.1,id=utablet"),
        ]


class UsbKeyboard(Pointer, Q35Row):
    thing = "USB keyboard on ich9-usb-ehci1"
    means = "as the tablet"
    evdev = "QEMU QEMU USB Keyboard"
    kind = "key"

    def arguments(self, rig):
        return [
            *("-device", "ich9-usb-ehci1,id=ehci,multifunction=on,addr=1d.7"),
            *("-device", "ich9-usb-uhci1,masterbus=ehci.0,firstport=0,multifunction=on,addr=1d.0"),
            *("-device", "ich9-usb-uhci2,masterbus=ehci.0,firstport=2,addr=1d.1"),
            *("-device", "ich9-usb-uhci3,masterbus=ehci.0,firstport=4,addr=1d.2"),
            *("-device", "usb-kbd,bus=ehci.0,port=1,id=ukbd"),
        ]


class UsbCompanions(Pointer, Q35Row):
    thing = "USB mouse on ich9-usb-uhci2, a companion of EHCI"
    means = "as the tablet"
    evdev = "QEMU QEMU USB Mouse"
    kind = "rel"

    def arguments(self, rig):
        return ["-device", "usb-mouse,bus=ehci.0,port=3,id=umouse,usb_version=1"]

    def begin(self, vm):
        speed = console(vm).run("dmesg | grep 'using uhci_hcd'")
        assert "full-speed" in speed, speed
        super().begin(vm)


class UsbMouse(Pointer, PcRow):
    thing = "USB mouse on UHCI of the board"
    means = "as the tablet"
    evdev = "QEMU QEMU USB Mouse"
    kind = "rel"

    def arguments(self, rig):
        return ["-device", "piix3-usb-uhci,id=uhci", "-device", "usb-mouse,bus=uhci.0,id=umouse"]


class UsbOhci(Pointer, PcRow):
    thing = "USB tablet on OHCI"
    means = "as the tablet on xHCI"
    evdev = "QEMU QEMU USB Tablet"
    kind = "abs"

    def arguments(self, rig):
        return ["-device", "pci-ohci,id=ohci", "-device", "usb-tablet,bus=ohci.0,id=otablet"]


class VirtioKeyboard(Pointer, PcRow):
    thing = "virtio-keyboard"
    means = "an event arrives in the guest as it did before"
    evdev = "QEMU Virtio Keyboard"
    kind = "key"

    def arguments(self, rig):
        return ["-device", "virtio-keyboard-pci,id=vkbd"]


class VirtioMouse(Pointer, Q35Row):
    thing = "virtio-mouse"
    means = "an event arrives in the guest as it did before"
    evdev = "QEMU Virtio Mouse"
    kind = "rel"

    def arguments(self, rig):
        return ["-device", "virtio-mouse-pci,id=vmouse"]


# ---- disks of other controllers


class DiskOf:
    """A disk that the guest finds by its size; it writes to it, and reads again from the medium."""

    size_kib = 0
    written = None

    def image(self, rig):
        path = rig.folder / f"{self.size_kib}.raw"
        with open(path, "wb") as file:
            file.truncate(self.size_kib << 10)
        return f"if=none,id=d{self.size_kib},file={path},format=raw"

    def find(self, vm):
        name = console(vm).run(f"grep -l '^{2 * self.size_kib}$' /sys/block/*/size")
        return "/dev/" + name.split("/")[3]

    def begin(self, vm):
        wait_for(lambda: console(vm).result(f"grep -l '^{2 * self.size_kib}$' /sys/block/*/size")[0], 90, "the disk")

    def before(self, vm):
        disk = self.find(vm)
        shell = console(vm)
        shell.run(f"dd if=/dev/urandom of=/tmp/pattern bs=64k count=16 2>/dev/null; dd if=/tmp/pattern of={disk} bs=64k 2>/dev/null")
        shell.run("sync")
        self.written = shell.run("md5sum </tmp/pattern")

    def after(self, vm, moved):
        shell = console(vm)
        shell.run("echo 3 >/proc/sys/vm/drop_caches")
        seen = shell.run(f"dd if={self.find(vm)} bs=64k count=16 2>/dev/null | md5sum")
        assert seen == self.written, f"{type(self).__name__}: read {seen}, wrote {self.written}"


class UsbStorage(DiskOf, Q35Row):
    thing = "usb-storage on xHCI"
    means = "the guest reads what it wrote before, and writes on"
    size_kib = 4096

    def arguments(self, rig):
        return ["-drive", self.image(rig), "-device", "usb-storage,drive=d4096,bus=xhci.0,port=2,id=stick"]


class UsbStorageNec(DiskOf, PcRow):
    thing = "usb-storage on nec-usb-xhci"
    means = "as usb-storage"
    size_kib = 4352

    def arguments(self, rig):
        return ["-device", "nec-usb-xhci,id=nec", "-drive", self.image(rig), "-device", "usb-storage,drive=d4352,bus=nec.0,id=stick1"]


class UsbStorageEhci(DiskOf, PcRow):
    thing = "usb-storage on usb-ehci"
    means = "as usb-storage"
    size_kib = 4608

    def arguments(self, rig):
        return ["-device", "usb-ehci,id=ehci0", "-drive", self.image(rig), "-device", "usb-storage,drive=d4608,bus=ehci0.0,id=stick2"]


class Ahci(DiskOf, PcRow):
    thing = "SATA disk on ich9-ahci"
    means = "as usb-storage"
    size_kib = 5120

    def arguments(self, rig):
        return ["-device", "ich9-ahci,id=sata", "-drive", self.image(rig), "-device", "ide-hd,drive=d5120,bus=sata.0,id=sata0"]


class ScsiHba(DiskOf, PcRow):
    means = "as usb-storage"
    controller = ""
    more = ""  # of the disk

    def arguments(self, rig):
        disk = f"d{self.size_kib}"
        return [
            *("-device", f"{self.controller},id=hba-{disk}", "-drive", self.image(rig)),
            *("-device", f"scsi-hd,drive={disk},bus=hba-{disk}.0,id=hd-{disk}{self.more}"),
        ]


class Lsi(ScsiHba):
    thing = "SCSI disk on lsi53c895a"
    controller = "lsi53c895a"
    size_kib = 5376


class Megasas(ScsiHba):
    thing = "SCSI disk on megasas"
    controller = "megasas"
    size_kib = 5632


class MegasasGen2(ScsiHba):
    thing = "SCSI disk on megasas-gen2"
    controller = "megasas-gen2"
    size_kib = 5760


class Mptsas(ScsiHba):
    thing = "SCSI disk on mptsas1068"
    controller = "mptsas1068"
    size_kib = 5888
    more = ",wwn=0x5000c50015ea71ac"  # Linux finds no disk without


class Pvscsi(ScsiHba):
    thing = "SCSI disk on pvscsi"
    controller = "pvscsi"
    size_kib = 6144


# ---- displays


def screendump(vm, device=None):
    """A digest of what the display shows."""
    path = vm.rig.folder / "screen.ppm"
    path.unlink(missing_ok=True)
    arguments = {"filename": str(path)}
    if device:
        arguments["device"] = device
    vm.qmp.execute("screendump", arguments)
    return hashlib.sha256(path.read_bytes()).hexdigest()


class Framebuffer:
    """A display with a driver: the guest paints, and what the host sees is the same before and after."""

    slot = ""  # of the PCI device
    display = ""

    def begin(self, vm):
        # Sets a mode, which those have not that the guest's console is not on
        console(vm).run(f"echo 0 >/sys/class/graphics/fb{self.frame(vm)}/blank")

    def frame(self, vm):
        frames = console(vm).run("for f in /sys/class/graphics/fb[0-9]; do echo $f $(readlink -f $f/device); done")
        found = re.search(rf"/fb(\d) .*/0000:00:{self.slot}\.0", frames)
        assert found, frames + console(vm).run("dmesg | grep -i drm")
        return found[1]

    def paint(self, vm):
        """Paints something new; returns what the host sees of it."""
        frame = self.frame(vm)
        before = screendump(vm, self.display)
        seed = secrets.token_hex(4)
        # One line of random pixels, many times: as large as a screen, and quick to make
        console(vm).run(f"dd if=/dev/urandom of=/tmp/line bs=4096 count=16 2>/dev/null; echo {seed} >>/tmp/line")
        console(vm).run(f"for i in 1 2 3 4 5 6 7 8; do cat /tmp/line; done >/dev/fb{frame}")
        wait_for(lambda: screendump(vm, self.display) != before, 60, f"{self.display} shows what was painted")
        return self.settle(vm)

    def settle(self, vm):
        """Drivers flush a little later."""
        last = None
        for _ in range(50):
            now = screendump(vm, self.display)
            if now == last:
                return now
            last = now
            time.sleep(0.2)
        raise AssertionError(f"{self.display} never stands still")

    def before(self, vm):
        self.seen = self.paint(vm)

    def after(self, vm, moved):
        now = self.settle(vm)
        assert now == self.seen, f"{self.display} shows something else"
        self.paint(vm)


class VirtioGpu(Framebuffer, Q35Row):
    thing = "virtio-gpu-pci, 2D"
    means = "a picture that the guest painted is the same, and it paints on"
    slot = "14"
    display = "gpu0"

    def arguments(self, rig):
        return ["-device", "virtio-gpu-pci,id=gpu0,addr=14"]


class StdVga(Framebuffer, Q35Row):
    thing = "VGA with the guest's own driver"
    means = "as virtio-gpu-pci"
    slot = "01"
    display = "vga0"


class BochsDisplay(Framebuffer, Q35Row):
    thing = "bochs-display"
    means = "as virtio-gpu-pci"
    slot = "15"
    display = "bochs0"

    def arguments(self, rig):
        return ["-device", "bochs-display,id=bochs0,addr=15"]


class SecondaryVga(Framebuffer, Q35Row):
    thing = "secondary-vga"
    means = "as virtio-gpu-pci"
    slot = "16"
    display = "vga1"

    def arguments(self, rig):
        return ["-device", "secondary-vga,id=vga1,addr=16"]


class TextDisplay:
    """A display that shows the firmware's text, which stands still but for its cursor."""

    means = "shows the same"

    def arguments(self, rig):
        return []

    def options(self, rig):
        return {"display": self.type}

    def look(self, vm):
        seen = set()
        for _ in range(8):
            seen.add(screendump(vm))
            time.sleep(0.1)
        return seen

    def before(self, vm):
        self.seen = self.look(vm)
        blank = vm.rig.folder / "screen.ppm"
        assert len(set(blank.read_bytes()[16:])) > 1, "the display is blank: nothing to compare"

    def after(self, vm, moved):
        now = self.look(vm)
        assert now & self.seen, "the display shows something else"


class Cirrus(TextDisplay, Row):
    thing = "cirrus-vga"
    group = "display-cirrus"
    type = "cirrus-vga"


class VirtioVga(TextDisplay, Row):
    thing = "virtio-vga"
    group = "display-virtio-vga"
    type = "virtio-vga"


class VmwareSvga(TextDisplay, Row):
    thing = "vmware-svga"
    group = "display-vmware"
    type = "vmware-svga"


# ---- clocks


class RtcDate(Q35Row):
    thing = "RTC with `-rtc base=DATE`"
    means = "counts on from the same base, and `RTC_CHANGE` tells the same offset"

    def arguments(self, rig):
        return ["-rtc", "base=2031-05-06T07:08:09"]

    def look(self, vm):
        # The difference between the RTC and the guest's uptime
        text = console(vm).run("cat /sys/class/rtc/rtc0/since_epoch /proc/uptime").split()
        return int(text[0]) - float(text[1])

    def offset(self, vm):
        # As if the guest kept local time, an hour ahead
        console(vm).run("TZ=AAA-1 hwclock -w -l")
        told = vm.qmp.wait_event("RTC_CHANGE", timeout=10)["data"]["offset"]
        console(vm).run("hwclock -w -u")
        vm.qmp.wait_event("RTC_CHANGE", timeout=10)
        return told

    def begin(self, vm):
        assert "2031-05-06" in console(vm).run("cat /sys/class/rtc/rtc0/date")
        self.told = self.offset(vm)

    def before(self, vm):
        self.seen = self.look(vm)

    def after(self, vm, moved):
        now = self.look(vm)
        # since_epoch has whole seconds; the guest's own time stands still in the pause, the RTC does not
        assert -1.5 < now - self.seen < 3, f"the RTC jumped by {now - self.seen:.1f} s"
        told = self.offset(vm)
        assert abs(told - self.told) <= 3, f"RTC_CHANGE told {self.told}, and tells {told}"


class RtcMonotonic(PcRow):
    thing = "RTC with `-rtc clock=rt,driftfix=slew`"
    means = "counts on"
    arguments = lambda self, rig: ["-rtc", "base=localtime,clock=rt,driftfix=slew"]  # noqa: E731
    look = RtcDate.look

    def before(self, vm):
        self.seen = self.look(vm)

    def after(self, vm, moved):
        now = self.look(vm)
        assert -1.5 < now - self.seen < 3, f"the RTC jumped by {now - self.seen:.1f} s"


class Hpet(PcRow):
    thing = "HPET"
    means = "the guest's clock source; its time neither jumps nor stands still"

    def begin(self, vm):
        folder = "/sys/devices/system/clocksource/clocksource0"
        console(vm).run(f"echo hpet >{folder}/current_clocksource")
        assert console(vm).run(f"cat {folder}/current_clocksource") == "hpet"

    def look(self, vm):
        return float(console(vm).run("cut -d' ' -f1 /proc/uptime")), time.monotonic()

    def before(self, vm):
        self.seen = self.look(vm)

    def after(self, vm, moved):
        guest, host = (b - a for a, b in zip(self.seen, self.look(vm)))
        assert -1 < host - guest < 6, f"{guest:.2f} s went by in the guest, {host:.2f} s on the host"


# ---- identity, firmware


class VmGenId(Q35Row):
    thing = "vmgenid, `guid=auto`"
    means = "the same GUID: the guest is no clone"

    def arguments(self, rig):
        return ["-device", "vmgenid,guid=auto,id=genid"]

    def begin(self, vm):
        self.guid = vm.qmp.execute("query-vm-generation-id")["guid"]
        self.files = self.blob(vm)

    def blob(self, vm):
        return console(vm).run("md5sum </sys/firmware/qemu_fw_cfg/by_name/etc/vmgenid_guid/raw")

    def after(self, vm, moved):
        assert vm.qmp.execute("query-vm-generation-id")["guid"] == self.guid
        assert self.blob(vm) == self.files, "the firmware would get another GUID at the next boot"
        assert console(vm).run("dmesg | grep -ci 'virtual machine fork' || true") == "0", "the guest was told that it is a clone"


class FwCfg(Q35Row):
    thing = "fw_cfg entries, SMBIOS and ACPI tables of the user"
    means = "the guest reads the same, also of files, and after the reboot"

    def arguments(self, rig):
        (rig.folder / "entry").write_bytes(secrets.token_bytes(3000))
        table = bytearray(secrets.token_bytes(64))
        (rig.folder / "table").write_bytes(table)
        return [
            *("-fw_cfg", "name=opt/org.qhup/text,string=one two", "-fw_cfg", f"name=opt/org.qhup/file,file={rig.folder}/entry"),
            *("-smbios", "type=1,manufacturer=qhup,product=survivor,serial=4711"),
            *("-acpitable", f"sig=QHUP,data={rig.folder}/table"),
            *("-device", "vmcoreinfo"),
        ]

    FILES = "opt/org.qhup/text opt/org.qhup/file etc/acpi/tables etc/acpi/rsdp etc/vmcoreinfo etc/smbios/smbios-anchor"

    def look(self, vm):
        text = f"cd /sys/firmware/qemu_fw_cfg/by_name; for f in {self.FILES}; do echo $f $(md5sum <$f/raw); done; cd /tmp"
        return console(vm).run(text)

    def begin(self, vm):
        assert console(vm).run("cat /sys/class/dmi/id/product_name") == "survivor"
        assert "survivor" in console(vm).run("strings /sys/firmware/qemu_fw_cfg/by_name/etc/smbios/smbios-tables/raw")
        self.seen = self.look(vm)

    def after(self, vm, moved):
        assert self.look(vm) == self.seen, f"{self.seen} became {self.look(vm)}"
        assert "survivor" in console(vm).run("strings /sys/firmware/qemu_fw_cfg/by_name/etc/smbios/smbios-tables/raw")


class IntelIommu(Q35Row):
    thing = "intel-iommu"
    means = "the devices reach the guest's memory through it, as before; it saw no fault"

    def arguments(self, rig):
        return ["-device", "intel-iommu,id=iommu0"]

    def begin(self, vm):
        assert "/" in console(vm).run("ls -d /sys/class/iommu/dmar0/devices/*"), "no device is behind it"

    def after(self, vm, moved):
        assert console(vm).run("dmesg | grep -c 'DMAR.*fault' || true") == "0", console(vm).run("dmesg | grep DMAR | tail")


class PciTree(Q35Row):
    thing = "PCI bridges: root port, ioh3420, switch, DMI and PCI bridges"
    means = "the configuration space of every device is the same; a device below them works"

    def arguments(self, rig):
        return [
            *("-device", "pcie-root-port,id=rp1,chassis=1,slot=1", "-device", "x3130-upstream,id=up1,bus=rp1"),
            *("-device", "xio3130-downstream,id=down1,bus=up1,chassis=2,slot=2"),
            *("-device", "virtio-rng-pci,id=deep0,bus=down1"),
            *("-device", "ioh3420,id=rp2,chassis=3,slot=3", "-device", "pcie-pci-bridge,id=pp1,bus=rp2"),
            *("-device", "virtio-rng-pci,id=deep1,bus=pp1,addr=2"),
            *("-device", "i82801b11-bridge,id=dmi", "-device", "pci-bridge,id=pb1,bus=dmi,chassis_nr=4"),
            *("-device", "virtio-rng-pci,id=deep2,bus=pb1,addr=3"),
        ]

    def look(self, vm):
        return console(vm).run("cd /sys/bus/pci/devices; for d in *; do echo $d $(xxd -p $d/config | tr -d '\\n'); done; cd /tmp")

    def before(self, vm):
        # Root ports show that a presence change is pending until the guest looks, and so on: only when all is quiet
        self.seen = self.look(vm)

    def after(self, vm, moved):
        now = self.look(vm)
        changed = [f"{a}\n{b}" for a, b in zip(self.seen.split("\n"), now.split("\n")) if a != b]
        assert not changed, "\n".join(changed)
        console(vm).run(
            "for i in 0 1 2 3; do echo virtio_rng.$i >/sys/class/misc/hw_random/rng_current; "
            "dd if=/dev/hwrng bs=64 count=1 2>/dev/null | wc -c; done"
        )


class Pvpanic(Q35Row):
    thing = "pvpanic-pci"
    means = "the event comes"

    def arguments(self, rig):
        return ["-device", "pvpanic-pci,id=pv0"]

    def after(self, vm, moved):
        shell = console(vm)
        folder = shell.run("cd /sys/bus/pci/devices; grep -l PCI_ID=1B36:0011 $PWD/*/uevent; cd /tmp").removesuffix("/uevent")
        shell.run(f"echo 1 >{folder}/enable")
        address = shell.run(f"head -n 1 {folder}/resource").split()[0]
        shell.run(f"devmem {address} 8 2")
        vm.qmp.wait_event("GUEST_CRASHLOADED", timeout=5)
        shell.run(f"echo 0 >{folder}/enable")


class PciSerial(Q35Row):
    thing = "pci-serial"
    means = "bytes go both ways"

    def arguments(self, rig):
        path = rig.folder / "pciserial.sock"
        return ["-chardev", f"socket,id=ps,path={path},server=on,wait=off", "-device", "pci-serial,chardev=ps,id=pser"]

    def begin(self, vm):
        self.client = vm.rig.stack.enter_context(socket.socket(socket.AF_UNIX))
        self.client.connect(str(vm.rig.folder / "pciserial.sock"))
        self.client.settimeout(10)
        self.port = console(vm).run(
            "for t in /sys/class/tty/ttyS*; do [ -e $t/device/vendor ] && echo ${t##*/}; done; true"
        ).split()[0]
        console(vm).run(f"exec 7<>/dev/{self.port}; stty raw -echo <&7; (while read -r l; do echo $l; done <&7 >/tmp/fromhost) &")
        self.after(vm, True)

    def after(self, vm, moved):
        word = secrets.token_hex(8)
        console(vm).run(f"echo {word} >/dev/{self.port}")
        seen = b""
        while not seen.endswith(b"\n"):
            seen += self.client.recv(100)
        assert word.encode() in seen, seen
        self.client.sendall(word[::-1].encode() + b"\n")
        wait_for(lambda: word[::-1] in console(vm).run("cat /tmp/fromhost"), 60, "the guest reads it")


# ---- ports of the board


def write_port(vm, port, value):
    """The guest writes a byte to an I/O port."""
    console(vm).run(f"printf '\\x{value:02x}' | dd of=/dev/port bs=1 seek={port} conv=notrunc 2>/dev/null")


class PvpanicIsa(PcRow):
    thing = "pvpanic on ISA"
    means = "the event comes"

    def arguments(self, rig):
        return ["-device", "pvpanic,id=pv1"]

    def after(self, vm, moved):
        write_port(vm, 0x505, 2)
        vm.qmp.wait_event("GUEST_CRASHLOADED", timeout=5)


class Debugcon(PcRow):
    thing = "isa-debugcon on a file"
    means = "what the guest writes is appended"

    def arguments(self, rig):
        return ["-chardev", f"file,id=dbg,path={rig.folder}/debug", "-device", "isa-debugcon,chardev=dbg,iobase=0x402,id=dbg0"]

    def look(self, vm):
        return (vm.rig.folder / "debug").read_bytes()

    def before(self, vm):
        self.seen = self.look(vm)

    def after(self, vm, moved):
        write_port(vm, 0x402, 0x51)
        assert self.look(vm) == self.seen + b"\x51", f"{self.look(vm)[-100:]} after {self.seen[-100:]}"


class Parallel(PcRow):
    thing = "isa-parallel on a file"
    means = "what the guest prints is appended"

    def arguments(self, rig):
        return ["-chardev", f"file,id=lpt,path={rig.folder}/printed", "-device", "isa-parallel,chardev=lpt,id=lpt0"]

    def look(self, vm):
        return (vm.rig.folder / "printed").read_bytes()

    def before(self, vm):
        # Half of a byte's way: the data is there, its strobe comes after the move
        write_port(vm, 0x378, 0x52)
        write_port(vm, 0x37A, 0x0C)
        self.seen = self.look(vm)

    def after(self, vm, moved):
        write_port(vm, 0x37A, 0x0D)
        assert self.look(vm) == self.seen + b"\x52", f"{self.look(vm)[-100:]} after {self.seen[-100:]}"


# ---- sound


class Sound:
    """The guest plays without end; the position of the device goes on."""

    card = 0

    def begin(self, vm):
        shell = console(vm)
        shell.run("modprobe snd-pcm-oss")
        dsp = "/dev/dsp" if self.card == 0 else f"/dev/dsp{self.card}"
        shell.run(f"ls {dsp}")
        shell.run(f"(cat /dev/zero >{dsp}) >/dev/null 2>&1 &")
        wait_for(lambda: self.position(vm) > 0, 60, "the guest plays")

    def position(self, vm):
        status = console(vm).run(f"cat /proc/asound/card{self.card}/pcm0p/sub0/status")
        found = re.search(r"hw_ptr\s*: (\d+)", status)
        return int(found[1]) if found else 0

    def before(self, vm):
        self.seen = self.position(vm)

    def after(self, vm, moved):
        first = self.position(vm)
        assert first >= self.seen, f"the position went back from {self.seen} to {first}"
        wait_for(lambda: self.position(vm) > first + 1000, 60, f"the guest plays on after {first}")


class Hda(Sound, Q35Row):
    thing = "sound: intel-hda with hda-duplex, `-audiodev none`"
    means = "the guest plays on"

    def arguments(self, rig):
        return ["-audiodev", "none,id=snd0", "-device", "intel-hda,id=hda", "-device", "hda-duplex,bus=hda.0,audiodev=snd0,id=codec"]


class HdaOutput(Sound, Q35Row):
    thing = "sound: ich9-intel-hda with hda-output"
    means = "as hda-duplex"
    card = 1

    def arguments(self, rig):
        return ["-device", "ich9-intel-hda,id=hda1,addr=17", "-device", "hda-output,bus=hda1.0,audiodev=snd0,id=codec1"]


class HdaMicro(Sound, Q35Row):
    thing = "sound: ich9-intel-hda with hda-micro"
    means = "as hda-duplex"
    card = 2

    def arguments(self, rig):
        return ["-device", "ich9-intel-hda,id=hda2,addr=18", "-device", "hda-micro,bus=hda2.0,audiodev=snd0,id=codec2"]


class Ac97(Sound, PcRow):
    thing = "sound: AC97"
    means = "as intel-hda"

    def arguments(self, rig):
        return ["-audiodev", "none,id=snd0", "-device", "AC97,audiodev=snd0,id=ac97,addr=0x1e"]


class Es1370(Sound, PcRow):
    thing = "sound: ES1370"
    means = "as intel-hda"
    card = 1

    def arguments(self, rig):
        return ["-device", "ES1370,audiodev=snd0,id=es,addr=0x1f"]


# ---- watchdogs


class Watchdog:
    """Armed right before an upgrade, it must fire when its time is over, not later and not earlier."""

    seconds = 10
    device = "/dev/watchdog0"
    module = ""

    def before(self, vm):
        # The other rows take their time: arm as late as possible, so this row's before() comes last of its group.
        shell = console(vm)
        # The driver sets the time at its start only; the device forgets it when it has fired.
        shell.run(f"rm -f /tmp/stop; rmmod {self.module.split()[0]} 2>/dev/null; modprobe {self.module}={self.seconds}")
        shell.run(f"(exec 3>{self.device}; while [ ! -e /tmp/stop ]; do usleep 200000; done; printf V >&3) >/dev/null 2>&1 &")
        shell.run("usleep 100000")
        self.armed = time.time()

    def after(self, vm, moved):
        event = vm.qmp.wait_event("WATCHDOG", timeout=self.seconds + 30)
        assert event["data"]["action"] == "none", event
        fired = event["timestamp"]["seconds"] + event["timestamp"]["microseconds"] / 1e6 - self.armed
        console(vm).run("touch /tmp/stop; usleep 500000")
        assert self.seconds - 2 <= fired <= self.seconds + 4, f"fired after {fired:.1f} s, not {self.seconds}"


class I6300esb(Watchdog, Q35Row):
    thing = "i6300esb watchdog, armed"
    means = "goes on counting: fires when its time is over; the action is kept"
    module = "i6300esb heartbeat"

    def arguments(self, rig):
        return ["-device", "i6300esb,id=wd0", "-action", "watchdog=none"]


class Ib700(Watchdog, PcRow):
    thing = "ib700 watchdog, armed"
    means = "as i6300esb"
    device = "/dev/watchdog"
    module = "ib700wdt timeout"

    def arguments(self, rig):
        return ["-device", "ib700,id=wd1", "-action", "watchdog=none"]


# ---- refused by name


class BlockedDevice(Blocked):
    """A device that stays a blocker; all of them sit in one VM."""

    group = "devices-blocked"
    blocker = "device"
    type = ""
    more = ""  # of its properties

    @property
    def name(self):
        return "b-" + self.type

    @property
    def id(self):
        return f"{self.blocker}/{self.name}"

    def options(self, rig):
        return {"machine": "q35"}

    def arguments(self, rig):
        return ["-device", f"{self.type},id={self.name}{self.more}"]


class Edu(BlockedDevice):
    thing = "edu"
    type = "edu"


class Ramfb(BlockedDevice):
    thing = "ramfb"
    type = "ramfb"


class Nvme(BlockedDevice):
    thing = "nvme"
    type = "nvme"
    more = ",serial=1"


class Tpm(BlockedDevice):
    """With a real swtpm, whose control connection and state belong to one QEMU."""

    def needs(self):
        return None if shutil.which("swtpm") else "swtpm is not here (package swtpm)"

    def setup(self, rig):
        self.socket = rig.folder / f"{self.type}.sock"
        state = rig.folder / self.type
        state.mkdir()
        command = ["swtpm", "socket", "--tpm2", "--tpmstate", f"dir={state}", "--ctrl", f"type=unixio,path={self.socket}"]
        swtpm = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        rig.stack.callback(swtpm.wait, 10)
        rig.stack.callback(swtpm.terminate)
        wait_for(self.socket.exists, 10, "swtpm listens")

    def arguments(self, rig):
        chardev = f"socket,id=b-chr-{self.type},path={self.socket}"
        emulator = f"emulator,id=b-be-{self.type},chardev=b-chr-{self.type}"
        return ["-chardev", chardev, "-tpmdev", emulator, "-device", f"{self.type},id={self.name},tpmdev=b-be-{self.type}"]

    def after(self, vm, moved):
        assert [b["model"] for b in vm.qmp.execute("query-tpm")] == [self.type]


class TpmCrb(Tpm):
    thing = "tpm-crb with swtpm"
    type = "tpm-crb"


class TpmTis(Tpm):
    thing = "tpm-tis with swtpm"
    type = "tpm-tis"
    group = "devices-blocked-pc"

    def options(self, rig):
        return {}


class SdhciPci(BlockedDevice):
    thing = "sdhci-pci with an SD card"  # its state lacks the configuration space
    type = "sdhci-pci"

    def arguments(self, rig):
        card = ["-drive", "if=none,id=b-card,driver=null-co,size=8M,read-zeroes=on", "-device", "sd-card,drive=b-card,id=b-sd-card"]
        return [*super().arguments(rig), *card]


class Am53c974(BlockedDevice):
    thing = "am53c974"  # 10.0 does not load the state of 7.2
    type = "am53c974"


class Uas(BlockedDevice):
    thing = "usb-uas"
    type = "usb-uas"
    more = ",bus=bx.0"

    def arguments(self, rig):
        return ["-device", "qemu-xhci,id=bx", *super().arguments(rig)]


class UsbMtp(BlockedDevice):
    thing = "usb-mtp"
    type = "usb-mtp"

    def arguments(self, rig):
        return ["-device", f"usb-mtp,id={self.name},rootdir={rig.folder},bus=bx.0"]


class UsbAudio(BlockedDevice):
    thing = "usb-audio"
    type = "usb-audio"
    more = ",bus=bx.0,audiodev=wav0"


class UsbNet(BlockedDevice):
    thing = "usb-net"
    type = "usb-net"
    more = ",bus=bx.0"


class UsbPcap(Blocked):
    thing = "USB device with `pcap=`"
    blocker = "descriptor"
    group = "devices-blocked"

    def arguments(self, rig):
        return ["-device", f"usb-tablet,bus=bx.0,pcap={rig.folder}/usb.pcap"]


class Loader(BlockedDevice):
    thing = "generic loader"
    type = "loader"
    more = ",addr=0x100000,data=0x1234,data-len=4"


class Ivshmem(BlockedDevice):
    thing = "ivshmem-plain"
    type = "ivshmem-plain"
    more = ",memdev=bmem"

    def arguments(self, rig):
        return ["-object", "memory-backend-memfd,id=bmem,size=1M,share=on", *super().arguments(rig)]


class AppleSmc(BlockedDevice):
    thing = "isa-applesmc"
    type = "isa-applesmc"
    more = ",osk=ourhardworkbythesewordsguardedpleasedontsteal(c)AppleComputerInc"


class Ipmi(BlockedDevice):
    thing = "IPMI BMC, simulated"
    type = "ipmi-bmc-sim"


class AcpiErst(BlockedDevice):
    thing = "acpi-erst"
    type = "acpi-erst"
    more = ",memdev=berst"

    def arguments(self, rig):
        path = rig.folder / "erst"
        path.write_bytes(bytes(65536))
        return ["-object", f"memory-backend-file,id=berst,size=64k,share=on,mem-path={path}", *super().arguments(rig)]


class VirtioCrypto(BlockedDevice):
    thing = "virtio-crypto"
    type = "virtio-crypto-pci"
    more = ",cryptodev=b-cryptodev"

    def arguments(self, rig):
        return ["-object", "cryptodev-backend-builtin,id=b-cryptodev", *super().arguments(rig)]


class PxbPcie(BlockedDevice):
    thing = "pxb-pcie"
    type = "pxb-pcie"
    more = ",bus_nr=128"


class Wav(Blocked):
    thing = "sound back end `wav`"
    blocker = "audio"
    id = "audio/wav0"
    group = "devices-blocked"

    def arguments(self, rig):
        return ["-audiodev", f"wav,id=wav0,path={rig.folder}/out.wav"]


class BlockedObject(Blocked):
    group = "devices-blocked"
    blocker = "object"
    object = ""
    more = ""

    @property
    def id(self):
        return f"object/b-{self.object}"

    def arguments(self, rig):
        return ["-object", f"{self.object},id=b-{self.object}{self.more.format(folder=rig.folder)}"]


class RngEgd(BlockedObject):
    thing = "object rng-egd"
    object = "rng-egd"
    more = ",chardev=begd"

    def arguments(self, rig):
        return ["-chardev", f"socket,id=begd,path={rig.folder}/egd.sock,server=on,wait=off", *super().arguments(rig)]


class AuthzSimple(BlockedObject):
    thing = "object authz-simple"
    object = "authz-simple"
    more = ",identity=me"


class CanBus(BlockedObject):
    thing = "object can-bus"
    object = "can-bus"


class CryptodevBuiltin(BlockedObject):
    thing = "object cryptodev-backend-builtin"
    object = "cryptodev-backend-builtin"

    id = "object/b-cryptodev"

    def arguments(self, rig):
        return []  # see virtio-crypto


class ThreadContext(BlockedObject):
    thing = "object thread-context"
    object = "thread-context"
