# SPDX-License-Identifier: GPL-2.0-or-later
"""Rows of the survival table: what is going on when an upgrade is asked for, and what no test machine has."""

import os
import select
import socket

from pair import wait_for
from survival import Blocked


class MigrationUnderWay(Blocked):
    thing = "migration that is going on"
    blocker = "migration"
    group = "operations-migration"
    id = "vm"

    def begin(self, vm):
        vm.qmp.execute("migrate-set-parameters", {"max-bandwidth": 4096})
        listener = vm.rig.stack.enter_context(socket.create_server(str(vm.rig.folder / "migration"), family=socket.AF_UNIX))
        vm.qmp.execute("migrate", uri=f"unix:{listener.getsockname()}")
        wait_for(lambda: vm.qmp.execute("query-migrate")["status"] == "active", 10, "the migration begins")

    def finish(self, vm):
        # The remedy helps.
        vm.qmp.execute("migrate_cancel")
        wait_for(lambda: not vm.qmp.execute("query-hot-upgrade")["blockers"], 10, "no blocker after the migration's end")


class DumpUnderWay(Blocked):
    thing = "dump of the guest's memory that is going on"
    blocker = "dump"
    group = "operations-dump"
    id = "vm"

    def before(self, vm):
        self.read_fd, write_fd = os.pipe()
        vm.qmp.send_fd("dump", write_fd)
        os.close(write_fd)
        # Nobody reads: it does not end, and the guest waits for it.
        vm.qmp.execute("dump-guest-memory", {"paging": False, "protocol": "fd:dump", "detach": True})
        assert select.select([self.read_fd], [], [], 10)[0], "the dump does not begin"

    def after(self, vm, moved):
        os.close(self.read_fd)
        wait_for(lambda: vm.qmp.execute("query-dump")["status"] == "failed", 10, "the dump's end")
        wait_for(lambda: not vm.qmp.execute("query-hot-upgrade")["blockers"], 10, "no blocker after the dump's end")


class DiscardedRam(Blocked):
    thing = "RAM that is erased at the end of the process (discard-data=on)"
    blocker = "ram"
    group = "operations-blocked"
    id = "ram/discarded0"

    def options(self, rig):
        return {"ram": "memfd"}

    def arguments(self, rig):
        backend = f"memory-backend-file,id=discarded0,size=48M,mem-path={rig.folder}/discarded,share=on,discard-data=on"
        return ["-m", "64,slots=4,maxmem=1G", "-object", backend, "-device", "pc-dimm,memdev=discarded0"]


class NoHardware(Blocked):
    """What can only be made where the hardware is."""

    group = "operations-hardware"
    why = ""

    def needs(self):
        return self.why


class Vfio(NoHardware):
    thing = "VFIO and mediated devices (vfio-pci)"
    why = "no IOMMU group here; a device of that type is the blocker `device`"


class Vdpa(NoHardware):
    thing = "vhost-vdpa"
    why = "no vDPA device here; a netdev of that type is the blocker `netdev`, a device of it `device`"


class Confidential(NoHardware):
    thing = "confidential guest (SEV, TDX)"
    why = "no such CPU here; encrypted memory is the blocker `confidential`"
