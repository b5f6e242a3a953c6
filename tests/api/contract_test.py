#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""docs/openapi.yaml is what qhupd does: every request and every answer of a running daemon is judged by it, neither has a
path that the other lacks, and documents of older daemons and clients are still understood.
"""

import json
import pathlib
import re
import time
import unittest

from api import METHODS, Contract, EventReader, Judged, UnixConnection, ask
from daemon import find_program
from fake_host import FakeHost

ROOT = pathlib.Path(__file__).resolve().parents[2]
DATA = pathlib.Path(__file__).parent / "data"


class ContractTest(unittest.TestCase):
    def setUp(self):
        self.contract = Contract()

    def test_every_call_is_as_the_contract_says(self):
        with FakeHost(3) as host:
            api = Judged(host.daemon.socket, self)
            self.assertEqual(api("GET", "/healthz").text, "ok\n")
            self.assertEqual(api("GET", "/v1/version").json()["api"], 1)
            self.assertEqual(len(api("GET", "/v1/vms").json()["vms"]), 3)
            api("GET", "/v1/vms/vm0")
            api("GET", "/v1/vms/vm0/check?to=new")
            api("GET", "/v1/releases")
            codes = {(row["kind"], row["code"]) for row in api("GET", "/v1/codes").json()["codes"]}
            self.assertLessEqual({("problem", "bad_request"), ("upgrade", "load_failed")}, codes)
            api("PUT", "/v1/vms/vm2/hold", {"reason": "a backup"})
            self.assertEqual(len(api("GET", "/v1/holds").json()["holds"]), 1)
            wanted = {"all": True, "to": "new", "rehearse": "all"}
            run = api("POST", "/v1/runs", wanted, status=202, headers={"Idempotency-Key": "one"}).json()["id"]
            again = api("POST", "/v1/runs", wanted, headers={"Idempotency-Key": "one"}).json()["id"]
            self.assertEqual(again, run)
            other = {"all": True, "to": "new"}
            problem = api("POST", "/v1/runs", other, status=409, headers={"Idempotency-Key": "one"}).json()
            self.assertEqual(problem["code"], "request_id_reused")
            lines = api("GET", f"/v1/runs/{run}/events").text.splitlines()
            self.assertEqual(json.loads(lines[-1])["run"]["state"], "finished")
            outcomes = {vm["vm"]: vm["outcome"] for vm in api("GET", f"/v1/runs/{run}").json()["vms"]}
            self.assertEqual(outcomes, {"vm0": "upgraded", "vm1": "upgraded", "vm2": "skipped"})
            api("DELETE", "/v1/vms/vm2/hold")
            api("POST", f"/v1/runs/{run}/abort")
            self.judge_abort(api)
            dry = api("POST", "/v1/runs", {"vms": ["vm2"], "to": "new", "dry_run": True}, status=202).json()["id"]
            api("GET", f"/v1/runs/{dry}/events")
            self.assertEqual(len(api("GET", "/v1/runs").json()["runs"]), 3)
            upgrades = api("GET", "/v1/upgrades?outcome=upgraded").json()["upgrades"]
            self.assertEqual({upgrade["vm"] for upgrade in upgrades}, {"vm0", "vm1"})
            self.assertEqual(api("GET", f"/v1/upgrades/{upgrades[0]['upgrade']}").json()["run"], run)
            self.assertEqual(len(api("GET", "/v1/rehearsals?limit=1").json()["rehearsals"]), 1)
            self.assertEqual(api("GET", "/v1/rehearsals").json()["rehearsals"][0]["rehearsal"]["result"], "passed")
            self.judge_selftests(host, api)
            self.judge_history(api, run)
            self.assertIn("qhup_build_info{", api("GET", "/metrics").text)
            self.judge_mistakes(api)
            self.judge_events(host, api)
        documented = {
            (operation["operationId"], status)
            for _, _, operation in self.contract.operations() for status in operation["responses"] if status != "default"
        }
        self.assertEqual(documented - api.answered, set(), "an answer of the contract was not seen")
        self.assertEqual({one for one in api.answered - documented if one[1] < "400"}, set(), "a status that is not in the contract")
        refused = {operation for operation, status in api.answered if status >= "400"}
        self.assertEqual({operation for operation, _ in documented} - refused, set(), "no problem of these was seen")

    def judge_selftests(self, host, api):
        """The binaries of this host are no QEMUs, so none passes; tests/qemu/selftest_test.py has one that does."""
        problem = api("POST", "/v1/selftests", {"to": "new"}, status=400).json()
        self.assertIn("--from", problem["next_step"])
        api("POST", "/v1/selftests", {"to": "new", "guests": 51}, status=400, valid=False)
        api("POST", "/v1/selftests", {"from": "new"}, status=400, valid=False)
        self.assertEqual(api("GET", "/v1/selftests").json(), {"selftests": []})
        same = {"to": "new", "from": "new", "guests": 1}
        self.assertIn("the same binary", api("POST", "/v1/selftests", same, status=400).json()["detail"])
        self.assertEqual(api("GET", "/v1/selftests/s0", status=404).json()["code"], "selftest_not_found")
        host.daemon.add_release("odd", find_program("odd-binary"))
        begun = api("POST", "/v1/selftests", {"to": "new", "from": "odd", "guests": 1.0}, status=202).json()
        self.assertEqual((begun["state"], begun["passed"], begun["guests"], begun["finished_unix_ms"]), ("starting", False, 1, 0))
        deadline = time.monotonic() + 30
        while (selftest := api("GET", f"/v1/selftests/{begun['id']}").json())["state"] != "finished":
            self.assertLess(time.monotonic(), deadline, selftest)
            time.sleep(0.05)
        self.assertFalse(selftest["passed"])
        self.assertTrue(selftest["message"] and selftest["finished_unix_ms"])
        self.assertEqual(api("GET", "/v1/selftests").json(), {"selftests": [selftest]})
        asked = api("GET", "/v1/history?action=selftest_requested").json()["history"]
        self.assertEqual([entry["code"] for entry in asked], ["", "bad_request", "bad_request"])

    def judge_abort(self, api):
        """A run that is in work, and then it has ended."""
        long = {"vms": ["vm0", "vm1"], "to": "new", "batch": 1, "soak_ms": 604800000}
        run = api("POST", "/v1/runs", long, status=202).json()["id"]
        self.assertEqual(api("POST", f"/v1/runs/{run}/abort", status=202).json()["stopped_by"], "abort")
        api("GET", f"/v1/runs/{run}/events")
        self.assertEqual(api("POST", f"/v1/runs/{run}/abort").json()["state"], "finished")

    def judge_history(self, api, run):
        entries = api("GET", "/v1/history").json()["history"]
        self.assertEqual([entry["id"] for entry in entries], sorted((e["id"] for e in entries), reverse=True))
        asked = api("GET", f"/v1/history?run={run}&action=run_requested").json()["history"]
        self.assertEqual([entry["by"]["uid"] for entry in asked], [0])
        self.assertEqual(asked[0]["by"]["user"], "root")
        self.assertEqual(asked[0]["message"], "upgrade of all VMs to new")
        refused = [entry for entry in entries if entry["code"] == "request_id_reused"]
        self.assertEqual(len(refused), 1, "what was refused is in the history, too")
        self.assertEqual(len(api("GET", f"/v1/history?run={run}&action=vm_ended").json()["history"]), 3)
        held = api("GET", "/v1/history?vm=vm2&action=hold_set").json()["history"]
        self.assertIn("a backup", held[0]["message"])
        page = api("GET", f"/v1/history?before={entries[0]['id']}&limit=1").json()["history"]
        self.assertEqual(page, entries[1:2])

    def judge_mistakes(self, api):
        """What the contract forbids is refused, and what is refused is a problem with a next step."""
        for status, code, method, target, body, valid in (
            (404, "vm_not_found", "GET", "/v1/vms/nobody", None, True),
            (404, "run_not_found", "GET", "/v1/runs/r0", None, True),
            (404, "run_not_found", "POST", "/v1/runs/r0/abort", None, True),
            (404, "run_not_found", "GET", "/v1/runs/r0/events", None, True),
            (404, "upgrade_not_found", "GET", "/v1/upgrades/r0.0", None, True),
            (404, "hold_not_found", "DELETE", "/v1/vms/vm0/hold", None, True),
            (404, "release_not_found", "POST", "/v1/runs", {"vms": ["vm0"], "to": "nothing"}, True),
            (404, "vm_not_found", "POST", "/v1/runs", {"vms": ["nobody"], "to": "new"}, True),
            (404, "no_such_path", "GET", "/v1/nothing", None, False),
            (404, "no_such_path", "GET", "/v2/vms", None, False),
            (400, "bad_request", "POST", "/v1/runs", {"all": True, "to": "new", "dryrun": True}, False),
            (400, "bad_request", "POST", "/v1/runs", {"to": "new"}, False),
            (400, "bad_request", "POST", "/v1/runs", {"vms": [], "to": "new"}, False),
            (400, "bad_request", "POST", "/v1/runs", {"all": True}, False),
            (400, "bad_request", "POST", "/v1/runs", {"all": True, "vms": ["vm0"], "to": "new"}, False),
            (400, "bad_request", "POST", "/v1/runs", {"all": True, "to": "new", "parallel": 0}, False),
            (400, "bad_request", "POST", "/v1/runs", {"all": True, "to": "new", "parallel": 1025}, False),
            (400, "bad_request", "POST", "/v1/runs", {"all": True, "to": "/usr/bin/true"}, False),
            (400, "bad_request", "POST", "/v1/runs", {"all": True, "to": "new", "pause_budget_ms": 30001}, False),
            (400, "bad_request", "POST", "/v1/runs", {"all": True, "to": "new", "kind": "move"}, False),
            (400, "bad_request", "POST", "/v1/runs", [], False),
            (400, "bad_request", "PUT", "/v1/vms/vm0/hold", {}, False),
            (400, "bad_request", "PUT", "/v1/vms/vm0/hold", {"reason": "x" * 501}, False),
            (400, "bad_request", "GET", "/v1/vms/vm0/check", None, False),
            (400, "bad_request", "GET", "/v1/events?after=soon", None, False),
            (400, "bad_request", "GET", "/v1/events?type=nothing", None, False),
            (400, "bad_request", "GET", "/v1/history?action=nothing", None, False),
            (400, "bad_request", "GET", "/v1/history?who=me", None, False),
            (400, "bad_request", "GET", "/v1/upgrades?limit=0", None, False),
            (400, "bad_request", "GET", "/v1/upgrades?limit=many", None, False),
        ):
            with self.subTest(method=method, target=target, body=body):
                problem = api(method, target, body, status=status, valid=valid).json()
                self.assertEqual(problem["code"], code)
                self.assertEqual(problem["status"], status)
        for method, template, _ in self.contract.operations():
            others = [m for m in METHODS if m not in self.contract.document["paths"][template]]
            target = re.sub(r"\{\w+\}", "x", template) + ("?to=new" if template.endswith("/check") else "")
            for other in others:
                refused = api(other.upper(), target, status=405, valid=False)
                self.assertEqual(refused.json()["code"], "method_not_allowed")
                self.judge_allow(template, refused)
                api.answered.update((operation["operationId"], "405") for operation in self.operations_at(template))
            self.judge_allow(template, ask(api.path, "PATCH", target))

    def operations_at(self, template):
        return [operation for _, path, operation in self.contract.operations() if path == template]

    def judge_allow(self, template, refused):
        """RFC 9110, 15.5.6."""
        allowed = {method.upper() for method, path, _ in self.contract.operations() if path == template}
        self.assertEqual(refused.status, 405)
        self.assertEqual(set(refused.headers["Allow"].split(", ")), allowed | ({"HEAD"} if "GET" in allowed else set()))

    def test_head_is_get_without_its_body(self):
        with FakeHost(1) as host:
            path = host.daemon.socket
            wrong = [("/v1/vms/nobody", 404), ("/v1/nothing", 404), ("/v1/vms?nothing=1", 400), ("/v1/vms/vm0/hold", 405)]
            right = [("/healthz", 200), ("/metrics", 200), ("/v1/version", 200), ("/v1/codes", 200), ("/v1/vms/vm0", 200)]
            for target, status in wrong + right:
                with self.subTest(target=target):
                    get, head = ask(path, "GET", target), ask(path, "HEAD", target)
                    self.assertEqual((get.status, head.status, head.text), (status, status, ""))
                    varying = {"Content-Length"} if target in ("/metrics", "/v1/vms/vm0") else set()  # have ages and times
                    for headers in (get.headers, head.headers):
                        self.assertGreater(int(headers["Content-Length"]), 2)
                        for name in varying:
                            headers.pop(name)
                    self.assertEqual(head.headers, get.headers)
            connection = UnixConnection(path)  # it stays in step
            for method in ("HEAD", "GET", "HEAD", "GET"):
                connection.request(method, "/v1/version")
                response = connection.getresponse()
                self.assertEqual(len(response.read()) > 0, method == "GET")
                self.assertFalse(response.will_close)
            connection.close()
            stream = ask(path, "HEAD", "/v1/events")  # ends at once
            self.assertEqual((stream.status, stream.type, stream.text), (200, "text/event-stream", ""))
            self.assertEqual(ask(path, "HEAD", "/v1/runs/r0/abort").status, 405)
            self.assertEqual(ask(path, "GET", "/v1/runs").json(), {"runs": []})

    def judge_events(self, host, api):
        """Every event of the daemon so far, one by one."""
        with EventReader(host.daemon.socket, "?after=0") as reader:
            reader.next("hold_removed")
        expected = {"hello", "daemon_ready", "vm_found", "hold_set", "run_started", "upgrade_phase", "upgrade_ended"}
        self.assertLessEqual(expected, reader.types)
        api.answered.add(("getEvents", "200"))

    def test_neither_code_nor_contract_has_a_call_that_the_other_lacks(self):
        header = (ROOT / "daemon" / "routes.hpp").read_text()
        listed = re.search(r"using Route = std::variant<(.*?)>;", header, re.S).group(1)
        calls = {name.strip() for name in listed.split(",")} - {"Problem"}
        described = {op["operationId"][0].upper() + op["operationId"][1:] for _, _, op in self.contract.operations()}
        self.assertEqual(calls, described)

    def test_enumerations_are_those_of_the_code(self):
        schemas = self.contract.document["components"]["schemas"]
        for path, enum, schema in (
            ("daemon/api_types_events.cpp", "EventType", "EventType"),
            ("daemon/api_types_history.cpp", "HistoryAction", "HistoryAction"),
        ):
            words = re.findall(rf'case {enum}::\w+: return "(\w+)"', (ROOT / path).read_text())
            self.assertEqual(sorted(words), sorted(schemas[schema]["enum"]))

    def test_an_old_client_reads_a_new_daemon(self):
        """A client of the first API knows these members only, with these meanings: they are all still there."""
        old = json.loads((DATA / "api-1-first.json").read_text())
        with FakeHost(1) as host:
            done = ask(host.daemon.socket, "POST", "/v1/runs", old["request"])
            self.assertEqual(done.status, 202, done.text)
            ask(host.daemon.socket, "GET", f"/v1/runs/{done.json()['id']}/events?after=0")
            now = {
                "version": ask(host.daemon.socket, "GET", "/v1/version").json(),
                "vm": ask(host.daemon.socket, "GET", "/v1/vms").json()["vms"][0],
                "release": ask(host.daemon.socket, "GET", "/v1/releases").json()["releases"][0],
                "run": ask(host.daemon.socket, "GET", f"/v1/runs/{done.json()['id']}").json(),
                "problem": ask(host.daemon.socket, "GET", "/v1/vms/nobody").json(),
            }
            for name, document in now.items():
                with self.subTest(document=name):
                    self.assert_has(document, old[name], name)

    def assert_has(self, now, before, where):
        """Every member that there was is there, and of the same type."""
        if isinstance(before, dict):
            self.assertIsInstance(now, dict, where)
            for key, value in before.items():
                self.assertIn(key, now, where)
                if value is not None and now[key] is not None:
                    self.assert_has(now[key], value, f"{where}.{key}")
        elif isinstance(before, list):
            self.assertIsInstance(now, list, where)
            if before and now:
                self.assert_has(now[0], before[0], where + "[0]")
        elif isinstance(before, bool) or isinstance(before, str):
            self.assertIsInstance(now, type(before), where)
        else:
            self.assertIsInstance(now, (int, float), where)


if __name__ == "__main__":
    unittest.main(verbosity=2)
