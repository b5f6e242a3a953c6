#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""qhupd and qhupd-ctl with real guests on real QEMUs: what operators see, what scripts branch on, and that neither a bad
release nor the death of the daemon nor a strange VM harms any guest.
"""

import contextlib
import os
import pathlib
import re
import shutil
import socket
import subprocess
import tempfile
import threading
import time

from case import NOISE_MS, QemuTest, find_qemu, find_stock, main, note_figures, other
from daemon import Daemon
from firmware import FirmwareGuest
from guest import roots_folder
from pair import assert_runs_on_one, wait_for
from prober import Prober

RELEASE = {"7.2": "deb12", "10.0": "deb13"}
OK, NOTHING_TO_DO, NOT_FOUND, ROLLED_BACK, NEEDS_OPERATOR, REFUSED, TRY_LATER = 0, 2, 3, 4, 5, 6, 75


def good_releases():
    return {RELEASE[base]: find_qemu(base) for base in RELEASE}


class DaemonTest(QemuTest):
    def daemon(self, releases=None, **options):
        """A daemon for this test."""
        daemon = Daemon({**good_releases(), **(releases or {})}, **options).start()
        self.addCleanup(daemon.stop)
        return daemon

    def move(self, daemon, vm):
        """The next upgrade, to the good release that the VM is not on: it must work."""
        base = other(vm.base)
        run = daemon.json("upgrade", "--yes", vm.name, "--to", RELEASE[base])
        self.assertEqual([entry["outcome"] for entry in run["vms"]], ["upgraded"], run)
        vm.base = base
        assert_runs_on_one(vm)
        vm.check()

    def outcome(self, daemon, vm, release, status):
        """An upgrade that must end with `status`; returns the VM's entry, and the guest must not notice."""
        vm.serial.reset_gap()
        pid = vm.pid()
        vm.qmp.drain_events()
        run = daemon.json("upgrade", "--yes", vm.name, "--to", release, status=status)
        entry = run["vms"][0]
        self.assertEqual(assert_runs_on_one(vm), pid)
        vm.serial.wait_count(3)
        self.assertTrue(entry["code"] and entry["message"], entry)
        if status == REFUSED:
            self.assert_never_paused(vm)
        else:
            self.assertLess(vm.serial.longest_gap_ms, 1000 + 250 + NOISE_MS)
        vm.check()
        return entry


class Operators(DaemonTest):
    def test_one_command_moves_all_guests_under_load_and_tells_people_and_programs(self):
        # under load, but not so that three emulated guests wait for two cores all the time
        options = {"mode": "load", "memory_mib": 192, "parameters": {"ram_rate_kib": 32768, "disk_rate_kib": 2048}}
        vms = [self.start("7.2", name=f"load{i}", ready=False, **options) for i in range(3)]
        for vm in vms:
            vm.wait_ready(120)
        daemon = self.daemon()
        text = daemon.ctl("list").stdout
        for vm in vms:
            self.assertRegex(text, rf"(?m)^{vm.name} +{vm.pid()} +7\.2\S* +running +yes$")
        with contextlib.ExitStack() as stack:
            probers = [stack.enter_context(Prober(self.net(), vm.tap.guest_ip, interval_us=2000)) for vm in vms]
            done = daemon.ctl("upgrade", "--yes", "--all", "--to", "deb13", "--parallel", "2")
            vms[0].serial.wait_count(10)
            networks = [prober.finish() for prober in probers]
        rows = re.findall(r"(?m)^(\S+) +7\.2\S* +10\.0\S* +upgraded +([0-9.]+) ms +([0-9.]+) m?s$", done.stdout)
        self.assertEqual(sorted(row[0] for row in rows), [vm.name for vm in vms], done.stdout)
        self.assertIn("switch_over", done.stderr)
        for vm, network in zip(vms, networks):
            vm.base = "10.0"
            self.assertEqual(network["lost"], 0, network)
            assert_runs_on_one(vm)
            vm.check()
        newest = daemon.json("status")["runs"][0]["id"]
        run = daemon.json("status", newest, "--once")
        names = {vm.name for vm in vms}
        for entry in (entry for entry in run["vms"] if entry["vm"] in names):  # --all is all of this program's
            self.assertEqual(entry["outcome"], "upgraded")
            self.assertGreater(entry["pause_ms"], 0)
            self.assertGreater(entry["total_ms"], entry["pause_ms"])
            self.assertEqual(entry["to"].split(".")[0], "10")
            for part in ("stop", "drain", "save", "load", "activate", "start", "pause", "flush"):
                self.assertIn(part, entry["timings_ns"])
        figures = {row[0]: f"pause {row[1]} total {row[2]}" for row in rows}
        figures["network_gaps"] = [network["longest_gap"]["ms"] for network in networks]
        note_figures("daemon, three under load", figures)
        # asked again, there is nothing to do; back again works as well
        self.assertEqual(daemon.ctl("upgrade", "--yes", "--all", "--to", "deb13", check=False).returncode, NOTHING_TO_DO)
        for vm in vms:
            self.move(daemon, vm)

    def test_names_that_do_not_exist_are_told_from_failures(self):
        vm = self.start("7.2", kind=FirmwareGuest, net=False, name="named")
        daemon = self.daemon()
        self.assertEqual(daemon.ctl("upgrade", "--yes", "nobody", "--to", "deb13", check=False).returncode, NOT_FOUND)
        self.assertEqual(daemon.ctl("upgrade", "--yes", vm.name, "--to", "nothing", check=False).returncode, NOT_FOUND)
        self.assertEqual(daemon.ctl("show", "nobody", check=False).returncode, NOT_FOUND)
        self.assertEqual(daemon.ctl("upgrade", "--yes", check=False).returncode, 64)
        check = daemon.json("check", vm.name, "--to", "deb13")
        self.assertIn("7.2", str(check))
        dry = daemon.json("upgrade", "--yes", vm.name, "--to", "deb13", "--dry-run")
        self.assertEqual(dry["vms"][0]["outcome"], "checked")
        self.move(daemon, vm)

    def test_vm_with_a_blocker_is_refused_by_name_and_others_are_not(self):
        blocked = self.start("7.2", kind=FirmwareGuest, net=False, name="blocked", ram="private")
        fine = self.start("7.2", kind=FirmwareGuest, net=False, name="fine")
        daemon = self.daemon()
        run = daemon.json("upgrade", "--yes", "blocked", "fine", "--to", "deb13", status=REFUSED)
        entries = {entry["vm"]: entry for entry in run["vms"]}
        self.assertEqual(entries["blocked"]["outcome"], "refused")
        self.assertEqual(entries["blocked"]["blockers"][0]["class"], "ram")
        self.assertIn("hot-upgrade=on", entries["blocked"]["blockers"][0]["reason"])
        self.assertEqual(entries["fine"]["outcome"], "upgraded")
        fine.check()
        blocked.check()
        self.assertIn("no, 1 blocker", daemon.ctl("list").stdout)


class Releases(DaemonTest):
    """Every bad binary, as a release."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.vm = cls.start("7.2", name="victim")
        # /tmp is everybody's, and qhupd trusts no binary there
        cls.folder = pathlib.Path(cls.stack.enter_context(tempfile.TemporaryDirectory(prefix="qhup-releases-", dir=roots_folder())))

    def compile(self, name, body):
        source = self.folder / f"{name}.c"
        words = 'const char words[] = "QEMU emulator version ";'  # so that only running it tells what it is
        source.write_text(f"#include <unistd.h>\n#include <stdio.h>\n{words}\nint main(void) {{ {body} return 0; }}\n")
        subprocess.run(["cc", "-w", "-o", self.folder / name, source], check=True)
        return self.folder / name

    def test_release_whose_binary_cannot_be_one_is_refused_and_listed_as_unusable(self):
        folder, qemu = self.folder, find_qemu("10.0")
        plain = folder / "plain"
        shutil.copy(qemu, plain)
        plain.chmod(0o644)
        open_to_all = folder / "open"
        shutil.copy(qemu, open_to_all)
        open_to_all.chmod(0o777)
        script = folder / "script"
        script.write_text("#!/bin/sh\nexit 0\n")
        script.chmod(0o755)
        link = folder / "link"
        link.symlink_to(qemu)
        bad = {
            "missing": folder / "missing",
            "directory": folder,
            "plain": plain,
            "open": open_to_all,
            "script": script,
            "link": link,
            "hash": {"path": str(qemu), "sha256": "0" * 64},
            "relative": "qemu-system-x86_64",
            "other-program": pathlib.Path("/bin/true").resolve(),
            "image-tool": qemu.with_name("qemu-img"),
        }
        daemon = self.daemon(bad)
        listed = {release["name"]: release for release in daemon.json("releases")["releases"]}
        for name in bad:
            with self.subTest(release=name):
                self.assertFalse(listed[name]["usable"])
                self.assertTrue(listed[name]["reason"])
                pid = self.vm.pid()
                done = daemon.ctl("upgrade", "--yes", self.vm.name, "--to", name, check=False)
                self.assertEqual(done.returncode, REFUSED, done.stdout + done.stderr)
                self.assertTrue(done.stderr.strip())
                self.assertEqual(assert_runs_on_one(self.vm), pid)
        self.move(daemon, self.vm)

    def test_release_that_does_not_get_ready_is_refused_with_its_last_words(self):
        qemu = other(self.vm.base)
        good = {"path": str(find_qemu(qemu))}
        cases = {
            "exits": (
                {"path": str(self.compile("exits", 'fputs("my last words", stderr); return 9;')), "version": "10.0.99"},
                "target_died",
                "my last words",
            ),
            "option": ({**good, "options": ["-no-such-option"]}, "", "no-such-option"),
            "device": ({**good, "options": ["-device", "no-such-device"]}, "", "no-such-device"),
            "machine": ({**good, "options": ["-machine", "pc-i440fx-99.9"]}, "", "-machine"),
            "more": ({**good, "options": ["-device", "virtio-rng-pci,rng=rng0"]}, "shape_differs", ""),
            "hangs": (
                {"path": str(self.compile("hangs", "for (;;) pause();")), "version": "10.0.99"},
                "target_timeout",
                "",
            ),
        }
        with contextlib.suppress(FileNotFoundError):
            cases["stock"] = ({"path": str(find_stock("10.0"))}, "", "")
        daemon = self.daemon({name: case[0] for name, case in cases.items()}, sections='[deadlines]\nprepare = "2s"')
        for name, (_, code, words) in cases.items():
            with self.subTest(release=name):
                entry = self.outcome(daemon, self.vm, name, REFUSED)
                self.assertEqual(entry["outcome"], "refused")
                if code:
                    self.assertEqual(entry["code"], code)
                self.assertIn(words, entry["message"] + entry["peer_text"])
        self.move(daemon, self.vm)

    def test_release_that_fails_while_loading_is_rolled_back_with_another_exit_status(self):
        daemon, vm = self.daemon(), self.vm
        cases = {
            ("target.machine.lies", "fail"): (REFUSED, "shape_differs"),
            ("target.protocol.lies", "fail"): (REFUSED, "protocol_mismatch"),
            ("target.start.begin", "kill"): (REFUSED, "target_died"),
            ("target.load.begin", "fail"): (ROLLED_BACK, "load_failed"),
            ("target.load.middle", "abort"): (ROLLED_BACK, "target_died"),
            ("target.load.middle", "hang"): (ROLLED_BACK, ""),
            ("target.activate.end", "fail"): (ROLLED_BACK, "takeover_failed"),
            ("target.word.before", "kill"): (ROLLED_BACK, "target_died"),
            ("target.word.after", "kill"): (ROLLED_BACK, "target_died"),
        }
        for (point, action), (status, code) in cases.items():
            with self.subTest(point=point, action=action):
                vm.qmp.execute("x-hot-upgrade-fault", point=point, action=action)
                try:
                    entry = self.outcome(daemon, vm, RELEASE[other(vm.base)], status)
                finally:
                    vm.qmp.execute("x-hot-upgrade-fault", point=point, action="none")
                if code:
                    self.assertEqual(entry["code"], code)
                # how long the guest stood still, and only if it did
                self.assertEqual((entry["pause_ms"] or 0) > 0, status == ROLLED_BACK, entry)
                self.move(daemon, vm)
        # a side keeps its control socket for 5 s after the upgrade has ended
        wait_for(
            lambda: not [path for path in daemon.folder.glob("control/**/*") if path.is_socket()],
            12,
            "no name of a control socket is left",
        )


class TargetDies(DaemonTest):
    """The new QEMU dies once it may run the guest: the operator is told at once, and the old one never runs it again."""

    def test_guest_is_lost_only_if_the_target_ran_it_and_the_operator_is_told_at_once(self):
        daemon = self.daemon()
        # ran: the word is given, and no vCPU has run; started: nobody was told yet; running: the source was told
        for point in ("target.ran", "target.started", "target.running"):
            with self.subTest(point=point), contextlib.ExitStack() as stack:
                vm = self.start("7.2", kind=FirmwareGuest, net=False, name="dies", stack=stack)
                vm.serial.wait_count(3)
                vm.serial.expect_end()
                vm.qmp.execute("x-hot-upgrade-fault", point=point, action="kill")
                begin = time.monotonic()
                entry = daemon.json("upgrade", "--yes", vm.name, "--to", "deb13", status=NEEDS_OPERATOR)["vms"][0]
                took = time.monotonic() - begin
                self.assertEqual((entry["outcome"], entry["code"]), ("needs_operator", "guest_lost"), entry)
                self.assertIn("cannot go back to the old one", entry["message"])
                self.assertIn("start the VM again", entry["message"])
                self.assertIn("signal 9", entry["peer_text"], entry)
                if point == "target.ran":
                    self.assertIsNone(entry["pause_ms"], "no vCPU ran after the pause began")
                count = vm.serial.count
                time.sleep(0.5)
                self.assertEqual(vm.serial.count, count, "the source runs the guest, which ran elsewhere")
                print(f"    killed at {point}: told after {took:.1f} s, steps {[step['phase'] for step in entry['steps']]}")
                self.assertLess(took, 5)
                wait_for(lambda: not vm.processes(), 12, f"nothing is left: {vm.processes()}")


class DaemonDies(DaemonTest):
    """SIGKILL to the daemon in every phase, and a new one: the guest runs, once; the next upgrade works."""

    # The pair is made slow where the phase is, so that the daemon dies there.
    PHASES = {
        "prepare": ("target.start.begin", 0.5),
        "switch_over": ("target.load.begin", 0.15),
        "verify": (None, 0),
        "commit": ("source.commit.begin", 0.5),
    }

    def test_guest_runs_on_and_the_next_upgrade_works_after_a_death_in_each_phase(self):
        vm = self.start("7.2", name="phases")
        daemon = self.daemon()
        for phase, (point, seconds) in self.PHASES.items():
            with self.subTest(phase=phase):
                vm.serial.reset_gap()
                if point:
                    vm.qmp.execute("x-hot-upgrade-fault", point=point, action="slow", duration=int(seconds * 1e9))
                target = RELEASE[other(vm.base)]
                with daemon.popen("upgrade", "--yes", vm.name, "--to", target, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as ctl:
                    for line in ctl.stderr:
                        if phase in line:
                            break
                    daemon.kill()
                    daemon.start()
                    ctl.stderr.read()
                    ctl.stdout.read()
                    status = ctl.wait(60)
                # qhupd-ctl waits for the new daemon and tells how it ended
                self.assertIn(status, (OK, ROLLED_BACK, REFUSED, TRY_LATER))
                pid = assert_runs_on_one(vm, timeout=10)
                exe = os.readlink(f"/proc/{pid}/exe")
                vm.base = next(base for base in RELEASE if exe == str(find_qemu(base)))
                self.assertLess(vm.serial.longest_gap_ms, 1000 + 250 + NOISE_MS)
                vm.check()
                if point:
                    vm.qmp.execute("x-hot-upgrade-fault", point=point, action="none")
                print(f"    killed in {phase}: exit status {status}, now on {vm.base}")
                self.move(daemon, vm)

    def test_nothing_stays_prepared_when_the_daemon_never_comes_back(self):
        vm = self.start("7.2", kind=FirmwareGuest, net=False, name="alone")
        daemon = self.daemon(sections='[leases]\nprepared = "5s"\n[deadlines]\nprepare = "20s"')
        vm.qmp.execute("x-hot-upgrade-fault", point="target.machine.ready", action="hang")
        with daemon.popen("upgrade", "--yes", vm.name, "--to", "deb13", stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as ctl:
            for line in ctl.stderr:
                if "prepare" in line:
                    break
            daemon.kill()
            ctl.terminate()
            ctl.communicate()
        wait_for(lambda: len(vm.processes()) == 1, 10, "the standby is given up")
        assert_runs_on_one(vm)
        vm.qmp.execute("x-hot-upgrade-fault", point="target.machine.ready", action="none")
        vm.check()
        daemon.start()
        self.move(daemon, vm)


class StrangeVms(DaemonTest):
    """What answers on a VM's socket is not always a healthy QEMU."""

    def serve(self, folder, name, talk):
        """A socket FOLDER/NAME/qmp.sock whose every client is given to talk(connection)."""
        (folder / name).mkdir()
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(str(folder / name / "qmp.sock"))
        listener.listen(16)
        self.addCleanup(listener.close)
        kept = []

        def accept():
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    kept.append(connection)
                    threading.Thread(target=run, args=(connection,), daemon=True).start()

        def run(connection):
            with contextlib.suppress(OSError):
                talk(connection)

        threading.Thread(target=accept, daemon=True).start()

    def test_vm_that_cannot_be_talked_to_is_listed_and_disturbs_nobody(self):
        folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory(prefix="qhup-strange-")))

        def garbage(connection):
            connection.sendall(bytes(range(256)) * 100 + b"\n")
            time.sleep(30)

        def byte_per_second(connection):
            for byte in b'{"QMP": {"version": {"qemu": {"major": 7, "minor": 2, "micro": 0}}, "capabilities": []}}':
                connection.sendall(bytes([byte]))
                time.sleep(1)

        def flood(connection):
            while True:
                connection.sendall(b'{"event": "X", "data": {}, "timestamp": {"seconds": 1, "microseconds": 1}}\r\n' * 100)

        def one_long_line(connection):
            while True:
                connection.sendall(b"x" * 65536)

        def deep(connection):
            connection.sendall(b'{"a":' * 100_000 + b"\n")
            time.sleep(30)

        self.serve(folder, "garbage", garbage)
        self.serve(folder, "silent", lambda connection: time.sleep(60))
        self.serve(folder, "slow", byte_per_second)
        self.serve(folder, "flood", flood)
        self.serve(folder, "long", one_long_line)
        self.serve(folder, "deep", deep)
        (folder / "gone").mkdir()
        gone = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        gone.bind(str(folder / "gone" / "qmp.sock"))
        gone.close()
        (folder / "file").mkdir()
        (folder / "file" / "qmp.sock").write_text("no socket")
        vm = self.start("7.2", kind=FirmwareGuest, net=False, name="healthy")
        daemon = self.daemon(vms=[folder / "*" / "qmp.sock", vm.daemon_qmp_path])
        began = time.monotonic()
        listed = {entry["name"]: entry for entry in daemon.json("list")["vms"]}
        first = time.monotonic() - began
        self.assertTrue(listed["healthy"]["reachable"])
        strange = [entry for entry in listed.values() if not entry["reachable"]]
        self.assertGreaterEqual(len(strange), 7, listed.keys())
        for entry in strange:
            self.assertTrue(entry["reason"], entry)
            self.assertNotIn("\n", entry["reason"])
        self.assertLess(first, 1 + 1 + 0.5, "one deadline for all, not one after the other")
        began = time.monotonic()
        for _ in range(3):
            self.move(daemon, vm)
        took = round(time.monotonic() - began, 2)
        note_figures("among strange VMs", {"list_s": round(first, 2), "three_upgrades_s": took})
        # all of them: the healthy one moves, the others are told as failures of their own
        done = daemon.ctl("--json", "upgrade", "--yes", "--all", "--to", RELEASE[other(vm.base)], check=False)
        self.assertIn('"upgraded"', done.stdout, done.stdout + done.stderr)
        self.assertIsNone(daemon.process.poll(), "the daemon died")
        vm.base = other(vm.base)
        assert_runs_on_one(vm)
        vm.check()


if __name__ == "__main__":
    main()
