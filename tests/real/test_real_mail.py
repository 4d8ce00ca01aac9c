"""The main job with real servers on both sides: Postfix, unbound, nginx, swaks, openssl, promtool."""

import re
import smtplib
import subprocess
import uuid
from email.message import EmailMessage, Message

import pytest
from real_servers import Postfix, program, wait_until
from real_world import PASSWORD, World

_CHUNK = re.compile(r"< \S+: BDAT [0-9]{3,} LAST")

pytestmark = [pytest.mark.real, pytest.mark.xdist_group("real")]


def _mail(subject: str, body: str = "Hello.\n") -> bytes:
    return (
        f"From: Alice <alice@corp.test>\nTo: bob@good.test\nSubject: {subject}\n"
        f"Message-ID: <{subject}@corp.test>\nDate: Sun, 22 Nov 2026 10:00:00 +0000\n\n{body}"
    ).encode()


class Subject:
    """Whether a message carries this word in its subject."""

    def __init__(self, word: str) -> None:
        self._word = word

    def __call__(self, message: EmailMessage) -> bool:
        return self._word in str(message["subject"])


def _token() -> str:
    return f"t{uuid.uuid4().hex[:12]}"


def test_legacy_postfix_sends_through_the_relay_to_an_enforced_postfix(world: World) -> None:
    token = _token()
    world.legacy.submit("alice@corp.test", ["bob@good.test"], _mail(token))
    message = world.good.wait_for_mail(Subject(token), "the message")
    received = [str(value) for value in message.get_all("received", [])]
    assert any("by relay.corp.test" in line and "ESMTPS" in line and "tls TLS_" in line for line in received)
    assert re.search(r"Trusted|Verified", world.legacy.log), "the legacy MTA verified the relay's certificate"
    assert "TLS connection established from" in world.good.log or "Anonymous TLS" in world.good.log
    shown = world.cli("queue", "list", "--all", "--state", "delivered")
    assert token in str(shown)


def test_check_goes_through_all_stages_to_a_real_host(world: World) -> None:
    found = world.cli("check", "good.test", "--connect")
    assert found["deliverable"]
    assert {"mx", "txt", "addresses", "policy"} <= {step["stage"] for step in found["look_ups"]}
    (connection,) = found["hosts"][0]["connections"]
    (steps,) = connection["tries"]
    assert [step["stage"] for step in steps] == [
        "connect", "greeting", "ehlo", "starttls", "handshake", "chain", "names", "ehlo",
    ]  # fmt: skip
    assert not any(step["failed"] for step in [*found["look_ups"], *steps])
    assert sum(step["seconds"] or 0 for step in steps) > 0


def test_check_says_what_is_wrong_with_a_real_host(world: World) -> None:
    found = world.cli("check", "bad.test", "--connect")
    assert not found["deliverable"]
    (steps,) = found["hosts"][0]["connections"][0]["tries"]
    (failed,) = [step for step in steps if step["failed"]]
    assert failed["stage"] in ("chain", "names")
    assert "send them the words" in failed["advice"]
    assert found["postmaster"]


def test_a_domain_without_policy_gets_its_mail_in_plaintext(world: World) -> None:
    token = _token()
    world.legacy.submit("alice@corp.test", ["bob@plain.test"], _mail(token))
    world.plain.wait_for_mail(Subject(token), "the message")


def test_the_ndr_of_a_refused_certificate_arrives_in_a_mailbox(world: World) -> None:
    token = _token()
    world.legacy.submit("alice@corp.test", ["bob@bad.test"], _mail(token), "-N", "failure", "-V", "env+id")
    ndr = world.legacy.wait_for_mail(_ndr_for(token), "the NDR")
    assert world.bad.mailbox() == []
    assert ndr.get_content_type() == "multipart/report"
    assert ndr["auto-submitted"] == "auto-replied"
    assert str(ndr["to"]) == "alice@corp.test"
    per_message, per_recipient = _status_fields(ndr)
    assert str(per_message["reporting-mta"]) == "dns; relay.corp.test"
    assert str(per_message["original-envelope-id"]) == "env+id"
    assert str(per_recipient["final-recipient"]) == "rfc822; bob@bad.test"
    assert str(per_recipient["action"]) == "failed"
    assert str(per_recipient["status"]) == "5.7.5"
    assert str(per_recipient["diagnostic-code"]).lower().startswith("x-mta-sts-relay;")
    text = ndr.get_body(("plain",))
    assert text is not None
    words = text.get_content()
    assert "mx1.bad.test" in words
    assert "Remote certificate failed MTA-STS validation" in words
    wait_until(lambda: "status-part" in world.legacy.log, "Postfix' own MIME parser to see the status part")


def test_the_ndr_of_an_unknown_user_carries_the_remote_reply(world: World) -> None:
    token = _token()
    world.legacy.submit("alice@corp.test", ["nobody@good.test"], _mail(token))
    ndr = world.legacy.wait_for_mail(_ndr_for(token), "the NDR")
    _, per_recipient = _status_fields(ndr)
    assert str(per_recipient["status"]).startswith("5.7.1")
    assert str(per_recipient["remote-mta"]) == "dns; mx1.good.test"
    assert str(per_recipient["diagnostic-code"]).startswith("smtp; 554")


@pytest.mark.rfc("3030-2-d", "3030-2-e", "2920-3.1-b")
def test_content_ahead_of_its_recipients_is_taken_or_skipped(world: World) -> None:
    """Postfix as the host, which minds pipelining where it has no place, and refuses some of the recipients."""
    for token in (_token() for _ in range(9)):  # one by one, until one has gone like that
        world.legacy.submit("alice@corp.test", ["bob@good.test"], _mail(token))
        world.good.wait_for_mail(Subject(token), "the message")
        if before := len(_CHUNK.findall(world.good.log)):
            break
    tokens = [_token() for _ in range(12)]
    body = ".\n..\n.x\n" + "y" * 900 + "\n"
    for number, token in enumerate(tokens):
        with smtplib.SMTP("127.0.0.1", world.smtp_port, timeout=30) as client:
            to = ["nobody@good.test"] * (number % 3 > 0) + ["bob@good.test"] * (number % 3 < 2)
            client.sendmail("alice@corp.test", to, _mail(token, body).decode())
    for number, token in enumerate(tokens):
        if number % 3 < 2:
            message = world.good.wait_for_mail(Subject(token), "the message")
            assert message.get_content().rstrip("\n") == body.rstrip("\n")
        if number % 3 > 0:
            ndr = world.legacy.wait_for_mail(_ndr_for(token), "the NDR")
            assert str(_status_fields(ndr)[1]["final-recipient"]) == "rfc822; nobody@good.test"
    log = world.good.log
    assert len(re.findall(r"< \S+: BDAT 3 LAST", log)) == 1, "it is asked once to skip what it does not want"
    assert len(_CHUNK.findall(log)) == before + len(tokens), "from then on each message goes like that, and once"
    assert "improper command pipelining" not in log
    bodies = [str(message["subject"]) for message in world.good.mailbox()]
    assert [bodies.count(token) for token in tokens] == [int(number % 3 < 2) for number in range(12)]


def _ndr_for(token: str) -> Subject:
    return Subject(f"Undeliverable: {token}")


def _status_fields(ndr: EmailMessage) -> tuple[Message, Message]:
    """Return the per-message fields and the fields of the one recipient."""
    parts = [part for part in ndr.walk() if part.get_content_type() == "message/delivery-status"]
    assert len(parts) == 1
    groups = parts[0].get_payload()
    assert isinstance(groups, list)
    per_message, per_recipient = groups
    assert isinstance(per_message, Message)
    assert isinstance(per_recipient, Message)
    return per_message, per_recipient


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("plain session", []),
        ("STARTTLS", ["--tls"]),
        ("pipelined", ["--pipeline"]),
        ("HELO", ["--protocol", "SMTP"]),
        ("STARTTLS, verified for the name", ["--tls", "--tls-verify", "--tls-sni", "relay.corp.test"]),
        ("PRDR is not offered and not asked", ["--protocol", "ESMTP"]),
    ],
)
def test_swaks_sends(world: World, name: str, options: list[str]) -> None:
    token = _token()
    extra = ["--tls-ca-path", str(world.ca_file)] if "--tls-verify" in options else []
    done = _swaks(world, "bob@good.test", token, *options, *extra)
    assert done.returncode == 0, done.stdout
    assert re.search(r"250 2\.\d+\.\d+ .*queued as", done.stdout)
    world.good.wait_for_mail(Subject(token), f"the message sent by swaks: {name}")


def test_swaks_sees_what_is_offered(world: World) -> None:
    done = _swaks(world, "bob@good.test", _token(), "--tls", "--quit-after", "MAIL")
    for keyword in ("PIPELINING", "SIZE", "8BITMIME", "SMTPUTF8", "ENHANCEDSTATUSCODES", "DSN", "CHUNKING", "STARTTLS"):
        assert keyword in done.stdout


def test_swaks_bad_recipient_is_refused_with_a_reason(world: World) -> None:
    done = _swaks(world, "bob@-bad-.test", _token())
    assert done.returncode != 0
    assert re.search(r"<\*\* 5\d\d 5\.\d\.\d", done.stdout)


@pytest.mark.rfc("3848-1-a", "4954-7-a")
@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN"])
def test_swaks_authenticates_under_tls(world: World, mechanism: str) -> None:
    token = _token()
    login = ["--auth", mechanism, "--auth-user", "printer", "--auth-password", PASSWORD]
    done = _swaks(world, "bob@good.test", token, "--tls", *login)
    assert done.returncode == 0, done.stdout
    assert "235 2.7.0" in done.stdout
    received = [str(value) for value in _arrived(world.good, token).get_all("received", [])]
    assert any("by relay.corp.test" in line and "with ESMTPSA" in line for line in received)


def test_swaks_with_a_wrong_password_is_refused_and_plaintext_offers_no_auth(world: World) -> None:
    login = ["--auth", "PLAIN", "--auth-user", "printer", "--auth-password", "wrong"]
    wrong = _swaks(world, "bob@good.test", _token(), "--tls", *login)
    assert wrong.returncode != 0
    assert "535 5.7.8" in wrong.stdout
    assert PASSWORD not in (world.root / "relay.log").read_text()
    clear = _swaks(world, "bob@good.test", _token(), *login)
    assert clear.returncode != 0
    assert "250-AUTH" not in clear.stdout


def test_swaks_speaks_tls_from_the_first_octet(world: World) -> None:
    token = _token()
    done = _swaks(world, "bob@good.test", token, "--tlsc", port=world.tls_port)
    assert done.returncode == 0, done.stdout
    _arrived(world.good, token)


@pytest.mark.parametrize("version", ["1", "2"])
def test_swaks_behind_a_load_balancer_is_known_by_its_own_address(world: World, version: str) -> None:
    token = _token()
    proxy = ["--proxy-version", version, "--proxy-family", "TCP4" if version == "1" else "AF_INET"]
    if version == "2":
        proxy += ["--proxy-protocol", "STREAM"]
    ends = ["--proxy-source", "127.0.0.99", "--proxy-source-port", "4321", "--proxy-dest", "127.0.0.1"]
    ends += ["--proxy-dest-port", "25"]
    done = _swaks(world, "bob@good.test", token, *proxy, *ends, port=world.proxy_port)
    assert done.returncode == 0, done.stdout
    received = [str(value) for value in _arrived(world.good, token).get_all("received", [])]
    assert any("[127.0.0.99]" in line for line in received)


def _swaks(
    world: World, to: str, subject: str, *options: str, port: int | None = None
) -> subprocess.CompletedProcess[str]:
    command = [
        program("swaks"), "--server", f"127.0.0.1:{port or world.smtp_port}", "--from", "alice@corp.test", "--to", to,
        "--ehlo", "swaks.corp.test", "--header", f"Subject: {subject}", "--timeout", "20", *options,
    ]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.parametrize(("option", "version"), [("-tls1_2", "TLSv1.2"), ("-tls1_3", "TLSv1.3")])
def test_openssl_sees_a_modern_listener_without_tickets(world: World, option: str, version: str) -> None:
    command = [
        program("openssl"), "s_client", "-starttls", "smtp", "-connect", f"127.0.0.1:{world.smtp_port}",
        "-CAfile", str(world.ca_file), "-verify_return_error", "-verify_hostname", "relay.corp.test",
        "-name", "openssl.corp.test",
    ]  # fmt: skip
    done = subprocess.run([*command, option], input="QUIT\r\n", capture_output=True, text=True, check=False, timeout=30)
    assert "Verify return code: 0 (ok)" in done.stdout
    assert f"New, {version}, Cipher is" in done.stdout
    assert "Post-Handshake New Session Ticket" not in done.stdout
    assert "TLS session ticket" not in done.stdout
    old = subprocess.run(
        [*command, "-tls1_1"], input="QUIT\r\n", capture_output=True, text=True, check=False, timeout=30
    )
    assert old.returncode != 0


@pytest.mark.rfc("8689-2-f", "8689-4.2.1-l", "8689-5-b", "8689-5-f")
def test_openssl_demands_requiretls_which_postfix_does_not_know(world: World) -> None:
    """The sender's own Postfix, which knows it as little, takes the NDR all the same."""
    token = _token()
    said = ["EHLO openssl.corp.test", "MAIL FROM:<alice@corp.test> REQUIRETLS RET=FULL", "RCPT TO:<bob@good.test>"]
    content = [f"Subject: {token}", "", "for Bob alone", ".", "QUIT", ""]
    done = subprocess.run(
        [program("openssl"), "s_client", "-starttls", "smtp", "-connect", f"127.0.0.1:{world.smtp_port}", "-quiet"],
        input="\r\n".join([*said, "DATA", *content]), capture_output=True, text=True, check=False, timeout=30,
    )  # fmt: skip
    assert "250 REQUIRETLS" in done.stdout.replace("250-", "250 ")
    assert "queued as" in done.stdout
    ndr = world.legacy.wait_for_mail(_ndr_for(token), "the NDR")
    _, per_recipient = _status_fields(ndr)
    assert str(per_recipient["status"]) == "5.7.30"
    assert "for Bob alone" not in ndr.as_string()
    assert not any(Subject(token)(message) for message in world.good.mailbox())


def test_promtool_finds_nothing_to_say_about_the_metrics(world: World) -> None:
    text = world.http("/metrics")
    assert "mta_sts_relay_deliveries_total" in text
    done = subprocess.run(
        [program("promtool"), "check", "metrics"], input=text, capture_output=True, text=True, check=False, timeout=30
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_nginx_and_unbound_were_really_asked(world: World) -> None:
    token = _token()
    world.legacy.submit("alice@corp.test", ["bob@good.test"], _mail(token))
    world.good.wait_for_mail(Subject(token), "the message")
    assert "GET /.well-known/mta-sts.txt" in (world.root / "nginx/access.log").read_text()


def test_a_message_of_8_bits_and_long_lines_arrives_as_it_was(world: World) -> None:
    token, body = _token(), "ä" * 400 + "\n" + ".leading dot\n" + "x" * 900 + "\n"
    world.legacy.submit("alice@corp.test", ["bob@good.test"], _mail(token, body), "-B", "8BITMIME")
    message = _arrived(world.good, token)
    payload = message.get_payload(decode=True)
    assert isinstance(payload, bytes)
    assert payload.decode() == body


def _arrived(postfix: Postfix, token: str) -> EmailMessage:
    return postfix.wait_for_mail(Subject(token), "the message")
