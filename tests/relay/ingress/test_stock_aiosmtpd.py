"""The faults of aiosmtpd as it is shipped. Not gates: one that fails says that a remedy of ours may go."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiosmtpd.smtp import SMTP, Envelope, Session
from ingress_world import LIMIT, RawClient

pytestmark = pytest.mark.stock


class Handler:
    """Keeps envelopes, as aiosmtpd's own examples do."""

    def __init__(self) -> None:
        self.envelopes: list[Envelope] = []
        self.error: Exception | None = None
        self.gate = asyncio.Event()
        self.gate.set()
        self.finished = 0

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802  aiosmtpd's name
        if self.error is not None:
            raise self.error
        await self.gate.wait()
        self.envelopes.append(envelope)
        return "250 OK"


@contextlib.asynccontextmanager
async def stock(handler: Handler, **options: Any) -> AsyncIterator[RawClient]:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: SMTP(handler, hostname="stock", loop=loop, **options), "127.0.0.1", 0)
    client = await RawClient.connect(server.sockets[0].getsockname()[:2])
    await client.reply()
    await client.hello()
    try:
        yield client
    finally:
        client.close()
        server.close()
        await server.wait_closed()
        # its session ends in a cancelled task, or goes on without us
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)


async def test_stock_l1_encoded_words_in_addresses_are_decoded() -> None:
    handler = Handler()
    async with stock(handler) as client:
        await client.say(b"MAIL FROM:<a@x.test>")
        assert (await client.say(b"RCPT TO:<=?utf-8?q?a=0d=0aRCPT?=@b.test>")).code == 250
        await client.data(b"hi\r\n")
        assert handler.envelopes[0].rcpt_tos == ["a\r\nRCPT@b.test"]


async def test_stock_l1_malformed_path_is_an_exception() -> None:
    async with stock(Handler()) as client:
        reply = await client.say(b"MAIL FROM:<")
        assert reply.code == 500
        assert "IndexError" in reply.lines[0]


async def test_stock_l7_exception_text_reaches_the_peer_as_a_permanent_failure() -> None:
    handler = Handler()
    handler.error = RuntimeError("postgresql://relay:secret@db")
    async with stock(handler) as client:
        await client.say(b"MAIL FROM:<a@x.test>")
        await client.say(b"RCPT TO:<b@x.test>")
        reply = await client.data(b"hi\r\n")
        assert reply.code == 500
        assert "secret" in reply.lines[0]


async def test_stock_l8_bare_lf_ends_a_command_and_stays_in_content() -> None:
    handler = Handler()
    async with stock(handler) as client:
        await client.send(b"MAIL FROM:<a@x.test>\nRCPT TO:<b@x.test>\n")
        assert [reply.code for reply in await client.replies(2)] == [250, 250]
        await client.data(b"hi\n.\nMAIL FROM:<evil@x.test>\r\n")
        assert handler.envelopes[0].original_content == b"hi\n.\nMAIL FROM:<evil@x.test>\r\n"


async def test_stock_l8_http_runs_commands() -> None:
    handler = Handler()
    async with stock(handler) as client:
        await client.send(b"POST / HTTP/1.1\r\nHost: relay\r\n\r\nMAIL FROM:<a@x.test>\r\nRCPT TO:<b@x.test>\r\n")
        assert [reply.code for reply in await client.replies(5)] == [500, 500, 500, 250, 250]


async def test_stock_l12_size_is_read_loosely() -> None:
    async with stock(Handler(), enable_SMTPUTF8=True) as client:
        assert (await client.say("MAIL FROM:<a@x.test> SIZE=٢٥".encode())).code == 250


async def test_stock_l14_line_limits_are_shared_by_all_sessions() -> None:
    handler = Handler()
    async with stock(handler) as client:
        before = SMTP.command_size_limits["MAIL"]
        await client.hello()
        assert SMTP.command_size_limits["MAIL"] > before


async def test_stock_l14_dsn_parameters_are_unknown_and_case_is_lost() -> None:
    async with stock(Handler()) as client:
        assert (await client.say(b"MAIL FROM:<a@x.test> RET=FULL")).code == 555
        await client.say(b"MAIL FROM:<a@x.test>")
        assert (await client.say(b"RCPT TO:<b@x.test> NOTIFY=NEVER")).code == 555


async def test_stock_l14_steady_content_is_cut_off_by_the_idle_timer() -> None:
    async with stock(Handler(), timeout=0.3) as client:
        await client.say(b"MAIL FROM:<a@x.test>")
        await client.say(b"RCPT TO:<b@x.test>")
        await client.say(b"DATA")
        for _ in range(8):
            client.writer.write(b"x\r\n")
            with contextlib.suppress(TimeoutError):
                assert await asyncio.wait_for(client.reader.read(1), 0.1) == b""
                return
        pytest.fail("the content came through")


async def test_stock_l14_second_starttls_and_long_lines() -> None:
    handler = Handler()
    async with stock(handler) as client:
        await client.say(b"MAIL FROM:<a@x.test>")
        await client.say(b"RCPT TO:<b@x.test>")
        assert (await client.data(b"x" * 1100 + b"\r\n")).code == 500


async def test_stock_client_that_closes_its_side_cancels_the_commit() -> None:
    handler = Handler()
    handler.gate.clear()
    async with stock(handler) as client:
        await client.say(b"MAIL FROM:<a@x.test>")
        await client.say(b"RCPT TO:<b@x.test>")
        await client.say(b"DATA")
        await client.send(b"hi\r\n.\r\nQUIT\r\n")
        client.writer.write_eof()
        assert await asyncio.wait_for(client.reader.read(), LIMIT) == b""
        assert not handler.envelopes
