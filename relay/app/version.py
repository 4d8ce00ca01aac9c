"""Which version this is, and what it runs on."""

import asyncio
import platform
import ssl
from datetime import datetime
from importlib import metadata

from relay.metrics import Metrics


def version() -> str:
    """Return the version that is installed, or say that none is, as when run straight from the source tree."""
    return _installed("mta-sts-relay") or "not-installed"


def event_loop() -> str:
    """Return what turns the loop that we are in: `asyncio`, or `uvloop` with its version."""
    library = type(asyncio.get_running_loop()).__module__.partition(".")[0]
    return " ".join(filter(None, ("uvloop", _installed("uvloop")))) if library == "uvloop" else "asyncio"


def tell_build(metrics: Metrics, started_at: datetime) -> None:
    """Tell what this process is, and since when."""
    facts = (version(), platform.python_version(), ssl.OPENSSL_VERSION, event_loop())
    metrics.build_info.labels(*facts).set(1)
    metrics.start_time.set(started_at.timestamp())


def _installed(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""
