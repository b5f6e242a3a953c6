# SPDX-License-Identifier: GPL-2.0-or-later
"""A host of fake VMs with the real qhupd, and terminals that qhupd-ctl runs on. Needs no QEMU and no root.

    with FakeHost(3, scripts={1: {"vm": {"blockers": [...]}}}) as host:
        done = host.daemon.ctl("list")
        with Terminal(host.command("upgrade", "--all", "--to", "new"), columns=40) as terminal:
            terminal.wait_for("Go on?")
            terminal.type("y\n")
            status = terminal.wait()
            print(terminal.screen.lines())
"""

import contextlib
import fcntl
import json
import os
import pathlib
import pty
import re
import select
import shutil
import signal
import struct
import subprocess
import tempfile
import termios
import time

from daemon import Daemon, find_program

NEW = str(find_program("silent-qemu"))


def build_id_of(path):
    notes = subprocess.run(["readelf", "-n", path], capture_output=True, text=True, check=True).stdout
    return re.search(r"Build ID: ([0-9a-f]+)", notes).group(1)


class FakeHost:
    """`count` fake VMs vm0, vm1, …, a release "new", and qhupd. `scripts`: what is different for VM i, as fake-qemu reads it.
    `patient`: a pause may take seconds."""

    def __init__(self, count, *, scripts=None, top="", sections="", patient=False):
        self.stack = contextlib.ExitStack()
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="qhup-fake-"))
        self.stack.callback(shutil.rmtree, self.folder, ignore_errors=True)
        self.folder.chmod(0o711)
        self.count, self.scripts = count, scripts or {}
        self.served = {}  # processes that play VMs, by the names of their sockets
        home = self.folder / "d"
        home.mkdir()
        self.daemon = Daemon(
            {"new": {"path": NEW, "version": "10.0.13", "description": "the new one"}},
            vms=[self.folder / "*.qmp"], folder=home, top=top,
            sections='[deadlines]\nverify = "100ms"\n'
            + ('pause_budget = "9s"\n[leases]\nfrozen = "10s"\n' if patient else "")
            + sections,
        )

    def __enter__(self):
        build_id = build_id_of(NEW)
        try:
            plain = [i for i in range(self.count) if i not in self.scripts]
            for i in range(self.count):
                script = dict(self.scripts.get(i, {}))
                script["vm"] = {"name": f"vm{i}", "target_build_id": build_id, **script.get("vm", {})}
                if i in plain and i > 2:
                    continue
                self.serve(self.folder / f"{script['vm']['name']}.qmp", script)
            more = [i for i in plain if i > 2]
            if more:  # one process plays all that are alike
                assert more == list(range(3, self.count)), "scripts only for the first three of many"
                self.serve(self.folder / "more%.qmp", {"vm": {"target_build_id": build_id}}, "--name", "more%", "--count", str(len(more)))
            self.daemon.start()
            self.stack.callback(self.daemon.stop)
        except BaseException:
            self.__exit__()
            raise
        return self

    def serve(self, socket, script, *options):
        path = self.folder / f"{socket.stem}.json"
        path.write_text(json.dumps(script))
        process = subprocess.Popen(
            [find_program("fake-qemu"), "--qmp", socket, "--script", path, *options], stdout=subprocess.PIPE, text=True
        )
        self.stack.callback(self.end, process)
        self.served[process] = socket.stem
        assert process.stdout.readline() == "ready\n"

    @staticmethod
    def end(process):
        process.terminate()
        process.wait()
        process.stdout.close()

    def __exit__(self, *_):
        self.stack.close()

    def end_vm(self, name):
        """The QEMU of that VM, which has a process of its own, ends, and takes its socket with it."""
        for process, known in self.served.items():
            if known == name:
                process.terminate()
                process.wait()
        (self.folder / f"{name}.qmp").unlink(missing_ok=True)

    def command(self, *words):
        return self.daemon.command(*words)

    def newest_run(self):
        runs = self.daemon.json("status")["runs"]
        return runs[0]["id"] if runs else ""


class Screen:
    """What a terminal shows after these bytes: enough of ECMA-48 for programs that redraw lines."""

    def __init__(self, columns, rows):
        self.columns, self.rows = columns, rows
        self.cells = [""]
        self.row = self.column = 0
        self.colors = set()
        self.pending = ""

    def feed(self, text):
        text = self.pending + text
        self.pending = ""
        while text:
            code = re.match(r"\x1b\[([?0-9;]*)([A-Za-z])", text)
            if code:
                self.control(code.group(1), code.group(2))
                text = text[code.end():]
            elif text[0] == "\x1b" and len(text) < 16:
                self.pending = text
                return
            else:
                self.put(text[0])
                text = text[1:]

    def put(self, char):
        if char == "\r":
            self.column = 0
        elif char == "\n":
            self.row += 1
        else:
            if self.column == self.columns:
                self.row, self.column = self.row + 1, 0
            line = self.line().ljust(self.column)
            self.cells[self.row] = line[: self.column] + char + line[self.column + 1:]
            self.column += 1
        self.line()

    def line(self):
        self.cells += [""] * (self.row + 1 - len(self.cells))
        return self.cells[self.row]

    def control(self, given, name):
        number = int(given or 1) if given.isdigit() or not given else 0
        if name == "A":
            self.row = max(0, self.row - number)
        elif name == "K":
            self.cells[self.row] = self.line()[: self.column]
        elif name == "J":
            self.cells[self.row] = self.line()[: self.column]
            del self.cells[self.row + 1:]
        elif name == "m":
            self.colors.add(given)

    def lines(self):
        return [line.rstrip() for line in self.cells]

    def text(self):
        return "\n".join(self.lines())


class Terminal:
    """A program on a terminal of its own: its standard input, output and error."""

    def __init__(self, command, *, columns=80, rows=24, environment=None, out=None):
        self.master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        surroundings = {**os.environ, "TERM": "xterm", **(environment or {})}
        for name in ("NO_COLOR", "COLUMNS", "LINES"):
            if name not in (environment or {}):
                surroundings.pop(name, None)
        self.began = time.monotonic()
        self.first_output = None
        self.process = subprocess.Popen(
            [str(word) for word in command], stdin=slave, stdout=out or slave, stderr=slave, env=surroundings,
            start_new_session=True, preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        os.close(slave)
        self.screen = Screen(columns, rows)
        self.raw = ""
        self.frames = []  # (when, bytes) of every read

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self.master)

    def read(self, patience):
        """Reads what is there, or comes in time. False at the end."""
        ready, _, _ = select.select([self.master], [], [], patience)
        if not ready:
            return True
        try:
            got = os.read(self.master, 65536)
        except OSError:
            return False
        self.first_output = self.first_output or time.monotonic() - self.began
        text = got.decode(errors="replace")
        self.frames.append((time.monotonic() - self.began, text))
        self.raw += text
        self.screen.feed(text)
        return bool(got)

    def wait_for(self, words, patience=10):
        deadline = time.monotonic() + patience
        while words not in self.screen.text():
            if not self.read(0.05) or time.monotonic() > deadline:
                raise AssertionError(f"{words!r} was not shown:\n{self.screen.text()}")

    def type(self, keys):
        os.write(self.master, keys.encode())

    def interrupt(self):
        """Ctrl-C."""
        self.process.send_signal(signal.SIGINT)

    def wait(self, patience=20):
        """Reads to the end. @return the exit status"""
        deadline = time.monotonic() + patience
        while self.read(0.05) and time.monotonic() < deadline:
            if self.process.poll() is not None and not select.select([self.master], [], [], 0)[0]:
                break
        return self.process.wait(max(0.1, deadline - time.monotonic()))
