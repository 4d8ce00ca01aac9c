"""The Received field."""

import re
import ssl
from datetime import UTC, datetime, timedelta, timezone
from email import message_from_bytes
from email.utils import parsedate_to_datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.ingress.tls import CIPHERS
from relay.ingress.trace import Protocol, iana_cipher, received

NOW = datetime(2026, 3, 7, 4, 5, 6, tzinfo=UTC)


def field(**changes: Any) -> bytes:
    values: dict[str, Any] = {
        "helo": "client.example",
        "address": "192.0.2.1",
        "hostname": "relay.example.com",
        "protocol": Protocol(extended=True),
        "queue_id": "0abc",
        "forward_path": "bob@remote.test",
        "now": NOW,
    }
    return received(**values | changes)


@pytest.mark.rfc("5321-4.4-a", "5321-4.4-c", "5321-4.4-d", "5321-4.4-f", "5321-4.4-g", "8314-4.3-a")
def test_the_clauses_stand_in_order() -> None:
    cipher = "ECDHE-RSA-AES256-GCM-SHA384"
    assert field(protocol=Protocol(extended=True, tls_cipher=cipher, authenticated=True)) == (
        b"Received: from client.example ([192.0.2.1])\r\n"
        b"\tby relay.example.com with ESMTPSA id 0abc\r\n"
        b"\tfor <bob@remote.test>\r\n"
        b"\ttls TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384;\r\n"
        b"\tSat, 07 Mar 2026 04:05:06 +0000\r\n"
    )


@pytest.mark.rfc("3848-1-a", "6531-4.3-a")
@pytest.mark.parametrize(
    ("extended", "tls", "authenticated", "smtputf8", "keyword"),
    [
        (False, False, False, False, "SMTP"),
        (True, False, False, False, "ESMTP"),
        (True, True, False, False, "ESMTPS"),
        (True, False, True, False, "ESMTPA"),
        (True, True, True, False, "ESMTPSA"),
        (True, False, False, True, "UTF8SMTP"),
        (True, True, False, True, "UTF8SMTPS"),
        (True, False, True, True, "UTF8SMTPA"),
        (True, True, True, True, "UTF8SMTPSA"),
        (False, True, False, False, "SMTP"),
    ],
)
def test_with_keyword(extended: bool, tls: bool, authenticated: bool, smtputf8: bool, keyword: str) -> None:
    cipher = "TLS_AES_256_GCM_SHA384" if tls else None
    protocol = Protocol(extended=extended, tls_cipher=cipher, authenticated=authenticated, smtputf8=smtputf8)
    assert protocol.keyword == keyword


def test_ipv6_address_is_a_literal() -> None:
    assert b"from client.example ([IPv6:2001:db8::1])" in field(address="2001:db8::1")


@pytest.mark.rfc("5321-4.4-e", "5321-7.2-a", "6531-3.7.3-a")
def test_for_is_left_out_for_many_and_for_what_is_not_ascii() -> None:
    assert b"for" not in field(forward_path=None)
    assert b"for" not in field(forward_path="用户@x.test")
    assert field(forward_path="用户@x.test", protocol=Protocol(extended=True, smtputf8=True)).isascii()


def test_the_date_is_utc_whatever_zone_it_came_in() -> None:
    there = NOW.astimezone(timezone(timedelta(hours=5, minutes=30)))
    assert field(now=there) == field()


@given(st.datetimes(datetime(1990, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC)))  # noqa: DTZ001  the zone is beside it
def test_the_date_reads_back(now: datetime) -> None:
    text = field(now=now).decode().rpartition(";")[2].strip()
    assert parsedate_to_datetime(text) == now.replace(microsecond=0)


@given(st.text(st.characters(codec="ascii"), max_size=255))
def test_a_hostile_name_stays_in_its_place(helo: str) -> None:
    octets = field(helo=helo)
    assert octets.isascii()
    assert len(re.findall(rb"\r\n(?![\t])", octets)) == 1, "one field"
    assert octets.count(b";") == 1
    assert octets.count(b"(") == 1
    parsed = message_from_bytes(octets + b"\r\n")
    assert parsed.keys() == ["Received"]


def test_every_cipher_that_a_listener_may_choose_has_its_registered_name() -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_ciphers(CIPHERS)
    for cipher in context.get_ciphers():
        name = iana_cipher(cipher["name"])
        assert name is not None, cipher["name"]
        assert re.fullmatch(r"TLS_[A-Z0-9_]+", name)
    assert iana_cipher("SOMETHING-NEW") is None
    assert iana_cipher(None) is None
