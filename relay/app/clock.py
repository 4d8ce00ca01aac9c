"""The real time."""

import asyncio
from datetime import UTC, datetime
from functools import partial


class SystemClock:
    """Implements relay.clock.Clock and policy.clock.Clock."""

    now = staticmethod(partial(datetime.now, UTC))  # asked seven times a message, and so without a function of Python's

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
