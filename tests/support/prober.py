# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs udp-prober (udp_prober.cpp) in a NetRig's namespace.

    with Prober(net, tap.guest_ip) as prober:      # a packet every millisecond from now on
        ...upgrade...
        result = prober.finish()
    assert result["lost"] == 0 and result["longest_gap"]["ms"] < 300

The result: sent, received, lost, duplicated, reordered, corrupted, send_errors, held_back, first_answer_ns,
last_answer_ns, rtt_ms {min, median, p99, max}, max_late_send_ms, longest_gap {ms, start_ns, end_ns}, gaps [...] (those
from gap_ms on), lost_sequences [...] (the first 50). Times are CLOCK_MONOTONIC.

A tap holds 1,000 packets for its guest and drops what follows. A guest that answers slower than we send, on a busy
host, did not lose them to an upgrade: while the newest answer is `window` packets behind, those that are due are held
back and counted. With window=0 they are sent whatever happens.

With `sink` (and port 9) the guest answers nothing and counts: of the result only what was sent means something, and
the guest's word `sink` says what arrived.
"""

import hashlib
import json
import os
import pathlib
import signal
import subprocess

ROOT = pathlib.Path(__file__).resolve().parents[2]
SOURCE = pathlib.Path(__file__).resolve().with_name("udp_prober.cpp")


def cache_folder():
    """The same as of the scripts: $QHUP_CACHE, else ~/.cache/qhup."""
    return pathlib.Path(
        os.environ.get("QHUP_CACHE")
        or pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "qhup"
    )


def find_udp_prober():
    """$QHUP_UDP_PROBER (CMake's), else one compiled now and kept in the cache under a hash of its source."""
    if os.environ.get("QHUP_UDP_PROBER"):
        return pathlib.Path(os.environ["QHUP_UDP_PROBER"])
    digest = hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:16]
    binary = cache_folder() / "support" / f"udp-prober-{digest}"
    if not binary.exists():
        binary.parent.mkdir(parents=True, exist_ok=True)
        part = binary.with_name(f"{binary.name}.{os.getpid()}")
        subprocess.run(["g++", "-std=c++20", "-O2", "-o", part, SOURCE], check=True)
        part.rename(binary)
    return binary


class Prober:
    """One running prober. Enter it as a context; finish() has the figures."""

    def __init__(
        self, net, guest_ip, *, port=7, interval_us=1000, gap_ms=20, drain_ms=10000, size=64, window=500, sink=False
    ):
        self._net = net
        self._command = [find_udp_prober(), "--to", f"{guest_ip}:{port}", "--interval-us", interval_us]
        self._command += ["--gap-ms", gap_ms, "--drain-ms", drain_ms, "--size", size]
        self._command += ["--sink", "yes"] if sink else ["--window", window]
        self._process = None

    def __enter__(self):
        self._process = self._net.popen(self._command, stdout=subprocess.PIPE, text=True)
        return self

    def __exit__(self, *_):
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        self._process.stdout.close()

    def finish(self, timeout=30.0):
        """Stops sending, waits for what is under way, returns the result."""
        self._process.send_signal(signal.SIGTERM)
        output, _ = self._process.communicate(timeout=timeout)
        if self._process.returncode != 0:
            raise RuntimeError(f"udp-prober ended with {self._process.returncode}")
        return json.loads(output)
