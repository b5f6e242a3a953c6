# SPDX-License-Identifier: GPL-2.0-or-later
"""Starts the test guest (tests/guest) under a real QEMU, as an operator would, and watches it.

    from guest import Disk, Guest, find_qemu
    from netrig import NetRig
    import processes

    processes.exit_on_signals()
    with NetRig() as net, Guest(find_qemu("7.2"), net=net, vcpus=2, disk=Disk("raw", "virtio-scsi")) as vm:
        vm.wait_ready()
        vm.qmp.execute("query-status")        # the test's own monitor; the daemon's is vm.daemon_qmp_path
        ...upgrade...
        vm.serial.ping()
        vm.check()                            # the counter had no gap, no part of the guest saw an error
        print(vm.pid(), vm.serial.longest_gap_ms, vm.stat())

After an upgrade the VM lives in another process, first a child of the one that we started, then ours
(processes.adopt_orphans). `pid()` asks QEMU; `stop()` ends whatever process has this VM's folder in its command line.
"""

import functools
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
from dataclasses import dataclass, field

import processes
from prober import ROOT
from qmp import Qmp, QmpClosed, QmpError
from serial_watcher import SerialWatcher

# The same machine type on both bases: the older one's.
MACHINES = {"pc": "pc-i440fx-7.2", "q35": "pc-q35-7.2"}

PREFIX = "qhup-vm-"

# How QEMU 10.0 loses an emulated guest with several vCPUs at boot: see tests/guest/README.md.
BOOT_FAULTS = (
    "iotlb_to_section: Assertion `section_index < d->map.sections_nb' failed",
    "rcu_preempt kthread timer wakeup didn't happen",
)


def folder_of_tests():
    """Where VMs have their folders: $QHUP_TEST_DIR, else the system's temporary one. Short, as paths of sockets are."""
    return pathlib.Path(os.environ.get("QHUP_TEST_DIR") or tempfile.gettempdir())


def remove_leftovers():
    """Ends the VMs, and removes the folders, of runs whose process was killed."""
    for folder in folder_of_tests().glob(f"{PREFIX}*"):
        pid = folder.name[len(PREFIX) :].split("-")[0]
        if pid.isdigit() and not os.path.exists(f"/proc/{pid}"):
            processes.end_processes(processes.processes_naming(f"{folder}/"), grace=0)
            shutil.rmtree(folder, ignore_errors=True)


def last_line(command):
    """The last line that the command prints, "" if none: by our scripts' custom, the result."""
    return subprocess.run(command, stdout=subprocess.PIPE, text=True).stdout.strip().split("\n")[-1]


@functools.cache
def find_qemu(base, *, stock=False):
    """The qemu-system-x86_64 that scripts/build-qemu made for `base` ("7.2" or "10.0").

    $QHUP_QEMU_7_2 and $QHUP_QEMU_10_0 (set by scripts/test) come first. Never builds; raises FileNotFoundError.
    """
    folder = None if stock else os.environ.get("QHUP_QEMU_" + base.replace(".", "_"))
    if not folder:
        folder = last_line([ROOT / "scripts" / "build-qemu", base, "--print-dir", *(["--stock"] if stock else [])])
    binary = pathlib.Path(folder) / "bin" / "qemu-system-x86_64"
    if not binary.exists():
        raise FileNotFoundError(f"QEMU {base} is not built; run scripts/build-qemu {base}{' --stock' if stock else ''}")
    return binary


@functools.cache
def find_guest(*, devices=False):
    """The folder with vmlinuz and initrd; made if need be (seconds). $QHUP_GUEST comes first.

    `devices`: the kernel with drivers for devices that no cloud has; $QHUP_GUEST_DEVICES comes first.
    """
    folder = os.environ.get("QHUP_GUEST_DEVICES" if devices else "QHUP_GUEST")
    if not folder:
        folder = last_line([ROOT / "tests" / "guest" / "build-guest", *(["--devices"] if devices else [])])
    return pathlib.Path(folder)


@dataclass
class Disk:
    """A disk of the VM. `path` None: a new, empty image in the VM's folder."""

    format: str = "qcow2"  # or raw
    bus: str = "virtio-blk"  # or virtio-scsi
    size_mib: int = 64
    path: pathlib.Path | None = None
    direct: bool = False  # O_DIRECT on the host; not every file system has it
    aio: str = "threads"  # or native (needs direct), io_uring
    device_options: str = ""  # e.g. ",num-queues=2"


@dataclass
class Guest:
    """One VM. Enter it as a context, or call start() and stop()."""

    binary: pathlib.Path
    net: object = None  # a NetRig; without it the VM has no NIC and runs in the host's network namespace
    name: str = "vm1"
    machine: str = "pc"  # "pc" and "q35" mean the versioned types that both bases have; or any type
    vcpus: int = 1
    memory_mib: int = 256
    ram: str = "hot-upgrade"  # -machine hot-upgrade=on; "memfd": a shared memory backend; "private": plain -m
    accel: str = "tcg"
    cpu: str = "qemu64"
    disk: Disk | None = field(default_factory=Disk)
    queues: int = 1  # of the NIC
    display: str | None = "VGA"  # the type of the display device
    machine_options: str = ""  # e.g. ",smm=on"
    append: str = ""  # more words for the kernel
    devices: bool = False  # the guest with drivers for other devices; `modules` names those to load
    modules: str = ""
    console: bool = False  # a shell on the second serial port: see console.py
    mode: str = "idle"  # or load; see tests/guest/README.md
    parameters: dict = field(default_factory=dict)  # more of the guest's parameters, without "qhup."
    vnc: str | None = "unix"  # or HOST:DISPLAY, or None
    pidfile: bool = False
    defaults: bool = False  # what QEMU adds without -nodefaults: drives of the board, NIC, parallel port, monitor
    standard_files: tuple | None = None  # QEMU's stdin and stdout; None: /dev/null and the log
    extra: list = field(default_factory=list)  # more arguments of QEMU
    pass_fds: tuple = ()  # descriptors that QEMU gets, with the same numbers
    prefix: list = field(default_factory=list)  # a command that runs QEMU: its words before QEMU's
    cwd: pathlib.Path | None = None  # where QEMU is started; None: where the test runs
    firmware_dirs: list = field(default_factory=list)  # -L; needed by binaries that build-qemu did not make
    folder: pathlib.Path | None = None  # for sockets, log and disk; None: a new one, removed at the end

    tap = None  # netrig.Tap, once started
    serial = None  # SerialWatcher, once started
    process = None  # subprocess.Popen of the QEMU that we started; not the VM's after an upgrade

    def __post_init__(self):
        self.uuid = str(uuid.uuid4())
        self.machine_type = MACHINES.get(self.machine, self.machine)
        self._own_folder = self.folder is None
        self._qmp = None

    # -- paths

    @property
    def daemon_qmp_path(self):
        """The monitor that is left to the daemon."""
        return self.folder / "qmp.sock"

    @property
    def test_qmp_path(self):
        """The monitor of `qmp`."""
        return self.folder / "qmp-test.sock"

    @property
    def serial_path(self):
        return self.folder / "serial.sock"

    @property
    def console_path(self):
        return self.folder / "console.sock"

    @property
    def vnc_path(self):
        return self.folder / "vnc.sock"

    @property
    def pidfile_path(self):
        return self.folder / "qemu.pid"

    @property
    def log_path(self):
        """What QEMU writes to stderr."""
        return self.folder / "qemu.log"

    # -- life

    def __enter__(self):
        return self.start()

    def __exit__(self, *_):
        self.stop()

    def start(self):
        """Starts QEMU and connects to its serial port. After failure: nothing is left."""
        processes.adopt_orphans()
        if self._own_folder:
            remove_leftovers()
            self.folder = pathlib.Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-", dir=folder_of_tests()))
            self.folder.chmod(0o711)  # a VM that gave up root's rights reaches its own files
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            if self.net is not None and self.tap is None:
                self.tap = self.net.add_tap(queues=self.queues)
            if self.disk is not None:
                self._make_disk()
            self._launch()
        except BaseException:
            self.stop()
            raise
        return self

    def _launch(self):
        command = [*map(str, self.prefix), str(self.binary), *self.arguments()]
        if self.net is not None:
            command = self.net.wrap(command)
        with open(self.log_path, "ab") as log:
            stdin, stdout = self.standard_files or (subprocess.DEVNULL, log)
            self.process = subprocess.Popen(
                command, stdin=stdin, stdout=stdout, stderr=log, pass_fds=self.pass_fds, cwd=self.cwd
            )
        self.serial = self._connect_serial()

    def stop(self):
        """Ends the VM wherever it runs by now, and removes its folder. May be called again."""
        if self.folder is None:
            return
        if self.serial is not None:
            self.serial.expect_end()
        pids = processes.processes_naming(f"{self.folder}/")
        if self.process is not None and self.process.poll() is None and self.process.pid not in pids:
            pids.append(self.process.pid)
        if pids and self.serial is not None:
            self._quit(pids)
        processes.end_processes(pids)
        if self.process is not None:
            self.process.wait()
        if self._qmp is not None:
            self._qmp.close()
            self._qmp = None
        if self.serial is not None:
            self.serial.close()
            self.serial = None
        if self._own_folder:
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder = None

    def kill(self):
        """Kills the VM's processes without asking, as a crash of the host's would."""
        if self.serial is not None:
            self.serial.expect_end()
        processes.end_processes(processes.processes_naming(f"{self.folder}/"), grace=0)

    def wait_ready(self, timeout=None):
        """Until the guest has booted and counts.

        A guest with one of BOOT_FAULTS, before anything of a test has begun, is started again, once, and this is said.
        """
        timeout = timeout or (300 if self.devices else 90)
        try:
            self.serial.wait_ready(timeout)
        except TimeoutError as error:
            log = self.log_path.read_text(errors="replace")[-2000:] if self.log_path.exists() else ""
            said = f"{error}\nlast lines of QEMU:\n{log}"
            if self.process is None or not any(fault in said for fault in BOOT_FAULTS):
                raise TimeoutError(said) from None
            print(f"{self.name} is started again: {said}", file=sys.stderr)
            self.serial.expect_end()
            self.process.kill()
            self.process.wait()
            self.serial.close()
            self.reconnect_qmp()
            self.log_path.rename(self.log_path.with_suffix(".aborted"))
            self._launch()
            self.serial.wait_ready(timeout)

    # -- asking

    @property
    def qmp(self):
        """The test's monitor; connected at first use, anew when the connection ended."""
        if self._qmp is None:
            self._qmp = Qmp.connect(self.test_qmp_path)
        return self._qmp

    def reconnect_qmp(self):
        """Drops the test's monitor connection; the next use of `qmp` makes a new one."""
        if self._qmp is not None:
            self._qmp.close()
            self._qmp = None

    def pid(self):
        """The process that runs the VM now."""
        try:
            return self.qmp.execute("query-hot-upgrade")["pid"]
        except QmpError as error:
            if error.cls != "CommandNotFound":
                raise
        return self.qmp.peer_pid()

    def processes(self):
        """All processes of this VM: one, or source and target during an upgrade."""
        return processes.processes_naming(f"{self.folder}/")

    def stat(self):
        """Fresh figures of the guest: ram_passes, disk_passes, udp, tcp_bytes, max_tick_gap_us, uptime_ms, errors."""
        return self.serial.read_stat()

    def batches(self):
        """How many batches each writer of a disk has written, flushed and verified, by the guest's name of the disk."""
        words = self.serial.ask("disks", "disks .*")[0].split()[1:]
        return {name: int(count) for name, count in (word.split("=") for word in words)}

    def check(self):
        """Raises AssertionError unless the guest is alive, lost nothing, and saw no error."""
        self.serial.check()
        stat = self.stat()
        before = self.serial.count
        self.serial.wait_count(5)
        if stat["errors"] or self.serial.count <= before:
            raise AssertionError(f"the guest reports {stat['errors']} errors")
        self.serial.check()

    # -- the command line

    def arguments(self):
        """QEMU's arguments, without argv[0]."""
        folder = self.folder
        arguments = ["-name", self.name, "-uuid", self.uuid, "-no-user-config", "-display", "none"]
        arguments += [] if self.defaults else ["-nodefaults"]
        arguments += ["-accel", self.accel, "-cpu", self.cpu, "-smp", str(self.vcpus), "-m", str(self.memory_mib)]
        for firmware in self.firmware_dirs:
            arguments += ["-L", str(firmware)]
        arguments += self._machine_arguments()
        kernel = find_guest(devices=self.devices)
        arguments += ["-kernel", str(kernel / "vmlinuz"), "-initrd", str(kernel / "initrd")]
        arguments += ["-append", self.kernel_command_line()]
        arguments += ["-chardev", f"socket,id=serial0,path={self.serial_path},server=on,wait=off"]
        arguments += ["-serial", "chardev:serial0"]
        if self.console:
            arguments += ["-chardev", f"socket,id=serial1,path={self.console_path},server=on,wait=off"]
            arguments += ["-serial", "chardev:serial1"]
        for monitor, path in (("mon0", self.daemon_qmp_path), ("mon1", self.test_qmp_path)):
            arguments += ["-chardev", f"socket,id={monitor},path={path},server=on,wait=off"]
            arguments += ["-mon", f"chardev={monitor},mode=control"]
        if self.display is not None:
            arguments += ["-device", f"{self.display},id=vga0"]
        if self.vnc is not None:
            arguments += ["-vnc", f"unix:{self.vnc_path}" if self.vnc == "unix" else self.vnc]
        arguments += ["-object", "rng-random,id=rng0,filename=/dev/urandom"]
        arguments += ["-device", "virtio-rng-pci,rng=rng0,id=rngdev0"]
        arguments += ["-device", "virtio-balloon-pci,id=balloon0"]
        if self.tap is not None:
            queues = f",queues={self.queues}" if self.queues > 1 else ""
            arguments += ["-netdev", f"tap,id=net0,ifname={self.tap.name},script=no,downscript=no{queues}"]
            multi = f",mq=on,vectors={2 * self.queues + 2}" if self.queues > 1 else ""
            arguments += ["-device", f"virtio-net-pci,netdev=net0,id=nic0,mac={self.tap.mac},romfile={multi}"]
        if self.disk is not None:
            arguments += self._disk_arguments()
        if self.pidfile:
            arguments += ["-pidfile", str(folder / "qemu.pid")]
        return arguments + [str(argument) for argument in self.extra]

    def kernel_command_line(self):
        """What the guest's kernel is told."""
        words = ["console=ttyS0", "quiet", "panic=-1", f"qhup.mode={self.mode}"]
        if self.tap is not None:
            words.append(f"qhup.ip={self.tap.cidr}")
        if self.disk is None:
            words.append("qhup.disk=none")
        if self.append:
            words.append(self.append)
        if self.modules:
            words.append(f"qhup.modules={self.modules}")
        if self.console:
            words.append("qhup.console=ttyS1")
        words += [f"qhup.{name}={value}" for name, value in self.parameters.items()]
        return " ".join(words)

    def _machine_arguments(self):
        if self.ram == "hot-upgrade":
            return ["-machine", f"{self.machine_type},hot-upgrade=on{self.machine_options}"]
        if self.ram == "memfd":
            backend = f"memory-backend-memfd,id=ram0,size={self.memory_mib}M,share=on"
            return ["-object", backend, "-machine", f"{self.machine_type},memory-backend=ram0{self.machine_options}"]
        return ["-machine", self.machine_type + self.machine_options]

    def _disk_arguments(self):
        disk = self.disk
        cache = f"cache.direct={'on' if disk.direct else 'off'}"
        arguments = ["-blockdev", f"driver=file,node-name=disk0-file,filename={disk.path},aio={disk.aio},{cache}"]
        arguments += ["-blockdev", f"driver={disk.format},node-name=disk0,file=disk0-file,{cache}"]
        if disk.bus == "virtio-scsi":
            arguments += ["-device", f"virtio-scsi-pci,id=scsi0{disk.device_options}"]
            return arguments + ["-device", "scsi-hd,drive=disk0,id=disk0-dev,bus=scsi0.0"]
        return arguments + ["-device", f"virtio-blk-pci,drive=disk0,id=disk0-dev{disk.device_options}"]

    # -- details

    def _make_disk(self):
        disk = self.disk
        if disk.path is not None:
            return
        disk.path = self.folder / f"disk.{disk.format}"
        if disk.format == "raw":
            with open(disk.path, "wb") as file:
                file.truncate(disk.size_mib << 20)
        else:
            tool = pathlib.Path(self.binary).with_name("qemu-img")
            command = [tool if tool.exists() else "qemu-img", "create", "-q", "-f", disk.format, disk.path]
            subprocess.run([*command, f"{disk.size_mib}M"], check=True)

    def _connect_serial(self):
        deadline = time.monotonic() + 20
        while True:
            try:
                return SerialWatcher(self.serial_path, timeout=0.2)
            except OSError as error:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    text = self.log_path.read_text(errors="replace")[-2000:]
                    raise RuntimeError(f"QEMU did not start (exit {self.process.returncode}): {text}") from error

    def _quit(self, pids):
        # Politely first: a clean exit shows leaks and crashes of QEMU's own shutdown. Never waits long.
        try:
            monitor = self._qmp or Qmp.connect(self.test_qmp_path, timeout=0.5)
            monitor.execute("quit", timeout=0.5)
        except (OSError, QmpClosed, QmpError):
            return
        deadline = time.monotonic() + 2
        for pid in pids:
            processes.wait_gone(pid, deadline - time.monotonic())


def roots_folder():
    """A place for binaries that qhupd trusts: nobody but root may change it. /run is not, where it has the mode of /tmp."""
    for folder in ("/run", "/var/lib"):
        status = os.stat(folder)
        if status.st_uid == 0 and not status.st_mode & 0o022:
            return folder
    raise RuntimeError("neither /run nor /var/lib is root's alone")


def qemu_version(binary):
    """e.g. "7.2.22"."""
    text = subprocess.run([binary, "--version"], capture_output=True, text=True, check=True).stdout
    return re.search(r"version ([0-9.]+)", text)[1]
