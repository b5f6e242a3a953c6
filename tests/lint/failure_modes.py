#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""docs/failure-modes.md: each row has all columns, names only codes of docs/api.md, and a test that exists.

usage: failure_modes.py [ROOT]

A test is named as `program: words`: words of the name of a test in tests/**/program_test.py or .cpp, underscores as spaces.
"""

import pathlib
import re
import sys

COLUMNS = 5
# words of the second column that are no codes of VMs
OTHER_WORDS = {
    *("blocked", "refused", "rolled_back", "needs_operator", "lost_contact", "upgraded", "unhold", "check", "releases", "list"),
    *("memory", "unreachable", "recovery", "journal.db.broken-<time>"),
}


def find_tests(root):
    """Program to the names of its tests, as words."""
    tests = {}
    for path in (root / "tests").rglob("*_test.*"):
        text = path.read_text()
        pattern = r"def test_(\w+)" if path.suffix == ".py" else r'TEST_CASE\(\s*"([^"]+)"'
        names = [name.replace("_", " ") for name in re.findall(pattern, text)]
        tests.setdefault(path.stem.removesuffix("_test"), []).extend(names)
    matrix = root / "tests" / "crash" / "syscall_matrix.cpp"
    if matrix.exists():
        tests["syscall_matrix"] = ["every cell"]  # a program of one test, without names
    return tests


def find_problems(page, api, tests):
    """Sentences, with the line of each."""
    codes = set(re.findall(r"^\| `(\w+)` \|", api, re.M)) | OTHER_WORDS
    problems, rows, in_table = [], 0, False
    for number, line in enumerate(page.splitlines(), 1):
        if not line.startswith("|"):
            in_table = False
            continue
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        is_head, in_table = not in_table, True
        if is_head or set(line) <= set("|- "):
            continue
        rows += 1
        if len(cells) != COLUMNS or not all(cells):
            problems.append(f"{number}: a row has {COLUMNS} columns, none empty")
            continue
        for code in re.findall(r"`([^`]+)`", cells[1]):
            if code not in codes:
                problems.append(f"{number}: docs/api.md has no code {code}")
        shown = re.findall(r"`(\w+): ([^`]+)`", cells[4])
        if not shown:
            problems.append(f"{number}: no test shows it")
        for program, words in shown:
            if not any(words.lower() in name.lower() for name in tests.get(program, [])):
                problems.append(f"{number}: no test of {program}_test has the words '{words}'")
    if not rows:
        problems.append("1: the page has no rows")
    return problems


def check_itself():
    """The lint finds what it looks for."""
    api, tests = "| `stale` | refused | x |\n", {"faults": ["target dies"]}
    head = "| a | b | c | d | e |\n|---|---|---|---|---|\n"
    good = head + "| x | `refused`, `stale` | the source | – | `faults: target dies` |\n"
    assert find_problems(good, api, tests) == []
    for bad, word in (
        (good.replace("stale", "stael"), "no code stael"),
        (good.replace("target dies", "target flies"), "target flies"),
        (good.replace("faults:", "fault:"), "fault_test"),
        (good.replace("| – |", "| |"), "columns"),
        (good.replace("`faults: target dies`", "somewhere"), "no test shows it"),
        ("nothing", "no rows"),
    ):
        found = find_problems(bad, api, tests)
        assert len(found) == 1 and word in found[0], (word, found)


def main():
    root = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else ".")
    check_itself()
    page, api = (root / "docs" / name for name in ("failure-modes.md", "api.md"))
    problems = find_problems(page.read_text(), api.read_text(), find_tests(root))
    for problem in problems:
        print(f"docs/failure-modes.md:{problem}")
    sys.exit(bool(problems))


if __name__ == "__main__":
    main()
