#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Records docs/first-upgrade.md: the first upgrade from installed packages, typed on a host that runs a real systemd.

usage: PYTHONPATH=tests/support tests/systemd/first_upgrade.py FOLDER-WITH-PACKAGES > docs/first-upgrade.md

package_test.py types the commands of the page again.
"""

import os
import pathlib
import re
import sys

from prober import ROOT
from systemd_box import SystemdBox
from unit_guest import UnitGuest

PAGE = ROOT / "docs" / "first-upgrade.md"
QEMU = pathlib.Path("/usr/lib/qhupd/qemu-7.2/bin/qemu-system-x86_64")
COMMANDS = (
    "apt-get install -q -y ./qhupd_0.1.0_amd64.deb ./qhupd-qemu-7.2_0.1.0_amd64.deb ./qhupd-qemu-10.0_0.1.0_amd64.deb",
    "systemctl start qhup-vm@web",
    "qhupd-ctl check web --to qemu-10.0",
    "qhupd-ctl selftest --to qemu-10.0 --guests 2",
    "qhupd-ctl upgrade web --to qemu-10.0 --yes",
)
HEAD = """# The first upgrade, from packages to a VM on its new QEMU

Typed on a Debian 12 host under a real systemd by `tests/systemd/first_upgrade.py`, which writes this page; a test types it again. The VM
is described in `/etc/qhup-vm/web.conf` (`QEMU=` and `ARGS=`, as in `/usr/share/doc/qhupd/examples/vm.conf`): a boot sector that counts
on its serial port, under TCG on two busy cores. It counted on through all of this. KERNEL stands for the release of the host's kernel.

"""


def commands_of_page():
    """What the page says is typed."""
    return re.findall(r"^    # (.+)$", PAGE.read_text(), re.MULTILINE)


def describe_vm(box):
    """Writes the VM's configuration; returns the VM."""
    vm = UnitGuest(QEMU, name="web", folder=box.shared / "web").prepare()
    box.write("/etc/qhup-vm/web.conf", f"QEMU={vm.binary}\nARGS={' '.join(vm.arguments())}\n")
    return vm


def type_command(box, debs, command):
    """Runs it as root in the folder of the packages; returns what was on the screen."""
    words = ["sh", "-c", f"cd {debs} && {command} 2>&1"]
    return box.run("env", "DEBIAN_FRONTEND=noninteractive", *words, timeout=200).stdout


def shorten(text):
    """Without what apt says of itself and of the packages' places."""
    dull = re.compile(r"^(Reading|Building|\(Reading|Get:|Fetched|debconf|N: |Note, |Preparing|Selecting|Processing|Need to|After this|The following|  lib|Use 'apt|\d+ upgraded)")
    return [line for line in text.splitlines() if line and not dull.match(line)]


def main():
    debs = pathlib.Path(sys.argv[1])
    with SystemdBox(binds=[debs]) as box:
        box.path("/usr/sbin/policy-rc.d").unlink(missing_ok=True)
        describe_vm(box)
        sys.stdout.write(HEAD)
        for command in COMMANDS:
            said = type_command(box, debs, command).replace(os.uname().release, "KERNEL")
            sys.stdout.write(f"    # {command}\n" + "".join(f"    {line}\n".replace("    \n", "\n") for line in shorten(said)) + "\n")
        box.systemctl("stop", "qhup-vm@web")


if __name__ == "__main__":
    main()
