#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""qhupd warns of a tap that gets more packets in a pause than it keeps, and of nothing else; it upgrades all the same."""

import time

from case import QemuTest, find_qemu, keep, main
from daemon import Daemon
from firmware import FirmwareGuest
from prober import Prober

DAEMON = '[deadlines]\npause_budget = "10s"\ndrain = "8s"\nverify = "100ms"\n[leases]\nfrozen = "15s"\n'


class Warnings(QemuTest):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.daemon = keep(Daemon({"qemu-10.0": find_qemu("10.0"), "qemu-7.2": find_qemu("7.2")}, sections=DAEMON))

    def test_busy_tap_is_a_warning_and_a_quiet_one_is_not(self):
        for base, target in (("7.2", "qemu-10.0"), ("10.0", "qemu-7.2")):
            with self.subTest(base=base):
                vm = self.start(base, kind=FirmwareGuest, name=f"warn-{base}")
                # The guest answers nobody, and reads nothing: what comes is counted as dropped.
                self.net().run(["ip", "neigh", "replace", vm.tap.guest_ip, "lladdr", vm.tap.mac, "dev", "br0"])
                check = self.daemon.json("check", vm.name, "--to", target)["checks"][0]
                self.assertEqual((check["can_upgrade"], check["warnings"]), (True, []))

                with Prober(self.net(), vm.tap.guest_ip, port=9, interval_us=500, sink=True, drain_ms=0) as prober:
                    time.sleep(0.5)
                    check = self.daemon.json("check", vm.name, "--to", target)["checks"][0]
                    text = self.daemon.ctl("check", vm.name, "--to", target).stdout
                    prober.finish()
                self.assertTrue(check["can_upgrade"])
                self.assertEqual([(w["id"], w["class"]) for w in check["warnings"]], [("netdev/net0", "packet-loss")])
                self.assertIn(f"ip link set {vm.tap.name} txqueuelen", check["warnings"][0]["reason"])
                self.assertIn("warning: netdev/net0: The tap", text)

                # A longer queue is what the warning asks for.
                self.net().run(["ip", "link", "set", vm.tap.name, "txqueuelen", "65536"])
                with Prober(self.net(), vm.tap.guest_ip, port=9, interval_us=500, sink=True, drain_ms=0) as prober:
                    time.sleep(0.2)
                    check = self.daemon.json("check", vm.name, "--to", target)["checks"][0]
                    prober.finish()
                self.assertEqual((check["can_upgrade"], check["warnings"]), (True, []))


if __name__ == "__main__":
    main()
