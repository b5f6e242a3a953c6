# SPDX-License-Identifier: GPL-2.0-or-later
"""Rows of the survival table: the process around the VM."""

import contextlib
import os
import pathlib
import resource
import shutil
import subprocess
import sys
import threading
import time

from guest import find_qemu
from pair import wait_for
from qmp import Qmp
from survival import Blocked, Row

NOBODY = 65534


def read(pid, name):
    """A file of /proc/PID, as text; "" if the process has gone."""
    try:
        return pathlib.Path(f"/proc/{pid}/{name}").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return ""


def status(pid):
    """/proc/PID/status as a dict."""
    return dict(line.split(":\t", 1) for line in read(pid, "status").splitlines() if ":\t" in line)


def threads_of_cpus(vm):
    """The thread of each vCPU, in order."""
    return [cpu["thread-id"] for cpu in vm.qmp.execute("query-cpus-fast")]


def place_of(tid):
    """Where and how a thread runs."""
    param = os.sched_getparam(tid).sched_priority
    return sorted(os.sched_getaffinity(tid)), os.sched_getscheduler(tid), param, os.getpriority(os.PRIO_PROCESS, tid)


def parent_of(pid):
    """None if the process has gone."""
    words = read(pid, "stat").rpartition(")")[2].split()
    return int(words[1]) if words else None


class Sampler(threading.Thread):
    """Writes down what `look(pid)` says of each process of the VM, all the time until stop()."""

    def __init__(self, vm, look):
        super().__init__(daemon=True)
        self.pids, self.look = [vm.pid()], look
        self.seen = {}  # pid -> list of what was seen, without repetitions
        self._end = threading.Event()
        self.start()

    def run(self):
        # A look at all processes of a busy host would take longer than the new one is a standby.
        strangers = set()
        while not self._end.is_set():
            for pid in {int(name) for name in os.listdir("/proc") if name.isdecimal()} - strangers - {*self.pids}:
                (self.pids.append if parent_of(pid) in self.pids else strangers.add)(pid)
            for pid in self.pids:
                with contextlib.suppress(OSError, ValueError):
                    value = self.look(pid)
                    seen = self.seen.setdefault(pid, [])
                    if seen[-1:] != [value]:
                        seen.append(value)
            time.sleep(0.002)

    def stop(self):
        self._end.set()
        self.join()
        return self.seen


class InGroup(Row):
    """The group of all that can be together: a daemonized VM with two vCPUs and everything set."""

    group = "process"

    def options(self, rig):
        return {"vcpus": 2, "name": "proc", "cwd": rig.folder}


class Probe:
    """Another QEMU that wants the same pidfile: it does what QEMU does, as often as it can, until stop()."""

    def __init__(self, path):
        code = (
            "import fcntl, os, select, sys\n"
            "path, tries, seen = os.environ['PIDFILE'], 0, set()\n"
            "while not (tries % 64 == 0 and select.select([0], [], [], 0)[0]):\n"
            "    tries += 1\n"
            "    with open(path, 'r+') as file:\n"
            "        seen.add(file.read())\n"
            "        tries == 1 and print('begun', flush=True)\n"
            "        try:\n"
            "            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)\n"
            "        except OSError:\n"
            "            continue\n"
            "        if os.fstat(file.fileno()).st_ino == os.stat(path).st_ino:\n"
            "            print('taken')\n"
            "            break\n"
            "print(tries, *[text.strip() or 'empty' for text in seen])\n"
        )
        self._process = subprocess.Popen(
            [sys.executable, "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PIDFILE": str(path)},  # not in the command line: that is how a VM's processes are found
        )
        assert self._process.stdout.readline() == "begun\n"

    def stop(self):
        """How often it tried, and what it read meanwhile."""
        said = self._process.communicate("end", timeout=20)[0].splitlines()
        assert said[-1:] and said[0] != "taken", f"another QEMU could have started: {said}"
        tries, *seen = said[-1].split()
        return int(tries), set(seen)


class Pidfile(InGroup):
    thing = "`-pidfile`"
    means = (
        "replaced in one step with the new pid and its lock, before the old process ends; same mode; at every moment "
        "another QEMU with the same pidfile is refused"
    )

    def options(self, rig):
        return {**super().options(rig), "pidfile": True}

    def begin(self, vm):
        vm.pidfile_path.chmod(0o640)

    def before(self, vm):
        self.pid = vm.pid()
        assert vm.pidfile_path.read_text() == f"{self.pid}\n", vm.pidfile_path.read_text()
        self.probe = Probe(vm.pidfile_path)

    def after(self, vm, moved):
        tries, seen = self.probe.stop()
        assert tries > 100, tries
        assert seen == {str(self.pid), str(vm.pid())}, (seen, self.pid, vm.pid())
        assert vm.pidfile_path.read_text() == f"{vm.pid()}\n"
        assert vm.pidfile_path.stat().st_mode & 0o777 == 0o640, oct(vm.pidfile_path.stat().st_mode)
        assert [name for name in os.listdir(vm.folder) if name.startswith("qemu.pid.")] == []
        command = [find_qemu("10.0"), "-machine", "none", "-nodefaults", "-display", "none"]
        # by a short name, or it would count as a process of the VM
        command += ["-pidfile", vm.pidfile_path.name]
        done = subprocess.run(command, cwd=vm.folder, capture_output=True, text=True, timeout=20)
        assert done.returncode == 1 and "lock pid file" in done.stderr, done
        assert vm.pidfile_path.read_text() == f"{vm.pid()}\n"

    def finish(self, vm):
        pid, path = vm.pid(), vm.pidfile_path
        vm.serial.expect_end()
        os.kill(pid, 15)
        wait_for(lambda: not path.exists(), 10, "the pidfile goes with the last process")


class StolenPidfile(Row):
    thing = "`-pidfile` whose name another process has by now"
    means = "it is left to that one"
    group = "process-pidfile-stolen"

    def options(self, rig):
        return {"pidfile": True}

    def begin(self, vm):
        path = vm.pidfile_path
        path.unlink()
        command = [find_qemu("10.0"), "-machine", "none", "-nodefaults", "-display", "none", "-pidfile", path.name]
        other = subprocess.Popen(command, cwd=vm.folder)
        vm.rig.stack.callback(other.wait)
        vm.rig.stack.callback(other.kill)
        wait_for(path.exists, 10, "the other QEMU has the name")
        self.text = f"{other.pid}\n"

    def after(self, vm, moved):
        assert vm.pidfile_path.read_text() == self.text, (vm.pidfile_path.read_text(), self.text)


class PidfileAsFifo(Row):
    thing = "FIFO that somebody put in the place of the `-pidfile`"
    means = "nobody waits for it; it is left alone"
    group = "process-pidfile-fifo"

    def options(self, rig):
        return {"pidfile": True}

    def begin(self, vm):
        vm.pidfile_path.unlink()
        os.mkfifo(vm.pidfile_path)

    def after(self, vm, moved):
        assert vm.pidfile_path.is_fifo()


class RelativePaths(Row):
    thing = "relative paths in the command line"
    means = "they mean what they meant, wherever the daemon runs: the same disk, files and sockets"
    group = "relative-paths"

    def setup(self, rig):
        (rig.folder / "disk.raw").write_bytes(bytes(1 << 20))
        (rig.folder / "images").mkdir()
        (rig.folder / "images" / "cd.iso").write_bytes(bytes(1 << 20))

    def options(self, rig):
        return {"cwd": rig.folder}

    def arguments(self, rig):
        return [
            *("-drive", "if=none,id=rel0,file=disk.raw,format=raw", "-device", "virtio-blk-pci,drive=rel0"),
            *("-blockdev", "driver=file,node-name=rel1,filename=./images/../images/cd.iso,read-only=on"),
            *("-device", "ide-cd,drive=rel1", "-pidfile", "relative.pid"),
            *("-chardev", "socket,id=rel2,path=relative.sock,server=on,wait=off", "-mon", "chardev=rel2,mode=control"),
            *("-chardev", "file,id=rel3,path=relative.log", "-device", "isa-debugcon,chardev=rel3,iobase=0xe9"),
        ]

    def begin(self, vm):
        assert os.getcwd() != str(vm.rig.folder)
        self.files = self.look(vm)
        self.folder = os.readlink(f"/proc/{vm.pid()}/cwd")
        assert self.folder == self.runs_in(vm), self.folder

    def runs_in(self, vm):
        return str(vm.rig.folder)

    def look(self, vm):
        """Which of the group's files the process has open."""
        pid, folder = vm.pid(), f"{vm.rig.folder}/"
        links = [os.readlink(entry) for entry in pathlib.Path(f"/proc/{pid}/fd").iterdir() if entry.is_symlink()]
        return sorted({link for link in links if link.startswith(folder)})

    def after(self, vm, moved):
        folder = vm.rig.folder
        assert self.look(vm) == self.files, f"{self.files} became {self.look(vm)}"
        assert os.readlink(f"/proc/{vm.pid()}/cwd") == self.folder
        assert int((folder / "relative.pid").read_text()) == vm.pid()
        with Qmp.connect(folder / "relative.sock") as monitor:
            assert monitor.execute("query-hot-upgrade")["pid"] == vm.pid()


class RelativeDaemonized(RelativePaths):
    thing = "relative paths in the command line, with `-daemonize`"
    means = "as without, though the process has left that folder"
    group = "relative-daemonized"

    def arguments(self, rig):
        return [*super().arguments(rig), "-daemonize"]

    def runs_in(self, vm):
        return "/"


class Daemonized(InGroup):
    thing = "`-daemonize`: session, process group, streams, folder, umask, environment"
    means = "same session and group; same files as standard input, output and error; same folder, umask and environment"

    def arguments(self, rig):
        return ["-daemonize"]

    def look(self, pid):
        streams = [os.readlink(f"/proc/{pid}/fd/{number}") for number in (0, 1, 2)]
        folder = os.readlink(f"/proc/{pid}/cwd")
        return os.getsid(pid), os.getpgid(pid), streams, folder, status(pid)["Umask"], read(pid, "environ")

    def begin(self, vm):
        sid, pgid, streams, folder, umask, environment = self.look(vm.pid())
        assert sid not in (0, os.getsid(0)) and streams[0] == "/dev/null" and folder == "/" and umask == "0027"
        assert "PATH=" in environment

    def before(self, vm):
        self.was = self.look(vm.pid())

    def after(self, vm, moved):
        assert self.look(vm.pid()) == self.was, (self.look(vm.pid()), self.was)


class Names(InGroup):
    thing = "`-name guest=,process=,debug-threads=on`"
    means = "same name of the VM, of the process and of its threads"

    def arguments(self, rig):
        return ["-name", "guest=proc,process=qhup:proc,debug-threads=on"]

    def look(self, vm):
        names = [read(vm.pid(), f"task/{tid}/comm").strip() for tid in threads_of_cpus(vm)]
        return vm.qmp.execute("query-name"), read(vm.pid(), "comm"), names

    def before(self, vm):
        self.was = self.look(vm)
        assert self.was == ({"name": "proc"}, "qhup:proc\n", ["CPU 0/TCG", "CPU 1/TCG"]), self.was

    def after(self, vm, moved):
        assert self.look(vm) == self.was, (self.look(vm), self.was)


class OomScore(InGroup):
    thing = "OOM score (`oom_score_adj`)"
    means = "as before on whatever runs the VM; 1000 on the new process until it does, and on the old one from then on"

    def before(self, vm):
        self.pid = vm.pid()
        self.score = getattr(self, "score", 300) + 17
        pathlib.Path(f"/proc/{self.pid}/oom_score_adj").write_text(str(self.score))
        self.sampler = Sampler(vm, lambda pid: int(read(pid, "oom_score_adj")))

    def after(self, vm, moved):
        seen = self.sampler.stop()
        assert int(read(vm.pid(), "oom_score_adj")) == self.score, seen
        if not moved:
            assert seen[self.pid] == [self.score], seen
            return
        # the first sample of a child may still be from before it was the child's own
        assert seen[vm.pid()][-2:] == [1000, self.score], seen
        assert seen[self.pid] == [self.score, 1000], seen


class Scheduling(InGroup):
    thing = "CPU affinity, scheduling policy, nice and I/O priority, set from outside"
    means = "the main thread and each vCPU run on the same CPUs, with the same policy and priority"

    def needs(self):
        return None if len(os.sched_getaffinity(0)) > 1 else "it takes two CPUs"

    def before(self, vm):
        self.round = getattr(self, "round", 0) + 1
        cpus = sorted(os.sched_getaffinity(0))[:2]
        first, second = cpus if self.round % 2 else reversed(cpus)
        cpu0, cpu1 = threads_of_cpus(vm)
        self.place(vm.pid(), {first}, os.SCHED_FIFO, 1 + self.round, 0, "-c1 -n3")
        self.place(cpu0, {second}, os.SCHED_BATCH, 0, 3 + self.round, "-c2 -n6")
        self.place(cpu1, set(cpus), os.SCHED_OTHER, 0, -self.round, "-c3")
        self.was = self.look(vm)
        assert self.was[0] == ([first], os.SCHED_FIFO, 1 + self.round, 0, "realtime: prio 3"), self.was
        assert self.was[1] == ([second], os.SCHED_BATCH, 0, 3 + self.round, "best-effort: prio 6"), self.was

    def place(self, tid, cpus, policy, priority, nice, io):
        os.sched_setaffinity(tid, cpus)
        os.sched_setscheduler(tid, policy, os.sched_param(priority))
        os.setpriority(os.PRIO_PROCESS, tid, nice)
        subprocess.run(["ionice", *io.split(), "-p", str(tid)], check=True)

    def look(self, vm):
        found = []
        for tid in (vm.pid(), *threads_of_cpus(vm)):
            io = subprocess.run(["ionice", "-p", str(tid)], capture_output=True, text=True, check=True).stdout.strip()
            found.append((*place_of(tid), io))
        return found

    def after(self, vm, moved):
        assert self.look(vm) == self.was, (self.look(vm), self.was)


class Limits(InGroup):
    thing = "resource limits, core dump filter, timer slack, rights"
    means = "as before: limits (also those set from outside), user, groups, capabilities, no_new_privs, seccomp, namespaces"

    RIGHTS = ("Uid", "Gid", "Groups", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp")

    def before(self, vm):
        self.round = getattr(self, "round", 0) + 1
        resource.prlimit(vm.pid(), resource.RLIMIT_CORE, (4096 * self.round, 1 << 30))
        # QEMU 10.0 raises the soft limit to the hard one by itself
        resource.prlimit(vm.pid(), resource.RLIMIT_NOFILE, (4096 - self.round, 4096 - self.round))
        pathlib.Path(f"/proc/{vm.pid()}/coredump_filter").write_text(hex(0x11 + self.round))
        self.was = self.look(vm.pid())
        assert f"{4096 * self.round} " in self.was[0]

    def look(self, pid):
        spaces = {name: os.readlink(f"/proc/{pid}/ns/{name}") for name in os.listdir(f"/proc/{pid}/ns")}
        rights = {name: status(pid).get(name) for name in (*self.RIGHTS, "Seccomp_filters", "Speculation_Store_Bypass")}
        return read(pid, "limits"), read(pid, "coredump_filter"), read(pid, "timerslack_ns"), rights, spaces

    def after(self, vm, moved):
        assert self.look(vm.pid()) == self.was, (self.look(vm.pid()), self.was)


class ControlGroup(InGroup):
    thing = "control group"
    means = "the VM is in the same one; no process of it is ever elsewhere"

    MOUNTS = ("/sys/fs/cgroup/unified", "/sys/fs/cgroup")

    def mount(self):
        for folder in self.MOUNTS:
            if os.access(f"{folder}/cgroup.procs", os.W_OK):
                return pathlib.Path(folder)
        return None

    def needs(self):
        return None if self.mount() else "no cgroup2 that can be written to"

    def setup(self, rig):
        self.group_folder = self.mount() / f"qhup-test-{os.getpid()}"
        self.group_folder.mkdir()

        def remove():
            # the VM ends after this: its remains go to the root of the tree
            for pid in (self.group_folder / "cgroup.procs").read_text().split():
                with contextlib.suppress(OSError):
                    (self.mount() / "cgroup.procs").write_text(pid)
            self.group_folder.rmdir()

        rig.stack.callback(remove)

    def begin(self, vm):
        (self.group_folder / "cgroup.procs").write_text(str(vm.pid()))

    def before(self, vm):
        self.was = self.look(vm.pid())
        assert self.group_folder.name in self.was
        self.sampler = Sampler(vm, self.look)

    def look(self, pid):
        """Its place in the tree of version 2; the others forget a process that has ended."""
        return read(pid, "cgroup").strip().split("\n")[-1]

    def after(self, vm, moved):
        seen = self.sampler.stop()
        assert self.look(vm.pid()) == self.was
        assert all(group in (self.was, "") for groups in seen.values() for group in groups), seen


class LogFile(InGroup):
    thing = "`-D` with `-trace events=` and `-msg timestamp=on`, names relative to the folder of the start"
    means = "what the old QEMU wrote is kept; the new one goes on in the same file, with the same events"

    def arguments(self, rig):
        (rig.folder / "events").write_text("vm_state_notify\n")
        self.path = rig.folder / "log"
        return ["-D", "log", "-trace", "events=events", "-msg", "timestamp=on"]

    def say(self, vm):
        """Makes QEMU write; returns the file."""
        before = self.path.read_text()
        vm.qmp.execute("stop")
        vm.qmp.execute("cont")
        wait_for(lambda: self.path.read_text().count("vm_state_notify") >= before.count("vm_state_notify") + 2, 5, "events")
        text = self.path.read_text()
        assert text.startswith(before), "something was overwritten"
        return text

    def before(self, vm):
        self.was = self.say(vm)

    def after(self, vm, moved):
        assert self.path.read_text().startswith(self.was), "the log was emptied"
        text = self.say(vm)
        assert f"{vm.pid()}@" in text.splitlines()[-1], text.splitlines()[-1]


class ReadConfig(InGroup):
    thing = "`-readconfig` of a relative name, `-name`, objects in it"
    means = "the VM is built from the same file"

    def arguments(self, rig):
        (rig.folder / "more.cfg").write_text('[device "rng8"]\n  driver = "virtio-rng-pci"\n  rng = "rng0"\n')
        return ["-readconfig", "more.cfg"]

    def after(self, vm, moved):
        devices = vm.qmp.execute("qom-list", path="/machine/peripheral")
        assert [device for device in devices if device["name"] == "rng8"], devices


class Commandline(InGroup):
    thing = "command line"
    means = "does not grow; no descriptor, thread or child is left over"

    def look(self, vm):
        info = vm.qmp.execute("query-hot-upgrade")
        words = [word for word in read(vm.pid(), "cmdline").split("\0") if word]
        return len(info["argv"]), len(words), len(os.listdir(f"/proc/{vm.pid()}/fd"))

    def after(self, vm, moved):
        argv, words, files = self.look(vm)
        if not moved:
            return
        first = getattr(self, "first", None)
        if first and first[0] == vm.base:
            assert (argv, words) == first[1:], ((argv, words), first)
        self.first = (vm.base, argv, words)


class DroppedRights(Row):
    thing = "`-runas`, `-run-with user=`, with a pidfile in a folder of root"
    means = (
        "same user, groups and capabilities, not dumpable; the name of the process; the pidfile is written to by whoever "
        "runs the VM, and at every moment another QEMU with it is refused"
    )
    group = "process-user"

    def setup(self, rig):
        # the user may not be able to read the folder of the QEMU under test
        self.firmware = rig.folder / "firmware"
        shutil.copytree(find_qemu(rig.base).parent.parent / "share" / "qemu", self.firmware)
        rig.folder.chmod(0o711)

    def arguments(self, rig):
        # nobody but root may reach the VM's folder any more
        return ["-L", self.firmware, *self.user(rig)]

    def user(self, rig):
        return ["-runas", "nobody"] if rig.base == "7.2" else ["-run-with", "user=nobody"]

    def options(self, rig):
        return {"pidfile": True, "cwd": "/"}

    def look(self, pid):
        facts = status(pid)
        owner = os.stat(f"/proc/{pid}/environ").st_uid
        names = ("Uid", "Gid", "Groups", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs")
        return {name: facts[name] for name in names}, owner, read(pid, "comm"), os.readlink(f"/proc/{pid}/cwd")

    def before(self, vm):
        self.pid = vm.pid()
        self.was = self.look(self.pid)
        rights, owner, name, _ = self.was
        assert rights["Uid"].split() == [str(NOBODY)] * 4 and owner == 0 and name == "qemu-system-x86\n", self.was
        self.inode = vm.pidfile_path.stat().st_ino
        self.probe = Probe(vm.pidfile_path)
        self.sampler = Sampler(vm, lambda pid: int(read(pid, "oom_score_adj")))

    def after(self, vm, moved):
        _, seen = self.probe.stop()
        assert seen == {str(self.pid), str(vm.pid())}, (seen, self.pid, vm.pid())
        assert self.look(vm.pid()) == self.was, (self.look(vm.pid()), self.was)
        assert vm.pidfile_path.read_text() == f"{vm.pid()}\n"
        assert vm.pidfile_path.stat().st_ino == self.inode
        scores = self.sampler.stop()
        assert read(vm.pid(), "oom_score_adj") == "0\n" and (1000 in scores[vm.pid()]) == moved, scores


class Sandbox(Row):
    thing = "`-sandbox on` without `spawn=deny`"
    means = "same filters, not one more; no_new_privs"
    group = "process-sandbox"

    def arguments(self, rig):
        return ["-sandbox", "on,obsolete=deny,elevateprivileges=deny,resourcecontrol=deny"]

    def before(self, vm):
        facts = status(vm.pid())
        self.was = facts["Seccomp"], facts.get("Seccomp_filters"), facts["NoNewPrivs"]
        assert self.was[0] == "2" and self.was[1] in (None, "1") and self.was[2] == "1", self.was

    def after(self, vm, moved):
        facts = status(vm.pid())
        assert (facts["Seccomp"], facts.get("Seccomp_filters"), facts["NoNewPrivs"]) == self.was, facts


class SandboxWithoutSpawn(Blocked):
    thing = "`-sandbox on,spawn=deny`"
    blocker = "sandbox"
    group = "process-blocked-spawn"

    def arguments(self, rig):
        return ["-sandbox", "on,spawn=deny"]

    def after(self, vm, moved):
        vm.qmp.execute("query-status")  # it was not killed by its filter


class ForeignFilter(Blocked):
    thing = "seccomp filter that is not QEMU's own"
    blocker = "sandbox"
    group = "process-blocked-filter"

    # A filter that allows everything, and then QEMU.
    CODE = """
import ctypes, os, struct, sys
code = ctypes.create_string_buffer(struct.pack("HBBI", 6, 0, 0, 0x7fff0000))
program = struct.pack("HxxxxxxQ", 1, ctypes.addressof(code))
prctl = ctypes.CDLL(None).prctl
assert prctl(38, 1, 0, 0, 0) == 0 and prctl(22, 2, ctypes.create_string_buffer(program), 0, 0) == 0
os.execv(sys.argv[1], sys.argv[1:])
"""

    def options(self, rig):
        return {"prefix": [sys.executable, "-c", self.CODE]}


class NoMoreThreads(Blocked):
    thing = "user who may have no more threads (RLIMIT_NPROC)"
    blocker = "spawn-failed"
    group = "process-blocked-threads"

    def setup(self, rig):
        self.user = DroppedRights()
        self.user.setup(rig)

    def arguments(self, rig):
        return self.user.arguments(rig)

    def options(self, rig):
        return self.user.options(rig)

    def begin(self, vm):
        who = ["setpriv", f"--reuid={NOBODY}", "--regid=65534", "--clear-groups"]
        subprocess.run([*who, "prlimit", f"--pid={vm.pid()}", "--nproc=1:1"], check=True)


class FileSizeLimit(Blocked):
    thing = "limit of the size of a file (RLIMIT_FSIZE)"
    blocker = "limit"
    id = "process/fsize"
    group = "process-blocked-limits"

    def begin(self, vm):
        resource.prlimit(vm.pid(), resource.RLIMIT_FSIZE, (1 << 40, 1 << 40))


class AddressSpaceLimit(Blocked):
    thing = "limit of the address space (RLIMIT_AS)"
    blocker = "limit"
    id = "process/as"
    group = "process-blocked-limits"

    def begin(self, vm):
        resource.prlimit(vm.pid(), resource.RLIMIT_AS, (1 << 40, 1 << 40))


class Chroot(Blocked):
    thing = "`-chroot`, `-run-with chroot=`"
    blocker = "chroot"
    group = "process-blocked-chroot"

    def arguments(self, rig):
        return ["-chroot", rig.folder] if rig.base == "7.2" else ["-run-with", f"chroot={rig.folder}"]


class LostFolder(Blocked):
    thing = "folder of the start is gone"
    blocker = "folder"
    group = "process-blocked-folder"

    def options(self, rig):
        folder = rig.folder / "gone"
        folder.mkdir(exist_ok=True)
        return {"cwd": folder}

    def begin(self, vm):
        (vm.rig.folder / "gone").rmdir()


class LeaderOfATerminal(Blocked):
    thing = "leader of the session of a terminal"
    blocker = "supervisor"
    id = "process/terminal"
    group = "process-blocked-terminal"

    CODE = """
import fcntl, os, sys, termios
os.setsid()
ours, theirs = os.openpty()
os.set_inheritable(ours, True)
fcntl.ioctl(theirs, termios.TIOCSCTTY, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""

    def options(self, rig):
        return {"prefix": [sys.executable, "-c", self.CODE]}


class ParentDeath(Blocked):
    thing = "parent-death signal"
    blocker = "supervisor"
    id = "process/parent"
    group = "process-blocked-parent"

    def options(self, rig):
        return {"prefix": ["setpriv", "--pdeathsig", "TERM"]}


class PinnedInSandbox(Blocked):
    thing = "vCPUs pinned from outside, with `-sandbox on,resourcecontrol=deny`"
    blocker = "scheduling"
    group = "process-blocked-pinned"

    def arguments(self, rig):
        return ["-sandbox", "on,resourcecontrol=deny"]

    def needs(self):
        return None if len(os.sched_getaffinity(0)) > 1 else "it takes two CPUs"

    def begin(self, vm):
        os.sched_setaffinity(threads_of_cpus(vm)[0], {min(os.sched_getaffinity(0))})


class RealtimeWithoutRights(Blocked):
    thing = "real-time vCPUs of a QEMU that may not make such threads"
    blocker = "scheduling"
    id = "process/policy"
    group = "process-blocked-realtime"

    def arguments(self, rig):
        return ["-runas", "nobody"] if rig.base == "7.2" else ["-run-with", "user=nobody"]

    def options(self, rig):
        return {"cwd": "/"}

    def begin(self, vm):
        os.sched_setscheduler(threads_of_cpus(vm)[0], os.SCHED_RR, os.sched_param(2))

    def finish(self, vm):
        os.sched_setscheduler(threads_of_cpus(vm)[0], os.SCHED_OTHER, os.sched_param(0))


class ThreadsInGroups(Blocked):
    thing = "vCPU threads in control groups of their own"
    blocker = "scheduling"
    id = "process/cgroup"
    group = "process-blocked-cgroup"

    TREE = pathlib.Path("/sys/fs/cgroup/freezer")

    def needs(self):
        return None if os.access(self.TREE / "tasks", os.W_OK) else "no control groups of version 1"

    def setup(self, rig):
        self.group_folder = self.TREE / f"qhup-test-{os.getpid()}"
        self.group_folder.mkdir()

        def remove():
            for tid in (self.group_folder / "tasks").read_text().split():
                with contextlib.suppress(OSError):
                    (self.TREE / "tasks").write_text(tid)
            self.group_folder.rmdir()

        rig.stack.callback(remove)

    def begin(self, vm):
        (self.group_folder / "tasks").write_text(str(threads_of_cpus(vm)[0]))


class GdbServer(Blocked):
    thing = "`-gdb`"
    blocker = "gdbstub"
    group = "process-blocked-gdb"

    def arguments(self, rig):
        return ["-gdb", f"unix:{rig.folder}/gdb,server=on,wait=off"]


class Replay(Blocked):
    thing = "record and replay (`-icount rr=`)"
    blocker = "replay"
    group = "process-blocked-replay"

    def arguments(self, rig):
        return ["-icount", f"shift=1,rr=record,rrfile={rig.folder}/replay"]
