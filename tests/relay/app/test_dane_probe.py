"""Whether the resolver is good enough for DANE is found out at the start, told once, and looked at again."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest
from policy_fakes import ManualClock
from prometheus_client import CollectorRegistry

from policy.nameservers import DnssecSupport
from relay.app.dane_probe import watch_dnssec
from relay.metrics import Metrics


class Scripted:
    """Answers in turn, the last for ever."""

    def __init__(self, *answers: DnssecSupport) -> None:
        self._answers = list(answers)
        self.asked = 0

    async def dnssec_support(self) -> DnssecSupport:
        self.asked += 1
        return self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]


class Watch:
    def __init__(self, *answers: DnssecSupport) -> None:
        self.probe = Scripted(*answers)
        self.clock = ManualClock()
        self.registry = CollectorRegistry()
        self.metrics = Metrics(self.registry)

    @property
    def active(self) -> float | None:
        return self.registry.get_sample_value("mta_sts_relay_dane_active")

    async def asleep(self) -> None:
        async with asyncio.timeout(5):
            while not self.clock.sleepers:  # noqa: ASYNC110  the clock tells nobody who has gone to sleep
                await asyncio.sleep(0)

    async def after(self, step: timedelta) -> None:
        self.clock.move(step)
        await self.asleep()


@asynccontextmanager
async def watching(*answers: DnssecSupport) -> AsyncIterator[Watch]:
    watch = Watch(*answers)
    task = asyncio.create_task(watch_dnssec(watch.probe, watch.clock, watch.metrics))
    await watch.asleep()
    yield watch
    task.cancel()
    await asyncio.wait({task})


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in caplog.records if record.levelno == logging.WARNING]


@pytest.mark.rfc("7672-2.1.1-b")
@pytest.mark.parametrize("bad", [DnssecSupport.NOT_TRUSTED, DnssecSupport.NOT_VALIDATING])
async def test_a_resolver_that_is_not_good_enough_is_told_once(
    bad: DnssecSupport, caplog: pytest.LogCaptureFixture
) -> None:
    async with watching(bad) as watch:
        assert (watch.active, warnings(caplog)) == (0, ["dane.inactive"])
        await watch.after(timedelta(hours=1))
        assert (watch.probe.asked, warnings(caplog)) == (2, ["dane.inactive"])


async def test_no_answer_leaves_dane_on_and_is_asked_again_soon(caplog: pytest.LogCaptureFixture) -> None:
    async with watching(DnssecSupport.UNKNOWN, DnssecSupport.NOT_VALIDATING) as watch:
        assert (watch.active, warnings(caplog)) == (1, [])
        await watch.after(timedelta(minutes=1))
        assert (watch.active, warnings(caplog)) == (0, ["dane.inactive"])


async def test_a_resolver_that_was_mended_is_seen_within_the_hour(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "relay"):
        async with watching(DnssecSupport.NOT_VALIDATING, DnssecSupport.UNKNOWN, DnssecSupport.VALIDATES) as watch:
            await watch.after(timedelta(hours=1))
            assert watch.active == 0
            await watch.after(timedelta(minutes=1))
            assert watch.active == 1
    assert [record.message for record in caplog.records] == ["dane.inactive", "dane.active"]
