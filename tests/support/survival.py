# SPDX-License-Identifier: GPL-2.0-or-later
"""The survival table: what a VM shows to the outside, and whether it survives an upgrade. A row is a class:

    class PtyKeepsItsName(Row):
        thing = "pty chardev"
        means = "same /dev/pts/N; a client that has it open loses no byte"
        group = "chardevs"
        def arguments(self, rig): return ["-chardev", "pty,id=p0"]
        def begin(self, vm): ...                # the guest is up
        def before(self, vm): ...               # a move or a rollback comes
        def after(self, vm, moved): ...         # AssertionError: it did not survive

    class TlsSocket(Blocked):
        thing = "socket chardev with TLS"
        blocker = "chardev"
        def arguments(self, rig): ...

Rows of one group share a VM, which goes through the steps of STEPS with the real qhupd. The rows are in
tests/qemu/rows/, a file for each area; tests/qemu/survival_test.py runs them and writes docs/survival.md.
"""

import contextlib
import importlib.util
import inspect
import json
import os
import pathlib
import re
import shutil
import tempfile
import traceback
from dataclasses import dataclass

from case import find_qemu
from daemon import Daemon
from firmware import FirmwareGuest, SilentGuest
from guest import Guest, folder_of_tests, roots_folder
from netrig import NetRig
from pair import assert_runs_on_one
from twin import twin_of


@dataclass(frozen=True)
class Step:
    """A column of the table."""

    source: str
    target: str
    moves: bool = True  # False: the target dies right before it would own the VM

    @property
    def title(self):
        return f"{self.source}→{self.target}" if self.moves else f"rollback on {self.source}"


STEPS = (
    Step("7.2", "10.0", moves=False),
    Step("7.2", "7.2"),
    Step("7.2", "10.0"),
    Step("10.0", "10.0"),
    Step("10.0", "7.2", moves=False),
)

# The order of columns in the table
COLUMNS = (STEPS[1], STEPS[2], STEPS[3], STEPS[0], STEPS[4])


class Row:
    """Something that must survive. Overwrite what is needed; each call gets the same object all the time."""

    thing = ""  # what it is: the first column
    means = ""  # what "survives" means
    group = ""  # rows of one group share a VM
    guest = "firmware"  # or "linux", or "silent": it stays in what the rows put it in
    net = False  # the VM needs a tap
    id = ""  # how the blocker's id begins, where it is refused
    kvm_hardware = False  # it was also run with a Linux guest on KVM hardware

    def needs(self):
        """Why it cannot be tested on this host, as a sentence; None if it can."""
        return None

    def refused_by(self, source, target):
        """The class of the blocker that refuses it between these bases; None: it crosses."""
        return None

    def setup(self, rig):
        """Before the VM starts. `rig`: folder, net, stack (an ExitStack), base."""

    def arguments(self, rig):
        """More arguments of QEMU."""
        return []

    def options(self, rig):
        """More keyword options of guest.Guest."""
        return {}

    def begin(self, vm):
        """The guest is up."""

    def before(self, vm):
        """An upgrade comes."""

    def after(self, vm, moved):
        """It has ended; `moved` is False after a rollback and after a refusal."""

    def finish(self, vm):
        """The VM is about to be stopped."""


class Blocked(Row):
    """Something that must be refused, by name, before the guest is paused."""

    blocker = ""  # the class

    def refused_by(self, source, target):
        return self.blocker


@dataclass
class Rig:
    """What a group's VM is built in."""

    folder: pathlib.Path  # for files and sockets; short, and not the VM's own
    stack: contextlib.ExitStack
    base: str
    net: NetRig | None = None
    vm: Guest | None = None


def load_rows(folder):
    """All rows of the files in `folder`, in order."""
    rows = []
    for path in sorted(pathlib.Path(folder).glob("*.py")):
        spec = importlib.util.spec_from_file_location(f"rows_{path.stem}", path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        mine = [
            value
            for value in vars(module).values()
            if inspect.isclass(value) and issubclass(value, Row) and value.__module__ == module.__name__ and value.thing
        ]
        for cls in mine:
            cls.area = path.stem
            if not cls.means and not issubclass(cls, Blocked):
                raise ValueError(f"{path}: {cls.__name__} does not say what survival means")
            if not cls.group:
                cls.group = f"{path.stem}-{'blocked' if issubclass(cls, Blocked) else cls.guest}"
        rows += [cls() for cls in mine]
    things = [row.thing for row in rows]
    for thing in things:
        if things.count(thing) > 1:
            raise ValueError(f"two rows are called {thing!r}")
    return rows


# Patient: the tests that use it ask what survives, on machines of any speed.
PATIENT_DAEMON = '[deadlines]\npause_budget = "10s"\ndrain = "8s"\nverify = "100ms"\n[leases]\nfrozen = "15s"\n'


@contextlib.contextmanager
def patient_daemon():
    """A qhupd that has a release for each move between the bases, see release_of()."""
    with contextlib.ExitStack() as stack:
        releases = {}
        for base in ("7.2", "10.0"):
            releases[f"qemu-{base}"] = find_qemu(base)
            releases[f"twin-{base}"] = stack.enter_context(twin_of(find_qemu(base), roots_folder()))
        yield stack.enter_context(Daemon(releases, sections=PATIENT_DAEMON))


def release_of(source, target):
    """The release of patient_daemon() that takes a VM from base to base; its build is never the VM's own."""
    return f"qemu-{target}" if source != target else f"twin-{target}"


def start_group(rows, base, stack):
    """Starts the VM of a group on `base`; it ends with `stack`."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix=f"qr-{os.getpid()}-", dir=folder_of_tests()))
    rig = Rig(folder=folder, stack=stack, base=base)
    stack.callback(shutil.rmtree, rig.folder, ignore_errors=True)
    options = {}
    if any(row.net for row in rows):
        rig.net = options["net"] = stack.enter_context(NetRig())
    extra = []
    for row in rows:
        row.setup(rig)
        for name, value in row.options(rig).items():
            if options.setdefault(name, value) != value:
                raise ValueError(f"{type(row).__name__}: the rows of {row.group} disagree about {name}")
        extra += [str(word) for word in row.arguments(rig)]
    options["extra"] = [*options.get("extra", []), *extra]
    kinds = {row.guest for row in rows}
    if len(kinds) != 1:
        raise ValueError(f"rows of {rows[0].group} want {' and '.join(sorted(kinds))}")
    kind = {"firmware": FirmwareGuest, "linux": Guest, "silent": SilentGuest}[kinds.pop()]
    options.setdefault("name", f"{rows[0].group}-{base}")
    vm = rig.vm = stack.enter_context(kind(find_qemu(base), **options))
    vm.base = base
    vm.rig = rig
    vm.wait_ready()
    for row in rows:
        row.begin(vm)
    return vm


def types_in(vm):
    """The types of all objects that make up the VM."""
    return set(re.findall(r"\(([^()]+)\)$", vm.qmp.hmp("info qom-tree /").replace("\r", ""), re.M))


class Chain:
    """Takes a group's VM through the steps; `results` has a text for each (thing, title of step).

    `types` are those of devices and objects that were in the VM when it moved.
    """

    # The last moment at which the source can go on.
    ROLLBACK = ("target.word.before", "kill")

    def __init__(self, rows, daemon):
        self.rows = rows
        self.daemon = daemon
        self.results = {}
        self.types = set()
        self.errors = []
        self.vm = None
        self._stack = contextlib.ExitStack()

    def run(self):
        with contextlib.ExitStack() as everything:
            everything.callback(self._end_vm)
            for number, step in enumerate(STEPS):
                if self.vm is None or self.vm.base != step.source:
                    if self.vm is not None:
                        self._finish(STEPS[number - 1])
                    self._end_vm()
                    self.vm = start_group(self.rows, step.source, self._stack)
                self._step(step)
            self._finish(STEPS[-1])

    def _finish(self, step):
        for row in self.rows:
            self._guard(row, step, lambda row=row: row.finish(self.vm))

    def _end_vm(self):
        self._stack.close()
        self._stack = contextlib.ExitStack()
        self.vm = None

    def _guard(self, row, step, call):
        try:
            call()
            return True
        except Exception as error:  # noqa: BLE001 - one row must not hide the others
            self.results[(row.thing, step.title)] = "FAILED"
            where = traceback.format_exc(limit=-3)
            self.errors.append(f"{row.thing}, {step.title}: {type(error).__name__}: {error}\n{where}")
            return False

    def _step(self, step):
        vm, rows = self.vm, self.rows
        refused = {row: row.refused_by(step.source, step.target) for row in rows}
        wanted = {row: name for row, name in refused.items() if name}
        for row in rows:
            self._guard(row, step, lambda row=row: row.before(vm))
        pid = vm.pid()
        vm.qmp.drain_events()
        if not step.moves and not wanted:
            vm.qmp.execute("x-hot-upgrade-fault", point=self.ROLLBACK[0], action=self.ROLLBACK[1])
        release = release_of(step.source, step.target)
        run = self.daemon.ctl("--json", "upgrade", "--yes", vm.name, "--to", release, check=False)
        if wanted:
            self._must_be_refused(step, run, pid, wanted)
        elif step.moves:
            self._must_have(step, run, 0, "upgraded")
            vm.base = step.target
            self.types |= types_in(vm)
        else:
            vm.qmp.execute("x-hot-upgrade-fault", point=self.ROLLBACK[0], action="none")
            self._must_have(step, run, 4, "rolled_back")
            if vm.pid() != pid:
                raise AssertionError("rolled back, but another process answers")
        assert_runs_on_one(vm)
        for row in rows:
            if self._guard(row, step, lambda row=row: row.after(vm, step.moves and not wanted)):
                good = f"blocked: `{wanted[row]}`" if row in wanted else "refused with others" if wanted else "pass"
                # a bad word about a row stays
                self.results.setdefault((row.thing, step.title), good)
        vm.check()

    def _must_have(self, step, done, status, outcome):
        outcomes = [vm["outcome"] for vm in json.loads(done.stdout)["vms"]] if done.stdout else []
        if done.returncode != status or outcomes != [outcome]:
            raise AssertionError(
                f"{self.rows[0].group}, {step.title}: exit status {done.returncode}, not {status}: "
                f"{done.stdout}{done.stderr}{self.vm.qmp.execute('query-hot-upgrade').get('last-error', '')}"
            )

    def _must_be_refused(self, step, done, pid, wanted):
        if done.returncode != 6:
            raise AssertionError(
                f"{self.rows[0].group}, {step.title}: exit status {done.returncode}, not 6: {done.stdout}{done.stderr}"
            )
        vm = json.loads(done.stdout)["vms"][0]
        blockers = vm["blockers"]
        if vm["code"] in ("shape_differs", "spawn_failed"):
            # found when the standby was, or was to be, built: no blocker, but as harmless
            blockers = [{"class": vm["code"].replace("_", "-"), "id": "", "reason": vm["peer_text"]}]
        for row, name in wanted.items():
            found = [b for b in blockers if b["class"] == name and b["id"].startswith(row.id)]
            if not found or not found[0]["reason"]:
                self.errors.append(f"{row.thing}, {step.title}: no blocker of class {name} in {blockers}")
                self.results[(row.thing, step.title)] = "FAILED"
        if self.vm.pid() != pid:
            raise AssertionError("refused, but another process answers")
        stops = [e for e in self.vm.qmp.drain_events() if e["event"] == "STOP"]
        if stops:
            raise AssertionError("refused, but the guest was paused")


def table(rows, results):
    """docs/survival.md: the whole page."""
    lines = [
        "# What survives an upgrade",
        "",
        "Made by `tests/qemu/survival_test.py --write` from what it ran; the test fails when this page says something else. Each row is",
        "a test with real parts in `tests/qemu/rows/`, run through qhupd. *pass*: shown to survive. *blocked*: refused by name before the",
        "guest is paused; `blockers.md` says what to do. A rollback is one at the last moment at which the source can go on.",
        "The guests are emulated; the last column says of each row whether it was also verified with Linux guests on KVM hardware.",
        "",
    ]
    area = None
    for row in rows:
        if row.area != area:
            area = row.area
            lines += ["", f"## {area}", ""] if lines[-1] else [f"## {area}", ""]
            lines += [f"| thing | what survives | {' | '.join(c.title for c in COLUMNS)} | KVM hardware |", "|---|---|" + "---|" * (len(COLUMNS) + 1)]
        cells = [results.get((row.thing, column.title), "not run") for column in COLUMNS]
        mark = "verified" if row.kvm_hardware else "not verified"
        lines.append(f"| {row.thing} | {row.means or '–'} | {' | '.join(cells)} | {mark} |")
    return "\n".join(lines) + "\n"


__all__ = ["COLUMNS", "STEPS", "Blocked", "Chain", "Rig", "Row", "Step", "load_rows", "patient_daemon", "release_of"]
__all__ += ["start_group", "table", "types_in"]
