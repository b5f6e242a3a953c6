#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""This qhupd-ctl with a daemon of the first API: a stand-in answers as that one did, from what was recorded of it, and has
no call that came later. What it can do works; what it cannot is said, and no guest is touched.
"""

import contextlib
import http.server
import json
import os
import pathlib
import socketserver
import subprocess
import tempfile
import threading
import unittest

from daemon import find_program

OLD = json.loads((pathlib.Path(__file__).parent / "data" / "api-1-first.json").read_text())
RUN = f"/v1/runs/{OLD['run']['id']}"
CHECK = {
    "vm": "vm0", "from": "7.2.22", "to": "new", "can_upgrade": True, "code": "", "message": "", "blockers": [], "warnings": [],
}
# The members of a request that the first API took; it refused all others.
KNOWN = {
    "vms", "all", "kind", "to", "parallel", "max_failures", "rehearse", "pause_budget_ms", "canaries", "batch", "soak_ms",
    "dry_run", "request_id",
}


class OldDaemon(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self, status, text, kind="application/json"):
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def refuse(self, status, code, detail):
        problem = {**OLD["problem"], "status": status, "code": code, "detail": detail, "title": "Refused", "next_step": "Stop."}
        self.answer(status, json.dumps(problem), "application/problem+json")

    def do_GET(self):
        path = self.path.split("?")[0]
        documents = {
            "/v1/version": OLD["version"],
            "/v1/vms": {"vms": [OLD["vm"]]},
            "/v1/vms/vm0": OLD["vm"],
            "/v1/vms/vm0/check": CHECK,
            "/v1/releases": {"releases": [OLD["release"]]},
            "/v1/runs": {"runs": [OLD["run"]]},
            RUN: OLD["run"],
            **self.server.more,
        }
        if path == RUN and self.server.running > 0:
            self.server.running -= 1
            vms = [{**vm, "phase": "prepare", "outcome": ""} for vm in OLD["run"]["vms"]]
            self.answer(200, json.dumps({**OLD["run"], "state": "running", "vms": vms}))
        elif path in documents:
            self.answer(200, json.dumps(documents[path]))
        else:
            self.refuse(404, "no_such_path", "The API has no such path.")

    def do_POST(self):
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"] or 0)) or b"{}")
        if self.path != "/v1/runs":
            self.refuse(404, "no_such_path", "The API has no such path.")
        elif set(request) - KNOWN:
            self.refuse(400, "bad_request", "there is a member that this request does not have")
        else:
            self.server.asked.append(request)
            self.answer(202, json.dumps({**OLD["run"], "state": "running"}))

    def do_PUT(self):
        self.rfile.read(int(self.headers["Content-Length"] or 0))
        self.refuse(404, "no_such_path", "The API has no such path.")

    def log_message(self, *_):
        """Says nothing."""


class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True

    def __init__(self, path):
        self.asked = []
        self.running = 0  # so many answers say that the run goes on
        self.more = {}  # documents of calls that came later
        super().__init__(path, OldDaemon)

    def finish_request(self, request, _):
        self.RequestHandlerClass(request, ("client", 0), self)


class NewClient(unittest.TestCase):
    def setUp(self):
        stack = contextlib.ExitStack()
        self.addCleanup(stack.close)
        self.socket = stack.enter_context(tempfile.TemporaryDirectory()) + "/api.sock"
        self.server = stack.enter_context(Server(self.socket))
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        stack.callback(self.server.shutdown)

    def ctl(self, *words, status=0):
        done = subprocess.run(
            [find_program("qhupd-ctl"), "--socket", self.socket, *words],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30,
        )
        self.assertEqual(done.returncode, status, f"{words}\n{done.stdout}{done.stderr}")
        return done

    def test_what_the_old_daemon_can_do_works(self):
        self.assertIn("vm0", self.ctl("list").stdout)
        self.assertIn("pc-i440fx-7.2", self.ctl("show", "vm0").stdout)
        self.assertIn("can be upgraded", self.ctl("check", "vm0", "--to", "new").stdout)
        self.assertIn("the new one", self.ctl("releases").stdout)
        self.assertIn("0.1.0", self.ctl("version").stdout)
        self.assertIn("upgraded", self.ctl("status", OLD["run"]["id"]).stdout)
        done = self.ctl("upgrade", "--yes", "vm0", "--to", "new", "--parallel", "2", "--request-id", "job-7")
        self.assertIn("10.0.13", done.stdout)
        self.assertEqual(self.server.asked, [{**OLD["request"], "dry_run": False}])

    def test_a_run_is_asked_for_again_and_again_where_no_stream_of_events_is(self):
        self.server.running = 2
        done = self.ctl("upgrade", "--yes", "vm0", "--to", "new", "--progress", "plain")
        self.assertEqual(self.server.running, 0)
        self.assertEqual([line.split()[3].strip(",") for line in done.stderr.splitlines() if "  vm0  " in line], ["prepare", "upgraded"], done.stderr)
        self.assertIn("10.0.13", done.stdout)

    def test_what_it_cannot_do_is_said_and_nothing_is_begun(self):
        self.ctl("events", status=1)
        self.assertIn("The API has no such path", self.ctl("hold", "vm0", "--reason", "a backup", status=1).stderr)
        self.assertIn("The API has no such path", self.ctl("selftest", "--to", "new", status=1).stderr)
        refused = self.ctl("upgrade", "--yes", "vm0", "--to", "new", "--allow-untested", status=64)
        self.assertIn("a member that this request does not have", refused.stderr)
        self.assertEqual(self.server.asked, [])

    def test_what_a_code_means_is_known_without_its_catalogue_and_with_that_of_a_newer_one(self):
        self.assertIn("this release cannot take this VM", self.ctl("explain", "load_failed").stdout)
        self.assertIn("There is no code", self.ctl("explain", "of_tomorrow", status=3).stderr)
        row = {"code": "of_tomorrow", "kind": "upgrade", "status": 0, "severity": "rolled_back", "meaning": "It rained", "next_step": "wait."}
        self.server.more["/v1/codes"] = {"codes": [row]}
        self.assertIn("It rained; wait.", self.ctl("explain", "of_tomorrow").stdout)
        self.assertIn("of_tomorrow", self.ctl("explain").stdout)
        self.assertIn("Did you mean 'of_tomorrow'?", self.ctl("explain", "of_tomorow", status=3).stderr)
        completed = subprocess.run(
            [find_program("qhupd-ctl"), "__complete", "explain", "of_"], capture_output=True, text=True, check=True,
            env={**os.environ, "QHUPD_SOCKET": self.socket},
        )
        self.assertEqual(completed.stdout, "of_tomorrow\tIt rained\n")

    def test_an_unknown_member_of_a_new_daemon_is_no_matter(self):
        newer = {**OLD["vm"], "of_tomorrow": {"a": [1]}, "blockers": [{"id": "x/y", "class": "new", "reason": "So.", "more": 1}]}
        before, OLD["vm"] = OLD["vm"], newer
        self.addCleanup(OLD.__setitem__, "vm", before)
        self.assertIn("x/y", self.ctl("show", "vm0").stdout)
        self.assertEqual(json.loads(self.ctl("--json", "show", "vm0").stdout), newer)


if __name__ == "__main__":
    unittest.main(verbosity=2)
