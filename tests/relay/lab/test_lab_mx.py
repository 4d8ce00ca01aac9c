"""The lab's MX hosts, spoken to by the lab's client and by raw bytes."""

import asyncio
import ssl
import warnings
from collections.abc import AsyncIterator, Callable

import pytest

from relay.lab.ca import CertificateKind
from relay.lab.client import SmtpClient, submit
from relay.lab.internet import Lab
from relay.lab.mx import LabMx
from relay.lab.mx_behaviour import (
    DROP,
    HANG,
    RESET,
    Answer,
    Handshake,
    MxBehaviour,
    Phase,
    Script,
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

NAME = "mx.shop.test"
CONTENT = b"Subject: x\r\n\r\n.one dot\r\n..two\r\n.\r\nend\r\n"
ENVELOPE = ("MAIL FROM:<a@legacy.test>", "RCPT TO:<b@shop.test>")

Open = Callable[..., "asyncio.Future[SmtpClient] | object"]


async def an_mx(lab: Lab, behaviour: MxBehaviour | None = None, **replies: Script) -> LabMx:
    """Start the host, with replies by the name of their phase."""
    behaviour = behaviour or MxBehaviour(replies={Phase[phase.upper()]: script for phase, script in replies.items()})
    return await lab.host(NAME, behaviour)


def at(mx: LabMx) -> str:
    return f"{mx.address}:{mx.port}"


@pytest.fixture
async def client(lab: Lab) -> AsyncIterator[SmtpClient]:
    """A client of the host at the first address, which each test starts."""
    async with SmtpClient(f"127.0.0.4:{lab.smtp_port}", timeout=5) as one:
        yield one


async def hello(client: SmtpClient) -> tuple[str, ...]:
    await client.connect()
    return (await client.command("EHLO client.test")).lines


async def codes(client: SmtpClient, *commands: str) -> list[int]:
    return [(await client.command(command)).code for command in commands]


# Well-behaved.


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
    assert session.hello == "client.legacy.test"
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


# STARTTLS and TLS gone wrong.


async def test_starttls_not_offered(lab: Lab, client: SmtpClient) -> None:
    await an_mx(lab, MxBehaviour(offers_starttls=False))
    assert "STARTTLS" not in await hello(client)


@pytest.mark.parametrize("reply", ["454 4.7.0 Not now", "500 5.5.1 What?", "554 5.7.0 No", "250 2.0.0 OK"])
async def test_starttls_refused(lab: Lab, client: SmtpClient, reply: str) -> None:
    await an_mx(lab, starttls=reply if not reply.startswith("250") else raw(reply.encode() + b"\r\n", accepts=False))
    await hello(client)
    assert str(await client.command("STARTTLS")) == reply
    assert (await client.command("NOOP")).code == 250


async def test_a_reply_is_injected_behind_starttls(lab: Lab, client: SmtpClient) -> None:
    await an_mx(lab, starttls=raw(b"220 2.0.0 Go ahead\r\n250-injected\r\n250 SIZE 1\r\n"))
    await hello(client)
    assert (await client.command("STARTTLS")).code == 220
    assert (await client.reply()).lines == ("injected", "SIZE 1")


async def test_bytes_before_the_handshake_are_thrown_away(lab: Lab, lenient: ssl.SSLContext) -> None:
    mx = await an_mx(lab)
    async with SmtpClient(at(mx), timeout=5) as client:
        await hello(client)
        await client.send(b"STARTTLS\r\nMAIL FROM:<evil@x.test>\r\n")
        assert (await client.reply()).code == 220
    await mx.ended.wait_for(1)
    assert mx.violations == ["bytes after STARTTLS before its reply", "bytes between STARTTLS and the handshake"]
    assert mx.sessions[0].verbs() == ["EHLO", "STARTTLS"]


@pytest.mark.parametrize(
    ("handshake", "error"),
    [
        (Handshake.CLOSE, OSError),
        (Handshake.RESET, ConnectionResetError),
        (Handshake.ALERT, ssl.SSLError),
        (Handshake.GARBAGE, ssl.SSLError),
        (Handshake.PLAINTEXT, ssl.SSLError),
        (Handshake.HANG, TimeoutError),
    ],
)
async def test_handshakes_that_fail(
    lab: Lab, lenient: ssl.SSLContext, handshake: Handshake, error: type[Exception]
) -> None:
    mx = await an_mx(lab, MxBehaviour(handshake=handshake))
    async with SmtpClient(at(mx), timeout=0.2 if handshake is Handshake.HANG else 5) as client:
        await hello(client)
        with pytest.raises(error):
            await client.start_tls(lenient, NAME)
    await mx.ended.wait_for(1)


async def test_a_session_that_goes_on_in_plain_text(lab: Lab, client: SmtpClient) -> None:
    mx = await an_mx(lab, MxBehaviour(handshake=Handshake.PLAINTEXT))
    await hello(client)
    assert await codes(client, "STARTTLS", "EHLO x", *ENVELOPE) == [220, 250, 250, 250]
    assert mx.sessions[0].tls_version is None


@pytest.mark.parametrize("kind", [CertificateKind.EXPIRED, CertificateKind.WRONG_NAME, CertificateKind.SELF_SIGNED])
async def test_a_certificate_that_the_client_refuses(
    lab: Lab, strict: ssl.SSLContext, client: SmtpClient, kind: CertificateKind
) -> None:
    mx = await an_mx(lab, MxBehaviour(certificate=kind))
    await hello(client)
    with pytest.raises(ssl.SSLCertVerificationError):
        await client.start_tls(strict, NAME)
    (session,) = await mx.ended.wait_for(1)
    assert session.sni == NAME
    assert session.tls_failure
    assert session.verbs() == ["EHLO", "STARTTLS"]


async def test_a_certificate_for_other_names(lab: Lab, strict: ssl.SSLContext, client: SmtpClient) -> None:
    await an_mx(lab, MxBehaviour(certificate_names=("shop.test",)))
    await hello(client)
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        await client.start_tls(strict, NAME)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
async def test_a_host_that_knows_old_tls_only(
    lab: Lab, strict: ssl.SSLContext, client: SmtpClient, version: ssl.TLSVersion
) -> None:
    await an_mx(lab, MxBehaviour(newest_tls=version))
    await hello(client)
    with pytest.raises(ssl.SSLError):
        await client.start_tls(strict, NAME)


async def test_old_tls_works_for_those_who_take_it(lab: Lab, lenient: ssl.SSLContext, client: SmtpClient) -> None:
    mx = await an_mx(lab, MxBehaviour(newest_tls=ssl.TLSVersion.TLSv1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        lenient.minimum_version = ssl.TLSVersion.TLSv1
    lenient.set_ciphers("DEFAULT:@SECLEVEL=0")
    await hello(client)
    await client.start_tls(lenient, NAME)
    assert await codes(client, "EHLO x") == [250]
    assert mx.sessions[0].tls_version == "TLSv1"


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_one_version_of_tls(
    lab: Lab, strict: ssl.SSLContext, client: SmtpClient, version: ssl.TLSVersion
) -> None:
    mx = await an_mx(lab, MxBehaviour(oldest_tls=version, newest_tls=version))
    await hello(client)
    await client.start_tls(strict, NAME)
    assert await codes(client, "EHLO x", *ENVELOPE) == [250] * 3
    assert (mx.sessions[0].tls_version or "").replace(".", "_") == version.name


async def test_other_keywords_after_tls(lab: Lab, strict: ssl.SSLContext, client: SmtpClient) -> None:
    mx = await an_mx(lab, MxBehaviour(keywords_in_tls=("8BITMIME",), size=None))
    assert "DSN" in await hello(client)
    await client.start_tls(strict, NAME)
    assert (await client.command("EHLO x")).lines == (NAME, "8BITMIME")
    assert await codes(client, "MAIL FROM:<a@x.test> RET=FULL") == [555]
    assert mx.violations == ["parameter RET that was not offered"]


async def test_starttls_twice(lab: Lab, strict: ssl.SSLContext, client: SmtpClient) -> None:
    await an_mx(lab)
    await hello(client)
    await client.start_tls(strict, NAME)
    assert await codes(client, "EHLO x", "STARTTLS") == [250, 503]


async def test_a_new_certificate_for_new_connections(lab: Lab, strict: ssl.SSLContext) -> None:
    mx = await an_mx(lab)
    mx.behaviour = MxBehaviour(certificate=CertificateKind.EXPIRED)
    async with SmtpClient(at(mx), timeout=5) as client:
        await hello(client)
        with pytest.raises(ssl.SSLCertVerificationError, match="expired"):
            await client.start_tls(strict, NAME)


# Replies gone wrong.

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
