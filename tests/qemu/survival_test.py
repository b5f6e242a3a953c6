#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""What a VM shows to the outside survives the upgrade, or is refused by name: the survival table.

    tests/qemu/survival_test.py                      # every group of rows, and docs/survival.md must say the same
    tests/qemu/survival_test.py -k chardevs          # the groups with that word in the name
    tests/qemu/survival_test.py --write              # ... and the page is written; with -k only the rows that ran
"""

import pathlib
import re
import sys
import unittest

from case import keep, main
from prober import ROOT
from survival import COLUMNS, Chain, load_rows, patient_daemon, table

PAGE = ROOT / "docs" / "survival.md"

ROWS = load_rows(pathlib.Path(__file__).parent / "rows")
RESULTS = {}
TYPES = set()  # of devices and objects that crossed
WRITE = "--write" in sys.argv
if WRITE:
    sys.argv.remove("--write")
    if "-k" in sys.argv:
        sys.argv += ["-k", "page_says"]


class Survival(unittest.TestCase):
    """A test for each group; added below."""

    longMessage = True

    @classmethod
    def setUpClass(cls):
        cls.daemon = keep(patient_daemon())

    def run_group(self, rows):
        reasons = {row.needs() for row in rows} - {None}
        for row in rows:
            if row.needs():
                for column in COLUMNS:
                    RESULTS[(row.thing, column.title)] = "not tested: " + row.needs()
        rows = [row for row in rows if not row.needs()]
        if not rows:
            self.skipTest("; ".join(sorted(reasons)))
        chain = Chain(rows, self.daemon)
        try:
            chain.run()
        finally:
            TYPES.update(chain.types)
            for row in rows:
                for column in COLUMNS:
                    key = (row.thing, column.title)
                    RESULTS[key] = chain.results.get(key, "FAILED")
            for error in chain.errors:
                print(error, file=sys.stderr)
        self.assertEqual([error.splitlines()[0] for error in chain.errors], [])


# Of the allow lists, and not here: kvm_test.py has those of KVM, moves_test.py the one that only 10.0 has; memory of the last
# is the blocker `ram` when the VM uses it.
SHOWN_ELSEWHERE = {"kvm-apic", "kvm-i8259", "kvm-ioapic", "kvm-pit", "kvmclock", "memory-backend-shm", "memory-backend-ram"}


def allowed_types(base):
    """The types of devices and objects that the series lets cross."""
    patches = sorted((ROOT / "qemu-patches" / base).glob("*.patch"))
    added = [line[1:] for patch in patches for line in patch.read_text().splitlines() if line.startswith("+")]
    lists = re.findall(r"\b(?:virtio|user|board|object)_types\[\] = \{(.*?)\};", "\n".join(added), re.S)
    if len(lists) != 4:
        raise AssertionError(f"{len(lists)} lists of types in the patches of {base}")
    return {name for text in lists for name in re.findall(r'"([^"]+)"', re.sub(r"/\*.*?\*/", "", text, flags=re.S))}


def add_groups():
    groups = {}
    for row in ROWS:
        groups.setdefault(row.group, []).append(row)
    for name, rows in groups.items():
        setattr(Survival, f"test_{name.replace('-', '_')}", lambda self, rows=rows: self.run_group(rows))


def said_before():
    """The results that the page has; for the rows that do not run this time."""
    said = {}
    for line in PAGE.read_text().splitlines():
        cells = line.strip("|").split(" | ")
        if len(cells) == 3 + len(COLUMNS):  # the thing, what survives, the results, the mark
            said.update({(cells[0].strip(), column.title): cell.strip() for column, cell in zip(COLUMNS, cells[2:])})
    return said


class Marks(unittest.TestCase):
    def test_every_row_of_the_page_says_whether_it_was_verified_on_kvm_hardware(self):
        lines = PAGE.read_text().splitlines()
        marks = {thing: line.strip("| ").split(" | ")[-1] for thing, _ in said_before() if thing != "thing" for line in lines if line.startswith(f"| {thing} | ")}
        self.assertEqual(marks, {row.thing: "verified" if row.kvm_hardware else "not verified" for row in ROWS})


class ZPage(unittest.TestCase):
    """Runs last, of all that ran."""

    longMessage = True

    def test_no_type_may_cross_that_no_row_has(self):
        if {row.thing for row in ROWS} - {thing for thing, _ in RESULTS}:
            self.skipTest("not every group ran")
        # A type of virtio stands for its -transitional and -non-transitional too.
        seen = TYPES | {name.removesuffix("-transitional").removesuffix("-non") for name in TYPES}
        for base in ("7.2", "10.0"):
            with self.subTest(base=base):
                self.assertEqual(allowed_types(base) - seen - SHOWN_ELSEWHERE, set())

    def test_page_says_what_was_run(self):
        if not RESULTS:
            self.skipTest("no group ran")
        said = said_before()
        # What this host cannot test stays as it was found elsewhere.
        elsewhere = {key for key, result in RESULTS.items() if result.startswith("not tested") and key in said and not WRITE}
        if elsewhere:
            print("not tested here, and left as the page has it:", *sorted({thing for thing, _ in elsewhere}), sep="\n  ")
        page = table(ROWS, {**said, **RESULTS, **{key: said[key] for key in elsewhere}})
        if WRITE:
            PAGE.write_text(page)
        self.assertFalse([key for key, result in RESULTS.items() if "FAILED" in result])
        stale = set(page.splitlines()) ^ set(PAGE.read_text().splitlines())
        self.assertFalse(stale, "docs/survival.md is stale; run this program with --write")


add_groups()

if __name__ == "__main__":
    main()
