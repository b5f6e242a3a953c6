#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""docs/blockers.md names every class of blocker that QEMU and the engine know, and no other.

    tests/qemu/blockers_page_test.py --write        # ... and its list of classes is made anew
"""

import functools
import json
import re
import subprocess
import sys
import unittest

from case import find_qemu, main
from daemon import find_program
from prober import ROOT

PAGE = ROOT / "docs" / "blockers.md"
BEGIN = "<!-- classes: made from the code by tests/qemu/blockers_page_test.py --write -->\n"
END = "<!-- classes: end -->\n"

WRITE = "--write" in sys.argv
if WRITE:
    sys.argv.remove("--write")


@functools.cache
def classes_of_qemu(base):
    """What this binary says: class -> remedy."""
    asked = [{"execute": name} for name in ("qmp_capabilities", "query-hot-upgrade-blocker-classes", "quit")]
    command = [find_qemu(base), "-machine", "none", "-nodefaults", "-display", "none", "-qmp", "stdio"]
    text = "".join(json.dumps(line) + "\n" for line in asked)
    said = subprocess.run(command, input=text, capture_output=True, text=True, timeout=60, check=True).stdout
    lists = [reply["return"] for reply in map(json.loads, said.splitlines()) if isinstance(reply.get("return"), list)]
    return {entry["name"]: entry["remedy"] for entry in lists[0]}


@functools.cache
def classes_of_engine():
    said = subprocess.run([find_program("qhupd"), "--list-blockers"], capture_output=True, text=True, check=True).stdout
    return dict(line.split("\t") for line in said.splitlines())


def classes_in_sources(base):
    """The classes of all calls of hup_block() in the series: in lines that are added, of files of our own."""
    text, is_ours = [], False
    for patch in sorted((ROOT / "qemu-patches" / base).glob("*.patch")):
        for line in patch.read_text().splitlines():
            if line.startswith("+++ "):
                is_ours = re.search(r"hot-upgrade[a-z-]*\.c$", line) is not None
            elif is_ours and line.startswith("+"):
                text.append(line[1:])
    argument = r"(?:[^,()]|\([^()]*\))+"
    return set(re.findall(rf'\b(?:hup_)?block\(&?\w+,\s*{argument},\s*"([a-z0-9-]+)"', "\n".join(text)))


def section():
    """The part of the page that is made."""
    lines = ["## Classes", "", "| class | whose | in general |", "|---|---|---|"]
    both = [(name, "QEMU", remedy) for name, remedy in classes_of_qemu("10.0").items()]
    both += [(name, "engine", remedy) for name, remedy in classes_of_engine().items()]
    lines += [f"| `{name}` | {whose} | {remedy} |" for name, whose, remedy in sorted(both)]
    return "\n".join(lines) + "\n"


class Page(unittest.TestCase):
    longMessage = True

    def setUp(self):
        self.text = PAGE.read_text()

    def test_both_bases_know_the_same_classes_sorted_and_each_has_a_remedy(self):
        classes = classes_of_qemu("7.2")
        self.assertEqual(list(classes.items()), list(classes_of_qemu("10.0").items()))
        for known in (classes, classes_of_engine()):
            self.assertEqual(list(known), sorted(known))
            self.assertTrue(all(known.values()), known)

    def test_every_class_of_the_sources_is_in_the_list_of_the_binary_and_used(self):
        for base in ("7.2", "10.0"):
            with self.subTest(base=base):
                self.assertEqual(classes_in_sources(base), set(classes_of_qemu(base)))

    def test_list_of_the_page_is_what_the_code_says(self):
        head, rest = self.text.split(BEGIN)
        made, tail = rest.split(END)
        if WRITE:
            PAGE.write_text(head + BEGIN + section() + END + tail)
        else:
            self.assertEqual(made, section(), "run tests/qemu/blockers_page_test.py --write")

    def test_each_class_has_a_row_that_says_when_and_no_other_has(self):
        for title, classes in (("## QEMU's own", classes_of_qemu("10.0")), ("## The engine's", classes_of_engine())):
            with self.subTest(title):
                part = self.text.split(title + "\n")[1].split("\n## ")[0]
                rows = set(re.findall(r"^\| `([a-z-]+)` \|", part, flags=re.MULTILINE))
                engines = {"upgrade"}  # the daemon's word for `state` in lists
                self.assertEqual(rows - engines, set(classes))


if __name__ == "__main__":
    main()
