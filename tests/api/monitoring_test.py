#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""The metrics of a running daemon are those that docs/metrics.md, the alert rules and the dashboard speak of, and say what
happened."""

import json
import pathlib
import re
import subprocess
import unittest

import yaml

from api import ask
from fake_host import FakeHost

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
        cls.families = dict(re.findall(r"# TYPE (\w+) (\w+)", cls.text))

    def test_the_page_has_every_metric_and_no_other(self):
        rows = set(re.findall(r"^\| `(qhup_\w+)` \|", (DOCS / "metrics.md").read_text(), re.M))
        told = {name for name in self.families if name != "qhup_rollbacks_total"}
        self.assertEqual(rows - {"qhup_rollbacks_total"}, told)

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


if __name__ == "__main__":
    unittest.main(verbosity=2)
