"""The lab's MX hosts as they should be: good to those who keep the rules, strict with the others."""

import asyncio
import ssl

import pytest

from relay.lab.client import SmtpClient, submit
from relay.lab.internet import Lab
from relay.lab.mx_behaviour import (
    MxBehaviour,
    by_path,
)

from .lab_smtp import CONTENT, ENVELOPE, NAME, an_mx, at, codes, hello


async def test_takes_a_message_in_plain_text(lab: Lab) -> None:
    mx = await an_mx(lab)
    result = await submit(
        at(mx), "a@legacy.test", ["b@shop.test", "c@shop.test"], CONTENT,
        mail_params="SIZE=100 BODY=8BITMIME RET=HDRS ENVID=x", rcpt_params=["NOTIFY=NEVER", "ORCPT=rfc822;c@shop.test"],
    )  # fmt: skip
    assert result.accepted
    (message,) = await mx.wait_for_messages(1)
    assert message.content == CONTENT
    assert message.size == len(CONTENT)
    assert message.reverse_path == "a@legacy.test"
    assert message.mail_parameters == ("SIZE=100", "BODY=8BITMIME", "RET=HDRS", "ENVID=x")
    assert message.forward_paths == ("b@shop.test", "c@shop.test")
    assert [one.parameters for one in message.recipients] == [("NOTIFY=NEVER",), ("ORCPT=rfc822;c@shop.test",)]
    assert not message.tls
    assert not message.bare_newlines
    assert mx.violations == []
    (session,) = mx.sessions
    assert (session.hello, session.client) == ("client.legacy.test", "127.0.0.1")
    assert session.verbs() == ["EHLO", "MAIL", "RCPT", "RCPT", "DATA", "QUIT"]
    assert not any(command.secured for command in session.commands)


async def test_takes_a_message_by_tls(lab: Lab, strict: ssl.SSLContext, client: SmtpClient) -> None:
    mx = await an_mx(lab)
    assert "STARTTLS" in await hello(client)
    await client.start_tls(strict, NAME)
    assert "STARTTLS" not in (await client.command("EHLO client.test")).lines
    assert await codes(client, *ENVELOPE) == [250, 250]
    assert (await client.data(CONTENT)).code == 250
    (message,) = mx.messages
    assert message.tls
    assert (message.session.sni, message.session.tls_version) == (NAME, "TLSv1.3")
    assert message.session.cipher
    assert [command.secured for command in message.session.commands] == [False] * 2 + [True] * 4


@pytest.mark.parametrize("chunk_size", [7, 100_000])
async def test_takes_a_message_by_bdat(lab: Lab, client: SmtpClient, chunk_size: int) -> None:
    mx = await an_mx(lab)
    await hello(client)
    await codes(client, *ENVELOPE)
    assert (await client.bdat(CONTENT, chunk_size=chunk_size)).code == 250
    (message,) = mx.messages
    assert (message.content, message.by_bdat) == (CONTENT, True)
    assert mx.violations == []


@pytest.mark.parametrize("content", [b"", b".\r\n", b"..\r\n", b"\r\n.\r\n", b"a\r\n\r\n.b\r\n"])
async def test_content_comes_out_as_it_went_in(lab: Lab, content: bytes, client: SmtpClient) -> None:
    mx = await an_mx(lab)
    await hello(client)
    await codes(client, *ENVELOPE, "DATA")
    stuffed = (b"\r\n" + content).replace(b"\r\n.", b"\r\n..")[2:]
    await client.send(stuffed + b".\r\n")
    assert (await client.reply()).code == 250
    assert mx.messages[0].content == content


@pytest.mark.parametrize("size", [1, 2, 3, 5, 64])
async def test_a_session_in_pieces_of_any_size(lab: Lab, client: SmtpClient, size: int) -> None:
    mx = await an_mx(lab)
    await hello(client)
    whole = "\r\n".join([*ENVELOPE, "DATA", ""]).encode()
    for start in range(0, len(whole), size):
        await client.send(whole[start : start + size])
        await asyncio.sleep(0)
    assert [(await client.reply()).code for _ in range(3)] == [250, 250, 354]
    whole = b"one\r\n..two\r\n.\r\nQUIT\r\n"
    for start in range(0, len(whole), size):
        await client.send(whole[start : start + size])
        await asyncio.sleep(0)
    assert [(await client.reply()).code for _ in range(2)] == [250, 221]
    assert await client.at_eof()
    assert mx.messages[0].content == b"one\r\n.two\r\n"


async def test_a_pipelined_group_is_answered_in_order(lab: Lab, client: SmtpClient) -> None:
    mx = await an_mx(lab, rcpt=by_path({"bad": "550 5.1.1 No such user"}))
    await hello(client)
    group = [ENVELOPE[0], "RCPT TO:<bad@shop.test>", ENVELOPE[1], "DATA"]
    for _round in range(2):
        await client.send("".join(f"{line}\r\n" for line in group).encode())
        assert [(await client.reply()).code for _ in group] == [250, 550, 250, 354]
        # The next transaction may follow the content at once (RFC 2920 §3.1).
        await client.send(b"Hi\r\n.\r\n")
        assert (await client.reply()).code == 250
    assert [message.forward_paths for message in mx.messages] == [("b@shop.test",)] * 2
    assert mx.violations == []


async def test_a_large_message(lab: Lab, strict: ssl.SSLContext, client: SmtpClient) -> None:
    mx = await an_mx(lab)
    content = b"0123456789abcdef" * 4 + b"\r\n"
    content *= 100_000
    await hello(client)
    await client.start_tls(strict, NAME)
    await codes(client, "EHLO x", *ENVELOPE)
    assert (await client.data(content)).code == 250
    assert mx.messages[0].content == content


async def test_content_need_not_be_kept(lab: Lab) -> None:
    async with Lab(keep_content=False) as small:
        mx = await small.host(NAME)
        await submit(at(mx), "a@legacy.test", ["b@shop.test"], CONTENT)
        assert (mx.messages[0].content, mx.messages[0].size) == (b"", len(CONTENT))


# Strict.


@pytest.mark.parametrize(
    ("commands", "code", "violation"),
    [
        (["MAIL FROM: <a@x.test>"], 501, "a malformed path"),
        (["MAIL FROM:<a b@x.test>"], 501, "a malformed path"),
        (["MAIL FROM:<a@x.test> REQUIRETLS"], 555, "parameter REQUIRETLS that was not offered"),
        (["MAIL FROM:<a@x.test>", "MAIL FROM:<a@x.test>"], 503, "MAIL out of order"),
        (["MAIL FROM:<é@x.test>"], 250, "a non-ASCII path without SMTPUTF8"),
        (["MAIL FROM:<a@x.test>", "RCPT TO:<é@x.test>"], 250, "a non-ASCII path without SMTPUTF8"),
        (["HELO x", "MAIL FROM:<a@x.test> SIZE=1"], 555, "parameter SIZE that was not offered"),
        (["HELO x", "STARTTLS"], 503, "STARTTLS that was not offered"),
        (["STARTTLS now"], 501, "STARTTLS with parameters"),
        (["NONSENSE"], 500, "an unknown command"),
        (["BDAT x"], 501, "BDAT that was not offered or is malformed"),
        (["NOOP \x00"], 500, "a command line that is too long or holds CR, LF or NUL"),
        (["NOOP a\nb"], 500, "a command line that is too long or holds CR, LF or NUL"),
        (["NOOP " + "a" * 2048], 500, "a command line that is too long or holds CR, LF or NUL"),
    ],
)
async def test_a_broken_rule_is_refused_and_written_down(
    lab: Lab, client: SmtpClient, commands: list[str], code: int, violation: str
) -> None:
    mx = await an_mx(lab)
    await hello(client)
    assert (await codes(client, *commands))[-1] == code
    assert mx.violations == [violation]


@pytest.mark.parametrize(
    ("commands", "expected"),
    [
        (["MAIL FROM:<>"], [250]),
        (['MAIL FROM:<"a>b c"@x.test>'], [250]),
        (["mail from:<a@x.test> size=5", "rcpt to:<b@x.test>"], [250, 250]),
        (["MAIL FROM:<é@x.test> SMTPUTF8", "RCPT TO:<é@x.test>"], [250, 250]),
        (["RCPT TO:<b@x.test>"], [503]),
        (["DATA"], [503]),
        (["MAIL FROM:<a@x.test>", "DATA"], [250, 554]),
        (["MAIL FROM:<a@x.test>", "RSET", "MAIL FROM:<a@x.test>"], [250, 250, 250]),
        (["MAIL FROM:<a@x.test>", "EHLO x", "MAIL FROM:<a@x.test>"], [250, 250, 250]),
        (["NOOP", "VRFY x"], [250, 252]),
        (["BDAT 0 LAST"], [503]),
    ],
)
async def test_what_breaks_no_rule(lab: Lab, client: SmtpClient, commands: list[str], expected: list[int]) -> None:
    mx = await an_mx(lab)
    await hello(client)
    assert await codes(client, *commands) == expected
    assert mx.violations == []


async def test_mail_before_hello(lab: Lab, client: SmtpClient) -> None:
    mx = await an_mx(lab)
    await client.connect()
    assert await codes(client, "MAIL FROM:<a@x.test>") == [503]
    assert mx.violations == ["MAIL out of order"]


@pytest.mark.parametrize(
    ("data", "violation"),
    [
        (b"EHLO x\r\nNOOP\r\n", "bytes after EHLO before its reply"),
        (b"NOOP\r\nRSET\r\n", "bytes after NOOP before its reply"),
    ],
)
async def test_bytes_that_come_too_early(lab: Lab, client: SmtpClient, data: bytes, violation: str) -> None:
    mx = await an_mx(lab)
    await hello(client)
    await client.send(data)
    assert [(await client.reply()).code for _ in range(2)] == [250, 250]
    assert mx.violations == [violation]


async def test_pipelining_must_be_offered(lab: Lab, client: SmtpClient) -> None:
    mx = await an_mx(lab, MxBehaviour(keywords=("8BITMIME",)))
    await hello(client)
    await client.send(f"{ENVELOPE[0]}\r\n{ENVELOPE[1]}\r\n".encode())
    assert [(await client.reply()).code for _ in range(2)] == [250, 250]
    assert mx.violations == ["pipelining that was not offered"]


@pytest.mark.parametrize("bare", [b"a\nb\r\n", b"a\rb\r\n", b"a\n.\r\n\r\n", b"\r\r\n"])
async def test_bare_newlines_are_seen(lab: Lab, client: SmtpClient, bare: bytes) -> None:
    mx = await an_mx(lab)
    await hello(client)
    await codes(client, *ENVELOPE)
    assert (await client.bdat(bare)).code == 250
    assert mx.messages[0].bare_newlines
    assert mx.violations == ["a bare CR or LF in content"]


@pytest.mark.parametrize("end", [b"\n.\n", b"\n.\r\n", b"\r.\r", b"\r\n.\n", b"\r\n.\r", b"\r\n\x00.\r\n"])
async def test_only_crlf_dot_crlf_ends_data(lab: Lab, client: SmtpClient, end: bytes) -> None:
    mx = await an_mx(lab)
    await hello(client)
    await codes(client, *ENVELOPE, "DATA")
    await client.send(b"a" + end + b"MAIL FROM:<evil@x.test>\r\n.\r\n")
    assert (await client.reply()).code == 250
    assert b"evil" in mx.messages[0].content
    assert len(mx.messages) == 1


async def test_eight_bits_must_be_offered(lab: Lab, client: SmtpClient) -> None:
    mx = await an_mx(lab, MxBehaviour(keywords=()))
    await hello(client)
    await codes(client, *ENVELOPE)
    assert (await client.data("é\r\n".encode())).code == 250
    assert mx.violations == ["8-bit content without 8BITMIME"]


async def test_a_size_is_announced_and_kept(lab: Lab, client: SmtpClient) -> None:
    mx = await an_mx(lab, MxBehaviour(size=10))
    assert "SIZE 10" in await hello(client)
    assert await codes(client, "MAIL FROM:<a@x.test> SIZE=11", *ENVELOPE) == [552, 250, 250]
    assert (await client.data(b"x" * 9)).code == 552
    assert mx.messages == []


async def test_recipients_max_is_announced_and_kept(lab: Lab, client: SmtpClient) -> None:
    mx = await an_mx(lab, MxBehaviour(recipients_max=1))
    assert "LIMITS RCPTMAX=1" in await hello(client)
    assert await codes(client, *ENVELOPE, "RCPT TO:<c@shop.test>") == [250, 250, 452]
    assert mx.violations == ["more recipients than RCPTMAX"]


async def test_a_refused_chunk_spoils_the_transaction(lab: Lab, client: SmtpClient) -> None:
    mx = await an_mx(lab, chunk="451 4.3.0 Not now")
    await hello(client)
    await codes(client, *ENVELOPE)
    assert (await client.bdat(b"abc", chunk_size=1)).code == 451
    assert (await client.bdat(b"c")).code == 503
    assert await codes(client, "DATA", "RSET", *ENVELOPE) == [503, 250, 250, 250]
    assert mx.messages == []
