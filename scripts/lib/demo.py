# SPDX-License-Identifier: GPL-2.0-or-later
"""The part of scripts/demo that one watches. Expects everything to be built; see scripts/demo for what it does.

Everything that it starts is ended when it ends, for whatever reason; what it makes is below build/demo, but for sockets,
disks and the crashing release, which live in one folder below /run (or /var/lib: it must be root's) and go with it.
"""

import contextlib
import json
import os
import pathlib
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import time

import processes
from daemon import Daemon
from guest import Disk, Guest, find_qemu, qemu_version, roots_folder
from netrig import NetRig
from prober import ROOT, Prober

OUTPUT = ROOT / "build" / "demo"
# Busy, but so that three emulated guests leave two cores some air: with saturated cores one would see the scheduler.
PROBE_US = 2000
# A machine that does other work, too, shall not make the demo roll back what is well.
BUDGET = '[deadlines]\npause_budget = "900ms"'
LOAD = {"ram_rate_kib": 32768, "disk_rate_kib": 2048}
GUESTS = [
    ("web", {"machine": "pc", "vcpus": 1, "disk": Disk("qcow2", "virtio-blk")}),
    ("database", {"machine": "q35", "vcpus": 2, "disk": Disk("raw", "virtio-scsi")}),
    ("mail", {"machine": "pc", "vcpus": 1, "disk": Disk("qcow2", "virtio-scsi")}),
]

COLOR = sys.stdout.isatty() and "NO_COLOR" not in os.environ


def painted(code, text):
    return f"\033[{code}m{text}\033[0m" if COLOR else text


def title(text):
    print(f"\n{painted('1;36', '== ' + text)}", flush=True)


def line(text=""):
    print(text, flush=True)


def good(text):
    line(f"  {painted('32', 'ok')}  {text}")


class Demo:
    def __init__(self, stack, quick):
        self.stack = stack
        self.pause_s = 0.5 if quick else 2.0
        self.vms = []
        self.daemon = None
        self.net = None
        self.harm = []

    # -- the steps

    def run(self):
        folder = pathlib.Path(self.stack.enter_context(tempfile.TemporaryDirectory(prefix="qhup-demo-", dir=roots_folder())))
        os.environ["QHUP_TEST_DIR"] = str(folder)
        old, new = trusted(find_qemu("7.2"), folder), trusted(find_qemu("10.0"), folder)
        self.start_guests(old)
        self.start_daemon(folder, old, new)
        self.show("list")
        results = self.upgrade_all(old, new)
        rollbacks = self.try_broken(folder, new)
        return results, rollbacks

    def start_guests(self, old):
        title(f"Three Linux guests under load on QEMU {qemu_version(old)}")
        self.net = self.stack.enter_context(NetRig())
        started = time.monotonic()
        for name, options in GUESTS:
            guest = Guest(old, net=self.net, name=name, memory_mib=192, mode="load", parameters=LOAD, **options)
            self.vms.append(self.stack.enter_context(guest))
        for vm in self.vms:
            vm.wait_ready(180)
            disk = f"{vm.disk.format} on {vm.disk.bus}"
            line(f"  {vm.name:9} {vm.machine_type}, {vm.vcpus} vCPU, {vm.memory_mib} MiB, {disk}, tap {vm.tap.name}")
        line(f"  booted in {time.monotonic() - started:.0f} s")
        line("  Each counts on its serial port, fills and checks its RAM, and writes and checks its disk.")
        line("  A client stays on each serial port; a prober asks each for 500 UDP echos a second.")

    def start_daemon(self, folder, old, new):
        releases = {
            name: {"path": str(binary), "description": f"QEMU {qemu_version(binary)} of Debian {name[3:]}"}
            for name, binary in (("deb12", old), ("deb13", new))
        }
        home = folder / "qhupd"
        home.mkdir(mode=0o700)
        self.daemon = self.stack.enter_context(Daemon(releases, folder=home, top="kept_binaries = 8", sections=BUDGET))

    def show(self, *arguments):
        line(f"\n  $ {painted('1', 'qhupd-ctl ' + ' '.join(arguments))}")
        return self.indent(self.daemon.popen(*arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT))

    def indent(self, process):
        with process:
            for text in process.stdout:
                line("  " + text.rstrip("\n"))
        return process.returncode

    def upgrade_all(self, old, new):
        title(f"One command moves all of them to QEMU {qemu_version(new)}")
        with self.watching() as watched:
            status = self.show("upgrade", "--all", "--to", "deb13", "--yes")
        run = self.last_run()
        results = {entry["vm"]: self.result_of(entry, watched) for entry in run["vms"]}
        for vm in self.vms:
            result = results[vm.name]
            result["guest_errors"], result["serial_continuous"] = judge(vm)
        title("What the guests and their peers noticed")
        line(f"  {'VM':9} {'NETWORK GAP':>12} {'LOST':>5} {'GUEST ERRORS':>13}  SERIAL PORT")
        for name, result in results.items():
            serial = "no byte lost" if result["serial_continuous"] else "BROKEN"
            gap = f"{result['network_gap_ms']:.1f} ms"
            line(f"  {name:9} {gap:>12} {result['packets_lost']:>5} {result['guest_errors']:>13}  {serial}")
        require(status == 0, f"qhupd-ctl ended with {status}, not 0")
        for vm in self.vms:
            result = results.get(vm.name)
            require(result and result["outcome"] == "upgraded", f"{vm.name} was not upgraded: {result}")
            require(running_binary(vm) == str(new), f"{vm.name} runs {running_binary(vm)}")
            self.require_unharmed(vm.name, result)
        return list(results.values())

    def try_broken(self, folder, new):
        title("A release that crashes while it loads the guest's state")
        broken = crashing_copy(new, folder / "broken")
        self.daemon.add_release("broken", {"path": str(broken), "description": "crashes while loading"})
        before = {vm.name: vm.pid() for vm in self.vms}
        with self.watching() as watched:
            status = self.show("upgrade", "--all", "--to", "broken", "--yes")
        run = self.last_run()
        results = {entry["vm"]: self.result_of(entry, watched) for entry in run["vms"]}
        title("The guests never noticed")
        for vm in self.vms:
            result = results[vm.name]
            result["guest_errors"], result["serial_continuous"] = judge(vm)
            require(result["outcome"] == "rolled_back", f"{vm.name}: {result['outcome']}, not rolled back")
            require(vm.pid() == before[vm.name], f"{vm.name} is another process")
            self.require_unharmed(vm.name, result)
            good(
                f"{vm.name}: still process {vm.pid()} of QEMU {qemu_version(new)}, network gap "
                f"{result['network_gap_ms']:.1f} ms, {result['packets_lost']} packets lost, "
                f"{result['guest_errors']} errors"
            )
        require(status == 4, f"qhupd-ctl ended with {status}, not 4 (rolled back)")
        self.show("list")
        return list(results.values())

    def hand_over(self):
        """A shell for whoever watches. It changes no result."""
        title("The guests are yours until this shell ends")
        line("  qhupd-ctl list                          qhupd-ctl rehearse mail --to deb12")
        line("  qhupd-ctl upgrade web --to deb12        qhupd-ctl revert database")
        line("  qhupd-ctl upgrade --all --to broken     qhupd-ctl history")
        programs = pathlib.Path(self.daemon.command()[0]).parent
        environment = {**os.environ, "QHUPD_SOCKET": str(self.daemon.socket), "PATH": f"{programs}:{os.environ['PATH']}"}
        shell = ["bash", "--norc", "-i"] if sys.stdin.isatty() else ["bash", "--norc"]
        subprocess.run(shell, env={**environment, "PS1": "demo# "}, check=False)

    def require_unharmed(self, name, result):
        """Harm is told at the end: the rest is worth seeing all the same."""
        if result["guest_errors"] or not result["serial_continuous"]:
            self.harm.append(f"{name} reports {result['guest_errors']} errors, or its serial port lost something")
        if result["packets_lost"]:
            self.harm.append(f"{name} lost {result['packets_lost']} packets while it went to {result['to']}")

    # -- measuring

    @contextlib.contextmanager
    def watching(self):
        """Probers of all guests around what the block does; yields a dict that has their results afterwards."""
        results = {}
        with contextlib.ExitStack() as probers:
            running = {}
            for vm in self.vms:
                prober = Prober(self.net, vm.tap.guest_ip, interval_us=PROBE_US)
                running[vm.name] = probers.enter_context(prober)
            time.sleep(self.pause_s)
            yield results
            time.sleep(self.pause_s)
            for name, prober in running.items():
                results[name] = prober.finish()

    def last_run(self):
        """The newest run, as the daemon tells programs."""
        newest = self.daemon.json("status")["runs"][0]["id"]
        done = self.daemon.ctl("--json", "status", newest, "--once", check=False)
        return json.loads(done.stdout)

    def result_of(self, entry, watched):
        network = watched[entry["vm"]]
        return {
            "vm": entry["vm"],
            "from": entry["from"],
            "to": entry["to"],
            "outcome": entry["outcome"],
            "pause_ms": entry["pause_ms"],
            "total_ms": entry["total_ms"],
            "network_gap_ms": network["longest_gap"]["ms"],
            "packets_lost": network["lost"],
            "message": entry["message"],
        }


def judge(vm):
    """How many errors the guest reports, and whether its serial port lost nothing."""
    errors = vm.stat()["errors"]
    before = vm.serial.count
    vm.serial.wait_count(10)
    return errors, not vm.serial.problems and vm.serial.count > before


def require(condition, what):
    if not condition:
        raise AssertionError(what)


def running_binary(vm):
    return os.readlink(f"/proc/{vm.pid()}/exe")


def trusted(binary, folder):
    """The binary, or a copy of its tree in `folder` if somebody else than root could change it: qhupd would refuse it."""
    path = pathlib.Path(binary).absolute()
    elements = [element.stat() for element in (path, *path.parents)]
    if path.resolve() == path and all(e.st_uid == 0 and not e.st_mode & 0o022 for e in elements):
        return path
    tree = folder / f"qemu-{qemu_version(binary)}"
    shutil.copytree(path.resolve().parents[1], tree, symlinks=False)
    return tree / "bin" / path.name


def crashing_copy(binary, folder):
    """A copy of the QEMU, with an illegal instruction where it begins to load the state of devices, and a build id of its
    own, as another build has it.
    """
    tree = folder / "bin"
    tree.mkdir(parents=True)
    (folder / "share").symlink_to(binary.parents[1] / "share")
    copy = tree / binary.name
    shutil.copy(binary, copy)
    symbols = subprocess.run(["nm", copy], capture_output=True, text=True, check=True).stdout
    address = next(int(text.split()[0], 16) for text in symbols.splitlines() if text.endswith(" T hup_state_load"))
    with open(copy, "r+b") as file:
        file.seek(file_offset(file, address))
        file.write(b"\x0f\x0b")  # ud2
    notes = subprocess.run(["readelf", "-n", copy], capture_output=True, text=True, check=True).stdout
    build_id = bytes.fromhex(re.search(r"Build ID: ([0-9a-f]+)", notes)[1])
    content = copy.read_bytes()
    copy.write_bytes(content.replace(build_id, build_id[::-1], 1))
    return copy


def file_offset(file, address):
    """Where in an ELF file the byte is that is loaded to `address`."""
    file.seek(0)
    header = file.read(64)
    table, size, count = *struct.unpack_from("<Q", header, 32), *struct.unpack_from("<HH", header, 54)
    for number in range(count):
        file.seek(table + number * size)
        kind, _, offset, virtual, _, in_file = struct.unpack("<IIQQQQ", file.read(40))
        if kind == 1 and virtual <= address < virtual + in_file:
            return address - virtual + offset
    raise ValueError(f"no byte of the file is loaded to {address:#x}")


def main(words):
    processes.exit_on_signals()
    processes.adopt_orphans()
    OUTPUT.mkdir(parents=True, exist_ok=True)
    result_path = OUTPUT / "result.json"
    result_path.unlink(missing_ok=True)
    started = time.monotonic()
    demo = None
    try:
        with contextlib.ExitStack() as stack:
            demo = Demo(stack, "--quick" in words)
            upgrades, rollbacks = demo.run()
            if "--shell" in words:
                demo.hand_over()
            title("Stopping everything")
    except KeyboardInterrupt:
        line("\ninterrupted; everything that was started is gone")
        return 130
    except (AssertionError, TimeoutError, RuntimeError, FileNotFoundError) as error:
        line(f"\n{painted('1;31', 'The demo did not go as it should')}: {error}")
        return 1
    seconds = round(time.monotonic() - started, 1)
    document = {"vms": upgrades, "broken_release": rollbacks, "seconds": seconds, "harm": demo.harm}
    result_path.write_text(json.dumps(document, indent=2) + "\n")
    if demo.harm:
        line(f"\n{painted('1;31', 'The guests noticed')}: {'; '.join(demo.harm)}")
        return 1
    good(f"no process, socket, namespace or file is left; {result_path.relative_to(ROOT)} has the figures ({seconds:.0f} s)")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
