#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Whatever is given as the new binary: the guest runs on, on the old one, one sentence says why, and the next works."""

import contextlib
import os
import pathlib
import shutil
import subprocess
import tempfile

from case import QemuTest, find_qemu, find_stock, main, other, running_binary
from pair import Upgrade, plan_argv, run_upgrade

SPAWN = ("spawn-failed", "bad-argument")


class BadBinary(QemuTest):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.vm = cls.start("7.2", vcpus=2)
        cls.folder = pathlib.Path(cls.stack.enter_context(tempfile.TemporaryDirectory(prefix="qhup-binaries-")))

    def refuse(self, binary, codes, *, then=True, **options):
        """The upgrade to `binary` must fail without a pause, and the one to the other good QEMU must work."""
        error = self.assert_refused(self.vm, codes, lambda: run_upgrade(self.vm, binary, **options))
        if then:
            self.upgrade(self.vm, other(self.vm.base))
            self.vm.check()
        return error

    def script(self, name, text):
        path = self.folder / name
        path.write_text(text)
        path.chmod(0o755)
        return path

    def test_missing_binary_never_reaches_qemu(self):
        with self.assertRaises(FileNotFoundError):
            run_upgrade(self.vm, self.folder / "missing")
        self.upgrade(self.vm, other(self.vm.base))

    def test_binary_that_was_deleted_after_it_was_opened_still_works(self):
        copy = self.folder / "deleted"
        shutil.copy(find_qemu("10.0"), copy)
        argv = plan_argv(self.vm.qmp.execute("query-hot-upgrade")["argv"], find_qemu("10.0"))
        # QEMU finds its firmware beside its binary, and this one is alone
        firmware = find_qemu("10.0").parents[1] / "share" / "qemu"
        with Upgrade(self.vm, copy, argv=[*argv, "-L", str(firmware)]) as upgrade:
            upgrade.begin()
            copy.unlink()
            upgrade.wait_prepared()
            upgrade.switch()
            upgrade.commit()
        self.vm.base = "10.0"
        self.vm.check()
        # the command line has one -L more from now on: other tests do not want that
        argv = [w for w in self.vm.qmp.execute("query-hot-upgrade")["argv"] if w not in ("-L", str(firmware))]
        run_upgrade(self.vm, find_qemu("7.2"), argv=[str(find_qemu("7.2")), *argv[1:]])
        self.vm.base = "7.2"
        self.vm.check()

    def test_binary_opened_in_another_mount_namespace_finds_its_firmware(self):
        """As of a daemon whose root is elsewhere in its namespace: what it has open is nowhere by that name here."""
        words = "mount --make-rprivate / && mount --rbind / /mnt && echo ready && exec sleep 1000"
        elsewhere = subprocess.Popen(["unshare", "-m", "sh", "-c", words], stdout=subprocess.PIPE, text=True)
        try:
            self.assertEqual(elsewhere.stdout.readline(), "ready\n")
            binary = find_qemu(other(self.vm.base))
            name = f"/proc/{elsewhere.pid}/root/mnt{binary}"
            self.assertTrue(os.path.samefile(name, binary))
            argv = plan_argv(self.vm.qmp.execute("query-hot-upgrade")["argv"], binary)
            run_upgrade(self.vm, pathlib.Path(name), argv=argv)
        finally:
            elsewhere.kill()
            elsewhere.wait()
            elsewhere.stdout.close()
        self.vm.base = other(self.vm.base)
        self.assertEqual(running_binary(self.vm), str(binary))
        self.vm.check()

    def test_directory_is_refused(self):
        self.refuse(self.folder, SPAWN)

    def test_file_that_is_not_executable_is_refused(self):
        copy = self.folder / "plain"
        shutil.copy(find_qemu("10.0"), copy)
        copy.chmod(0o644)
        self.refuse(copy, SPAWN)

    def test_file_that_is_no_program_is_refused(self):
        self.refuse(self.script("text", "this is no program\n"), SPAWN)

    def test_truncated_binary_is_refused(self):
        copy = self.folder / "truncated"
        copy.write_bytes(find_qemu("10.0").read_bytes()[:100_000])
        copy.chmod(0o755)
        self.refuse(copy, (*SPAWN, "target-died"))

    def test_program_that_is_not_qemu_is_refused(self):
        self.refuse("/bin/true", "target-died")
        error = self.refuse("/bin/ls", "target-died")
        self.assertTrue(error.stderr, "its last words")

    def test_script_is_refused(self):
        self.refuse(self.script("script", "#!/bin/sh\necho no use >&2\nexit 3\n"), (*SPAWN, "target-died"))

    def test_qemu_without_the_patches_is_refused(self):
        try:
            stock = find_stock("10.0")
        except FileNotFoundError as missing:
            self.skipTest(str(missing))
        error = self.refuse(stock, "target-died")
        self.assertIn("hot-upgrade", error.stderr)

    def test_binary_that_lacks_machine_type_device_or_option_is_refused_with_its_own_words(self):
        binary = find_qemu(other(self.vm.base))
        argv = plan_argv(self.vm.qmp.execute("query-hot-upgrade")["argv"], binary)
        cases = {
            "unsupported machine type": [w.replace("pc-i440fx-7.2", "pc-i440fx-99.9") for w in argv],
            "no-such-device": [*argv, "-device", "no-such-device"],
            "no-such-option": [*argv, "-no-such-option"],
            "no-such-property": [w.replace("virtio-balloon-pci,", "virtio-balloon-pci,no-such-property=1,") for w in argv],
        }
        for word, line in cases.items():
            with self.subTest(lacks=word):
                error = self.refuse(binary, "target-died", argv=line, then=False)
                self.assertIn(word, error.stderr)
        self.upgrade(self.vm, other(self.vm.base))

    def test_machine_that_is_another_one_is_refused_by_name(self):
        binary = find_qemu(other(self.vm.base))
        argv = plan_argv(self.vm.qmp.execute("query-hot-upgrade")["argv"], binary)
        cases = {
            "more RAM": swap(argv, "-m", lambda _: "384"),
            "one vCPU less": swap(argv, "-smp", lambda _: "1"),
            "another CPU": swap(argv, "-cpu", lambda _: "Nehalem"),
            "a device more": [*argv, "-device", "virtio-rng-pci,rng=rng0,id=more"],
            "a device less": without(argv, "-device", "virtio-balloon-pci"),
            "another type": [w.replace("pc-i440fx-7.2", "pc-q35-7.2") for w in argv],
            "another MAC": [w.replace("mac=52:54:00", "mac=52:54:01") for w in argv],
        }
        for name, line in cases.items():
            self.assertNotEqual(line, argv, name)
            with self.subTest(what=name):
                self.refuse(binary, ("shape-differs", "target-died"), argv=line, then=False)
        self.upgrade(self.vm, other(self.vm.base))

    def test_program_that_exits_or_crashes_at_start_is_refused_with_its_last_words(self):
        for name, code in (("exits", "return 7;"), ("crashes", "abort();")):
            with self.subTest(name=name):
                error = self.refuse(self.compile(name, f'fputs("last words of {name}", stderr); {code}'), "target-died")
                self.assertIn(f"last words of {name}", error.stderr)

    def test_program_that_hangs_at_start_is_given_up_and_does_not_stay(self):
        for name, code in (("waits", "for (;;) pause();"), ("is deaf", "signal(SIGTERM, SIG_IGN); for (;;) pause();")):
            with self.subTest(name=name):
                hanging = self.compile(name.replace(" ", "-"), code)
                self.refuse(hanging, ("target-timeout", "lease-expired"), lease_s=1.5)

    def test_program_that_closes_everything_and_hangs_is_given_up(self):
        code = "for (int i = 0; i < 1024; i++) close(i); for (;;) pause();"
        self.refuse(self.compile("closes", code), ("target-died", "target-timeout", "lease-expired"), lease_s=1.5)

    def test_program_that_writes_nonsense_to_its_descriptors_is_given_up(self):
        code = r"""
            const char *words[] = {"nonsense", "{}", "{\"type\": \"running\"}", "{\"type\": \"standby\"}"};
            for (int fd = 3; fd < 256; fd++) {
                int kind;
                socklen_t size = sizeof kind;
                if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &kind, &size) == 0 && kind == SOCK_SEQPACKET) {
                    for (int i = 0; i < 4; i++) send(fd, words[i], strlen(words[i]), MSG_NOSIGNAL);
                }
            }
            sleep(1);"""
        self.refuse(
            self.compile("nonsense", code),
            ("protocol-mismatch", "target-died", "shape-differs", "target-timeout", "lease-expired"),
            lease_s=3,
        )

    def test_program_that_floods_stderr_does_not_slow_the_guest(self):
        code = 'for (long n = 0; n < 20000000; n++) fputs("flood of words\\n", stderr);'
        error = self.refuse(self.compile("flood", code), ("target-died", "target-timeout", "lease-expired"), lease_s=2)
        self.assertLess(len(error.stderr), 64 * 1024)

    def test_open_descriptors_of_the_target_are_only_its_own(self):
        vm = self.vm
        report = self.folder / "descriptors"
        code = (
            f'FILE *out = fopen("{report}", "w"); char link[4096], name[64];'
            "for (int i = 3; i < 1024; i++) { snprintf(name, sizeof name, \"/proc/self/fd/%d\", i);"
            "ssize_t n = readlink(name, link, sizeof link - 1); if (n > 0 && i != fileno(out)) {"
            'link[n] = 0; fprintf(out, "%s\\n", link); } } fclose(out);'
        )
        self.refuse(self.compile("lists", code), "target-died", then=False)
        inherited = report.read_text().split("\n")[:-1]
        # but the log, which is the stderr of the process that it may become
        own = [name for name in inherited if name.startswith(str(vm.folder)) and name != str(vm.log_path)]
        self.assertEqual(own, [str(vm.disk.path)], "of the files of the VM only its images cross")
        self.assertFalse([name for name in inherited if "anon_inode" in name and "pidfd" not in name], inherited)

    def compile(self, name, body):
        source = self.folder / f"{name}.c"
        source.write_text(
            "#include <signal.h>\n#include <stdio.h>\n#include <stdlib.h>\n#include <string.h>\n#include <unistd.h>\n"
            "#include <sys/socket.h>\n#include <sys/stat.h>\n"
            f"int main(void) {{ {body} return 0; }}\n"
        )
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.folder / name)
        subprocess.run(["cc", "-w", "-o", self.folder / name, source], check=True)
        return self.folder / name


def swap(argv, option, change):
    """argv with the value of `option` changed."""
    at = argv.index(option) + 1
    return [*argv[:at], change(argv[at]), *argv[at + 1 :]]


def without(argv, option, beginning):
    """argv without the `option` whose value begins so."""
    for at, word in enumerate(argv):
        if word == option and argv[at + 1].startswith(beginning):
            return argv[:at] + argv[at + 2 :]
    raise AssertionError(f"no {option} {beginning}")


if __name__ == "__main__":
    main()
