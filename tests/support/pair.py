# SPDX-License-Identifier: GPL-2.0-or-later
"""Drives one hot upgrade over QMP, step by step, as a daemon would, and looks at what the two processes left behind.

    with Upgrade(vm, find_qemu("10.0")) as upgrade:
        upgrade.prepare()                 # returns when the standby is up
        timings = upgrade.switch()        # the guest runs on the target
        upgrade.commit()                  # the source is gone

    timings = run_upgrade(vm, binary)     # the same in one
    assert_runs_on_one(vm)                # one process, and nothing of an upgrade in it

Every failure is an UpgradeFailed with the stable code, the phase and the sentence of docs/qmp.md.
"""

import contextlib
import os
import pathlib
import socket
import stat
import time
from collections import Counter

import processes
from qmp import Qmp, QmpClosed, QmpError

_numbers = iter(range(1, 1 << 30))

# Options that the source's command line may have and the target's must not: what a daemon's plan drops.
_DROPPED_WITH_VALUE = {"-pidfile", "--pidfile", "-incoming", "--incoming"}


class UpgradeFailed(Exception):
    """The upgrade was refused or rolled back. `error` is last-error: code, phase, message, maybe stderr."""

    def __init__(self, error):
        self.error = error
        self.code = error.get("code")
        self.phase = error.get("phase")
        self.message = error.get("message")
        self.stderr = error.get("stderr", "")
        super().__init__(f"{self.code} in {self.phase}: {self.message} {self.stderr[-300:]}")


class Upgrade:
    """One upgrade of `vm` (a Guest) to `binary`. Leaving the context closes the connections; leaving it by an exception
    also gives up an upgrade that is still prepared, so that the next test finds the VM as it was.
    """

    def __init__(self, vm, binary, *, argv=None, lease_s=None, faults=(), control_dir=None):
        self.vm = vm
        self.binary = binary
        self.name = f"u{next(_numbers)}"
        self.control_dir = pathlib.Path(control_dir or vm.folder / "control")
        self.argv = argv
        self.lease_s = lease_s
        self.faults = list(faults)  # (point, action) or (point, action, seconds)
        self.control = None  # Qmp of the source's control socket, after prepare
        self._qmp = None
        self._target = None
        self.source_pid = None
        self.target_pid = None

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        if kind is not None and self.control is not None:
            with contextlib.suppress(OSError, QmpClosed, QmpError):
                self.control.execute("hot-upgrade-rollback", timeout=5)
        self.close()

    def close(self):
        for session in (self.control, self._target, self._qmp):
            if session is not None:
                session.close()
        self.control = self._target = self._qmp = None

    @property
    def qmp(self):
        """A session on the daemon's monitor."""
        if self._qmp is None:
            self._qmp = Qmp.connect(self.vm.daemon_qmp_path)
        return self._qmp

    @property
    def source_socket(self):
        return self.control_dir / f"{self.name}-source"

    @property
    def target_socket(self):
        return self.control_dir / f"{self.name}-target"

    @property
    def target(self):
        """A session on the target's control socket."""
        if self._target is None:
            self._target = Qmp.connect(self.target_socket)
        return self._target

    def arm(self, point, action, seconds=0.0):
        """Arms a fault point; one of the target's must be armed before prepare."""
        self.qmp.execute("x-hot-upgrade-fault", point=point, action=action, duration=int(seconds * 1e9))

    def query(self):
        return (self.control or self.qmp).execute("query-hot-upgrade")

    def begin(self):
        """Asks for a standby, and does not wait for it."""
        info = self.qmp.execute("query-hot-upgrade")
        self.source_pid = info["pid"]
        for fault in self.faults:
            self.arm(*fault)
        self.control_dir.mkdir(mode=0o700, exist_ok=True)
        argv = self.argv or plan_argv(info["argv"], self.binary)
        fd = open_binary(self.binary)
        try:
            self.qmp.send_fd("new-qemu", fd)
        finally:
            os.close(fd)
        arguments = {"upgrade": self.name, "binary": "new-qemu", "argv": argv, "control-dir": str(self.control_dir)}
        if self.lease_s is not None:
            arguments["lease"] = int(self.lease_s * 1e9)
        if "pidfile" in info:
            arguments["pidfile"] = info["pidfile"]
        try:
            reply = self.qmp.execute("hot-upgrade-prepare", arguments)
        except QmpError as error:
            raise UpgradeFailed(self.qmp.execute("query-hot-upgrade").get("last-error", {})) from error
        assert reply["control"] == str(self.source_socket), reply
        self.control = Qmp.connect(self.source_socket)
        return reply

    def wait_prepared(self, timeout=30.0):
        """Until the standby is up. Raises UpgradeFailed when it never comes."""
        deadline = time.monotonic() + timeout
        while True:
            info = self.query()
            if info["state"] == "prepared":
                self.target_pid = info["child-pid"]
                return info
            if info["state"] == "none":
                raise UpgradeFailed(info.get("last-error", {}))
            if time.monotonic() > deadline:
                raise AssertionError(f"still {info['state']} after {timeout:g} s")
            time.sleep(0.005)

    def prepare(self):
        self.begin()
        return self.wait_prepared()

    def step(self, command, arguments=None, timeout=60.0):
        """One command of the control socket. Raises UpgradeFailed when QEMU refuses."""
        try:
            return self.control.execute(command, arguments, timeout=timeout)
        except QmpError as error:
            last = self.query().get("last-error", {})
            raise UpgradeFailed({**last, "code": error.code, "message": error.desc}) from error

    def switch(self, **milliseconds):
        """The pause. Options: drain_deadline, budget, frozen_lease, in ms. Returns the timings."""
        return self.step("hot-upgrade-switch", in_ns(milliseconds))["timings"]

    def freeze(self, **milliseconds):
        return self.step("hot-upgrade-freeze", in_ns(milliseconds))

    def load(self):
        """Sends the state to the target, and returns when it is loaded."""
        return self.step("hot-upgrade-load")

    def takeover(self):
        return self.step("hot-upgrade-takeover")["timings"]

    def rollback(self):
        """Returns when the guest runs on the source again and the child is gone."""
        self.step("hot-upgrade-rollback")

    def commit(self):
        """Ends the source."""
        with contextlib.suppress(QmpClosed):  # the answer may be lost with the process
            self.control.execute("hot-upgrade-commit")
        if not processes.wait_gone(self.source_pid, 5):
            raise AssertionError("the source did not end after commit")


def in_ns(milliseconds):
    return {name.replace("_", "-"): int(value * 1e6) for name, value in milliseconds.items()}


def open_binary(path):
    """As a daemon opens it: what cannot be opened never reaches QEMU."""
    return os.open(path, os.O_RDONLY | os.O_CLOEXEC)


def plan_argv(argv, binary):
    """The command line of the target, from the source's."""
    planned, skip = [str(binary)], False
    for word in argv[1:]:
        if skip:
            skip = False
        elif word in _DROPPED_WITH_VALUE:
            skip = True
        else:
            planned.append(word)
    return planned


def run_upgrade(vm, binary, *, switch=None, **options):
    """One whole upgrade; returns the timings. After UpgradeFailed the guest runs on the source."""
    with Upgrade(vm, binary, **options) as upgrade:
        upgrade.prepare()
        timings = upgrade.switch(**(switch or {}))
        upgrade.commit()
        return timings


def children_of(pid):
    """Pids of the children of a process, the dead ones that nobody reaped included."""
    found = []
    for task in os.listdir(f"/proc/{pid}/task"):
        with contextlib.suppress(OSError), open(f"/proc/{pid}/task/{task}/children") as file:
            found += [int(word) for word in file.read().split()]
    return found


def open_files(pid):
    """What the descriptors of a process point to, e.g. "/memfd:pc.ram (deleted)"."""
    found = []
    for name in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(OSError):
            found.append(os.readlink(f"/proc/{pid}/fd/{name}"))
    return found


def hand_over_files(pid):
    """The descriptors that only a hand-over makes: its memfds."""
    return [name for name in open_files(pid) if "hot-upgrade" in name]


def sockets_in(folder):
    """Names of the sockets in a folder."""
    if not os.path.isdir(folder):
        return []
    return sorted(entry.name for entry in os.scandir(folder) if stat.S_ISSOCK(entry.stat(follow_symlinks=False).st_mode))


def wait_for(condition, timeout, what):
    """Until condition() is true; returns its value."""
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not in {timeout:g} s: {what}")
        time.sleep(0.01)


def assert_runs_on_one(vm, timeout=5.0, *, known=()):
    """The VM has one process, in the state "none", with no child and nothing of an upgrade in it. Returns its pid.

    `known`: hand-over files that an earlier upgrade left there, and which was told then.
    """
    wait_for(lambda: len(vm.processes()) == 1, timeout, f"one process of the VM, not {vm.processes()}")
    pid = vm.processes()[0]
    info = vm.qmp.execute("query-hot-upgrade")
    assert info["pid"] == pid, f"process {pid} remains, but {info['pid']} answers"
    wait_for(lambda: vm.qmp.execute("query-hot-upgrade")["state"] == "none", timeout, "the state none")
    # The kernel may take its time to let a dead target go; nobody waits for that.
    wait_for(lambda: not children_of(pid), timeout, f"no child of {pid}")
    left = Counter(hand_over_files(pid)) - Counter(known)
    assert not left, f"process {pid} still has {dict(left)}"
    return pid


def wait_sockets_gone(vm, timeout=7.0):
    """A control socket may stay for 5 s after its upgrade, for a client to ask why; then nobody listens any more.

    The name of a killed process's socket stays in the folder: whoever owns the folder removes it (docs/qmp.md).
    """
    folder, deadline = vm.folder / "control", time.monotonic() + timeout
    while True:
        alive = [name for name in sockets_in(folder) if somebody_listens(folder / name)]
        if not alive:
            return
        if time.monotonic() > deadline:
            raise AssertionError(f"{timeout:g} s after the last upgrade: {alive} in {folder}")
        time.sleep(0.05)


def somebody_listens(path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        return True
