#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Each kind of answer and event that a daemon has is judged by docs/openapi.yaml once: runs in stages, reverts, recovery, VMs that
need an operator, also when they are gone, and every type of event, so that a new one fails here until it is seen.
"""

import signal
import time
import unittest

from api import EventReader, Judged, judge_all, the_contract
from fake_host import FakeHost

HOUR = 3600 * 1000


class KindsTest(unittest.TestCase):
    def setUp(self):
        self.host = FakeHost(3, sections='[[policy]]\nvms = ["vm1"]\nprobe = ["/bin/false"]\n')
        self.host.__enter__()
        self.addCleanup(self.host.__exit__)
        self.daemon = self.host.daemon
        self.api = Judged(self.daemon.socket, self)
        self.types = set()

    def follow(self, query="?after=0", headers=None):
        reader = EventReader(self.daemon.socket, query, headers)
        self.addCleanup(reader.connection.close)
        reader.types = self.types
        return reader

    def run_to_its_end(self, request):
        run = self.api("POST", "/v1/runs", request, status=202).json()["id"]
        self.api("GET", f"/v1/runs/{run}/events")
        return self.api("GET", f"/v1/runs/{run}").json()

    def wait_until(self, condition, what):
        deadline = time.monotonic() + 20
        while not condition():
            self.assertLess(time.monotonic(), deadline, what)
            time.sleep(0.02)

    def test_each_kind_is_as_the_contract_says(self):
        events = self.follow()
        self.judge_stages(events)
        self.judge_going_back()
        self.judge_logs(events)
        self.judge_attention(events)
        self.judge_gone(events)
        self.judge_missed()
        listed = {run["kind"] for run in judge_all(self.daemon.socket)["runs"]}
        schemas = the_contract().document["components"]["schemas"]
        self.assertEqual(listed | {"rehearsal"}, set(schemas["RunHead"]["properties"]["kind"]["enum"]))
        every = set(schemas["EventType"]["enum"])  # contract_test.py: those of the code
        self.assertEqual(every - self.types, set(), "types of events that were never seen")

    def judge_stages(self, events):
        """A run in stages is soaking when its daemon is killed; it goes on, and is aborted."""
        request = {"vms": ["vm0", "vm2"], "to": "new", "canaries": 1, "batch": 1, "soak_ms": HOUR}
        run = self.api("POST", "/v1/runs", request, status=202).json()["id"]
        stage = events.next("run_stage", lambda event: event["stage"]["state"] == "soaking")["stage"]
        self.assertEqual((stage["name"], stage["number"], stage["of"]), ("canaries", 1, 2))
        for path in (f"/v1/runs/{run}", "/v1/runs"):
            answer = self.api("GET", path).json()
            self.assertEqual(answer.get("runs", [answer])[0]["stage"], stage)
        self.daemon.kill()
        self.daemon.start()
        again = self.follow("", {"Last-Event-ID": str(events.ids[-1])})
        self.assertEqual(again.next("run_resumed")["run"], run)
        self.api("POST", f"/v1/runs/{run}/abort", status=202)
        self.assertEqual(again.next("run_stopping")["run_summary"]["stopped_by"], "abort")
        self.assertEqual(again.next("run_finished")["run_summary"]["outcomes"], {"upgraded": 1, "refused": 1})
        ended = self.api("GET", f"/v1/runs/{run}").json()
        self.assertEqual((ended["stopped_by"], {vm["stage"] for vm in ended["vms"]}), ("abort", {1, 2}))
        lines = self.api("GET", f"/v1/runs/{run}/events").text
        self.assertIn('"stage"', lines)

    def judge_going_back(self):
        for kind in ("revert", "way_back"):
            run = self.run_to_its_end({"vms": ["vm0"], "kind": kind})
            self.assertEqual((run["kind"], run["state"], run["request"]["kind"]), (kind, "finished", kind))

    def judge_logs(self, events):
        """A bad configuration is a warning, or worse, in the log, and so an event."""
        config = self.daemon.config.read_text()
        self.daemon.config.write_text(config + "nothing = 1\n")
        log = self.follow("?type=log")
        self.daemon.process.send_signal(signal.SIGHUP)
        self.assertIn("nothing", log.next("log")["message"])
        self.daemon.config.write_text(config)

    def judge_attention(self, events):
        """The probe fails, so somebody must look; a new start looks, too, which is a recovery."""
        ended = self.run_to_its_end({"vms": ["vm1"], "to": "new"})["vms"][0]
        self.assertEqual((ended["outcome"], ended["code"]), ("needs_operator", "probe_failed"))
        following = self.follow()
        self.daemon.stop()
        following.next("daemon_stopping")
        self.daemon.start()
        recovery = lambda: [run for run in self.api("GET", "/v1/runs").json()["runs"] if run["kind"] == "recovery"]
        self.wait_until(lambda: any(run["state"] == "finished" for run in recovery()), "nothing is recovered")
        self.assertIsNone(recovery()[0]["request"])
        self.assertEqual(self.api("GET", "/v1/vms/vm1").json()["attention"]["code"], "probe_failed")
        self.assertEqual([vm["attention"] is None for vm in self.api("GET", "/v1/vms").json()["vms"]], [True, False, True])

    def judge_gone(self, events):
        """The VM that needs an operator ends."""
        following = self.follow("?type=vm_gone&type=vm_changed")
        self.host.end_vm("vm1")
        self.assertEqual(following.next("vm_gone")["vm"], "vm1")
        answer = self.api("GET", "/v1/vms").json()
        self.assertEqual([vm["name"] for vm in answer["vms"]], ["vm0", "vm2"])
        self.assertEqual([(one["vm"], one["code"]) for one in answer["gone"]], [("vm1", "probe_failed")])
        self.run_to_its_end({"vms": ["vm2"], "to": "new"})
        self.follow().next("vm_changed")
        self.api("PUT", "/v1/vms/vm0/hold", {"reason": "a test", "until_unix_ms": 4102444800000})
        self.assertIsNotNone(self.api("GET", "/v1/vms/vm0").json()["hold"])
        self.api("DELETE", "/v1/vms/vm0/hold")
        self.follow().next("hold_removed")

    def judge_missed(self):
        self.assertEqual(self.follow("?after=9007199254740991").next("missed")["missed"]["reason"], "unknown")
        self.assertEqual(self.follow("?after=1").next("missed")["missed"]["reason"], "restart")


if __name__ == "__main__":
    unittest.main(verbosity=2)
