"""What an EHLO reply offers (RFC 5321 §4.1.1.1, RFC 1870, RFC 9422)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.delivery.extensions import Extensions, parse_extensions, peer_name
from relay.status import Reply


def offered(*lines: str) -> Extensions:
    return parse_extensions(Reply(250, ("mx.test greets you", *lines)))


def test_keywords_are_read_in_any_case() -> None:
    assert offered("StartTLS", "pipelining", "Chunking", "8bitMIME", "smtputf8", "dsn", "size 1000") == Extensions(
        starttls=True,
        pipelining=True,
        chunking=True,
        eight_bit_mime=True,
        smtputf8=True,
        dsn=True,
        size=True,
        max_size=1000,
    )


def test_the_greeting_line_offers_nothing() -> None:
    assert parse_extensions(Reply(250, ("STARTTLS",))) == Extensions()


@pytest.mark.rfc("8460-4.4-q", "8460-4.4-w")
@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("mx.test greets you", "mx.test"),
        ("MX.Test. ESMTP", "mx.test"),
        ("mx_1.test", "mx_1.test"),
        ("", ""),
        ("[192.0.2.1] hello", ""),
        ("192.0.2.1 hello", ""),
        ("m\u00fcx.test hello", ""),
        ("<b>mx.test</b>", ""),
        ("a" * 64 + ".test", ""),
        (".".join(["a" * 60] * 5), ""),
    ],
)
def test_the_name_that_a_host_gives_itself(line: str, name: str) -> None:
    assert peer_name(Reply(250, (line,))) == name


@pytest.mark.rfc("8460-4.4-w")
@given(st.text())
def test_a_name_is_a_host_name_or_none(line: str) -> None:
    name = peer_name(Reply(220, (line,)))
    assert name.isascii()
    assert len(name) <= 253
    assert set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789._-")


@pytest.mark.parametrize("line", ["XXXXXXXA", "STARTTLSX", "X-STARTTLS", "", " ", "AUTH=PLAIN"])
def test_a1_a_masked_keyword_is_not_offered(line: str) -> None:
    assert offered(line) == Extensions()


@pytest.mark.parametrize(
    ("line", "max_size"),
    [
        ("SIZE", None),
        ("SIZE 0", None),
        ("SIZE 10", 10),
        ("SIZE  10", 10),
        ("SIZE abc", None),
        ("SIZE -1", None),
        ("SIZE +10", None),
        ("SIZE 1_0", None),
        ("SIZE ٣", None),
        ("SIZE 10 20", None),
        ("SIZE " + "9" * 20, 10**20 - 1),
        ("SIZE 1" + "0" * 30, None),
    ],
)
@pytest.mark.rfc("1870-3-a")
def test_e9_only_a_number_above_zero_is_a_bound(line: str, max_size: int | None) -> None:
    assert offered(line) == Extensions(size=True, max_size=max_size)


@pytest.mark.parametrize(
    ("line", "limits"),
    [
        ("LIMITS RCPTMAX=20 MAILMAX=5", (5, 20, None)),
        ("limits rcptmax=20 RCPTDOMAINMAX=1", (None, 20, 1)),
        ("LIMITS RCPTMAX=999999", (None, 999999, None)),
        ("LIMITS RCPTMAX=1000000 MAILMAX=5", (5, None, None)),
        ("LIMITS RCPTMAX=0 MAILMAX=5", (5, None, None)),
        ("LIMITS RCPTMAX=abc MAILMAX=5", (5, None, None)),
        ("LIMITS RCPTMAX=010 MAILMAX=5", (5, None, None)),
        ("LIMITS RCPTMAX MAILMAX=5", (5, None, None)),
        ("LIMITS FOO=1 BAR MAILMAX=5", (5, None, None)),
        ("LIMITS MAILMAX=5 RCPTMAX=1;2", (None, None, None)),
        ("LIMITS MAILMAX=5 =2", (None, None, None)),
        ("LIMITS MAILMAX=5 F%O=2", (None, None, None)),
        ("LIMITS", (None, None, None)),
    ],
)
@pytest.mark.rfc("9422-3-a", "9422-3.7-a")
def test_rfc9422_limits(line: str, limits: tuple[int | None, ...]) -> None:
    read = offered(line)
    assert (read.mail_max, read.rcpt_max, read.rcpt_domain_max) == limits


@given(st.lists(st.text(max_size=40), max_size=10))
def test_any_lines_can_be_read(lines: list[str]) -> None:
    read = offered(*lines)
    assert read.max_size is None or read.max_size > 0


@pytest.mark.rfc("8689-2-j", "8689-2-a")
def test_requiretls_counts_within_tls_alone() -> None:
    reply = Reply(250, ("mx.test", "requiretls", "DSN"))
    assert parse_extensions(reply, in_tls=True).requiretls
    assert not parse_extensions(reply).requiretls
    assert not parse_extensions(Reply(250, ("mx.test", "DSN")), in_tls=True).requiretls
