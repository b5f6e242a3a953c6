# SPDX-License-Identifier: GPL-2.0-or-later
"""Libraries for LD_PRELOAD, each of one C file of this folder."""

import hashlib
import os
import pathlib
import subprocess

from prober import cache_folder


def find_preload(source):
    """The library of the file, for example "vhost_shim.c"; compiled now or kept in the cache."""
    path = pathlib.Path(__file__).resolve().with_name(source)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    library = cache_folder() / "support" / f"{path.stem}-{digest}.so"
    if not library.exists():
        library.parent.mkdir(parents=True, exist_ok=True)
        part = library.with_name(f"{library.name}.{os.getpid()}")
        subprocess.run(["gcc", "-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-o", part, path, "-ldl"], check=True)
        part.rename(library)
    return library
