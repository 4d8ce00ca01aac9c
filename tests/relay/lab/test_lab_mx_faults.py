"""The lab's MX hosts, and what they say when they say something wrong, late, or nothing."""

import asyncio
import ssl
from collections.abc import AsyncIterator

import pytest

from relay.lab.client import SmtpClient, submit
from relay.lab.gate import Gate
from relay.lab.internet import Lab
from relay.lab.mx_behaviour import (
    DROP,
    HANG,
    RESET,
    Answer,
    MxBehaviour,
    Phase,
    Then,
    by_path,
    closing,
    endless,
    greylist,
    limit_recipients,
    only_first,
    raw,
    slow,
)

from .lab_smtp import CONTENT, ENVELOPE, NAME, an_mx, at, codes, hello

PHASES = {
    Phase.BANNER: 0,
    Phase.EHLO: 1,
    Phase.MAIL: 2,
    Phase.RCPT: 3,
    Phase.DATA: 4,
    Phase.END_OF_DATA: 5,
    Phase.RSET: 6,
    Phase.NOOP: 7,
    Phase.QUIT: 8,
}


async def replies(client: SmtpClient) -> AsyncIterator[str]:
    """Go through a whole session, reply by reply."""
    yield str(await client.connect())
    for command in ("EHLO x", *ENVELOPE, "DATA"):
        yield str(await client.command(command))
    await client.send(b"Hi\r\n.\r\n")
    yield str(await client.reply())
    for command in ("RSET", "NOOP", "QUIT"):
        yield str(await client.command(command))


async def first(client: SmtpClient, count: int) -> list[str]:
    collected: list[str] = []
    async for reply in replies(client):
        collected.append(reply)
        if len(collected) == count:
            break
    return collected


@pytest.mark.parametrize("phase", PHASES, ids=lambda phase: phase.name)
async def test_a_reply_of_choice_at_each_phase(lab: Lab, client: SmtpClient, phase: Phase) -> None:
    mx = await an_mx(lab, MxBehaviour(replies={phase: "421 4.3.2 Later"}))
    assert (await first(client, PHASES[phase] + 1))[-1] == "421 4.3.2 Later"
    assert len(mx.messages) == (PHASES[phase] > PHASES[Phase.END_OF_DATA])


@pytest.mark.parametrize("phase", PHASES, ids=lambda phase: phase.name)
async def test_421_and_a_close_at_each_phase(lab: Lab, client: SmtpClient, phase: Phase) -> None:
    await an_mx(lab, MxBehaviour(replies={phase: closing("421 4.3.2 Later")}))
    assert (await first(client, PHASES[phase] + 1))[-1] == "421 4.3.2 Later"
    assert await client.at_eof()


@pytest.mark.parametrize("answer", [DROP, RESET], ids=["drop", "reset"])
@pytest.mark.parametrize("phase", PHASES, ids=lambda phase: phase.name)
async def test_the_connection_ends_at_each_phase(lab: Lab, client: SmtpClient, phase: Phase, answer: Answer) -> None:
    mx = await an_mx(lab, MxBehaviour(replies={phase: answer}))
    with pytest.raises((EOFError, ConnectionResetError)):
        await first(client, PHASES[phase] + 1)
    await mx.ended.wait_for(1)
    assert len(mx.messages) == (PHASES[phase] > PHASES[Phase.END_OF_DATA])


@pytest.mark.parametrize("phase", PHASES, ids=lambda phase: phase.name)
async def test_silence_at_each_phase(lab: Lab, phase: Phase) -> None:
    mx = await an_mx(lab, MxBehaviour(replies={phase: HANG}))
    async with SmtpClient(at(mx), timeout=0.1) as client:
        with pytest.raises(TimeoutError):
            await first(client, PHASES[phase] + 1)
    await mx.ended.wait_for(1)  # although it hangs, it sees the client go


async def test_a_message_is_kept_although_the_reply_is_lost(lab: Lab, client: SmtpClient) -> None:
    mx = await an_mx(lab, end_of_data=Answer(raw=b"", then=Then.CLOSE, accepts=True))
    with pytest.raises(EOFError):
        await first(client, 6)
    assert len(mx.messages) == 1


async def test_a_reply_that_comes_late_holds_up_what_follows(lab: Lab, client: SmtpClient) -> None:
    await an_mx(lab, mail=slow(0.05), rcpt=slow(0.01, "450 4.2.0 Busy"))
    await hello(client)
    started = asyncio.get_running_loop().time()
    await client.send(f"{ENVELOPE[0]}\r\n{ENVELOPE[1]}\r\nRSET\r\n".encode())
    assert [str(await client.reply()) for _ in range(3)] == [
        "250 2.1.0 Sender OK",
        "450 4.2.0 Busy",
        "250 2.0.0 Forgotten",
    ]
    assert asyncio.get_running_loop().time() - started >= 0.06


async def test_a_reply_is_held_at_a_gate(lab: Lab, client: SmtpClient) -> None:
    gate = Gate()
    mx = await an_mx(lab, end_of_data=Answer(gate=gate))
    await hello(client)
    await codes(client, *ENVELOPE)
    sending = asyncio.create_task(client.data(CONTENT))
    assert await gate.arrivals.wait_for(1) == ["end of data"]
    assert not sending.done()
    gate.open()
    assert (await sending).code == 250
    # An open gate holds nobody, and a closed connection does not mind it.
    assert (await submit(at(mx), "a@x.test", ["b@x.test"], CONTENT)).accepted


async def test_a_gate_opens_for_nobody(lab: Lab) -> None:
    gate = Gate()
    mx = await an_mx(lab, mail=Answer(gate=gate))
    async with SmtpClient(at(mx), timeout=5) as client:
        await hello(client)
        await client.send(b"MAIL FROM:<a@x.test>\r\n")
        assert await gate.arrivals.wait_for(1) == ["a@x.test"]
    await mx.ended.wait_for(1)
    gate.open()
    assert mx.messages == []


async def test_counts_sessions_at_one_time(lab: Lab) -> None:
    mx = await an_mx(lab)
    clients = [SmtpClient(at(mx), timeout=5) for _ in range(3)]
    for client in clients:
        await client.connect()
    assert mx.connections == 3
    for client in clients:
        await client.close()
    await mx.ended.wait_for(3)
    assert (mx.connections, mx.most_connections) == (0, 3)


async def test_a_reply_in_drips(lab: Lab, client: SmtpClient) -> None:
    await an_mx(lab, mail=Answer(raw=b"250 slowly\r\n", drip=0.001))
    await hello(client)
    assert str(await client.command(ENVELOPE[0])) == "250 slowly"
    assert (await client.command(ENVELOPE[1])).code == 250


async def test_starttls_after_a_late_reply(lab: Lab, strict: ssl.SSLContext, client: SmtpClient) -> None:
    await an_mx(lab, starttls=slow(0.01))
    await hello(client)
    await client.start_tls(strict, NAME)
    assert await codes(client, "EHLO x") == [250]


@pytest.mark.parametrize(
    "reply",
    [
        b"250-one\r\n550 two\r\n",
        b"250 a\r\n250 b\r\n",
        b"25\r\n",
        b"ok\r\n",
        b"250 a\n",
        b"999 a\r\n",
        b"250 \xff\x00\r\n",
    ],
)
async def test_malformed_replies_go_out_as_they_are(lab: Lab, reply: bytes) -> None:
    mx = await an_mx(lab, mail=raw(reply))
    reader, writer = await asyncio.open_connection(mx.address, mx.port)
    async with asyncio.timeout(5):
        await reader.readline()
        writer.write(b"HELO x\r\n")
        await reader.readline()
        writer.write(b"MAIL FROM:<a@x.test>\r\n")
        assert await reader.readexactly(len(reply)) == reply
    writer.close()
    await writer.wait_closed()


async def test_a_reply_before_its_command(lab: Lab, client: SmtpClient) -> None:
    mx = await an_mx(lab, data=raw(b"354 go\r\n250 early\r\n"), end_of_data="554 5.6.0 refused")
    assert (await first(client, 6))[-2:] == ["354 go", "250 early"]
    assert str(await client.reply()) == "554 5.6.0 refused"
    assert mx.messages == []


async def test_a_reply_without_end(lab: Lab, strict: ssl.SSLContext, client: SmtpClient) -> None:
    mx = await an_mx(lab, ehlo=endless())
    await client.connect()
    with pytest.raises(ValueError, match="without end"):
        await client.command("EHLO x")
    # Meanwhile others are served.
    mx.behaviour = MxBehaviour()
    assert (await submit(at(mx), "a@x.test", ["b@x.test"], CONTENT)).accepted


async def test_a_host_that_stops_reading(lab: Lab) -> None:
    mx = await an_mx(lab, data=Answer(raw=b"354 go\r\n", then=Then.STOP_READING))
    async with SmtpClient(at(mx), timeout=0.3) as client:
        await hello(client)
        await codes(client, *ENVELOPE, "DATA")
        with pytest.raises(TimeoutError):
            await client.send(b"x" * 64 * 1024 * 1024)
    assert mx.connections == 1


async def test_greylisting(lab: Lab) -> None:
    mx = await an_mx(lab, rcpt=greylist(tries=2))
    tries = [await submit(at(mx), "a@x.test", ["b@shop.test"], CONTENT) for _ in range(3)]
    assert [one.recipients[0].code for one in tries] == [451, 451, 250]
    other_pair = await submit(at(mx), "other@x.test", ["b@shop.test"], CONTENT)
    assert other_pair.recipients[0].code == 451


async def test_too_many_recipients(lab: Lab) -> None:
    mx = await an_mx(lab, rcpt=limit_recipients(2))
    result = await submit(at(mx), "a@x.test", [f"{name}@shop.test" for name in "bcde"], CONTENT)
    assert [reply.code for reply in result.recipients] == [250, 250, 452, 452]
    assert mx.messages[0].forward_paths == ("b@shop.test", "c@shop.test")


async def test_replies_by_recipient(lab: Lab) -> None:
    mx = await an_mx(lab, rcpt=by_path({"gone": "550 5.1.1 Gone", "full@shop.test": "452 4.2.2 Full"}))
    result = await submit(at(mx), "a@x.test", [f"{name}@shop.test" for name in ("gone", "full", "b")], CONTENT)
    assert [str(reply)[:9] for reply in result.recipients] == ["550 5.1.1", "452 4.2.2", "250 2.1.5"]


async def test_good_until_the_connection_is_used_again(lab: Lab, client: SmtpClient) -> None:
    mx = await an_mx(lab, mail=only_first(1, closing("421 4.3.2 Enough")))
    await hello(client)
    await codes(client, *ENVELOPE)
    assert (await client.data(CONTENT)).code == 250
    assert await codes(client, ENVELOPE[0]) == [421]
    assert await client.at_eof()
    assert len(mx.messages) == 1


async def test_a_script_knows_whether_tls_is_on(lab: Lab, strict: ssl.SSLContext, client: SmtpClient) -> None:
    await an_mx(lab, mail=lambda moment: None if moment.secured else "530 5.7.0 STARTTLS first")
    await hello(client)
    assert await codes(client, ENVELOPE[0]) == [530]
    await client.start_tls(strict, NAME)
    assert await codes(client, "EHLO x", ENVELOPE[0]) == [250, 250]


async def test_ehlo_refused_helo_taken(lab: Lab, client: SmtpClient) -> None:
    await an_mx(lab, ehlo="502 5.5.1 What?")
    await client.connect()
    assert await codes(client, "EHLO x", "MAIL FROM:<a@x.test>", "HELO x", "MAIL FROM:<a@x.test>") == [
        502,
        503,
        250,
        250,
    ]


async def test_hang_up(lab: Lab, client: SmtpClient) -> None:
    mx = await an_mx(lab)
    await hello(client)
    mx.hang_up()
    assert await client.at_eof()
    assert (await submit(at(mx), "a@x.test", ["b@x.test"], CONTENT)).accepted


async def test_a_command_without_end_is_cut_off(lab: Lab, client: SmtpClient) -> None:
    mx = await an_mx(lab)
    await hello(client)
    await client.send(b"x" * 10_000)
    with pytest.raises((ConnectionResetError, EOFError)):
        await client.reply()
    assert mx.violations == ["a command line without end"]
