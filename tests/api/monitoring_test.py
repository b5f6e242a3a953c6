#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""The metrics of a running daemon are those that docs/metrics.md, the alert rules and the dashboard speak of, and say what
happened."""

import json
import pathlib
import re
import signal
import subprocess
import unittest

import yaml

from api import ask
from fake_host import FakeHost
from pair import wait_for

DOCS = pathlib.Path(__file__).resolve().parents[2] / "docs"
MONITORING = DOCS / "monitoring"


def names_in(text):
    """Metrics of ours in an expression; a histogram's series count as the histogram."""
    return {re.sub(r"_(bucket|sum|count)$", "", name) for name in re.findall(r"\bqhup_\w+", text)}


def samples(text):
    """{(name, labels): value} of Prometheus's text format."""
    found = {}
    for line in text.splitlines():
        match = re.fullmatch(r"(\w+)(?:\{(.*)\})? (\S+)", line)
        if match:
            labels = frozenset(re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', match.group(2) or ""))
            found[match.group(1), labels] = float(match.group(3))
    return found


class MonitoringTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        blocked = {"vm": {"blockers": [{"class": "device", "id": "device/odd", "reason": "it is odd"}]}}
        with FakeHost(3, scripts={2: blocked}) as host:
            cls.before = ask(host.daemon.socket, "GET", "/metrics").text
            ask(host.daemon.socket, "GET", "/v1/vms")
            cls.idle = ask(host.daemon.socket, "GET", "/metrics").text
            run = ask(host.daemon.socket, "POST", "/v1/runs", {"all": True, "to": "new"}).json()["id"]
            ask(host.daemon.socket, "GET", f"/v1/runs/{run}/events")
            cls.finished = ask(host.daemon.socket, "GET", f"/v1/runs/{run}").json()
            ask(host.daemon.socket, "GET", "/v1/vms")
            cls.text = ask(host.daemon.socket, "GET", "/metrics").text
        cls.measure_trouble()
        cls.families = dict(re.findall(r"# TYPE (\w+) (\w+)", cls.text + cls.troubled))

    @classmethod
    def measure_trouble(cls):
        """Upgrades that are rolled back or end with an answer that QEMU should not give, twice, and a VM that falls silent."""
        failing = {"vm": {"reactions": {"hot-upgrade-switch": {"error_code": "load-failed"}}}}
        wrong = {"vm": {"reactions": {"hot-upgrade-prepare": {"error_code": "of-tomorrow"}}}}
        with FakeHost(3, scripts={0: failing, 1: wrong}) as host:
            cls.calm = ask(host.daemon.socket, "GET", "/metrics").text
            cls.trouble = []
            for _ in range(2):
                run = ask(host.daemon.socket, "POST", "/v1/runs", {"vms": ["vm0", "vm1"], "to": "new", "max_failures": 9}).json()["id"]
                ask(host.daemon.socket, "GET", f"/v1/runs/{run}/events")
                cls.trouble.append(ask(host.daemon.socket, "GET", f"/v1/runs/{run}").json())
            silent, = (process for process in host.served if host.served[process] == "vm2")
            silent.send_signal(signal.SIGSTOP)
            listed = lambda: {vm["name"]: vm["reachable"] for vm in ask(host.daemon.socket, "GET", "/v1/vms").json()["vms"]}
            wait_for(lambda: listed() == {"vm0": True, "vm1": True, "vm2": False}, 20, listed)
            cls.troubled = ask(host.daemon.socket, "GET", "/metrics").text
            silent.send_signal(signal.SIGCONT)

    def test_the_page_has_every_metric_and_no_other(self):
        rows = set(re.findall(r"^\| `(qhup_\w+)` \|", (DOCS / "metrics.md").read_text(), re.M))
        self.assertEqual(rows, set(self.families))

    def test_rules_and_dashboard_use_metrics_that_there_are(self):
        rows = set(re.findall(r"^\| `(qhup_\w+)` \|", (DOCS / "metrics.md").read_text(), re.M))
        rules = yaml.safe_load((MONITORING / "alerts.yml").read_text())["groups"][0]["rules"]
        for rule in rules:
            with self.subTest(alert=rule["alert"]):
                self.assertTrue(names_in(rule["expr"]) or rule["alert"] == "QhupDown")
                self.assertLessEqual(names_in(rule["expr"]), rows)
        dashboard = json.loads((MONITORING / "dashboard.json").read_text())
        shown = set()
        for panel in dashboard["panels"]:
            for target in panel["targets"]:
                shown |= names_in(target["expr"])
        self.assertEqual(shown, rows, "the dashboard shows every metric, and no other")
        ids = [panel["id"] for panel in dashboard["panels"]]
        self.assertEqual(len(ids), len(set(ids)))

    def test_every_rule_has_a_test(self):
        rules = yaml.safe_load((MONITORING / "alerts.yml").read_text())["groups"][0]["rules"]
        tests = yaml.safe_load((MONITORING / "alerts_test.yml").read_text())["tests"]
        fired = {case["alertname"] for test in tests for case in test["alert_rule_test"] if case.get("exp_alerts")}
        self.assertEqual({rule["alert"] for rule in rules}, fired)

    def test_rules_fire_as_their_tests_say(self):
        fetch = DOCS.parent / "scripts" / "fetch-promtool"
        promtool = subprocess.run([fetch], check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
        done = subprocess.run([promtool, "test", "rules", "alerts_test.yml"], cwd=MONITORING, capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)

    def test_they_say_what_happened(self):
        now = samples(self.text)
        idle = samples(self.idle)
        outcomes = [vm["outcome"] for vm in self.finished["vms"]]
        self.assertEqual(sorted(outcomes), ["refused", "upgraded", "upgraded"], self.finished)
        for outcome, count in (("upgraded", 2), ("refused", 1)):
            key = ("qhup_upgrades_total", frozenset({("outcome", outcome)}))
            self.assertEqual((idle[key], now[key]), (0, count))
        pauses = [vm["pause_ms"] / 1000 for vm in self.finished["vms"] if vm["pause_ms"] is not None]
        self.assertEqual(now["qhup_pause_seconds_count", frozenset()], len(pauses))
        self.assertAlmostEqual(now["qhup_pause_seconds_sum", frozenset()], sum(pauses), places=4)
        entered = sum(step["phase"] == "prepare" for vm in self.finished["vms"] for step in vm["steps"])
        self.assertEqual(now["qhup_phase_seconds_count", frozenset({("phase", "prepare")})], entered)
        vms = {labels: count for (name, labels), count in now.items() if name == "qhup_vms"}
        self.assertEqual(sum(vms.values()), 3)
        on_new = sum(count for labels, count in vms.items() if ("release", "new") in labels)
        self.assertEqual(on_new, 2)
        self.assertEqual((idle["qhup_vms_outdated", frozenset()], now["qhup_vms_outdated", frozenset()]), (3, 1))
        self.assertEqual(now["qhup_runs_in_progress", frozenset()], 0)
        self.assertGreater(now["qhup_api_requests_total", frozenset({("status", "200")})], 2)

    def test_rollbacks_and_errors_of_qemu_rise_by_their_reasons(self):
        codes = [[(vm["outcome"], vm["code"]) for vm in run["vms"]] for run in self.trouble]
        self.assertEqual(codes, 2 * [[("rolled_back", "load_failed"), ("refused", "unknown_qemu_code")]])
        calm, now = samples(self.calm), samples(self.troubled)
        for name, label, before, after in (
            ("qhup_rollbacks_total", ("reason", "load_failed"), None, 2),
            ("qhup_upgrades_total", ("outcome", "rolled_back"), 0, 2),
            ("qhup_qmp_errors_total", ("code", "unknown_qemu_code"), None, 2),
            ("qhup_qmp_errors_total", ("code", "probe_failed"), 0, 1),
        ):
            with self.subTest(name=name, label=label):
                key = (name, frozenset({label}))
                self.assertEqual((calm.get(key), now[key]), (before, after))
        reasons = {labels for name, labels in now if name == "qhup_rollbacks_total"}
        self.assertEqual(reasons, {frozenset({("reason", "load_failed")})})


if __name__ == "__main__":
    unittest.main(verbosity=2)
