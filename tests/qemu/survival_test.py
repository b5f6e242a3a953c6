#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""What a VM shows to the outside survives the upgrade, or is refused by name: the survival table.

    tests/qemu/survival_test.py                      # every group of rows, and docs/survival.md must say the same
    tests/qemu/survival_test.py -k chardevs          # the groups with that word in the name
    tests/qemu/survival_test.py --write              # ... and the page is written
"""

import pathlib
import sys
import unittest

from case import find_qemu, keep, main
from daemon import Daemon
from guest import roots_folder
from prober import ROOT
from survival import COLUMNS, Chain, load_rows, table
from twin import twin_of

PAGE = ROOT / "docs" / "survival.md"
# Patient: this is about what survives, on machines of any speed.
DAEMON = '[deadlines]\npause_budget = "10s"\ndrain = "3s"\nverify = "100ms"\n[leases]\nfrozen = "15s"\n'

ROWS = load_rows(pathlib.Path(__file__).parent / "rows")
RESULTS = {}
WRITE = "--write" in sys.argv
if WRITE:
    sys.argv.remove("--write")


class Survival(unittest.TestCase):
    """A test for each group; added below."""

    longMessage = True

    @classmethod
    def setUpClass(cls):
        folder = pathlib.Path(roots_folder())
        cls.releases = {}
        for base in ("7.2", "10.0"):
            cls.releases[f"qemu-{base}"] = find_qemu(base)
            cls.releases[f"twin-{base}"] = keep(twin_of(find_qemu(base), folder))
        cls.daemon = keep(Daemon(cls.releases, sections=DAEMON))

    def run_group(self, rows):
        reasons = {row.needs() for row in rows} - {None}
        for row in rows:
            if row.needs():
                for column in COLUMNS:
                    RESULTS[(row.thing, column.title)] = "not tested: " + row.needs()
        rows = [row for row in rows if not row.needs()]
        if not rows:
            self.skipTest("; ".join(sorted(reasons)))
        chain = Chain(rows, self.daemon, self.release_of)
        try:
            chain.run()
        finally:
            for row in rows:
                for column in COLUMNS:
                    key = (row.thing, column.title)
                    RESULTS[key] = chain.results.get(key, "FAILED")
            for error in chain.errors:
                print(error, file=sys.stderr)
        self.assertEqual([error.splitlines()[0] for error in chain.errors], [])

    @classmethod
    def release_of(cls, source, target):
        """A release of `target` whose build is not the one that a VM on `source` has now."""
        if source != target:
            return f"qemu-{target}"
        return f"twin-{target}"


def add_groups():
    groups = {}
    for row in ROWS:
        groups.setdefault(row.group, []).append(row)
    for name, rows in groups.items():
        setattr(Survival, f"test_{name.replace('-', '_')}", lambda self, rows=rows: self.run_group(rows))


class ZPage(unittest.TestCase):
    """Runs last, and only if everything ran."""

    def test_page_says_what_was_run(self):
        if {row.thing for row in ROWS} - {thing for thing, _ in RESULTS}:
            self.skipTest("not every group ran")
        page = table(ROWS, RESULTS)
        if WRITE:
            PAGE.write_text(page)
        self.assertNotIn("FAILED", page)
        self.assertEqual(PAGE.read_text(), page, "docs/survival.md is stale; run this program with --write")


add_groups()

if __name__ == "__main__":
    main()
