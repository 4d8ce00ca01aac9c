"""Which version this is."""

from importlib import metadata


def version() -> str:
    """Return the version that is installed, or say that none is, as when run straight from the source tree."""
    try:
        return metadata.version("mta-sts-relay")
    except metadata.PackageNotFoundError:
        return "not-installed"
