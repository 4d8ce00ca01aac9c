"""The machine that a figure was measured on, in words."""

import os
import platform
import re
import sqlite3
import ssl
import subprocess
import tempfile
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_SYNCS = 50


def describe() -> str:
    """Return a few sentences: cores, memory, kernel, versions, and what a sync to this disk takes."""
    model = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    return (
        f"{os.cpu_count()} cores ({model[1] if model is not None else platform.machine()}), {memory:.0f} GiB, "
        f"Linux {platform.release()}. A sync of 10 kB to the disk takes {1000 * _sync_seconds():.2f} ms (median). "
        f"Python {platform.python_version()}, {_event_loop()}, {ssl.OPENSSL_VERSION}, SQLite {sqlite3.sqlite_version}; "
        f"Postfix {_postfix()} with postfix-mta-sts-resolver {_installed('postfix-mta-sts-resolver') or '?'}."
    )


def _sync_seconds() -> float:
    taken = []
    with tempfile.TemporaryFile() as file:
        for _ in range(_SYNCS):
            before = time.perf_counter()
            file.write(bytes(10_000))
            file.flush()
            os.fdatasync(file.fileno())
            taken.append(time.perf_counter() - before)
    return sorted(taken)[_SYNCS // 2]


def _event_loop() -> str:
    found = _installed("uvloop")
    return f"uvloop {found}" if found else "no uvloop"


def _installed(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return ""


def _postfix() -> str:
    done = subprocess.run(["postconf", "-dh", "mail_version"], capture_output=True, text=True, check=False)
    return done.stdout.strip() or "?"
