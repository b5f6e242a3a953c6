# SPDX-License-Identifier: GPL-2.0-or-later
"""Another build of the same QEMU, for moves from a version to itself: a copy whose build id differs in one bit."""

import contextlib
import os
import pathlib
import shutil
import subprocess
import tempfile


@contextlib.contextmanager
def twin_of(binary, folder):
    """A copy of `binary` in a new folder below `folder`, removed at the end; it finds the same firmware."""
    binary = pathlib.Path(binary)
    home = pathlib.Path(tempfile.mkdtemp(prefix=f"qhup-twin-{os.getpid()}-", dir=folder))
    try:
        home.chmod(0o755)
        (home / "bin").mkdir()
        copy = home / "bin" / binary.name
        shutil.copyfile(binary, copy)
        copy.chmod(0o755)
        (home / "share").symlink_to(binary.parent.parent / "share")
        notes = subprocess.run(["readelf", "-n", binary], capture_output=True, text=True, check=True).stdout
        build_id = bytes.fromhex(notes.split("Build ID:")[1].split()[0])
        data = copy.read_bytes()
        if data.count(build_id) != 1:
            raise RuntimeError(f"{binary}: the build id is there {data.count(build_id)} times")
        copy.write_bytes(data.replace(build_id, bytes([build_id[0] ^ 1]) + build_id[1:]))
        yield copy
    finally:
        shutil.rmtree(home, ignore_errors=True)


__all__ = ["twin_of"]
