"""The whole program in a process of its own, with the lab as its internet."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from e2e_world import World

from relay.lab.internet import Lab


@pytest.fixture
async def lab() -> AsyncIterator[Lab]:
    async with Lab() as internet:
        yield internet


@pytest.fixture
async def world(lab: Lab, tmp_path: Path) -> AsyncIterator[World]:
    """A relay that is not started yet."""
    made = await World.make(lab, tmp_path)
    yield made
    await made.end()
    print(made.relay.log_end(50))  # pytest shows it when the test has failed
