#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""What the commands say, and that help, manual and completion say the same."""

import contextlib
import json
import os
import pathlib
import pwd
import re
import signal
import subprocess
import tempfile
import time
import unittest

from daemon import find_program
from fake_host import FakeHost
from prober import ROOT

CTL = os.path.abspath(find_program("qhupd-ctl"))
PAGES = ("qhupd-ctl.1", "qhupd.8", "qhupd.toml.5", "qhup-codes.7")


def run(*words, **options):
    return subprocess.run([CTL, *words], capture_output=True, text=True, **options)


def page(name):
    """A page of the manual, as the build makes it."""
    given = {
        "qhupd.8": lambda: subprocess.run([find_program("qhupd"), "--help"], capture_output=True, text=True).stdout,
        "qhupd.toml.5": lambda: (ROOT / "systemd/qhupd.toml").read_text(),
    }
    done = run("__generate", name, input=given[name]() if name in given else "")
    assert done.returncode == 0, done.stderr
    return done.stdout


def names_of(text):
    """Options in a text of help."""
    return set(re.findall(r"(?m)^\s+(?:-\w,)?(--[a-z-]+)", text))


def shown(text):
    """A page as man shows it, and what man warns of."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "page.1"
        path.write_text(text)
        done = subprocess.run(
            ["man", "--warnings", "-E", "UTF-8", "-l", str(path)], capture_output=True, text=True,
            env={**os.environ, "MANWIDTH": "100", "MANROFFOPT": "-ww", "LC_ALL": "C.UTF-8"},
        )
        assert done.returncode == 0, done.stderr
        return re.sub(r".\x08|\x1b\[[0-9;]*m", "", done.stdout), done.stderr


class OneSource(unittest.TestCase):
    def commands(self):
        text = run("--help").stdout
        below = text[text.index("Subcommands:"):text.index("Exit status")]
        names = re.findall(r"(?m)^  ([a-z]+) ", below)
        return [(name,) for name in names if name != "config"] + [("config", "show")]

    def test_the_manual_has_every_command_and_option_of_the_help(self):
        manual = page("qhupd-ctl.1").replace("\\-", "-")
        for name in names_of(run("--help").stdout) - {"--help"}:
            self.assertIn(f"\\fB{name}\\fR", manual)
        self.assertEqual(len(self.commands()), 21 - 1)
        for words in self.commands():
            section = manual.split(f".SS {' '.join(words)}\n", 1)
            self.assertEqual(len(section), 2, words)
            section = re.split(r"(?m)^\.S[SH] ", section[1])[0]
            self.assertEqual(set(re.findall(r"\\fB(--[a-z-]+)\\fR", section)), names_of(run(*words, "--help").stdout) - {"--help"}, words)

    def test_the_manual_has_every_exit_status_of_the_help(self):
        statuses = re.findall(r"(?m)^  (\d+) +(\S.*)$", run("--help").stdout)
        self.assertEqual([int(number) for number, _ in statuses], [0, 1, 2, 3, 4, 5, 6, 7, 64, 69, 75, 77, 78, 130])
        manual = shown(page("qhupd-ctl.1"))[0]
        below = " ".join(manual[manual.index("\nEXIT STATUS"):].split())
        for number, text in statuses:
            self.assertIn(f" {number} {text}", below)

    def test_completion_offers_every_command_and_option_of_the_help(self):
        offered = lambda *words: {line.split("\t")[0] for line in run("__complete", *words).stdout.splitlines()}
        self.assertEqual(offered(""), {words[0] for words in self.commands()})
        for words in self.commands():
            self.assertEqual(offered(*words, "--"), names_of(run(*words, "--help").stdout) | names_of(run("--help").stdout), words)

    def test_the_pages_have_no_warnings_and_end_where_they_should(self):
        for name in PAGES:
            text, warnings = shown(page(name))
            self.assertEqual(warnings, "", name)
            linted = subprocess.run(["mandoc", "-Tlint", "-W", "warning"], input=page(name), capture_output=True, text=True)
            # The pages have no date of their own: the same source makes the same page on every day.
            found = [line for line in linted.stdout.splitlines() if "missing date" not in line]
            self.assertEqual(found, [], name)
            for heading in ("NAME", "DESCRIPTION", "SEE ALSO"):
                self.assertRegex(text, rf"(?m)^{heading}$", name)
        self.assertIn("pause_budget = \"300ms\"", shown(page("qhupd.toml.5"))[0])
        self.assertIn("--check-config", shown(page("qhupd.8"))[0])

    def test_the_daemons_page_has_every_option_of_its_help(self):
        help_text = subprocess.run([find_program("qhupd"), "--help"], capture_output=True, text=True).stdout
        manual = page("qhupd.8").replace("\\-", "-")
        for name in names_of(help_text):
            self.assertIn(f"\\fB{name}", manual)


class Completion(unittest.TestCase):
    def bash(self, host, *words):
        script = 'eval "$($1 completion bash)"; shift; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _qhupd_ctl; printf "%s\\n" "${COMPREPLY[@]}"'
        done = subprocess.run(
            ["bash", "-c", script, "bash", CTL, CTL, *words], capture_output=True, text=True,
            env={**os.environ, "QHUPD_SOCKET": str(host.daemon.socket)},
        )
        self.assertEqual(done.stderr, "")
        return [line for line in done.stdout.splitlines() if line]

    def test_bash_completes_names_that_live_now(self):
        with FakeHost(3) as host:
            self.assertEqual(self.bash(host, "upgrade", "vm"), ["vm0", "vm1", "vm2"])
            self.assertEqual(self.bash(host, "upgrade", "vm1", "vm"), ["vm0", "vm2"])
            self.assertEqual(self.bash(host, "upgrade", "vm1", "--to", ""), ["new"])
            self.assertEqual(self.bash(host, "selftest", "--from", "n"), ["new"])
            # bash splits at "="
            self.assertEqual(self.bash(host, "upgrade", "--to", "=", "n"), ["new"])
            self.assertEqual(self.bash(host, "upgrade", "--to", "="), ["new"])
            self.assertEqual(self.bash(host, "--progress", "=", "l"), ["live"])
            self.assertEqual(self.bash(host, "sta"), ["status"])
            host.daemon.ctl("upgrade", "--yes", "vm0", "--to", "new")
            self.assertEqual(self.bash(host, "status", ""), [host.newest_run()])
            moved = host.newest_run()
            host.daemon.ctl("upgrade", "vm1", "--to", "new", "--dry-run")
            self.assertEqual(self.bash(host, "revert", "r"), [moved])
            self.assertIn("load_failed", self.bash(host, "explain", "lo"))

    def test_zsh_and_fish_ask_the_same(self):
        with FakeHost(2) as host, tempfile.TemporaryDirectory() as folder:
            around = {**os.environ, "QHUPD_SOCKET": str(host.daemon.socket), "PATH": f"{folder}:{os.environ['PATH']}", "HOME": folder}
            os.symlink(CTL, f"{folder}/qhupd-ctl")
            fish = 'qhupd-ctl completion fish | source; complete -C "qhupd-ctl upgrade vm"'
            done = subprocess.run(["fish", "--no-config", "-c", fish], capture_output=True, text=True, env=around)
            self.assertEqual([line.split("\t")[0] for line in done.stdout.splitlines()], ["vm0", "vm1"], done.stderr)
            zsh = (
                'autoload() { :; }; compdef() { :; }; _describe() { print -l -- ${(P)2} }; eval "$(qhupd-ctl completion zsh)"; '
                'words=(qhupd-ctl upgrade vm); CURRENT=3; _qhupd-ctl'
            )
            done = subprocess.run(["zsh", "-f", "-c", zsh], capture_output=True, text=True, env=around)
            self.assertEqual(done.stdout.splitlines(), ["vm0:7.2.22", "vm1:7.2.22"], done.stderr)

    def test_without_a_daemon_it_says_nothing_and_is_quick(self):
        done = run("__complete", "upgrade", "vm", env={**os.environ, "QHUPD_SOCKET": "/nowhere"}, timeout=5)
        self.assertEqual((done.stdout, done.stderr, done.returncode), ("", "", 0))

    def test_labels_of_vms_are_completed(self):
        with FakeHost(2, sections='[[vm]]\nvms = ["vm0"]\nlabels = { tier = "db" }\n') as host:
            self.assertEqual(self.bash(host, "list", "--label", ""), ["tier=db"])
            self.assertEqual(self.bash(host, "list", "--label", "tier", "=", "d"), ["db"])
            none = host.daemon.ctl("list", "--label", "tier=web").stdout
            self.assertEqual(none, "No VM has the label tier=web.\n")

    def test_the_scripts_are_accepted_by_their_shells(self):
        for shell, check in (("bash", ["bash", "-n"]), ("zsh", ["zsh", "-n"]), ("fish", ["fish", "-n"])):
            script = run("completion", shell)
            self.assertEqual(script.returncode, 0)
            self.assertIn("__complete", script.stdout)
            self.assertEqual(subprocess.run(check, input=script.stdout, text=True).returncode, 0)


class Commands(unittest.TestCase):
    def test_history_says_who_moved_whom_when(self):
        with FakeHost(2) as host:
            self.assertEqual(host.daemon.ctl("history").stdout, "Nothing was done yet.\n")
            host.daemon.ctl("rehearse", "--yes", "vm0", "--to", "new")
            host.daemon.ctl("upgrade", "--yes", "--all", "--to", "new")
            lines = host.daemon.ctl("history").stdout.splitlines()
            self.assertEqual(lines[0].split(), ["WHEN", "VM", "WHAT", "FROM", "TO", "PAUSE", "RUN", "WHO"])
            asked = ("-", "run requested")
            said = [tuple(re.split(r"  +", line)[1:3]) for line in lines[1:]]
            self.assertEqual(set(said[:2]), {("vm0", "upgraded"), ("vm1", "upgraded")})
            self.assertEqual(said[2:], [asked, ("vm0", "rehearsed"), asked])
            user = pwd.getpwuid(os.getuid()).pw_name
            self.assertTrue(all(line.endswith(f"  {user}") for line in lines[1:]), lines)
            only = host.daemon.json("history", "vm0", "--limit", "1")["history"]
            self.assertEqual([(entry["vm"], entry["outcome"], entry["by"]["user"]) for entry in only], [("vm0", "upgraded", user)])
            host.daemon.ctl("hold", "vm1", "--reason", "why")
            newest = host.daemon.ctl("history", "--limit", "1").stdout.splitlines()[1]
            self.assertRegex(newest, f"vm1 +hold set .* {user}$")

    def test_watch_follows_what_goes_on(self):
        slow = {"vm": {"switch_time_ms": 1000}}
        with FakeHost(1, scripts={0: slow}, patient=True) as host:
            self.assertEqual(host.daemon.ctl("watch", check=False).returncode, 2)
            host.daemon.ctl("upgrade", "--yes", "vm0", "--to", "new", "--no-wait")
            done = host.daemon.ctl("watch")
            self.assertIn("upgraded", done.stdout)

    def test_events_are_told_as_they_happen_and_may_be_chosen(self):
        with FakeHost(2) as host:
            with host.daemon.popen("events", "vm0", "--type", "upgrade_ended", stdout=subprocess.PIPE) as follower:
                self.assertIn("  hello", follower.stdout.readline())
                host.daemon.ctl("upgrade", "--yes", "--all", "--to", "new")
                line = follower.stdout.readline()
                self.assertRegex(line, rf"^\S+ \S+Z  upgrade_ended  {host.newest_run()}  vm0  ")
                follower.send_signal(signal.SIGINT)
                self.assertEqual(follower.wait(10), 130)
            done = host.daemon.ctl("--json", "events", "--after", "0", "--type", "run_finished", "--timeout", "1s", check=False)
            self.assertEqual(done.returncode, 130)
            told = [json.loads(line) for line in done.stdout.splitlines()]
            self.assertEqual([event["type"] for event in told], ["hello", "run_finished"])

    def test_events_and_runs_are_followed_across_restarts_of_the_daemon(self):
        slow = {"vm": {"switch_time_ms": 2000}}
        with FakeHost(2, scripts={0: slow}, patient=True) as host:
            with contextlib.ExitStack() as stack:
                upgrade, events = (
                    stack.enter_context(host.daemon.popen(*words, stdout=subprocess.PIPE, stderr=subprocess.PIPE))
                    for words in (("upgrade", "--yes", "vm0", "--to", "new"), ("--json", "events", "--after", "0"))
                )
                stack.callback(upgrade.kill)
                stack.callback(events.kill)
                told = iter(lambda: json.loads(events.stdout.readline()), None)
                first = next(event for event in told if event["type"] == "upgrade_phase" and event["upgrade"]["phase"] == "switch_over")
                host.daemon.kill()
                host.daemon.start()
                again = next(event for event in told if event["type"] == "hello")
                self.assertGreaterEqual(again["id"], first["id"])  # it went on, and did not begin anew
                self.assertEqual(next(told)["missed"]["reason"], "restart")
                ended = next(event for event in told if event["type"] == "upgrade_ended")
                self.assertEqual((ended["run"], ended["vm"]), (first["run"], "vm0"))
                table, words = upgrade.communicate(timeout=20)
                self.assertRegex(table, r"(?m)^vm0 +7\.2\.22 +(10\.0\.13 +upgraded|new +rolled back)")
                self.assertIn("waiting for qhupd to come back", words)
                self.assertEqual(upgrade.returncode, {"upgraded": 0, "rolled_back": 4}[ended["upgrade"]["outcome"]])
                host.daemon.kill()
                time.sleep(1.2)  # it waits for the daemon now
                events.send_signal(signal.SIGINT)
                self.assertEqual(events.wait(2), 130)

    def test_doctor_says_what_is_wrong_and_what_to_do(self):
        with FakeHost(1, scripts={0: {"vm": {"blockers": [{"id": "fdset/1", "class": "fdset", "reason": "Name the file."}]}}}) as host:
            host.daemon.add_release("bad", "/nonexistent/qemu")
            (host.daemon.releases_dir / "odd.toml").write_text("[=]\n")
            host.daemon.kill()
            host.daemon.start()
            done = host.daemon.ctl("doctor", "--config", str(host.daemon.config), check=False)
            self.assertIn(done.returncode, (1, 78), done.stderr)  # 78: --check-config reads releases too
            self.assertRegex(done.stdout, r"(?m)^ok    daemon: qhupd .* answers and is ready\.$")
            self.assertRegex(done.stdout, r"(?m)^fail  release bad: ")
            self.assertRegex(done.stdout, r"(?m)^fail  release odd: [^\n]*odd[^\n]*\n      → Mend it as that says")
            self.assertNotIn("and " + str(host.daemon.socket) + " was asked", done.stdout)
            self.assertRegex(done.stdout, r"(?m)^warn  VM vm0: fdset/1: Name the file\.\n      → qhupd-ctl explain fdset$")
            found = host.daemon.json("doctor", "--config", str(host.daemon.config), status=done.returncode)["findings"]
            self.assertTrue(all(finding["next_step"] for finding in found if finding["level"] != "ok"))
            self.assertLessEqual({"daemon", "memfd", "memory", "cgroup", "kvm", "state_dir", "control_dir"}, {finding["name"] for finding in found})
        gone = run("--socket", "/nowhere", "doctor", "--config", "/dev/null")
        self.assertIn(gone.returncode, (69, 78))
        self.assertIn("fail  daemon: qhupd does not run", gone.stdout)
        self.assertRegex(gone.stdout, r"it is that of a qhupd on [^\n]*, and /nowhere was asked\.\n      → Name the file")

    def test_config_show_says_where_each_value_was_set(self):
        with FakeHost(0) as host:
            path = str(host.daemon.config)
            self.assertIn('verify = "100ms"\n', run("config", "show", "--config", path).stdout)
            self.assertRegex(run("config", "show", "--origin", "--config", path).stdout, rf'verify = "100ms"  # {re.escape(path)}:\d+')
            values = json.loads(run("--json", "config", "show", "--config", path).stdout)["values"]
            verify = next(value for value in values if (value["section"], value["key"]) == ("deadlines", "verify"))
            self.assertEqual(verify["value"], "100ms")
            bad = pathlib.Path(path).with_name("bad.toml")
            bad.write_text("paralel = 3\n")
            done = run("config", "show", "--config", str(bad))
            self.assertEqual(done.returncode, 78)
            self.assertIn("Did you mean 'parallel'?", done.stderr)

    def test_a_folder_of_the_configuration_that_cannot_be_read_is_a_mistake(self):
        with tempfile.TemporaryDirectory() as root:
            home = pathlib.Path(root) / "etc/qhupd"
            home.mkdir(parents=True)
            check = lambda: subprocess.run(
                [find_program("qhupd"), "--root", root, "--print-config"], capture_output=True, text=True
            )
            self.assertEqual(check().returncode, 0)
            for spoil in (lambda path: path.symlink_to(path), lambda path: path.write_text("")):
                path = home / "qhupd.toml.d"
                spoil(path)
                done = check()
                self.assertEqual(done.returncode, 78, done.stdout)
                self.assertIn(f"{path}: cannot be read", done.stderr)
                path.unlink()

    def test_a_folder_of_releases_that_cannot_be_read_is_a_release_that_cannot_be_used(self):
        with FakeHost(1) as host:
            folder = host.daemon.releases_dir
            folder.rename(folder.with_name("away"))
            self.assertEqual(host.daemon.json("releases")["releases"], [])  # none is no mistake
            folder.symlink_to(folder)
            (release,) = host.daemon.json("releases")["releases"]
            self.assertEqual((release["name"], release["usable"]), (folder.name, False))
            self.assertIn(str(folder), release["reason"])

    def test_what_was_misspelt_is_named_with_the_nearest_word(self):
        for words, said in (
            (("upgrd", "vm0"), "'upgrd' is not a command. Did you mean 'upgrade'?"),
            (("upgrade", "--paralel", "3", "--all", "--to", "x"), "no option --paralel here. Did you mean '--parallel'?"),
            (("list", "--jsn"), "Did you mean '--json'?"),
            (("config", "sho"), "'sho' is not a command. Did you mean 'show'?"),
            (("explain", "lod_failed"), "Did you mean 'load_failed'?"),
            (("list", "--color", "alwys"), "--color: 'alwys' is none of always, auto, never. Did you mean 'always'? 'qhupd-ctl list --help'"),
            (("list", "--progress", "blue"), "--progress: 'blue' is none of auto, live, none, plain. 'qhupd-ctl list --help'"),
            (("completion", "tcsh"), "'tcsh' is none of bash, zsh, fish. 'qhupd-ctl completion --help'"),
            (("completion", "bsh"), "'bsh' is none of bash, zsh, fish. Did you mean 'bash'?"),
        ):
            done = run(*words)
            self.assertIn(done.returncode, (64, 3))
            self.assertIn(said, done.stderr)
        with FakeHost(1) as host:
            self.assertIn("Did you mean 'vm0'?", host.daemon.ctl("show", "vn0", check=False).stderr)
            self.assertIn("Did you mean 'new'?", host.daemon.ctl("check", "vm0", "--to", "nwe", check=False).stderr)

    def test_a_misspelt_key_of_a_release_is_named_with_the_nearest_one(self):
        with FakeHost(0) as host:
            for key, hint in (("sha25", "Did you mean 'sha256'?"), ("frmware", "Did you mean 'firmware'?"), ("colour", "")):
                host.daemon.add_release("odd", {"path": "/usr/bin/true", key: "x"})
                reason = {one["name"]: one["reason"] for one in host.daemon.json("releases")["releases"]}["odd"]
                self.assertIn(f"line 2, has the key {key}, which is none of name, path, sha256, ", reason)
                self.assertTrue(reason.endswith(hint or "correct the file."), reason)
                checked = subprocess.run(
                    [find_program("qhupd"), "--config", host.daemon.config, "--check-config"], capture_output=True, text=True
                )
                self.assertNotEqual(checked.returncode, 0)
                self.assertIn(hint or "correct the file.", checked.stdout + checked.stderr)


class Answers(unittest.TestCase):
    def test_a_hold_says_what_it_replaced(self):
        with FakeHost(1) as host:
            first = host.daemon.ctl("hold", "vm0", "--reason", "backup", "--for", "10min").stdout
            self.assertNotIn("In place of", first)
            again = " ".join(host.daemon.ctl("hold", "vm0", "--reason", "again").stdout.split())
            self.assertRegex(again, r"vm0 is held by uid \d+: again\. In place of a hold that it had: vm0 is held until .*: backup\.$")

    def test_a_name_that_is_none_is_no_empty_answer(self):
        with FakeHost(1) as host:
            done = host.daemon.ctl("history", "nope", check=False)
            self.assertEqual((done.returncode, done.stdout), (3, ""))
            self.assertIn("There is no VM 'nope'", done.stderr)
            self.assertEqual(host.daemon.ctl("history", "vm0").stdout, "Nothing was done yet.\n")
            done = host.daemon.ctl("events", "nope", "--timeout", "1s", check=False)
            self.assertEqual(done.returncode, 130)
            self.assertIn("There is no VM 'nope' now", done.stderr)
            self.assertIn("There is no VM or run 'r0'", host.daemon.ctl("revert", "r0", "--yes", check=False).stderr)

    def test_the_same_request_again_does_not_say_that_it_begins_something(self):
        with FakeHost(1) as host:
            words = ("upgrade", "vm0", "--to", "new", "--yes", "--request-id", "job-7")
            self.assertIn("Upgrading vm0 to new", host.daemon.ctl(*words).stderr)
            again = host.daemon.ctl(*words).stderr
            self.assertIn("request job-7 has started run", " ".join(again.split()))
            self.assertNotIn("Upgrading", again)

    def test_a_policy_that_allows_less_than_the_command_line_is_named(self):
        with FakeHost(1, sections='[[policy]]\nvms = ["vm0"]\npause_budget = "10ms"\n') as host:
            words = ("rehearse", "vm0", "--to", "new", "--yes", "--pause-budget")
            self.assertIn("what a policy allows: 10.0 ms for vm0.", " ".join(host.daemon.ctl(*words, "2s", check=False).stderr.split()))
            self.assertNotIn("what a policy allows", host.daemon.ctl(*words, "9ms", check=False).stderr)

    def test_a_wrong_command_line_is_a_problem_in_json(self):
        for words in (("--json", "bogus"), ("upgrade", "--json", "vm0")):
            done = run(*words)
            self.assertEqual(done.returncode, 64)
            self.assertEqual(json.loads(done.stdout)["code"], "wrong_command_line")

    def test_the_daemon_names_the_word_that_it_does_not_take(self):
        done = subprocess.run([find_program("qhupd"), "foo"], capture_output=True, text=True)
        self.assertEqual(done.returncode, 64)
        self.assertIn("'foo' is none", done.stderr)

    def test_the_check_for_nagios_asks_where_it_is_told(self):
        check = str(ROOT / "packaging/check_qhupd")
        with FakeHost(1) as host:
            around = {**os.environ, "QHUPD_SOCKET": str(host.daemon.socket)}
            self.assertNotIn("UNKNOWN", subprocess.run(["python3", check], capture_output=True, text=True, env=around).stdout)
        done = subprocess.run(["python3", check], capture_output=True, text=True, env={**os.environ, "QHUPD_SOCKET": "/nowhere"})
        self.assertEqual((done.returncode, done.stdout), (3, "QHUPD UNKNOWN - qhupd cannot be asked on /nowhere: No such file or directory\n"))


if __name__ == "__main__":
    unittest.main(verbosity=2)
