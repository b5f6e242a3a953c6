# SPDX-License-Identifier: GPL-2.0-or-later
"""scripts/soak: real guests go to and fro between both QEMUs through the real qhupd, and each time something may go
wrong: a process is killed or stopped, a fault point fires, a disk hangs. What goes wrong with which upgrade follows from
the seed and the upgrade's number alone, so that any of them can be had again.

After each upgrade: one process runs the guest, or none does because the one that had it was killed; no two ran it at
once (run_intervals); the guest's counter has no gap and no repeat, and its RAM and disk are as it wrote them; what the
daemon says is so; nothing of the upgrade is left.
"""

import argparse
import contextlib
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from dataclasses import dataclass

import processes
from daemon import Daemon, find_program
from firmware import FirmwareGuest, boot_sector
from guest import Disk, Guest, find_qemu, folder_of_tests
from pair import assert_runs_on_one, children_of, wait_for
from qmp import QmpClosed, QmpError
from run_intervals import RunLog, is_alive, longest_pause

BASES = ("7.2", "10.0")
DAEMON = '[deadlines]\nverify = "300ms"\n'
LEASE_MS = 1000
NOISE_MS = 500  # a busy host is late with what a lease orders
PATIENCE_S = 60

# What a step may do, and how often of a hundred.
FAULTS = {
    "none": 12,
    "daemon killed": 10,
    "daemon killed twice": 6,
    "daemon stopped": 6,
    "daemon point": 8,
    "daemon and target killed": 6,
    "source killed": 4,
    "source stopped": 5,
    "target killed": 9,
    "target stopped": 7,
    "point": 20,
    "disk hangs": 7,
}
ACTIONS = ("kill", "abort", "exit", "hang", "stop", "slow", "fail")
POINTS = """
source.prepare.begin source.prepare.spawned source.standby source.switch.begin source.flush.done source.freeze.begin
source.freeze.stopped source.drain.done source.save.begin source.save.done source.load.sent source.loaded
source.takeover.sent source.ceded source.rollback.begin source.rollback.reaped source.rollback.done source.commit.begin
target.start.begin target.machine.ready target.machine.lies target.protocol.lies target.standby target.load.begin
target.load.middle target.load.end target.loaded target.activate.begin target.activate.end target.word.before
target.word.after target.ran target.started target.running
""".split()
DEADLY = ("kill", "abort", "exit")


class Wrong(Exception):
    """Something is as it must not be."""


@dataclass(frozen=True)
class Step:
    """What goes wrong in one upgrade."""

    number: int  # from 1
    guest: int
    fault: str
    delay: float  # seconds: after the upgrade was asked for, or after its target was there
    length: float  # seconds of what ends by itself, or until the second blow
    point: str = ""
    action: str = ""

    @property
    def kind(self):
        if self.fault == "point":
            return f"{self.point.partition('.')[0]} point: {self.action}"
        return self.fault

    def __str__(self):
        what = f"{self.fault} {self.point} {self.action}".strip()
        return f"upgrade {self.number}, guest {self.guest}: {what}, after {self.delay:.3f} s for {self.length:.3f} s"


def make_step(seed, number, guests, daemon_points, only=""):
    """A step of the seed's order; nothing else decides what it is."""
    rng = random.Random(f"{seed}/{number}")
    faults = {name: weight for name, weight in FAULTS.items() if name.startswith(only)}
    fault = rng.choices(list(faults), list(faults.values()))[0]
    guest, length = rng.randrange(guests), rng.choice((0.1, 0.4, 1.1, 2.5)) * rng.uniform(0.8, 1.2)
    # why: who is killed a moment later had the guest, and nothing is learned from that.
    delay = rng.uniform(0, 0.15 if "source" in fault or "target" in fault else 0.5)
    point = action = ""
    if fault == "point":
        point, action = rng.choice(POINTS), rng.choice(ACTIONS)
    elif fault == "daemon point":
        point = rng.choice(daemon_points)
    return Step(number, guest, fault, delay, length, point, action)


def daemon_points():
    said = subprocess.run([find_program("qhupd"), "--list-faults"], capture_output=True, text=True, check=True)
    return [point for point in said.stdout.split() if not point.startswith("journal.hold.")]


# -- guests on disks that can hang


class _Nbd:
    """Adds to a kind of guest: its disk is what qemu-nbd serves on the socket `disk.path`."""

    def _disk_arguments(self):
        nbd = f"driver=nbd,node-name=disk0-file,server.type=unix,server.path={self.disk.path},export=disk"
        arguments = ["-blockdev", nbd, "-blockdev", "driver=raw,node-name=disk0,file=disk0-file"]
        return arguments + ["-device", "virtio-blk-pci,drive=disk0,id=disk0-dev"]

    def _make_disk(self):
        """It is there."""


@dataclass
class LinuxGuest(_Nbd, Guest):
    pass


@dataclass
class BootSector(_Nbd, FirmwareGuest):
    pass


class Place:
    """A VM of the soak, with what outlives it: its disk's server and the traces of its processes. Started anew after a
    loss."""

    def __init__(self, number, is_linux, folder):
        self.name = f"soak{number}"
        self.is_linux = is_linux
        self.folder = folder / self.name
        self.folder.mkdir()
        self.vm = self.log = self.server = None
        self.base = BASES[number % 2]
        self.reported = set()  # problems of the serial port that were looked at

    def start(self):
        image, socket = self.folder / "disk.raw", self.folder / "nbd.sock"
        image.write_bytes(bytes(64 << 20) if self.is_linux else boot_sector() + bytes((1 << 20) - 512))
        socket.unlink(missing_ok=True)
        command = [find_qemu("10.0").with_name("qemu-nbd"), "-t", "-f", "raw", "-k", socket, "-e", "8", "-x", "disk", image]
        self.server = subprocess.Popen([str(word) for word in command])
        wait_for(socket.exists, 20, "qemu-nbd serves")
        logs = self.folder / "runs"
        shutil.rmtree(logs, ignore_errors=True)
        logs.mkdir()
        self.log = RunLog(logs)
        options = {"name": self.name, "disk": Disk("raw", path=socket), "extra": self.log.arguments()}
        if self.is_linux:
            self.vm = LinuxGuest(find_qemu(self.base), memory_mib=160, **options)
        else:
            self.vm = BootSector(find_qemu(self.base), memory_mib=32, **options)
        self.vm.start()
        self.vm.wait_ready(180)

    def stop(self):
        if self.server is not None:
            self.server.send_signal(signal.SIGCONT)
        if self.vm is not None:
            for pid in self.vm.processes():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)
            self.vm.stop()
            self.vm = None
        if self.server is not None:
            processes.end_processes([self.server.pid], grace=2)
            self.server.wait()
            self.server = None

    def alive(self):
        """Processes of the VM that have not ended."""
        found = [pid for pid in self.vm.processes() if is_alive(pid)]
        for pid in set(self.vm.processes()) - set(found):
            processes.reap(pid)
        return found

    def counts(self, more=3, timeout=5.0):
        """True if the guest goes on."""
        try:
            self.vm.serial.wait_count(more, timeout)
        except TimeoutError:
            return False
        return True

    def traced(self):
        """Pids of the processes that left a trace."""
        return [int(path.stem.partition("-")[2]) for path in self.log.folder.glob("run-*.log")]

    def connect_again(self):
        """A source that dies before it has handed its connections over takes ours along."""
        before = self.vm.serial.count
        self.vm.serial.close()
        self.vm.serial = self.vm._connect_serial()
        self.vm.reconnect_qmp()
        wait_for(lambda: self.vm.serial.count, 20, "the guest counts on a new connection")
        if self.vm.serial.count <= before:
            raise Wrong(f"the guest's counter went back from {before} to {self.vm.serial.count}")


# -- what goes wrong


class Trouble:
    """Does a step's harm while its upgrade goes on. `victims`: who was killed."""

    def __init__(self, soak, place, step):
        self.soak, self.place, self.step = soak, place, step
        self.source = place.vm.pid()
        self.target = None
        self.victims = set()
        self.since = time.time_ns() // 1000
        self.is_over = threading.Event()  # the client has its answer
        self.error = None
        self.thread = threading.Thread(target=self._run, name="trouble")

    def before(self):
        """What must be so before the upgrade is asked for."""
        step = self.step
        if step.fault == "daemon point":
            self.soak.restart_daemon(point=step.point)
        elif step.fault == "point":
            arguments = {"point": step.point, "action": step.action, "duration": int(step.length * 1e8)}
            self.place.vm.qmp.execute("x-hot-upgrade-fault", arguments)

    def _run(self):
        try:
            self._watch() if self.step.fault in ("none", "point", "daemon point") else self._act()
        except Exception as error:  # told by join()
            self.error = error

    def join(self):
        self.thread.join()
        if self.error is not None:
            raise self.error

    def wait_target(self, patience=PATIENCE_S):
        """The pid of the new process, or None if the upgrade ended before there was one."""
        deadline = time.monotonic() + patience
        while self.target is None and not self.is_over.is_set() and time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                self.target = next(iter(children_of(self.source)), None)
            time.sleep(0.002)
        return self.target

    def kill(self, pid):
        if pid is not None and is_alive(pid):
            self.place.log.ended(pid)
            self.victims.add(pid)
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def stop_for_a_while(self, pid):
        with contextlib.suppress(ProcessLookupError):
            if pid is not None:
                os.kill(pid, signal.SIGSTOP)
                time.sleep(self.step.length)
                os.kill(pid, signal.SIGCONT)

    def _watch(self):
        """Fault points act by themselves. Who hangs is ended, who is stopped goes on after a while."""
        step = self.step
        if step.fault == "daemon point":
            while not self.is_over.wait(0.02):  # qhupd-ctl waits for the next one
                self.soak.revive_daemon()
        self.wait_target(patience=3)  # a source that hangs makes none
        if step.fault != "point" or step.action not in ("hang", "stop"):
            return
        self.is_over.wait(step.length + 1.5)
        for pid in self.place.alive():
            if step.action == "stop":
                os.kill(pid, signal.SIGCONT)
        if step.action == "hang" and not self.is_over.wait(2):
            self.kill(self.source if step.point.startswith("source.") else self.target)
        elif step.action == "hang" and step.point.startswith("source.") and not self.place.counts():
            self.kill(self.source)  # hangs with the guest in it

    def _act(self):
        step, soak = self.step, self.soak
        if step.fault.startswith("target") or step.fault == "daemon and target killed":
            if self.wait_target() is None:
                return
        time.sleep(step.delay)
        if self.target is None:
            with contextlib.suppress(OSError):
                self.target = next(iter(children_of(self.source)), None)
        if step.fault == "daemon killed":
            soak.restart_daemon(kill=True)
        elif step.fault == "daemon killed twice":
            soak.restart_daemon(kill=True)
            time.sleep(step.length / 5)
            soak.restart_daemon(kill=True)
        elif step.fault == "daemon stopped":
            self.stop_for_a_while(soak.daemon.process.pid)
        elif step.fault == "daemon and target killed":
            self.kill(self.target)
            soak.restart_daemon(kill=True)
        elif step.fault == "source killed":
            self.kill(self.source)
        elif step.fault == "source stopped":
            self.stop_for_a_while(self.source)
        elif step.fault == "target killed":
            self.kill(self.target)
        elif step.fault == "target stopped":
            self.stop_for_a_while(self.target)
        elif step.fault == "disk hangs":
            self.stop_for_a_while(self.place.server.pid)
        else:
            raise AssertionError(step.fault)


class Soak:
    def __init__(self, options, seed):
        self.options, self.seed = options, seed
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix=f"qhup-soak-{os.getpid()}-", dir=folder_of_tests()))
        self.folder.chmod(0o711)
        self.daemon = None
        self.daemon_lock = threading.Lock()
        self.places = [
            Place(number, number < options.linux, self.folder) for number in range(options.linux + options.firmware)
        ]
        self.outcomes = defaultdict(Counter)  # by kind of fault
        self.gaps = defaultdict(float)
        self.seconds = defaultdict(float)
        self.upgrades = self.moves = self.losses = self.recoveries = 0

    def __enter__(self):
        try:
            self.daemon = Daemon({f"qemu-{base}": find_qemu(base) for base in BASES}, sections=DAEMON).start()
            for place in self.places:
                place.start()
            points = [point["name"] for point in self.places[0].vm.qmp.execute("query-hot-upgrade-faults")]
            if sorted(points) != sorted(POINTS):
                raise Wrong(f"QEMU has other fault points than POINTS of {__file__}: {sorted(set(points) ^ set(POINTS))}")
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        for place in self.places:
            place.stop()
        if self.daemon is not None:
            self.daemon.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    # -- the daemon

    def restart_daemon(self, *, kill=False, point=None):
        """It ends as by a crash, or as systemd ends it, and is there again."""
        with self.daemon_lock:
            if kill:
                self.daemon.kill()
                self.recoveries += 1
            else:
                self.daemon.process.terminate()
                self.daemon.process.wait(20)
            self.start_daemon(point)

    def start_daemon(self, point=None):
        if point is None:
            self.daemon.start(timeout=30)
            return
        with open(self.daemon.log_path, "ab") as log:
            command = [find_program("qhupd"), "--config", self.daemon.config, "--fault", point]
            self.daemon.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

        def is_up():
            return self.daemon.process.poll() is not None or self.daemon.ctl("version", check=False).returncode == 0

        wait_for(is_up, 30, "qhupd serves")

    def revive_daemon(self):
        """After its fault point: again without one."""
        with self.daemon_lock:
            if self.daemon.process.poll() is not None:
                if self.daemon.process.returncode != -signal.SIGKILL:
                    raise Wrong(f"qhupd ended with {self.daemon.process.returncode}")
                self.recoveries += 1
                self.start_daemon()

    def ask(self, *arguments):
        """A document from qhupd-ctl; None if there is none now."""
        done = self.daemon.ctl("--json", *arguments, check=False, timeout=PATIENCE_S)
        with contextlib.suppress(json.JSONDecodeError):
            return json.loads(done.stdout)
        return None

    def wait_finished(self, request, vm):
        """What the runs of this upgrade say about the VM in the end; none if it was never begun."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            self.revive_daemon()
            said = self.ask("status")
            runs = (said or {}).get("runs")
            if runs is not None and all(run["state"] == "finished" for run in runs):
                break
            if time.monotonic() > deadline:
                raise Wrong(f"runs have not ended after {PATIENCE_S} s: {json.dumps(said)[-1500:]}")
            time.sleep(0.02)
        new = [run for run in runs if run["id"] not in request["known"]]
        request["known"].update(run["id"] for run in new)
        return [entry for run in reversed(new) for entry in run["vms"] if entry["vm"] == vm]

    # -- one upgrade

    def run(self, step):
        place = self.places[step.guest]
        vm = place.vm
        before = place.base
        wanted = BASES[1 - BASES.index(before)]
        began = time.monotonic()
        vm.serial.wait_count(2)
        vm.serial.expect_end()  # judged here
        trouble = Trouble(self, place, step)
        trouble.before()
        request = {"known": self.known}
        words = ("--json", "upgrade", vm.name, "--to", f"qemu-{wanted}", "--yes")
        client = self.daemon.popen(*words, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        trouble.thread.start()
        try:
            answer = client.communicate(timeout=PATIENCE_S)
        except subprocess.TimeoutExpired:
            client.kill()
            client.communicate()
            raise Wrong(f"qhupd-ctl upgrade does not end after {PATIENCE_S} s") from None
        finally:
            trouble.is_over.set()
            trouble.join()
        entries = self.wait_finished(request, vm.name)
        if step.fault == "none" and not entries:
            raise Wrong(f"nothing went wrong, but there is no run: {answer}")
        self.upgrades += 1
        outcome = self.judge(place, step, trouble, entries, wanted)
        self.outcomes[step.kind][outcome] += 1
        self.seconds[step.kind] += time.monotonic() - began

    def judge(self, place, step, trouble, entries, wanted):
        """Whether all is as it must be. Returns the word for the table."""
        vm = place.vm
        entry = entries[-1] if entries else None
        said = entry["outcome"] if entry else "not begun"
        if step.fault == "point" and step.action in DEADLY:
            trouble.victims.add(trouble.source if step.point.startswith("source.") else trouble.target)
        wait_for(lambda: len(place.alive()) < 2, 40, f"one process of the VM, not {place.alive()}")
        intervals = place.log.check()
        alive = place.alive()
        if alive and not vm.serial._ended and place.counts():
            runs = True
        elif alive and vm.serial._ended and trouble.source not in alive:
            place.connect_again()
            runs = place.counts()
        else:
            runs = False
        if not runs:
            return self.judge_loss(place, step, trouble, entry, said)
        if not vm.serial._ended:
            vm.serial._end_expected = False
        if place.is_linux:
            vm.check()
        else:
            vm.serial.check()
        gap = longest_pause(intervals, trouble.since) / 1000  # the serial port's gaps are also the host's
        self.gaps[step.kind] = max(self.gaps[step.kind], gap)
        holds_the_guest = step.fault in ("source stopped", "target stopped", "disk hangs") or step.action in ("stop", "hang")
        if gap > LEASE_MS + 250 + NOISE_MS and not holds_the_guest:
            raise Wrong(f"the guest stood still for {gap:.0f} ms: {entry}")
        binary = os.readlink(f"/proc/{alive[0]}/exe")
        is_new = binary == str(find_qemu(wanted))
        if said == "upgraded" and not is_new:
            raise Wrong(f"qhupd says upgraded, but the VM runs {binary}: {entry}")
        if said in ("refused", "rolled_back", "not begun") and is_new:
            raise Wrong(f"qhupd says {said}, but the VM runs {binary}: {entry}")
        if entry is not None and said != "upgraded" and not (entry["code"] and entry["message"]):
            raise Wrong(f"no code or sentence says why: {entry}")
        assert_runs_on_one(vm, timeout=40)
        if is_new:
            place.base = wanted
            self.moves += 1
        if step.fault == "point":
            vm.qmp.execute("x-hot-upgrade-fault", {"point": step.point, "action": "none"})
        place.log.forget(set(place.traced()) - {alive[0]})
        return said

    def judge_loss(self, place, step, trouble, entry, said):
        """None runs the guest: only where the process that had it was killed, and the report says so."""
        intervals = place.log.intervals()
        last = intervals[-1].pid if intervals else None
        took_over = step.fault in ("target killed", "daemon and target killed") or step.point.startswith("target.")
        if not trouble.victims:
            raise Wrong(f"the guest is lost, and nobody was killed: {entry}")
        if last not in trouble.victims and not (took_over and trouble.target in trouble.victims):
            raise Wrong(f"the guest is lost; {last} ran it last, and {trouble.victims} were killed: {entry}")
        if said in ("refused", "rolled_back") and last != trouble.source:
            raise Wrong(f"the guest is lost, but qhupd says {said}: {entry}")
        self.losses += 1
        why = f"{entry['code']}: {entry['message']}" if entry else "no run"
        print(f"  {step}: the guest is lost with its process; {said}, {why}", flush=True)
        place.stop()
        place.start()
        return f"lost ({said})"

    def go(self):
        self.known = {run["id"] for run in self.ask("status")["runs"]}
        began = time.monotonic()
        points = daemon_points()
        first = self.options.first
        for number in range(first, first + self.options.upgrades):
            step = make_step(self.seed, number, len(self.places), points, self.options.only)
            try:
                self.run(step)
            except BaseException as error:
                self.tell(began)
                print(f"\n{step}\n{type(error).__name__}: {error}\n", flush=True)
                print("the end of qhupd's log:\n" + self.daemon.log()[-6000:], flush=True)
                if not isinstance(error, KeyboardInterrupt):
                    print(f"again: scripts/soak --seed {self.seed} --from {number} --upgrades 1", flush=True)
                raise
            if number % 100 == 0:
                print(f"{number}: {self.line(began)}", flush=True)
            if self.daemon.log_path.stat().st_size > 64 << 20:
                os.truncate(self.daemon.log_path, 0)
        for place in self.places:
            place.vm.check()
        self.tell(began)

    def line(self, began):
        minutes = (time.monotonic() - began) / 60
        return (
            f"{self.upgrades} upgrades in {minutes:.1f} min: {self.moves} moves, {self.losses} guests lost because their "
            f"process was killed, {self.recoveries} times a daemon took over"
        )

    def tell(self, began):
        print(f"\n{'fault':28} {'times':>5} {'s each':>6} {'ms still':>8}  outcomes")
        for kind in sorted(self.outcomes):
            counts = self.outcomes[kind]
            times = sum(counts.values())
            words = ", ".join(f"{count} {outcome}" for outcome, count in counts.most_common())
            print(f"{kind:28} {times:5} {self.seconds[kind] / times:6.1f} {self.gaps[kind]:8.0f}  {words}")
        print(f"seed {self.seed}: {self.line(began)}", flush=True)


def parse_options():
    parser = argparse.ArgumentParser(prog="scripts/soak")
    parser.add_argument("--upgrades", type=int, default=2000)
    parser.add_argument("--seed", default=None)
    parser.add_argument("--from", type=int, default=1, dest="first")
    parser.add_argument("--only", default="")
    parser.add_argument("--firmware", type=int, default=6)
    parser.add_argument("--linux", type=int, default=2)
    parser.add_argument("--plan", action="store_true")
    options = parser.parse_args()
    if not any(name.startswith(options.only) for name in FAULTS):
        parser.error(f"--only: one of {', '.join(FAULTS)}")
    if options.firmware + options.linux < 1 or options.upgrades < 1 or options.first < 1:
        parser.error("at least one guest and one upgrade")
    return options


def main():
    options = parse_options()
    seed = options.seed or str(random.SystemRandom().randrange(10**9))
    print(f"seed {seed}", flush=True)
    if options.plan:
        points = daemon_points()
        for number in range(options.first, options.first + options.upgrades):
            print(make_step(seed, number, options.firmware + options.linux, points, options.only))
        return
    processes.exit_on_signals()
    processes.adopt_orphans()
    try:
        with Soak(options, seed) as soak:
            soak.go()
    except (Wrong, AssertionError, TimeoutError, OSError, QmpClosed, QmpError) as error:
        print(f"soak: {type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
