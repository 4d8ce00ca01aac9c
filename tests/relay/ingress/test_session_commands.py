"""Sessions over a real socket: commands, their order and their replies."""

import re

import pytest
from ingress_world import CRLF, World, body, settings, world

from relay.ingress.settings import AccessSettings
from relay.queue.message import Client, Envelope, NewRecipient, Notify, Ret

NOBODY = AccessSettings(networks=())
FIRST_LINES = ["PIPELINING", "SIZE 157286400", "8BITMIME", "SMTPUTF8", "ENHANCEDSTATUSCODES", "DSN", "CHUNKING"]


@pytest.mark.rfc("5321-2.2-a", "5321-4.1.1.1-a", "5321-2.2-b", "3461-2-a", "6531-3.1-a", "1870-3-a", "4954-4-b")
async def test_ehlo_offers_what_works_and_helo_nothing() -> None:
    async with world() as it:
        client = await it.connect()
        reply = await client.say(b"ehlo client.example")
        assert (reply.code, reply.lines) == (250, ["relay.example.com", *FIRST_LINES])
        assert (await client.say(b"HELO client.example")).lines == ["relay.example.com"]


@pytest.mark.rfc("5321-4.5.1-a", "5321-3.5.3-a", "5321-3.8-a", "5321-4.2-a", "2034-4-a")
@pytest.mark.parametrize(
    ("line", "short"),
    [
        (b"NOOP", "250 2.0.0"),
        (b"noop ignored text", "250 2.0.0"),
        (b"RSET", "250 2.0.0"),
        (b"RSET x", "501 5.5.4"),
        (b"VRFY alice@example.com", "252 2.0.0"),
        (b"VRFY", "501 5.5.4"),
        (b"EXPN list", "502 5.5.1"),
        (b"HELP", "214 2.0.0"),
        (b"HELP MAIL", "214 2.0.0"),
        (b"QUIT now", "501 5.5.4"),
        (b"STARTTLS", "502 5.5.1"),
        (b"AUTH PLAIN", "502 5.5.1"),
        (b"XCLIENT ADDR=127.0.0.1", "500 5.5.1"),
        (b"X-EXPS GSSAPI", "500 5.5.1"),
        (b"MA\xc3\x8fL", "500 5.5.1"),
        (b"", "500 5.5.1"),
        (b" ", "500 5.5.1"),
        (b"EHLO", "501 5.5.4"),
        (b"EHLO two words", "501 5.5.4"),
        (b"EHLO b\xc3\xbccher.test", "501 5.5.4"),
        (b"EHLO " + b"x" * 256, "501 5.5.4"),
        (b"RCPT TO:<b@x.test>", "503 5.5.1"),
        (b"DATA", "503 5.5.1"),
        (b"BDAT 0", "503 5.5.1"),
        (b"MAIL", "501 5.5.4"),
        (b"MAIL TO:<a@x.test>", "501 5.5.4"),
        (b"MAIL FROM <a@x.test>", "501 5.5.4"),
        (b"MAIL FROM:a@x.test", "501 5.1.7"),
        (b"MAIL FROM:<", "501 5.1.7"),
        (b"MAIL FROM:<a@x.test", "501 5.1.7"),
        (b"MAIL FROM:<a@x.test>SIZE=1", "501 5.1.7"),
        (b"MAIL FROM:<\xc3\xbc@x.test>", "550 5.6.7"),
        (b"MAIL FROM:<a@x.test> SMTPUTF8=1", "501 5.5.4"),
        (b"MAIL FROM:<a@x.test> FOO=1", "555 5.5.4"),
        (b"MAIL FROM:<a@x.test> BODY=BINARYMIME", "501 5.5.4"),
        (b"MAIL FROM:<a@x.test> RET=FULL RET=FULL", "501 5.5.4"),
        (b"MAIL FROM:<a@x.test> SIZE=157286401", "552 5.3.4"),
        (b"MAIL FROM:<a@x.test> SIZE=157286400", "250 2.1.0"),
        (b"MAIL FROM: <a@x.test>", "250 2.1.0"),
        (b"mail from:<>", "250 2.1.0"),
    ],
)
async def test_one_reply_and_the_session_goes_on(line: bytes, short: str) -> None:
    async with world() as it:
        client = await it.ready()
        assert (await client.say(line)).short == short
        assert (await client.say(b"NOOP")).short == "250 2.0.0"


@pytest.mark.rfc("5321-3.3-b", "5321-4.1.4-a", "2920-3.2-b", "6531-3.5-a")
@pytest.mark.parametrize(
    ("line", "short"),
    [
        (b"MAIL FROM:<c@x.test>", "503 5.5.1"),
        (b"RCPT FROM:<b@x.test>", "501 5.5.4"),
        (b"RCPT TO:b@x.test", "501 5.1.3"),
        (b"RCPT TO:<>", "501 5.1.3"),
        (b"RCPT TO:<b@x..test>", "501 5.1.3"),
        (b"RCPT TO:<b@x.test> FOO", "555 5.5.4"),
        (b"RCPT TO:<b@x.test> NOTIFY=NEVER,SUCCESS", "501 5.5.4"),
        (b"RCPT TO:<\xc3\xbc@x.test>", "553 5.6.7"),
        (b"RCPT TO:<b@x.test> NOTIFY=NEVER ORCPT=rfc822;b@x.test", "250 2.1.5"),
        (b"RCPT TO:<b@[192.0.2.1]>", "250 2.1.5"),
        (b"DATA", "554 5.5.1"),
        (b"DATA now", "501 5.5.4"),
        (b"BDAT 0 LAST", "554 5.5.1"),
        (b"AUTH PLAIN", "502 5.5.1"),
    ],
)
async def test_replies_within_a_transaction(line: bytes, short: str) -> None:
    async with world() as it:
        client = await it.ready()
        await client.say(b"MAIL FROM:<a@x.test>")
        assert (await client.say(line)).short == short
        assert (await client.say(b"RCPT TO:<ok@x.test>")).short == "250 2.1.5", "the transaction goes on"


@pytest.mark.rfc("5321-4.1.4-a")
@pytest.mark.parametrize("line", [b"RSET", b"EHLO again.example", b"HELO again.example"])
async def test_rset_and_a_new_greeting_end_the_transaction(line: bytes) -> None:
    async with world() as it:
        client = await it.ready()
        await client.mail()
        assert (await client.say(line)).code == 250
        assert (await client.say(b"RCPT TO:<b@x.test>")).short == "503 5.5.1"
        assert (await client.say(b"MAIL FROM:<a@x.test>")).short == "250 2.1.0"


@pytest.mark.rfc("5321-4.1.4-a", "5321-4.1.4-b")
async def test_mail_needs_a_greeting_of_any_name() -> None:
    async with world() as it:
        client = await it.connect()
        assert (await client.say(b"MAIL FROM:<a@x.test>")).short == "503 5.5.1"
        for name in (b"not_mine", b"[192.0.2.77]", b"[IPv6:2001:db8::1]", b"localhost"):
            assert (await client.say(b"EHLO " + name)).code == 250
        assert (await client.say(b"MAIL FROM:<a@x.test>")).short == "250 2.1.0"


async def test_quit_is_answered_and_ends_the_session() -> None:
    async with world() as it:
        client = await it.ready()
        assert (await client.say(b"QUIT")).short == "221 2.0.0"
        assert await client.closed() == b""


@pytest.mark.rfc("2034-5-a")
async def test_helo_session_takes_mail_but_no_parameters() -> None:
    async with world() as it:
        client = await it.connect()
        await client.hello(b"HELO client.example")
        assert (await client.say(b"MAIL FROM:<a@x.test> SIZE=1")).short == "555 5.5.4"
        await client.mail()
        assert (await client.say(b"RCPT TO:<c@x.test> NOTIFY=NEVER")).short == "555 5.5.4"
        assert (await client.data(b"Subject: x\r\n")).short == "250 2.0.0"
        assert b"with SMTP id" in it.store.messages[0].content  # type: ignore[operator]


@pytest.mark.rfc("3461-5.1-a", "3461-5.1-c", "5321-4.5.1-b", "5321-2.4-a", "5321-4.1.1.3-a")
async def test_envelope_is_kept_whole() -> None:
    async with world() as it:
        client = await it.ready()
        await client.send(
            b'MAIL FROM:<"A b"@Example.COM> SIZE=20 BODY=8BITMIME RET=HDRS ENVID=QQ+2B1 AUTH=<>\r\n'
            b"RCPT TO:<Bob@Remote.Test> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;Bob+40Remote.Test\r\n"
            b"RCPT TO:<@route.test:carol@[192.0.2.1]>\r\n"
            b"RCPT TO:<postMASTER>\r\n"
        )
        assert [reply.short for reply in await client.replies(4)] == ["250 2.1.0"] + ["250 2.1.5"] * 3
        assert (await client.data(b"Subject: x\r\n\r\nhi\r\n")).lines == ["2.0.0 Ok: queued as id1"]
        message = it.store.messages[0]
        assert message.queue_id == "id1"
        assert message.envelope == Envelope(reverse_path='"A b"@example.com', ret=Ret.HDRS, envid="QQ+2B1")
        assert message.recipients == (
            NewRecipient(
                forward_path="Bob@remote.test",
                destination="remote.test",
                notify=frozenset({Notify.SUCCESS, Notify.DELAY}),
                orcpt="rfc822;Bob+40Remote.Test",
            ),
            NewRecipient(forward_path="carol@[192.0.2.1]", destination="[192.0.2.1]"),
            NewRecipient(forward_path="postmaster@example.com", destination="example.com"),
        )
        assert message.client == Client(address="127.0.0.1", helo="client.example")


@pytest.mark.rfc("6531-3.2-a", "6531-4.3-a", "6533-3-a")
async def test_internationalised_message() -> None:
    async with world() as it:
        client = await it.ready()
        await client.send("MAIL FROM:<δοκιμή@x.test> SMTPUTF8\r\n".encode())
        await client.send("RCPT TO:<用户@例え.test> ORCPT=utf-8;用户@例え.test\r\n".encode())
        assert [reply.short for reply in await client.replies(2)] == ["250 2.1.0", "250 2.1.5"]
        await client.data("Subject: 件名\r\n\r\nх\r\n".encode())
        message = it.store.messages[0]
        assert message.envelope.smtputf8
        assert message.recipients[0].destination == "xn--r8jz45g.test"
        assert message.recipients[0].orcpt == "utf-8;用户@例え.test"
        assert (message.eight_bit, message.utf8_header) == (True, True)
        assert b"with UTF8SMTP id" in message.content  # type: ignore[operator]


@pytest.mark.rfc("5321-4.5.3.1-a", "5321-4.5.3.1-b", "3461-5.4-b")
async def test_lines_of_1036_and_2048_octets_are_commands_and_longer_ones_are_refused_whole() -> None:
    async with world() as it:
        client = await it.ready()
        await client.say(b"MAIL FROM:<a@x.test>")
        rcpt = b"RCPT TO:<b@x.test> NOTIFY=SUCCESS,FAILURE,DELAY ORCPT=rfc822;" + b"o" * 493
        assert (await client.say(rcpt + b" " * (1034 - len(rcpt)))).short == "250 2.1.5"
        assert (await client.say(rcpt + b" " * (2048 - len(rcpt)))).short == "250 2.1.5"
        for length in (2049, 12_288, 12_289, 100_000):
            assert (await client.say(b"NOOP " + b"x" * (length - 5))).short == "500 5.5.2"
        assert (await client.data(b"hi\r\n")).code == 250
        assert len(it.store.messages[0].recipients) == 2


async def test_l14_line_limits_are_the_same_for_every_session_and_after_every_ehlo() -> None:
    async with world() as it:
        first = await it.ready()
        for _ in range(20):
            await first.hello()
        for client in (first, await it.ready(), first):
            assert (await client.say(b"NOOP " + b"x" * 2043)).code == 250
            assert (await client.say(b"NOOP " + b"x" * 2044)).short == "500 5.5.2"


@pytest.mark.rfc("5321-2.3.8-a")
@pytest.mark.parametrize("cut", [0, 1])
async def test_l8_line_with_bare_lf_is_refused_and_nothing_in_it_executed(cut: int) -> None:
    async with world() as it:
        client = await it.ready()
        await client.send(b"MAIL FROM:<a@x.test>\n")
        if cut:
            assert (await client.reply()).short == "500 5.5.2"
        await client.send(b"RCPT TO:<b@x.test>\r\nNOOP\r\n")
        shorts = [reply.short for reply in await client.replies(3 - cut)]
        assert shorts == ["500 5.5.2"] * (2 - cut) + ["250 2.0.0"]
        assert (await client.say(b"RCPT TO:<b@x.test>")).short == "503 5.5.1"


@pytest.mark.parametrize("filler", [12_280, 12_290, 24_580, 60_000])
async def test_l8_bare_lf_behind_a_line_that_is_too_long(filler: int) -> None:
    async with world() as it:
        client = await it.ready()
        await client.send(b"NOOP " + b"x" * filler + b"\nMAIL FROM:<a@x.test>\r\n")
        assert [reply.short for reply in await client.replies(2)] == ["500 5.5.2", "500 5.5.2"]
        assert (await client.say(b"RCPT TO:<b@x.test>")).short == "503 5.5.1"


async def test_bad_addresses_of_a_long_list_do_not_end_the_session() -> None:
    async with world(settings(max_recipients=200)) as it:
        client = await it.ready()
        await client.mail()
        for _ in range(200):
            assert (await client.say(b"RCPT TO:<bad..one@x.test>")).short == "501 5.1.3"
        assert (await client.data(b"hi\r\n")).short == "250 2.0.0"
        await client.mail()
        await client.send(b"RCPT TO:<\r\n" * 300)
        assert (await client.closed()).endswith(b"closing connection\r\n")


@pytest.mark.parametrize("line", [b"NOOP\rNOOP", b"NO\0OP", b"NOOP\r"])
async def test_bare_cr_and_nul_in_a_command_are_refused(line: bytes) -> None:
    async with world() as it:
        client = await it.ready()
        assert (await client.say(line)).short == "500 5.5.2"
        assert (await client.say(b"NOOP")).short == "250 2.0.0"


@pytest.mark.rfc("5321-7.9-a", "code-p", "dsn-hdr-d")
@pytest.mark.parametrize("sender", [b"<a@x.test>", b"<>", b"<", b"<a@x.test> FOO=1", b"<a@relay.example.com>"])
async def test_client_that_may_not_relay_gets_one_answer_to_mail(sender: bytes) -> None:
    async with world(settings(access=NOBODY)) as it:
        client = await it.ready()
        reply = await client.say(b"MAIL FROM:" + sender)
        assert (reply.code, reply.lines) == (550, ["5.7.64 TenantAttribution; Relay Access Denied"])
        for rcpt in (b"b@relay.example.com", b"b%remote.test@relay.example.com", b"postmaster", b"b@[127.0.0.1]"):
            assert (await client.say(b"RCPT TO:<" + rcpt + b">")).short == "503 5.5.1"
        assert (await client.say(b"DATA")).short == "503 5.5.1"
        await client.send(b"BDAT 4 LAST\r\nQUIT")
        assert (await client.reply()).short == "503 5.5.1"
        assert not it.store.messages
        assert it.metric("ingress_messages_total", result="denied") == 1


async def test_sender_domains_bind_admitted_clients_but_not_the_null_path() -> None:
    async with world(settings(access=AccessSettings(sender_domains=("example.com",)))) as it:
        client = await it.ready()
        assert (await client.say(b"MAIL FROM:<a@other.test>")).short == "550 5.7.64"
        assert (await client.say(b"MAIL FROM:<a@Example.com>")).short == "250 2.1.0"
        await client.say(b"RSET")
        assert (await client.say(b"MAIL FROM:<>")).short == "250 2.1.0"


@pytest.mark.rfc("2920-3.2-a")
async def test_pipelined_commands_are_answered_in_order_however_they_are_cut() -> None:
    group = (
        b"EHLO c.example\r\nMAIL FROM:<a@x.test>\r\nRCPT TO:<b@x.test>\r\nRCPT TO:<\r\nDATA\r\n"
        b"Subject: x\r\n\r\nhi\r\n.\r\n"
        b"RSET\r\nMAIL FROM:<a@x.test>\r\nRCPT TO:<c@x.test>\r\nBDAT 4 LAST\r\nhi\r\nQUIT\r\n"
    )
    codes = [250, 250, 250, 501, 354, 250, 250, 250, 250, 250, 221]
    async with world() as it:
        for step in (len(group), 1, 7):
            client = await it.connect()
            for start in range(0, len(group), step):
                await client.send(group[start : start + step])
            assert [reply.code for reply in await client.replies(len(codes))] == codes
        assert [body(message) for message in it.store.messages] == [b"Subject: x\r\n\r\nhi\r\n", b"hi\r\n"] * 3


@pytest.mark.rfc("2920-3.1-e")
async def test_group_of_1000_recipients() -> None:
    async with world() as it:
        client = await it.ready()
        await client.send(b"MAIL FROM:<a@x.test>\r\n" + b"".join(b"RCPT TO:<r%d@x.test>\r\n" % n for n in range(1000)))
        assert {reply.code for reply in await client.replies(1001)} == {250}
        assert (await client.data(b"hi\r\n")).code == 250
        assert len(it.store.messages[0].recipients) == 1000


@pytest.mark.rfc("5321-4.5.3.1.8-a")
async def test_recipients_beyond_the_bound_are_452_and_the_others_stay() -> None:
    async with world(settings(max_recipients=100)) as it:
        client = await it.ready()
        await client.mail(*[b"<r%d@x.test>" % number for number in range(100)])
        for _ in range(200):
            assert (await client.say(b"RCPT TO:<one@more.test>")).short == "452 4.5.3"
        assert (await client.data(b"hi\r\n")).code == 250
        assert len(it.store.messages[0].recipients) == 100


@pytest.mark.parametrize(
    "line",
    [
        b"GET / HTTP/1.1",
        b"POST / HTTP/1.1",
        b"post / HTTP/1.0",
        b"CONNECT x:25 HTTP/1.1",
        b"Host: relay",
        b"PRI * HTTP/2.0",
    ],
)
async def test_l8_http_is_dropped_at_once(line: bytes) -> None:
    async with world() as it:
        client = await it.connect()
        await client.send(line + CRLF + b"EHLO x\r\nMAIL FROM:<a@x.test>\r\nRCPT TO:<b@x.test>\r\nDATA\r\nhi\r\n.\r\n")
        assert await client.closed() == b""
        assert not it.store.messages


async def test_tls_on_the_plain_port_is_dropped_at_once() -> None:
    async with world() as it:
        for hello in (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"\x16\x03\x01\n\x00\n"):
            client = await it.connect()
            await client.send(hello)
            assert await client.closed() == b""


async def test_too_many_mistakes_end_the_session_and_messages_forgive() -> None:
    async with world() as it:
        client = await it.ready()
        for _ in range(3):
            for _ in range(40):
                assert (await client.say(b"FOO")).code == 500
            await client.mail()
            assert (await client.data(b"hi\r\n")).code == 250
        for _ in range(50):
            assert (await client.say(b"FOO")).code == 500
        assert (await client.say(b"FOO")).code == 500
        assert (await client.reply()).short == "421 4.7.0"
        assert await client.closed() == b""


async def test_idle_commands_are_bounded() -> None:
    async with world() as it:
        client = await it.connect()
        await client.send(b"NOOP\r\n" * 1000)
        answer = await client.closed()
        assert answer.count(b"250 2.0.0") == 201
        assert answer.endswith(b"421 4.7.0 relay.example.com Too many errors or idle commands, closing connection\r\n")


async def test_endless_line_ends_the_session() -> None:
    async with world() as it:
        client = await it.connect()
        await client.send(b"x" * 1_200_000)
        assert (await client.reply()).short == "421 4.7.0"


async def every_reply(it: World) -> list[bytes]:
    """The lines of all replies to a session that tries everything."""
    client = await it.connect(greeted=False)
    await client.send(
        b"NOOP\r\nMAIL FROM:<a@x.test>\r\nEHLO c\r\nHELP\r\nVRFY x\r\nEXPN x\r\nFOO\r\n\n"
        b"AUTH PLAIN\r\nSTARTTLS\r\nBDAT 3\r\nabc"
        b"MAIL FROM:<a@x.test> FOO\r\nMAIL FROM:<\r\nMAIL FROM:<a@x.test> SIZE=999999999999\r\nMAIL FROM:<a@x.test>\r\n"
        b"RCPT TO:<\r\nRCPT TO:<b@x.test>\r\nDATA x\r\nDATA\r\n\0\r\n.\r\nRSET\r\n"
        b"HELO c\r\nMAIL FROM:<>\r\nRCPT TO:<b@x.test>\r\n"
        b"BDAT 2\r\nhiDATA\r\nBDAT 1 LAST\r\n!RSET x\r\nQUIT x\r\nQUIT\r\n"
    )
    return (await client.closed()).split(CRLF)[:-1]


@pytest.mark.rfc("2034-4-a", "6531-3.7.4-a", "5321-4.5.3.1-a")
async def test_every_reply_carries_a_status_but_greeting_helo_and_3yz() -> None:
    async with world() as it:
        lines = await every_reply(it)
        seen = set()
        for line in lines:
            assert len(line) <= 510
            assert line.isascii()
            seen.add(line[:3])
            bare = line.startswith((b"220 relay", b"250-", b"250 CHUNKING", b"250 relay.example.com", b"354 "))
            match = re.match(rb"([245])[0-9]{2} ([245])\.[0-9]{1,3}\.[0-9]{1,3} \S", line)
            assert bare == (match is None), line
            assert match is None or match[1] == match[2], line
        assert seen == {
            b"220",
            b"250",
            b"214",
            b"252",
            b"354",
            b"221",
            b"500",
            b"501",
            b"502",
            b"503",
            b"550",
            b"552",
            b"555",
        }
