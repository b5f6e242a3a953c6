# SPDX-License-Identifier: GPL-2.0-or-later
"""Rows of the survival table: what commands changed since the start, and files that say something else by now."""

import resource
from itertools import count

from block import create
from firmware import fw_cfg_files, fw_cfg_read
from guest import Disk
from pair import open_files, wait_for
from survival import Blocked, Row


class Settings(Row):
    group = "settings"


class MigrationSettings(Settings):
    thing = "migration parameters and capabilities, set by command"
    means = "as they were set; the others at their defaults"
    capabilities = ("auto-converge", "pause-before-switchover")
    parameters = {"max-bandwidth": 123456789, "downtime-limit": 77, "tls-hostname": "elsewhere", "announce-rounds": 7}

    def begin(self, vm):
        self.defaults = self.seen(vm)
        vm.qmp.execute("migrate-set-parameters", self.parameters)
        names = [{"capability": name, "state": True} for name in self.capabilities]
        vm.qmp.execute("migrate-set-capabilities", {"capabilities": names})
        self.rounds = count(8)

    def seen(self, vm):
        names = vm.qmp.execute("query-migrate-capabilities")
        return vm.qmp.execute("query-migrate-parameters"), {one["capability"]: one["state"] for one in names}

    def before(self, vm):
        vm.qmp.execute("migrate-set-parameters", {"announce-rounds": next(self.rounds)})  # also after the first move
        self.parameters_before, self.capabilities_before = self.seen(vm)
        assert all(self.capabilities_before[name] for name in self.capabilities)

    def after(self, vm, moved):
        parameters, capabilities = self.seen(vm)
        both = set(parameters) & set(self.parameters_before)
        assert {name: parameters[name] for name in self.parameters} == {n: self.parameters_before[n] for n in self.parameters}
        untouched = both - set(self.parameters)
        if not moved:
            assert parameters == self.parameters_before and capabilities == self.capabilities_before
        assert len(untouched) > 10 and all(capabilities[name] for name in self.capabilities), capabilities
        others = {n for n in set(capabilities) & set(self.capabilities_before) if capabilities[n] != self.capabilities_before[n]}
        assert not others, others


class SingleStep(Settings):
    thing = "one guest instruction at a time (`singlestep`, `one-insn-per-tb` of the monitor for people)"
    means = "still so"

    def begin(self, vm):
        vm.qmp.hmp("singlestep on" if vm.base == "7.2" else "one-insn-per-tb on")

    def after(self, vm, moved):
        commands = vm.qmp.execute("query-hot-upgrade")["shape"]["commands"]
        assert commands["accelerator"] == {"one-insn-per-tb": True}, commands


class TraceAndLog(Settings):
    thing = "`trace-event-set-state`, and `log` and `logfile` of the monitor for people"
    means = "the new process writes to that file, what it is to write; what was written stays"

    def arguments(self, rig):
        return ["-msg", "timestamp=on"]  # with the number of the process

    def begin(self, vm):
        self.path = vm.rig.folder / "later.log"
        vm.qmp.hmp(f"logfile {self.path}")
        vm.qmp.hmp("log unimp,guest_errors")
        vm.qmp.execute("trace-event-set-state", {"name": "vm_state_notify", "enable": True})
        self.on = self.events(vm)
        assert self.on >= {"vm_state_notify"}, self.on

    @staticmethod
    def events(vm):
        states = vm.qmp.execute("trace-event-get-state", {"name": "*"})
        return {state["name"] for state in states if state["state"] == "enabled"}

    def say(self, vm):
        lines = self.path.read_text().count("vm_state_notify")
        vm.qmp.execute("stop")
        vm.qmp.execute("cont")
        wait_for(lambda: self.path.read_text().count("vm_state_notify") >= lines + 2, 5, "events in the log file")
        return self.path.read_text()

    def before(self, vm):
        self.was = self.say(vm)

    def after(self, vm, moved):
        text = self.say(vm)
        assert text.startswith(self.was), "something was overwritten"
        assert f"{vm.pid()}@" in text.splitlines()[-1], text.splitlines()[-1]
        assert self.events(vm) == self.on, self.events(vm) ^ self.on


class MemoryBackend(Settings):
    thing = "`qom-set` of `dump` and `merge` of a memory backend"
    means = "as set"

    def options(self, rig):
        return {"ram": "memfd"}

    def begin(self, vm):
        backends = vm.qmp.execute("qom-list", path="/objects")
        self.path = next(f"/objects/{one['name']}" for one in backends if one["type"] == "child<memory-backend-memfd>")
        for name in ("dump", "merge"):
            was = vm.qmp.execute("qom-get", path=self.path, property=name)
            vm.qmp.execute("qom-set", {"path": self.path, "property": name, "value": not was})

    def seen(self, vm):
        return [vm.qmp.execute("qom-get", path=self.path, property=name) for name in ("dump", "merge")]

    def before(self, vm):
        self.was = self.seen(vm)

    def after(self, vm, moved):
        assert self.seen(vm) == self.was, self.seen(vm)


class BootOrder(Settings):
    thing = "`qom-set` of `bootindex`, of a device of the board and of one of the user's that change places"
    means = "as set; firmware is told the order when the guest is reset, not before"

    def setup(self, rig):
        create(rig.folder / "ide.raw", format="raw")

    def arguments(self, rig):
        return ["-drive", f"file={rig.folder}/ide.raw,if=ide,index=2,media=disk,format=raw,id=ide0"]

    def find(self, vm):
        """Two devices with a boot index: the disk that the board made, and the disk of the firmware guest."""
        unattached = "/machine/unattached"
        devices = [d for d in vm.qmp.execute("qom-list", path=unattached) if d["type"] == "child<ide-hd>"]
        assert len(devices) == 1, devices
        return f"{unattached}/{devices[0]['name']}", "/machine/peripheral/disk0-dev"

    def get(self, vm):
        return [vm.qmp.execute("qom-get", path=path, property="bootindex") for path in self.find(vm)]

    def options(self, rig):
        return {"disk": Disk("raw", device_options=",bootindex=0")}

    def begin(self, vm):
        self.turn = 0

    def before(self, vm):
        # Change places, each time; the order of the two sets is what a target must not care about.
        board, user = self.find(vm)
        self.turn += 1
        values = (5, 6) if self.turn % 2 else (6, 5)
        for path, value in ((board, -1), (user, -1), (board, values[0]), (user, values[1])):
            vm.qmp.execute("qom-set", {"path": path, "property": "bootindex", "value": value})
        self.was = self.get(vm)
        assert self.was == list(values)

    def after(self, vm, moved):
        assert self.get(vm) == self.was, (self.get(vm), self.was)


class PollingInterval(Settings):
    thing = "`guest-stats-polling-interval` of a balloon, set by command"
    means = "as set"
    path = "/machine/peripheral/balloon0"

    def begin(self, vm):
        self.interval = count(3)

    def before(self, vm):
        self.was = next(self.interval)
        vm.qmp.execute("qom-set", {"path": self.path, "property": "guest-stats-polling-interval", "value": self.was})

    def after(self, vm, moved):
        assert vm.qmp.execute("qom-get", path=self.path, property="guest-stats-polling-interval") == self.was


class EditedFile(Settings):
    thing = "small file of `-fw_cfg` that was edited since the start"
    means = "the guest reads what it was"

    def arguments(self, rig):
        self.path = rig.folder / "for-the-guest"
        self.path.write_text("as it was")
        return ["-fw_cfg", f"name=opt/qhup/edited,file={self.path}"]

    def begin(self, vm):
        self.path.write_text("edited!!!")  # as long as it was

    def after(self, vm, moved):
        contents = fw_cfg_read(vm, *fw_cfg_files(vm)["opt/qhup/edited"])
        assert contents == b"as it was", contents


class Defaults(Row):
    thing = "VM without `-nodefaults`: empty CD drive and floppy of the board; with `-net none`, `-monitor none`, `-parallel none`"
    means = "goes on; the empty SD slot that only 7.2 makes is no difference"
    group = "defaults"

    def options(self, rig):
        return {"defaults": True}

    def arguments(self, rig):
        return ["-net", "none", "-monitor", "none", "-parallel", "none"]

    def before(self, vm):
        drives = {drive["device"] for drive in vm.qmp.execute("query-block")}
        assert drives >= {"ide1-cd0", "floppy0"}, drives
        self.was = drives - {"sd0"}

    def after(self, vm, moved):
        drives = {drive["device"] for drive in vm.qmp.execute("query-block")}
        assert drives - {"sd0"} == self.was, drives


# -- what is refused


class InOne(Blocked):
    group = "settings-blocked"


class EditedConfig(InOne):
    thing = "file of `-readconfig` that was edited since the start"
    blocker = "command-line"
    id = "process/readconfig/more.cfg"

    def arguments(self, rig):
        self.path = rig.folder / "more.cfg"
        self.text = '[device "rng8"]\n  driver = "virtio-rng-pci"\n  rng = "rng0"\n'
        self.path.write_text(self.text)
        return ["-readconfig", self.path]

    def begin(self, vm):
        self.path.write_text(self.text + "  # edited\n")


class OddWord(InOne):
    thing = "word in the command line that is not UTF-8"
    blocker = "command-line"
    id = "process/words"

    def arguments(self, rig):
        return ["-fw_cfg", b"name=opt/qhup/odd,string=\xff\xfe".decode(errors="surrogateescape")]


class DirtyRate(InOne):
    thing = "measurement of the rate of dirty pages"
    blocker = "dirty-rate"
    id = "vm"

    def before(self, vm):
        if vm.qmp.execute("query-dirty-rate")["status"] != "measuring":
            vm.qmp.execute("calc-dirty-rate", {"calc-time": 50})


class DriveDel(InOne):
    thing = "device whose drive was removed with `drive_del`"
    blocker = "drive-del"
    id = "block/lost0"

    def setup(self, rig):
        create(rig.folder / "lost.raw", format="raw")

    def arguments(self, rig):
        drive = f"file={rig.folder}/lost.raw,if=none,id=lost,format=raw"
        return ["-drive", drive, "-device", "virtio-blk-pci,drive=lost,id=lost0"]

    def begin(self, vm):
        assert not vm.qmp.hmp("drive_del lost").strip()


class FewDescriptors(InOne):
    thing = "limit of open descriptors that is nearly reached (RLIMIT_NOFILE)"
    blocker = "limit"
    id = "process/nofile"

    def begin(self, vm):
        _, hard = resource.prlimit(vm.pid(), resource.RLIMIT_NOFILE)
        resource.prlimit(vm.pid(), resource.RLIMIT_NOFILE, (len(open_files(vm.pid())) + 20, hard))
