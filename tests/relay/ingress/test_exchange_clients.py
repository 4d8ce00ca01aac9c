"""What the legacy MTAs in front of the relay say: Exchange, Postfix, Exim, Sendmail, and what they expect for it."""

from pathlib import Path

import pytest
from certs import CertificateAuthority
from ingress_world import body, settings, tls_listener, world

SERVER = CertificateAuthority().issue(["relay.example.com"])
EXCHANGE_ONLY = {"X-ANONYMOUSTLS", "X-EXPS", "XRDST", "XOORG", "XSHADOW", "XLONGADDR", "XORAR", "BINARYMIME"}


async def test_nothing_is_offered_that_makes_exchange_speak_its_own_dialect(tmp_path: Path) -> None:
    async with world(settings(tls_listener(SERVER.write(tmp_path / "pem")))) as it:
        offered = {line.split()[0] for line in (await (await it.connect()).hello()).lines[1:]}
        assert not offered & EXCHANGE_ONLY
        assert offered == {
            "PIPELINING",
            "SIZE",
            "8BITMIME",
            "SMTPUTF8",
            "ENHANCEDSTATUSCODES",
            "DSN",
            "CHUNKING",
            "STARTTLS",
        }


@pytest.mark.rfc("6152-2-a", "3461-5.1-a", "4954-5-a", "1870-3-a", "6531-3.1-b")
@pytest.mark.parametrize(
    "mail",
    [
        b"MAIL FROM:<> ",
        b"MAIL FROM:<> SIZE=3456",
        b"MAIL FROM:<a@example.com> SIZE=3456 BODY=8BITMIME",
        b"MAIL FROM:<a@example.com> SIZE=36700160",
        b"MAIL FROM:<a@example.com> SIZE=10 RET=HDRS ENVID=e4f1+2D41 AUTH=<>",
        b"MAIL FROM:<a@example.com> RET=FULL ENVID=abc SMTPUTF8 BODY=8BITMIME",
        b"MAIL FROM:<a@example.com> BODY=7BIT",
        b"MAIL FROM:<SRS0=x=y=example.com=a@example.com> SIZE=1",
        b"MAIL FROM:<prvs=12345abcde=a@example.com>",
        b"MAIL FROM:<MicrosoftExchange329e71ec88ae4615bbc36ab6ce41109e@example.com> AUTH=<>",
    ],
)
async def test_mail_of_legacy_mtas_is_accepted(mail: bytes) -> None:
    async with world() as it:
        client = await it.ready()
        assert (await client.say(mail)).short == "250 2.1.0"
        rcpt = b"RCPT TO:<b@remote.test> NOTIFY=SUCCESS,FAILURE,DELAY ORCPT=rfc822;b@remote.test"
        assert (await client.say(rcpt)).short == "250 2.1.5"
        assert (await client.say(b"RCPT TO:<c@remote.test> NOTIFY=NEVER")).short == "250 2.1.5"


@pytest.mark.parametrize(
    ("mail", "short"),
    [(b"MAIL FROM:<a@x.test> XOORG=x", "555 5.5.4"), (b"MAIL FROM:<a@x.test> BODY=BINARYMIME", "501 5.5.4")],
)
async def test_what_is_not_offered_is_refused(mail: bytes, short: str) -> None:
    async with world() as it:
        assert (await (await it.ready()).say(mail)).short == short


async def test_exchange_sends_chunks_and_bare_line_feeds() -> None:
    async with world() as it:
        client = await it.ready()
        await client.send(
            b"MAIL FROM:<a@example.com> SIZE=40 AUTH=<>\r\nRCPT TO:<b@remote.test>\r\n"
            b"BDAT 21\r\nSubject: x\r\n\r\nbare\nlfBDAT 5 LAST\r\nend\r\n"
        )
        assert [reply.short for reply in await client.replies(4)] == [
            "250 2.1.0",
            "250 2.1.5",
            "250 2.0.0",
            "250 2.0.0",
        ]
        assert body(it.store.messages[0]) == b"Subject: x\r\n\r\nbare\r\nlfend\r\n"


async def test_three_commands_in_one_packet() -> None:
    async with world() as it:
        client = await it.ready()
        await client.send(b"MAIL FROM:<a@x.test>\r\nRCPT TO:<b@x.test>\r\nDATA\r\n")
        assert [reply.code for reply in await client.replies(3)] == [250, 250, 354]
        await client.send(b"l" * 1002 + b"\r\n.\r\n")
        assert (await client.reply()).short == "250 2.0.0", "a line longer than 998 octets is no reason to bounce"


async def test_five_unknown_commands_do_not_end_the_session() -> None:
    async with world() as it:
        client = await it.ready()
        for verb in (b"X-EXPS", b"XSHADOW", b"XOORG", b"XPROXY", b"XSESSIONPARAMS", b"X-ANONYMOUSTLS"):
            assert (await client.say(verb)).short == "500 5.5.1"
        await client.mail()
