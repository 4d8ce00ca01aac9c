"""The world of real servers, built once for all tests that use it."""

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from real_servers import program
from real_world import World, build_world


@pytest.fixture(scope="session")
def world() -> Iterator[World]:
    for name in ("postfix", "unbound", "nginx"):
        program(name)
    if os.geteuid() != 0:
        pytest.skip("Postfix instances of its own need root")
    with ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="relay-real-")))
        root.chmod(0o755)
        yield build_world(root, stack)
