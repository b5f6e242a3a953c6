# SPDX-License-Identifier: GPL-2.0-or-later
"""When each process of a VM ran the guest, from QEMU's own trace of its run state: no two may have run it at once.

    log = RunLog(folder)
    vm = FirmwareGuest(binary, extra=log.arguments())
    ...upgrades; for each process that was killed: log.ended(pid)...
    log.check()                               # raises AssertionError if two processes ran the guest at the same time

Each process writes a file of its own. "running" is noted before the first vCPU runs, its end after the last one has
stopped, so an interval is never shorter than what it stands for. The clock is the host's wall clock.
"""

import pathlib
import re
import time
from dataclasses import dataclass

_CHANGE = re.compile(r"\d+@(\d+)\.(\d+):runstate_set current_run_state \d+ \(([\w-]+)\) new_state \d+ \(([\w-]+)\)")


STILL = 1 << 62


@dataclass(frozen=True)
class Interval:
    """In µs; `end` is STILL while the process runs the guest."""

    begin: int
    end: int
    pid: int


def read_intervals(text, pid, last=STILL):
    """The intervals that the trace of process `pid` tells of; one that it tells no end of ended at `last`."""
    intervals, begin = [], None
    for seconds, micros, old, new in _CHANGE.findall(text):
        at = int(seconds) * 1_000_000 + int(micros)
        if new == "running" and begin is None:
            begin = at
        elif old == "running" and new != "running" and begin is not None:
            intervals.append(Interval(begin, at, pid))
            begin = None
    if begin is not None:
        intervals.append(Interval(begin, max(begin, last), pid))
    return intervals


def find_overlap(intervals):
    """Two intervals of which the later one begins before the earlier one has ended, or None."""
    last = None
    for interval in sorted(intervals, key=lambda interval: interval.begin):
        if last is not None and interval.begin < last.end:
            return last, interval
        last = interval
    return None


def is_alive(pid):
    """Not ended, and no zombie."""
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def longest_pause(intervals, since=0):
    """The longest time in µs in which nobody ran the guest, between two intervals; of those that ended after `since`."""
    ordered = sorted(intervals, key=lambda interval: interval.begin)
    pauses = [after.begin - before.end for before, after in zip(ordered, ordered[1:]) if after.begin > since]
    return max(pauses, default=0)


class RunLog:
    """The traces of one VM's processes, in a folder that outlives them."""

    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
        self.deaths = {}

    def arguments(self):
        """For QEMU's command line; %d is the process's own pid."""
        return ["-D", f"{self.folder}/run-%d.log", "-trace", "runstate_set", "-msg", "timestamp=on"]

    def ended(self, pid):
        """Say this right before the process gets SIGKILL."""
        self.deaths.setdefault(pid, time.time_ns() // 1000)

    def intervals(self):
        """All, in order. Of a process that died without a word and of which ended() was not called nobody knows how long
        it ran the guest: as if it had ended when it began."""
        found = []
        for path in self.folder.glob("run-*.log"):
            pid = int(path.stem.partition("-")[2])
            last = STILL if is_alive(pid) else self.deaths.get(pid, 0)
            found += read_intervals(path.read_text(errors="replace"), pid, last)
        return sorted(found, key=lambda interval: interval.begin)

    def check(self):
        """Raises AssertionError if two processes ran the guest at once. Returns the intervals."""
        intervals = self.intervals()
        overlap = find_overlap(intervals)
        if overlap:
            raise AssertionError(f"two processes ran the guest at once, in µs: {overlap[0]} and {overlap[1]}")
        return intervals

    def forget(self, pids):
        """Removes the traces of processes that are gone."""
        for pid in pids:
            (self.folder / f"run-{pid}.log").unlink(missing_ok=True)
            self.deaths.pop(pid, None)
