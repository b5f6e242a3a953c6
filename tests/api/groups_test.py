#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""What members of the two groups may: with a qhupd on the sockets that it has when installed, and real users of each group who
are not root. Runs as root, in a mount namespace of its own with a /run and an /etc/group that are thrown away.
"""

import contextlib
import json
import os
import pathlib
import socket
import stat
import subprocess
import sys
import tempfile
import unittest

from daemon import find_program
from fake_host import FakeHost

ROOT = pathlib.Path(__file__).resolve().parents[2]
ACT = pathlib.Path("/run/qhupd/qhupd.sock")
READ = pathlib.Path("/run/qhupd/qhupd-ro.sock")
ADMIN_GROUP, READ_GROUP, OTHER_GROUP = 64101, 64102, 64103
ADMIN, READER, STRANGER = 64201, 64202, 64203
NOT_PERMITTED = 77
GROUPS_OF = {ADMIN: [ADMIN_GROUP], READER: [READ_GROUP], STRANGER: []}
MOST = 12  # connections


def enter_namespace():
    """This program again, where it can have a /run of its own. Fails where that cannot be: nothing is skipped."""
    if os.environ.get("QHUP_OWN_NAMESPACE") != "1":
        os.environ["QHUP_OWN_NAMESPACE"] = "1"
        os.execvp("unshare", ["unshare", "--mount", "--propagation", "private", sys.executable, *sys.argv])
    groups = tempfile.NamedTemporaryFile("w", delete=False)
    groups.write(pathlib.Path("/etc/group").read_text())
    for name, gid in (("qhup-admin", ADMIN_GROUP), ("qhup", READ_GROUP), ("qhup-others", OTHER_GROUP)):
        groups.write(f"{name}:x:{gid}:\n")
    groups.close()
    os.chmod(groups.name, 0o644)
    subprocess.run(["mount", "--bind", groups.name, "/etc/group"], check=True)
    os.unlink(groups.name)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=0755", "none", "/run"], check=True)
    ACT.parent.mkdir(mode=0o755)


def as_user(uid, *command, **options):
    """Runs a command as that user, who has the groups of GROUPS_OF and no right of root's."""
    groups = ["--groups", ",".join(map(str, GROUPS_OF[uid]))] if GROUPS_OF[uid] else ["--clear-groups"]
    around = {key: value for key, value in os.environ.items() if key != "QHUPD_SOCKET"}
    return subprocess.run(
        ["setpriv", f"--reuid={uid}", f"--regid={uid}", *groups, "--no-new-privs", "--inh-caps=-all", *map(str, command)],
        capture_output=True, text=True, timeout=30, env=around, **options,
    )


class GroupsTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.stack = contextlib.ExitStack()
        host = FakeHost(1)
        config = host.daemon.config.read_text()
        own = f'[api]\nsocket = "{host.daemon.socket}"\ngroup = ""\n'
        assert own in config
        host.daemon.socket = ACT
        host.daemon.config.write_text(config.replace(own, f'[api]\ngroup = "qhup-admin"\nread_group = "qhup"\nmax_connections = {MOST}\n'))
        cls.host = cls.stack.enter_context(host)
        folder = pathlib.Path(cls.stack.enter_context(tempfile.TemporaryDirectory(prefix="qhup-bin-")))
        folder.chmod(0o755)
        cls.ctl = folder / "qhupd-ctl"  # who builds may have a home that nobody else enters
        cls.ctl.write_bytes(find_program("qhupd-ctl").read_bytes())
        cls.check = folder / "check_qhupd"
        cls.check.write_bytes((ROOT / "packaging" / "check_qhupd").read_bytes())
        cls.ctl.chmod(0o755)
        cls.check.chmod(0o755)

    @classmethod
    def tearDownClass(cls):
        cls.stack.close()

    def run_as(self, uid, *words):
        return as_user(uid, self.ctl, *words)

    def ask_as(self, uid, path, method, target, body=None):
        """(status of HTTP, document), by curl; (0, None) if the socket cannot be opened."""
        words = ["curl", "-sS", "--max-time", "10", "--unix-socket", path, "-X", method, "-w", "\n%{http_code}", f"http://qhupd{target}"]
        done = as_user(uid, *words, *(["--data", json.dumps(body)] if body is not None else []))
        text, _, status = done.stdout.rpartition("\n")
        return int(status), json.loads(text) if text else None

    def test_sockets_have_their_group_and_mode(self):
        for path, group in ((ACT, ADMIN_GROUP), (READ, READ_GROUP)):
            facts = path.stat()
            self.assertTrue(stat.S_ISSOCK(facts.st_mode))
            self.assertEqual((stat.S_IMODE(facts.st_mode), facts.st_uid, facts.st_gid), (0o660, 0, group), path)

    def test_who_may_what_on_which_socket(self):
        hold = ("PUT", "/v1/vms/vm0/hold", {"reason": "a test"})
        for uid, path, look, act in (
            (ADMIN, ACT, 200, 200),
            (ADMIN, READ, 0, 0),  # the file system keeps him out: its group is another
            (READER, ACT, 0, 0),
            (READER, READ, 200, 403),
            (STRANGER, ACT, 0, 0),
            (STRANGER, READ, 0, 0),
        ):
            with self.subTest(uid=uid, path=path):
                self.assertEqual(self.ask_as(uid, path, "GET", "/v1/vms")[0], look)
                status, problem = self.ask_as(uid, path, *hold)
                self.assertEqual(status, act)
                if status == 403:
                    self.assertEqual(problem["code"], "read_only")
        asked = self.ask_as(ADMIN, ACT, "GET", "/v1/history?action=hold_set")[1]["history"]
        self.assertEqual({entry["by"]["uid"] for entry in asked}, {ADMIN}, "who asked is what the kernel says")
        self.assertEqual(self.ask_as(ADMIN, ACT, "DELETE", "/v1/vms/vm0/hold")[0], 200)

    def test_who_may_what_behind_a_door_that_somebody_opened(self):
        """The kernel's word decides, not the mode of the file."""
        hold = ("PUT", "/v1/vms/vm0/hold", {"reason": "a test"})
        try:
            ACT.chmod(0o666)
            READ.chmod(0o666)
            for uid, path, look, act, code in (
                (ADMIN, READ, 200, 403, "read_only"),
                (READER, ACT, 200, 403, "read_only"),
                (STRANGER, ACT, 403, 403, "not_permitted"),
                (STRANGER, READ, 403, 403, "not_permitted"),
            ):
                with self.subTest(uid=uid, path=path):
                    self.assertEqual(self.ask_as(uid, path, "GET", "/v1/vms")[0], look)
                    status, problem = self.ask_as(uid, path, *hold)
                    self.assertEqual((status, problem["code"]), (act, code))
        finally:
            ACT.chmod(0o660)
            READ.chmod(0o660)

    def test_a_member_of_the_group_that_looks(self):
        for words in (("list",), ("--json", "list"), ("show", "vm0"), ("check", "vm0", "--to", "new"), ("releases",), ("history",), ("version",)):
            done = self.run_as(READER, *words)
            self.assertEqual((done.returncode, done.stderr), (0, ""), f"{words}: {done.stdout}")
        self.assertEqual(json.loads(self.run_as(READER, "--json", "list").stdout)["vms"][0]["name"], "vm0")
        self.assertIn("vm0", self.run_as(READER, "__complete", "show", "").stdout)
        for words in (("hold", "vm0", "--reason", "a test"), ("unhold", "vm0"), ("upgrade", "--yes", "vm0", "--to", "new"), ("abort", "r0")):
            done = self.run_as(READER, *words)
            self.assertEqual(done.returncode, NOT_PERMITTED, f"{words}: {done.stdout}{done.stderr}")
            self.assertIn(f"You may look at everything (on {READ}) and change nothing", done.stderr)
            self.assertIn("Run this as root or as a member of the group 'qhup-admin'.", done.stderr)
        # who names a socket gets that one
        done = self.run_as(READER, "--socket", ACT, "list")
        self.assertEqual(done.returncode, NOT_PERMITTED)
        self.assertIn(f"You may not open {ACT}. Run this as root or as a member of the group 'qhup-admin'.", done.stderr)

    def test_a_member_of_the_group_that_acts(self):
        self.assertEqual(self.run_as(ADMIN, "list").returncode, 0)
        self.assertEqual(self.run_as(ADMIN, "hold", "vm0", "--reason", "a test").returncode, 0)
        self.assertEqual(self.run_as(ADMIN, "unhold", "vm0").returncode, 0)

    def test_a_member_of_neither(self):
        for words in (("list",), ("unhold", "vm0")):
            done = self.run_as(STRANGER, *words)
            self.assertEqual(done.returncode, NOT_PERMITTED)
            self.assertIn(
                f"You may not open {ACT}. Run this as root or as a member of the group 'qhup-admin'; to look only, as a member "
                "of the group 'qhup'.", done.stderr,
            )

    def test_the_check_of_a_monitoring_system(self):
        for uid in (ADMIN, READER):
            done = as_user(uid, self.check)
            self.assertRegex(done.stdout, r"^QHUPD (OK|WARNING) - .*\| vms=1 ", done.stderr)  # whether the release is usable is not asked here
        done = as_user(STRANGER, self.check)
        self.assertEqual((done.returncode, done.stdout), (3, f"QHUPD UNKNOWN - qhupd cannot be asked on {READ}: Permission denied\n"))
        done = as_user(READER, self.check, "--socket", ACT)
        self.assertEqual(done.returncode, 3, done.stdout)

    def test_one_user_leaves_room_for_others(self):
        """Three quarters of the connections, for whoever is not root."""
        holder = (
            "import socket, sys\n"
            "held = []\n"
            f"for _ in range({MOST}):\n"
            "    client = socket.socket(socket.AF_UNIX)\n"
            f"    client.connect({str(READ)!r})\n"
            "    client.sendall(b'GET /healthz HTTP/1.1\\r\\nHost: q\\r\\n\\r\\n')\n"
            "    held.append(client)\n"
            "    print(client.recv(1000).split(b' ')[1].decode(), end=' ', flush=True)\n"
            "print('held', flush=True)\n"
            "sys.stdin.read()\n"
        )
        command = ["setpriv", f"--reuid={READER}", f"--regid={READER}", f"--groups={READ_GROUP}", sys.executable, "-c", holder]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            try:
                statuses = process.stdout.readline().split()
                most = MOST * 3 // 4
                self.assertEqual(statuses, ["200"] * most + ["429"] * (MOST - most) + ["held"])
                refused = as_user(READER, self.ctl, "list")
                self.assertEqual(refused.returncode, 75, refused.stderr)
                self.assertEqual(as_user(ADMIN, self.ctl, "list").returncode, 0, "another user has room")
                self.assertEqual(subprocess.run([self.ctl, "--socket", ACT, "list"], capture_output=True).returncode, 0)
            finally:
                process.stdin.close()


if __name__ == "__main__":
    enter_namespace()
    unittest.main(verbosity=2)
