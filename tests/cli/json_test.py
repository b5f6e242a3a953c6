#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Every document of 'qhupd-ctl --json' fits docs/qhupd-ctl.schema.json."""

import json
import re
import subprocess
import unittest

import jsonschema
from daemon import find_program
from fake_host import FakeHost
from prober import ROOT

SCHEMA = json.loads((ROOT / "docs/qhupd-ctl.schema.json").read_text())
DEFS = SCHEMA["$defs"]


def check(document, name):
    jsonschema.validate(document, {"$ref": f"#/$defs/{name}", "$defs": DEFS})


class Documents(unittest.TestCase):
    def one(self, host, name, *words, status=0):
        document = host.daemon.json(*words, status=status)
        check(document, name)
        self.seen.add(name)
        return document

    def test_each_command_prints_what_the_schema_says(self):
        self.seen = set()
        jsonschema.validators.validator_for(SCHEMA).check_schema(SCHEMA)
        blocked = {"vm": {"blockers": [{"id": "fdset/1", "class": "fdset", "reason": "Name the file."}]}}
        failing = {"vm": {"reactions": {"hot-upgrade-switch": {"error_code": "load-failed"}}}}
        with FakeHost(3, scripts={1: blocked, 2: failing}) as host:
            config = str(host.daemon.config)
            self.one(host, "version", "version")
            self.one(host, "list", "list")
            self.one(host, "show", "show", "vm1")
            self.one(host, "check", "check", "--all", "--to", "new", status=6)
            self.one(host, "releases", "releases")
            self.one(host, "watch", "watch", status=2)
            self.one(host, "rehearse", "rehearse", "--yes", "vm0", "--to", "new")
            run = self.one(host, "upgrade", "upgrade", "--yes", "--all", "--to", "new", status=4)
            self.assertEqual([vm["outcome"] for vm in run["vms"]], ["upgraded", "refused", "rolled_back"])
            self.one(host, "upgrade", "upgrade", "--all", "--to", "new", "--dry-run", status=6)
            self.one(host, "revert", "revert", "--yes", "vm0", status=6)
            self.one(host, "status", "status")
            self.one(host, "status", "status", run["id"], status=4)
            self.one(host, "watch", "watch", run["id"], status=4)
            self.one(host, "abort", "abort", run["id"], status=4)
            self.one(host, "history", "history")
            host.daemon.add_release("odd", find_program("odd-binary"))
            failed = self.one(host, "selftest", "selftest", "--from", "odd", "--to", "new", "-n", "1", status=1)
            self.assertIn("does not count", failed["message"])
            self.one(host, "hold", "hold", "vm0", "--reason", "why", "--for", "2h")
            self.one(host, "list", "list")
            self.one(host, "unhold", "unhold", "vm0")
            self.one(host, "explain", "explain")
            self.one(host, "explain", "explain", "rolled_back")
            self.one(host, "config show", "config", "show", "--config", config)
            done = host.daemon.ctl("--json", "doctor", "--config", config, check=False)
            check(json.loads(done.stdout), "doctor")
            told = host.daemon.ctl("--json", "events", "--after", "0", "--timeout", "1s", check=False).stdout.splitlines()
            self.assertGreater(len(told), 5)
            for line in told:
                check(json.loads(line), "events")
            # what fails prints a problem
            for words, status in (
                (("show", "vm9"), 3), (("status", "r0"), 3), (("explain", "x"), 3), (("upgrade", "--yes", "vm0", "--to", "x"), 3),
                (("upgrade", "vm0", "--to", "new"), 64), (("upgrade", "vm0"), 64), (("check", "vm0", "--to", "x"), 3),
            ):
                check(host.daemon.json(*words, status=status), "problem")
            gone = subprocess.run([*host.command("list")[:1], "--socket", "/nowhere", "--json", "list"], capture_output=True, text=True)
            check(json.loads(gone.stdout), "problem")
        commands = {name for name in DEFS if name not in ("code", "outcome", "blockers", "one_hold", "holds", "vm", "run", "problem")}
        self.assertEqual(commands - self.seen, {"doctor", "events"})  # of these see above
        listed = subprocess.run([find_program("qhupd-ctl"), "--help"], capture_output=True, text=True, check=True).stdout
        listed = listed[listed.index("Subcommands:"):listed.index("Exit status")]
        named = set(re.findall(r"(?m)^  ([a-z]+) ", listed)) - {"completion"}  # prints a script
        self.assertEqual({name.split()[0] for name in commands}, named)

    def test_the_schema_refuses_what_is_no_document(self):
        for name, document in (("list", {}), ("version", {"version": 1}), ("problem", {"code": "Not A Code", "detail": "x"})):
            with self.assertRaises(jsonschema.ValidationError):
                check(document, name)


if __name__ == "__main__":
    unittest.main(verbosity=2)
