# SPDX-License-Identifier: GPL-2.0-or-later
"""A private qhupd with its own configuration, folders and socket, and qhupd-ctl talking to it.

    with Daemon(releases={"deb13": find_qemu("10.0")}) as daemon:
        done = daemon.ctl("upgrade", "--yes", "--all", "--to", "deb13")          # a CompletedProcess with text
        vms = daemon.json("list")["vms"]
        daemon.kill(); daemon.start()                                    # as a crash and systemd would

The daemon finds every VM that this program started with Guest. Programs come from $QHUP_BIN, else from build/dev/bin.
"""

import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import tempfile
import time

import processes
from guest import PREFIX, folder_of_tests
from prober import ROOT


COMPLAINT = re.compile(r"^.*(?:(?:Address|Leak|Memory|Thread|UndefinedBehavior)Sanitizer:|: runtime error: )", re.M)


def find_program(name):
    """qhupd or qhupd-ctl, as built."""
    folder = pathlib.Path(os.environ.get("QHUP_BIN") or ROOT / "build" / "dev" / "bin")
    if not (folder / name).exists():
        raise FileNotFoundError(f"{folder / name} is not built")
    return folder / name


class Daemon:
    """One qhupd. Enter it as a context, or call start() and stop()."""

    def __init__(self, releases=None, *, vms=None, top="", sections="", folder=None):
        self._own_folder = folder is None
        self.folder = pathlib.Path(folder or tempfile.mkdtemp(prefix=f"qhup-daemon-{os.getpid()}-", dir=folder_of_tests()))
        self.releases_dir = self.folder / "releases.d"
        self.socket = self.folder / "api.sock"
        self.log_path = self.folder / "qhupd.log"
        self.process = None
        self._judged = None  # the process whose end somebody has looked at
        for name in ("releases.d", "control", "state"):
            (self.folder / name).mkdir(mode=0o700, exist_ok=True)
        for folder in (self.folder, self.folder / "control"):
            folder.chmod(0o711)  # as systemd/qhup.tmpfiles: VMs of other users reach their own folder in it
        for name, release in (releases or {}).items():
            self.add_release(name, release)
        globs = vms or [f"{folder_of_tests()}/{PREFIX}{os.getpid()}-*/qmp.sock"]
        self.config = self.folder / "qhupd.toml"
        self.config.write_text(
            f'control_dir = "{self.folder}/control"\nreleases_dir = "{self.releases_dir}"\n'
            f'state_dir = "{self.folder}/state"\nlog_level = "debug"\n'
            + ("" if "kept_binaries" in top else "kept_binaries = 0\n")
            + ("" if "selftest" in top else 'selftest = "off"\n')
            + ("" if "rehearse" in top else 'rehearse = "none"\n')
            + f'{top}\n'
            f"[discovery]\nqmp = {json.dumps([str(glob) for glob in globs])}\n"
            f'[api]\nsocket = "{self.socket}"\ngroup = ""\n{sections}\n'
        )

    def __enter__(self):
        return self.start()

    def __exit__(self, *_):
        self.stop()

    def add_release(self, name, release):
        """Writes a drop-in; `release` is a binary's path or a dict of the drop-in's keys."""
        keys = release if isinstance(release, dict) else {"path": str(release)}
        text = "".join(f"{key} = {json.dumps(value)}\n" for key, value in keys.items())
        (self.releases_dir / f"{name}.toml").write_text(text)

    def start(self, timeout=10.0, wrapper=()):
        """Starts it and waits until it serves. What `wrapper`, a tracer's words, starts must become the daemon, under its
        own pid."""
        with open(self.log_path, "ab") as log:
            command = [*wrapper, find_program("qhupd"), "--config", self.config]
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        deadline = time.monotonic() + timeout
        while self.ctl("version", check=False).returncode != 0:
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.end_is_judged()
                raise RuntimeError(f"qhupd did not start ({self.process.returncode}): {self.log()[-2000:]}")
            time.sleep(0.02)
        return self

    def kill(self):
        """As a crash: SIGKILL."""
        self.process.kill()
        self.process.wait()

    def end_is_judged(self):
        """The test goes by how this process ended, or will end: stop() says nothing of its status."""
        self._judged = self.process

    def stop(self):
        """SIGTERM, and removes its folder. May be called again. AssertionError if it did not end, or ended, now or before,
        with another status than 0, but for a test's SIGKILL; or if a sanitizer complained about it."""
        wrong = ""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                processes.end_processes([self.process.pid], grace=0)
                self.process.wait()
                wrong = "qhupd did not end within 20 s of SIGTERM"
        if self.process is not self._judged and self.process.returncode not in (0, -signal.SIGKILL):
            wrong = wrong or f"qhupd ended with status {self.process.returncode}"
        log = self._read_log()
        complaint = COMPLAINT.search(log)
        if self._own_folder:
            shutil.rmtree(self.folder, ignore_errors=True)
        assert not complaint, f"a sanitizer complained about qhupd:\n{log[complaint.start():][:4000]}"
        assert not wrong, f"{wrong}:\n{log[-4000:]}"

    def log(self):
        # who logs does not wait until it is written, so what was logged may be on its way still
        before, text = None, self._read_log()
        while before != text:
            time.sleep(0.02)
            before, text = text, self._read_log()
        return text

    def _read_log(self):
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    # -- qhupd-ctl

    def command(self, *arguments):
        return [str(find_program("qhupd-ctl")), "--socket", str(self.socket), *map(str, arguments)]

    def ctl(self, *arguments, check=True, timeout=120.0):
        """Runs qhupd-ctl; with `check`, anything but exit status 0 raises AssertionError with all it said."""
        done = subprocess.run(
            self.command(*arguments), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout
        )
        if check and done.returncode != 0:
            raise AssertionError(f"{arguments}: exit status {done.returncode}\n{done.stdout}{done.stderr}")
        return done

    def json(self, *arguments, status=0, timeout=120.0):
        """Runs qhupd-ctl --json; returns the document. Another exit status than `status` raises AssertionError."""
        done = self.ctl("--json", *arguments, check=False, timeout=timeout)
        if done.returncode != status:
            raise AssertionError(f"{arguments}: exit status {done.returncode}, not {status}\n{done.stdout}{done.stderr}")
        return json.loads(done.stdout)

    def popen(self, *arguments, **options):
        """qhupd-ctl in the background."""
        return subprocess.Popen(self.command(*arguments), stdin=subprocess.DEVNULL, text=True, **options)
