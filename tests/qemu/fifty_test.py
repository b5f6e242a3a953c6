#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""The same VM upgraded 50 times in a row, through qhupd and between both QEMUs: nothing grows, and nothing gets lost."""

import os
import pathlib
import time
import unittest
from collections import Counter

from case import find_qemu, keep, main, note_figures
from daemon import Daemon
from firmware import FirmwareGuest
from pair import assert_runs_on_one, open_files, wait_for

TIMES = int(os.environ.get("QHUP_TIMES", "50"))
DAEMON = '[deadlines]\npause_budget = "10s"\ndrain = "8s"\nverify = "100ms"\n[leases]\nfrozen = "15s"\n'
SLACK_MIB = 4  # of private memory: what the allocator keeps differs from start to start


def memory_of(pid):
    """Private memory of a process, in MiB: all but the guest's RAM and what programs share."""
    for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) / 1024
    raise AssertionError(f"process {pid} has no RssAnon")


def kinds_of_files(pid):
    """How many descriptors of each kind; numbers of sockets and pipes say nothing, paths of sockets do. The control socket
    stays five seconds; the test waits for its end."""
    paths = {}
    for line in pathlib.Path("/proc/net/unix").read_text().splitlines()[1:]:
        words = line.split()
        paths[f"socket:[{words[6]}]"] = f"socket {pathlib.Path(words[7]).name if len(words) > 7 else ''}"

    def kind(name):
        return paths.get(name, "socket") if name.startswith("socket:") else "pipe" if name.startswith("pipe:") else name

    kinds = Counter(kind(name) for name in open_files(pid))
    return Counter({name: count for name, count in kinds.items() if not name.endswith(("-source", "-target"))})


class Fifty(unittest.TestCase):
    longMessage = True

    def look(self, vm):
        """What must not grow. Threads come and go with disk requests: wait until no worker is left."""
        pid = assert_runs_on_one(vm)
        words = pathlib.Path(f"/proc/{pid}/cmdline").read_text().split("\0")
        threads = Counter(
            pathlib.Path(f"/proc/{pid}/task/{tid}/comm").read_text().strip() for tid in os.listdir(f"/proc/{pid}/task")
        )
        workers = [name for name in threads if name == "worker"]
        return {
            "files": kinds_of_files(pid),
            # that of RCU gets its name only if it begins after the command line was read
            "threads": Counter(
                "main" if name in ("call_rcu", "qemu-system-x86") else name for name in threads.elements() if name not in workers
            ),
            "argv": len(vm.qmp.execute("query-hot-upgrade")["argv"]),
            "command line": len(words),
            "environment": pathlib.Path(f"/proc/{pid}/environ").read_bytes(),
            "group": os.getpgid(pid),
            "session": os.getsid(pid),
            "name": pathlib.Path(f"/proc/{pid}/comm").read_text(),
            "seccomp": [
                line
                for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines()
                if line.startswith(("Seccomp", "Cap", "NoNewPrivs", "Uid"))
            ],
        }

    def look_at_rest(self, vm):
        """The daemon asks the VM now and then, which takes a connection: what it is like when nobody does."""
        looks = []
        for _ in range(20):
            time.sleep(0.1)
            looks.append(self.look(vm))
        return min(looks, key=lambda look: sum(look["files"].values()))

    def test_process_after_50_upgrades_is_as_after_the_first_ones(self):
        daemon = keep(Daemon({f"qemu-{base}": find_qemu(base) for base in ("7.2", "10.0")}, sections=DAEMON))
        options = ["-sandbox", "on", "-name", "fifty,debug-threads=on"]
        vm = keep(FirmwareGuest(find_qemu("7.2"), name="fifty", pidfile=True, extra=options))
        vm.wait_ready()
        first, memory, pauses = {}, {}, []
        for number in range(1, TIMES + 1):
            base = "10.0" if number % 2 else "7.2"
            said = daemon.json("upgrade", "--yes", vm.name, "--to", f"qemu-{base}")["vms"][0]
            self.assertEqual(said["outcome"], "upgraded")
            pauses.append(said["pause_ms"])
            if base not in first:
                first[base] = self.look_at_rest(vm)
            now = self.look(vm)
            deadline = time.monotonic() + 5
            while now != first[base] and time.monotonic() < deadline:
                time.sleep(0.05)  # a thread that has just been made still has its maker's name
                now = self.look(vm)
            memory.setdefault(base, []).append(memory_of(vm.pid()))
            for name, value in first[base].items():
                self.assertEqual(now[name], value, f"{name}, upgrade {number}: {now[name]}, before {value}")
            self.assertEqual(vm.pidfile_path.read_text(), f"{vm.pid()}\n")
            vm.serial.check()
        for base, sizes in memory.items():
            self.assertLess(sizes[-1], sizes[0] + SLACK_MIB, f"{base}: {sizes}")
        vm.check()
        wait_for(lambda: not any((daemon.folder / "control").glob("*/*")), 30, "no control socket is left")
        half = len(pauses) // 2
        note_figures(
            "fifty",
            {
                "MiB after the first": round(memory["7.2"][0]),
                "MiB after the last": round(memory["7.2"][-1]),
                "median pause of the first half, ms": round(sorted(pauses[:half])[half // 2], 1),
                "of the second": round(sorted(pauses[half:])[half // 2], 1),
            },
        )


if __name__ == "__main__":
    main()
