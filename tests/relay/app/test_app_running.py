"""The relay inside this process: readiness, reload, and what becomes of it when a part of it dies."""

import asyncio
import contextlib
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from relay.app.part import Part
from relay.app.relay import Relay, running
from relay.app.state_dir import REPORT_FILE, StateDirLock
from relay.config import Settings, parse
from relay.delivery.slot_table import SlotSettings
from relay.lab.client import submit
from relay.lab.internet import Lab
from relay.lab.relay_process import lab_config


@pytest.fixture
def settings(lab: Lab, tmp_path: Path) -> Iterator[Settings]:
    """Settings whose state directory is locked, as whoever runs a relay has to do first."""
    made = parse(lab_config(lab), base=tmp_path)
    with StateDirLock(made.relay.state_dir):
        yield made


async def send(relay: Relay, recipient: str) -> None:
    host, port = relay.listeners[0]
    done = await submit(f"{host}:{port}", "a@legacy.test", [recipient], b"Subject: x\r\n\r\nx\r\n")
    assert done.accepted, done


async def test_a_task_that_dies_takes_the_relay_down(settings: Settings) -> None:
    async def die() -> None:
        raise RuntimeError("a bug")

    async def run() -> None:
        async with asyncio.timeout(20), running(settings) as relay:
            relay._run("bad", die())
            await asyncio.Event().wait()

    with pytest.raises(ExceptionGroup) as caught:
        await run()
    assert caught.group_contains(RuntimeError, match="a bug")
    async with running(settings) as again:  # everything was let go of
        assert not await again._health.reasons_not_ready()


async def test_a_task_that_misses_its_cancellation_does_not_keep_the_relay_from_ending(settings: Settings) -> None:
    async def deaf() -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        await asyncio.Event().wait()

    async with asyncio.timeout(20), running(settings) as relay:
        relay._run("deaf", deaf())
        await asyncio.sleep(0)


async def test_an_error_of_the_body_stops_the_relay_in_order(settings: Settings) -> None:
    with pytest.raises(ExceptionGroup) as caught:
        async with running(settings):
            raise RuntimeError("of the body")
    assert caught.group_contains(RuntimeError, match="of the body")
    async with running(settings):
        pass


async def test_a_taken_address_leaves_nothing_behind(settings: Settings) -> None:
    async with running(settings) as first:
        host, port = first.http
        other = settings.relay.model_copy(update={"state_dir": settings.relay.state_dir / "other"})
        http = settings.http.model_copy(update={"address": type(settings.http.address)(host, port)})
        other.state_dir.mkdir()
        with pytest.raises(OSError, match="in use"):
            async with running(settings.model_copy(update={"relay": other, "http": http})):
                pass
    async with running(settings.model_copy(update={"relay": other})):
        pass


async def test_the_former_way_out_stays_for_what_began_under_it_and_is_closed_in_the_end(
    settings: Settings, lab: Lab
) -> None:
    await lab.domain("shop.test", mx=[("mx1.shop.test", 10, None)])
    async with running(settings) as relay:
        await send(relay, "bob@shop.test")
        await lab.hosts["mx1.shop.test"].wait_for_messages(1)
        former = relay._outbound
        assert await relay.reload(settings) == ()
        assert relay._outbound is not former
        assert relay._retired == [former]
        await send(relay, "bob@shop.test")
        await lab.hosts["mx1.shop.test"].wait_for_messages(2)
        assert len(lab.hosts["mx1.shop.test"].sessions) == 2
    assert lab.hosts["mx1.shop.test"].connections == 0


async def test_a_reload_reaches_the_queue(settings: Settings) -> None:
    queue = settings.queue.model_copy(update={"memory_budget": 8192, "retain_finished": timedelta(hours=1)})
    async with running(settings) as relay:
        assert await relay.reload(settings.model_copy(update={"queue": queue})) == ()
        assert relay._dispatcher._settings.memory_budget == 4096
        assert relay._store._retain_us == 3600 * 10**6


async def test_settings_that_cannot_be_built_leave_the_way_out_as_it_was(settings: Settings, tmp_path: Path) -> None:
    """The CA file can go between the check of the settings and their use."""
    gone = settings.model_copy(update={"tls": settings.tls.model_copy(update={"ca_file": tmp_path / "gone.pem"})})
    async with running(settings) as relay:
        former = relay._outbound
        with pytest.raises(ValueError, match=r"gone\.pem"):
            await relay.reload(gone)
        assert relay.settings is settings
        assert relay._outbound is former
        assert relay._retired == [], "in half an hour it would have been closed, and no mail would leave any more"


async def test_a_listener_that_waits_for_a_restart_does_not_make_the_others_unready(settings: Settings) -> None:
    second = settings.listener[0].model_copy(update={"address": type(settings.listener[0].address)("127.0.0.2", 0)})
    async with running(settings) as relay:
        more = settings.model_copy(update={"listener": (*settings.listener, second)})
        assert await relay.reload(more) == ("listener addresses",)
        assert await relay._health.reasons_not_ready() == []


@pytest.mark.rfc("8460-4.2-h")
async def test_of_several_processes_the_one_that_leads_reports(settings: Settings) -> None:
    for number in (1, 0):
        part = Part(number=number, sockets=(), slots=SlotSettings())
        async with running(settings, part) as relay:
            assert ("tls reports" in relay._tasks) is part.leads
        assert (settings.relay.state_dir / REPORT_FILE).exists() is part.leads


async def test_a_damaged_file_of_reports_keeps_no_mail_back(
    settings: Settings, lab: Lab, caplog: pytest.LogCaptureFixture
) -> None:
    (settings.relay.state_dir / REPORT_FILE).write_text("not a database, by any means")
    await lab.domain("shop.test", mx=[("mx1.shop.test", 10, None)])
    async with running(settings) as relay:
        await send(relay, "bob@shop.test")
        await lab.hosts["mx1.shop.test"].wait_for_messages(1)
        assert await relay._health.reasons_not_ready() == []
        assert await relay.reload(settings) == ()
    assert "report.file_unusable" in caplog.messages


async def test_a_store_that_fails_is_told_by_readiness(settings: Settings) -> None:
    async with running(settings) as relay:
        await relay._store.close()
        (reason,) = await relay._health.reasons_not_ready()
        assert reason.startswith("store: ")
