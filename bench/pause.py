#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Measures upgrades of one real guest from QEMU 7.2 to 10.0 through qhupd: pause, network gap, total, and where the pause goes.

    bench/pause.py [--runs 20] [--mode idle|load] [--vcpus 1] [--memory-mib 512] [--json FILE]

The guest goes forth (measured) and back (not measured) `--runs` times under a 1 ms UDP prober. A first forth and back
warms caches and is not counted. Read bench/README.md before you compare figures of two machines.
"""

import argparse
import json
import pathlib
import statistics
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests" / "support"))

import processes  # noqa: E402
from daemon import Daemon  # noqa: E402
from guest import Guest, find_qemu  # noqa: E402
from netrig import NetRig  # noqa: E402
from prober import Prober  # noqa: E402


def one_upgrade(daemon, net, vm, release):
    """One upgrade under the prober: the run's figures and what the network saw, in ms."""
    with Prober(net, vm.tap.guest_ip, window=0) as prober:
        time.sleep(0.5)
        run = daemon.json("upgrade", vm.name, "--to", release, "--yes")
        time.sleep(0.7)
        network = prober.finish()
    upgrade = run["vms"][0]
    figures = {"pause": upgrade["pause_ms"], "total": upgrade["total_ms"]}
    figures["gap"] = network["longest_gap"]["ms"]
    figures["lost"] = network["lost"]
    figures["parts"] = {name: ns / 1e6 for name, ns in upgrade["timings_ns"].items()}
    return figures


def row(name, values):
    return f"{name:<16}{statistics.median(values):>10.2f}{max(values):>10.2f}{min(values):>10.2f}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--mode", choices=("idle", "load"), default="idle")
    parser.add_argument("--vcpus", type=int, default=1)
    parser.add_argument("--memory-mib", type=int, default=512)
    parser.add_argument("--json", type=pathlib.Path)
    arguments = parser.parse_args()

    processes.exit_on_signals()
    old, new = find_qemu("7.2"), find_qemu("10.0")
    with NetRig() as net, Guest(
        old, net=net, mode=arguments.mode, vcpus=arguments.vcpus, memory_mib=arguments.memory_mib
    ) as vm, Daemon(releases={"old": old, "new": new}) as daemon:
        vm.wait_ready()
        time.sleep(3)
        results = []
        for number in range(arguments.runs + 1):
            figures = one_upgrade(daemon, net, vm, "new")
            if number:
                results.append(figures)
            one_upgrade(daemon, net, vm, "old")
        vm.check()

    print(f"7.2 to 10.0, {len(results)} upgrades, guest {arguments.mode}, all in ms")
    print(f"{'':<16}{'median':>10}{'worst':>10}{'best':>10}")
    for name in ("pause", "gap", "total"):
        print(row(name, [result[name] for result in results]))
    for part in ("prepare", "flush", "stop", "drain", "save", "load", "activate", "start", "verify", "commit"):
        values = [result["parts"][part] for result in results if part in result["parts"]]
        if values:
            print(row(f"  {part}", values))
    print(f"packets lost: {sum(result['lost'] for result in results)}")
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
