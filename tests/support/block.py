# SPDX-License-Identifier: GPL-2.0-or-later
"""What an outsider sees of a VM's disks: what QMP says of them, what is in them, who may lock their files.

    seen = disk(vm, "disk1")                  # by id of -drive, of -device, or by its path; compare it with a later one
    write(vm, "disk1", 0x5A, 0, 65536)        # as a monitor's qemu-io; verify() fails if the disk has something else
    with LockProbe(path) as probe: ...        # looks all the time whether somebody could take the image
"""

import fcntl
import os
import struct
import subprocess
import threading
import time

from case import tool
from pair import wait_for

# What the two bases say in another way, and what grows by itself
_DROPPED = {"actual-size", "active", "children", "format-specific", "dirty-flag", "io-status", "limits"}


def _plain(value):
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items() if key not in _DROPPED}
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    return value


def _entry(vm, name):
    paths = (name, f"/machine/peripheral/{name}", f"/machine/peripheral/{name}/virtio-backend")
    found = [entry for entry in vm.qmp.execute("query-block") if entry["device"] == name or entry.get("qdev") in paths]
    if len(found) != 1:
        raise AssertionError(f"{len(found)} disks are called {name}")
    return found[0]


def disk(vm, name):
    """What query-block says of it: tray, layers, limits, cache, nodes."""
    seen = _plain(_entry(vm, name))
    if seen.get("qdev", "").startswith("/machine/unattached/"):
        del seen["qdev"]  # the board's own devices are numbered in another way
    return seen


def nodes(vm):
    """What query-named-block-nodes says, by name; without the sizes of files, which may grow."""
    found = {node["node-name"]: _plain(node) for node in vm.qmp.execute("query-named-block-nodes", flat=True)}
    for node in found.values():
        if node["drv"] == "file":
            del node["image"]
    return found


def _io(vm, name, command, done):
    """Fails unless QEMU says that it is done, and nothing else. It says so in its log: the monitor's answer is empty."""
    line = f'qemu-io -d {_entry(vm, name)["qdev"]} "{command}"'
    before = vm.log_path.stat().st_size
    said = vm.qmp.execute("human-monitor-command", {"command-line": line})

    def logged():
        with open(vm.log_path, "rb") as log:
            log.seek(before)
            return log.read().decode(errors="replace")

    wait_for(lambda: " ops; " in logged(), 10, f"{line} is done: {said}")
    if done not in logged() or "fail" in logged().lower() or "error" in (said + logged()).lower():
        raise AssertionError(f"{line}: {said}{logged()}")


def write(vm, name, pattern, offset, size=65536):
    _io(vm, name, f"write -P {pattern} {offset} {size}", f"wrote {size}/{size} bytes at offset {offset}\n")


def verify(vm, name, pattern, offset, size=65536):
    _io(vm, name, f"read -P {pattern} {offset} {size}", f"read {size}/{size} bytes at offset {offset}\n")


def create(path, size="16M", *, format="qcow2", backing=None, backing_format="qcow2", options=()):
    """A new image."""
    command = [tool("qemu-img"), "create", "-q", "-f", format, *options]
    if backing is not None:
        command += ["-b", backing, "-F", backing_format]
    subprocess.run([*map(str, command), str(path), *([] if backing is not None else [size])], check=True)
    return path


def assert_locked(path, format):
    """Who opens it as QEMU does is refused."""
    run = subprocess.run([tool("qemu-img"), "resize", "-f", format, path, "+1M"], capture_output=True, text=True)
    assert run.returncode != 0 and "lock" in run.stderr, f"{path} can be opened for writing: {run.stderr or 'resized'}"


def assert_sound(path, options=()):
    """`qemu-img check` finds nothing; after the end of the VM."""
    run = subprocess.run([tool("qemu-img"), "check", *options, path], capture_output=True, text=True)
    assert run.returncode == 0, f"{path}: {run.stdout}{run.stderr}"


class LockProbe:
    """Looks all the time whether somebody could take the locks of a writer (QEMU's bytes 100 to 300)."""

    def __init__(self, path, period_s=0.0001):
        self.fd = os.open(path, os.O_RDWR)
        self.period_s = period_s
        self.looks = self.free = 0
        self.end = False
        self.thread = threading.Thread(target=self.run, daemon=True)

    def look(self):
        """F_UNLCK if nobody holds a lock."""
        lock = struct.pack("hhqqi", fcntl.F_WRLCK, os.SEEK_SET, 100, 201, 0)
        return struct.unpack("hhqqi", fcntl.fcntl(self.fd, fcntl.F_OFD_GETLK, lock))[0]

    def run(self):
        while not self.end:
            self.looks += 1
            self.free += self.look() == fcntl.F_UNLCK
            time.sleep(self.period_s)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.end = True
        self.thread.join()
        os.close(self.fd)
