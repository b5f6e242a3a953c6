#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""The hand-over on /dev/kvm, with a guest of 512 bytes, since a host's KVM may be too limited for a kernel."""

import contextlib
import os
import subprocess
import sys

from case import QemuTest, find_qemu, in_ms, main, note_figures, other
from firmware import FirmwareGuest
from pair import Upgrade


def why_no_kvm():
    """Why a guest cannot run on /dev/kvm here, or None."""
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return "/dev/kvm is missing or closed to us"
    for base in ("7.2", "10.0"):
        vm = FirmwareGuest(find_qemu(base), accel="kvm")
        try:
            vm.start()
            vm.serial.wait_count(5, 30)  # a KVM that interprets needs seconds for the firmware
        except (RuntimeError, TimeoutError, OSError) as error:
            return f"QEMU {base} does not run a guest on /dev/kvm: {str(error).splitlines()[0]}"
        finally:
            with contextlib.suppress(Exception):
                vm.stop()
    return None


class OnKvm(QemuTest):
    def test_guest_moves_between_every_pair_on_kvm(self):
        for machine in ("pc", "q35"):
            for vcpus in (1, 4):
                with self.subTest(machine=machine, vcpus=vcpus), contextlib.ExitStack() as stack:
                    options = {"accel": "kvm", "machine": machine, "vcpus": vcpus}
                    vm = self.start("7.2", kind=FirmwareGuest, net=False, stack=stack, **options)
                    for target in ("7.2", "10.0", "10.0", "7.2"):
                        timings = self.upgrade(vm, target)
                        vm.check()
                    note_figures(f"kvm {machine} {vcpus}", in_ms(timings))

    def test_rollback_from_loaded_leaves_the_guest_running_on_kvm(self):
        vm = self.start("7.2", kind=FirmwareGuest, net=False, accel="kvm", vcpus=2)
        for _ in range(2):
            with Upgrade(vm, find_qemu(other(vm.base))) as upgrade:
                upgrade.prepare()
                upgrade.freeze()
                upgrade.load()
                upgrade.rollback()
            vm.check()
            self.upgrade(vm, other(vm.base))
            vm.check()


if __name__ == "__main__":
    reason = why_no_kvm()
    if reason:
        print(f"skipped: {reason}")
        sys.exit(77)
    print(subprocess.run(["uname", "-r"], capture_output=True, text=True).stdout.strip())
    main()
