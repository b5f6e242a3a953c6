# SPDX-License-Identifier: GPL-2.0-or-later
"""A real systemd as PID 1 of namespaces of its own, over an overlay of the host's files. Nothing of the host is changed.

    with SystemdBox(binds=[folder]) as box:
        box.write("/etc/systemd/system/x.service", "...")
        box.systemctl("start", "x")
        box.show("x", "MainPID", "ActiveState")

`box.folder` has the same name inside and outside, for sockets. /run, /tmp, /dev and the control groups are new.
"""

import os
import pathlib
import re
import shutil
import subprocess
import tempfile
import time

# As root of a new mount namespace: $1 the folder for the new root, $2 a folder that is shared, then others, read-only.
_ENTER = r"""
set -eu
top=$1 shared=$2
shift 2
mount --make-rprivate /
mount -t tmpfs -o mode=755 box "$top"
mkdir "$top/upper" "$top/work" "$top/root"
mount -t overlay -o "lowerdir=/,upperdir=$top/upper,workdir=$top/work" box "$top/root"
root=$top/root
mount -t proc proc "$root/proc"
mount -t sysfs -o ro sysfs "$root/sys"
mount -t tmpfs -o mode=755 run "$root/run"
mount -t tmpfs -o mode=1777 tmp "$root/tmp"
mount -t tmpfs -o mode=755 dev "$root/dev"
mkdir -p "$root/sys/fs/cgroup" "$root/dev/pts" "$root/dev/shm"
mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts "$root/dev/pts"
mount -t tmpfs -o mode=1777 shm "$root/dev/shm"
ln -s pts/ptmx "$root/dev/ptmx"
ln -s /proc/self/fd "$root/dev/fd"
for node in null:1:3 zero:1:5 full:1:7 random:1:8 urandom:1:9 tty:5:0; do
    IFS=: read -r name major minor <<END
$node
END
    mknod -m 666 "$root/dev/$name" c "$major" "$minor"
done
mkdir -p "$root$shared"
mount --bind "$shared" "$root$shared"
for folder; do
    mkdir -p "$root$folder"
    mount --bind "$folder" "$root$folder"
done
rm -rf "$root/etc/systemd/system" "$root/etc/machine-id" "$root/etc/fstab"
mkdir -p "$root/etc/systemd/system" "$root/old"
echo qhup-box >"$root/etc/hostname"
printf '[Unit]\nDescription=Nothing\nDefaultDependencies=no\nAllowIsolate=yes\n' >"$root/etc/systemd/system/box.target"
for unit in systemd-udevd.service systemd-udevd-control.socket systemd-udevd-kernel.socket systemd-logind.service \
    systemd-networkd.service systemd-resolved.service systemd-timesyncd.service dev-hugepages.mount dev-mqueue.mount \
    systemd-firstboot.service systemd-sysusers.service systemd-journal-flush.service ldconfig.service \
    systemd-update-done.service systemd-hwdb-update.service systemd-journal-catalog-update.service; do
    ln -s /dev/null "$root/etc/systemd/system/$unit"
done
cd "$root"
pivot_root . old
umount -l /old
cd /
exec env -i container=docker PATH=/usr/sbin:/usr/bin:/sbin:/bin TERM=dumb \
    /lib/systemd/systemd --system --unit=box.target --log-target=console --log-level=warning --show-status=no
"""


class SystemdBox:
    """Enter it as a context."""

    def __init__(self, binds=()):
        self.binds = [str(folder) for folder in binds]
        self.folder = self.process = self.pid = self._group = None

    def __enter__(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix=f"qhup-box-{os.getpid()}-"))
        self.folder.chmod(0o755)
        self.log_path = self.folder / "systemd.log"
        (self.folder / "top").mkdir()
        (self.folder / "shared").mkdir()
        self._group = self._make_group()
        try:
            self._boot()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        if self.pid is not None:
            subprocess.run(["kill", "-KILL", str(self.pid)], check=False)  # with it goes all of its namespace
        if self.process is not None:
            self.process.wait()
        self._remove_group()
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def shared(self):
        """A folder that is the same inside and outside."""
        return self.folder / "shared"

    def run(self, *command, check=True, timeout=60, **options):
        """Runs a command inside; returns the CompletedProcess with text."""
        enter = ["nsenter", "-t", str(self.pid), "-a", "-r", "-w", "--"]
        done = subprocess.run([*enter, *map(str, command)], capture_output=True, text=True, timeout=timeout, **options)
        if check and done.returncode != 0:
            raise AssertionError(f"{command}: exit status {done.returncode}: {done.stdout}{done.stderr}{self.log()}")
        return done

    def systemctl(self, *arguments, check=True):
        return self.run("systemctl", "--no-pager", *arguments, check=check)

    def show(self, unit, *names):
        """Properties of a unit, as a list of texts."""
        said = self.systemctl("show", unit, *(f"--property={name}" for name in names)).stdout
        values = dict(line.split("=", 1) for line in said.splitlines())
        return [values[name] for name in names]

    def host_pid(self, pid):
        """What a process of the inside is called outside."""
        space = os.stat(f"/proc/{self.pid}/ns/pid").st_ino
        for folder in pathlib.Path("/proc").glob("[0-9]*"):
            try:
                names = re.search(r"^NSpid:(.*)$", (folder / "status").read_text(), re.M)[1].split()
                if names[-1] == str(pid) and os.stat(folder / "ns/pid").st_ino == space:
                    return int(folder.name)
            except OSError:
                continue  # it has just ended
        raise ProcessLookupError(pid)

    def path(self, name):
        """Where a file of the inside is, from outside."""
        return pathlib.Path(f"/proc/{self.pid}/root{name}")

    def write(self, name, text, mode=0o644):
        path = self.path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(mode)

    def install(self, source, name):
        self.path(name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, self.path(name))

    def log(self):
        return self.log_path.read_text(errors="replace")[-3000:]

    # -- details

    def _make_group(self):
        for line in pathlib.Path("/proc/self/mountinfo").read_text().splitlines():
            point, kind = line.split()[4], line.split(" - ")[1].split()[0]
            if kind == "cgroup2" and os.access(point, os.W_OK):
                group = pathlib.Path(point) / self.folder.name
                group.mkdir()
                return group
        return None

    def _remove_group(self):
        if self._group is None or not self._group.exists():
            return
        deadline = time.monotonic() + 10
        while "populated 1" in (self._group / "cgroup.events").read_text() and time.monotonic() < deadline:
            time.sleep(0.01)
        for folder, _, _ in os.walk(self._group, topdown=False):
            os.rmdir(folder)

    def _boot(self):
        join = f"echo $$ >{self._group}/cgroup.procs; " if self._group else ""
        spaces = ["unshare", "--pid", "--mount", "--cgroup", "--net", "--uts", "--ipc", "--fork", "--kill-child"]
        enter = ["sh", "-c", _ENTER, "enter", str(self.folder / "top"), str(self.shared), *self.binds]
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(
                ["sh", "-c", join + 'exec "$@"', "join", *spaces, *enter],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + 60
        while not self._is_up():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"systemd did not start ({self.process.returncode}): {self.log()}")
            time.sleep(0.05)

    def _is_up(self):
        if self.pid is None:
            children = pathlib.Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
            if not children or "systemd" not in pathlib.Path(f"/proc/{children[0]}/comm").read_text():
                return False
            self.pid = int(children[0])
        said = self.systemctl("is-active", "box.target", check=False).stdout
        return said.strip() == "active"


__all__ = ["SystemdBox"]
