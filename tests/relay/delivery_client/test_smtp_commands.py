"""MAIL and RCPT, letter for letter, and what a message needs of a host."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from client_world import message
from hypothesis import given
from hypothesis import strategies as st

from relay.delivery.commands import UnsafeCommandError, mail_command, needs_smtputf8, rcpt_command, unmet_need
from relay.delivery.extensions import Extensions
from relay.queue.attempt import FailureKind
from relay.queue.message import Envelope, Notify, Recipient, Ret

NOTHING = Extensions()
ALL = Extensions(pipelining=True, eight_bit_mime=True, smtputf8=True, dsn=True, size=True)


def envelope(reverse_path: str = "a@example.com", ret: Ret | None = None, envid: str | None = None) -> Envelope:
    return Envelope(reverse_path=reverse_path, ret=ret, envid=envid)


def mail(offered: Extensions, *, eight_bit: bool = False, smtputf8: bool = False, **fields: Any) -> bytes:
    letter = message(envelope=envelope(**fields), eight_bit=eight_bit)
    return mail_command(letter, 1234, offered, smtputf8=smtputf8)


def rcpt(offered: Extensions, path: str = "b@shop.test", *, smtputf8: bool = False, **fields: Any) -> bytes:
    recipient = replace(Recipient(id=1, forward_path=path), **fields)
    return rcpt_command(recipient, offered, smtputf8=smtputf8)


@pytest.mark.rfc("5321-3.3-a", "5321-4.1.1.3-b", "3461-5.2.2-a", "6152-2-a")
def test_without_extensions_there_are_no_parameters() -> None:
    assert mail(NOTHING, ret=Ret.FULL, envid="QQ+2B1") == b"MAIL FROM:<a@example.com>\r\n"
    notify = frozenset({Notify.SUCCESS})
    assert rcpt(NOTHING, notify=notify, orcpt="rfc822;B@shop.test") == b"RCPT TO:<b@shop.test>\r\n"


@pytest.mark.rfc("3461-5.2.1-a", "3461-5.2.1-b", "1870-5-a")
def test_mail_carries_what_came_in() -> None:
    assert mail(ALL) == b"MAIL FROM:<a@example.com> SIZE=1234\r\n"
    assert mail(ALL, reverse_path="") == b"MAIL FROM:<> SIZE=1234\r\n"
    assert (
        mail(ALL, eight_bit=True, smtputf8=True, ret=Ret.HDRS, envid="Qq+2B1+3D")
        == b"MAIL FROM:<a@example.com> SIZE=1234 BODY=8BITMIME SMTPUTF8 RET=HDRS ENVID=Qq+2B1+3D\r\n"
    )


@pytest.mark.parametrize(
    ("notify", "sent"),
    [
        (None, b""),
        ({Notify.NEVER}, b" NOTIFY=NEVER"),
        ({Notify.FAILURE}, b" NOTIFY=FAILURE"),
        ({Notify.DELAY, Notify.FAILURE, Notify.SUCCESS}, b" NOTIFY=SUCCESS,FAILURE,DELAY"),
    ],
)
@pytest.mark.rfc("3461-5.2.1-c")
def test_notify_is_passed_on_as_it_came(notify: set[Notify] | None, sent: bytes) -> None:
    wanted = None if notify is None else frozenset(notify)
    assert rcpt(ALL, notify=wanted) == b"RCPT TO:<b@shop.test>" + sent + b"\r\n"


@pytest.mark.parametrize(
    ("orcpt", "smtputf8", "sent"),
    [
        ("rfc822;Bob@X.Test", False, "rfc822;Bob@X.Test"),
        ("RFC822;bob+40x.test", False, "RFC822;bob+40x.test"),
        (r"utf-8;b\x{FC}b@x.test", False, r"utf-8;b\x{FC}b@x.test"),
        ("utf-8;büb@x.test", True, "utf-8;büb@x.test"),
        ("utf-8;büb@x.test", False, r"utf-8;b\x{FC}b@x.test"),
        ("utf-8;用户@例え.test", False, r"utf-8;\x{7528}\x{6237}@\x{4F8B}\x{3048}.test"),
        ("utf-8;\U0001f600@x.test", False, r"utf-8;\x{1F600}@x.test"),
    ],
)
@pytest.mark.rfc("3461-5.2.1-d", "6533-3-b", "6533-3-c")
def test_orcpt_is_passed_on_letter_for_letter(orcpt: str, smtputf8: bool, sent: str) -> None:
    expected = f"RCPT TO:<b@shop.test> ORCPT={sent}\r\n".encode()
    assert rcpt(ALL, orcpt=orcpt, smtputf8=smtputf8) == expected


@pytest.mark.parametrize(
    "path", ["JoHn@shop.test", '"John Doe"@shop.test', r'"a\"<b> c"@shop.test', "a+b/c=d@shop.test"]
)
@pytest.mark.rfc("5321-2.4-a", "5321-4.1.2-b")
def test_the_local_part_is_left_alone(path: str) -> None:
    assert rcpt(ALL, path) == f"RCPT TO:<{path}>\r\n".encode()


@pytest.mark.parametrize(
    ("path", "sent", "needed"),
    [
        ("user@shop.test", "user@shop.test", False),
        ("user@bücher.test", "user@xn--bcher-kva.test", False),
        ("user@BÜCHER.test", "user@xn--bcher-kva.test", False),
        ("üser@shop.test", "üser@shop.test", True),
        ("üser@bücher.test", "üser@bücher.test", True),
        ("user@bü..cher.test", "user@bü..cher.test", True),
        ("", "", False),
    ],
)
@pytest.mark.rfc("6531-3.2-d", "6531-3.4-a")
def test_a_domain_alone_needs_no_smtputf8(path: str, sent: str, needed: bool) -> None:
    assert needs_smtputf8(path) is needed
    if path:
        assert rcpt(ALL, path, smtputf8=needed) == f"RCPT TO:<{sent}>\r\n".encode()
    assert mail(NOTHING, reverse_path=path) == f"MAIL FROM:<{sent}>\r\n".encode()


@pytest.mark.parametrize(
    "path",
    [
        "a@b.test>\r\nRCPT TO:<c@d.test",
        "a@b.test\nx",
        "a@b.test\rx",
        "a@b.test\x00",
        "a@b.test\x7f",
        "a@b.test> SIZE=1",
        "a b@c.test",
        "<a@b.test>",
        '"a@b.test',
        '"a"b"@c.test',
        '"a\r\n"@c.test',
        '"a\\\n"@c.test',
        "a@b.test\u0020x",
        "a@b@c d",
    ],
)
@pytest.mark.rfc("smug-b", "5321-4.1.2-a")
def test_l3_a_path_cannot_break_out(path: str) -> None:
    with pytest.raises(UnsafeCommandError):
        rcpt(ALL, path)
    with pytest.raises(UnsafeCommandError):
        mail(ALL, reverse_path=path)


@pytest.mark.parametrize("value", ["", "a b", "a\r\nRSET", "a\x00", "a=b", "a\tb", "a\n"])
@pytest.mark.rfc("smug-c")
def test_l3_a_parameter_cannot_break_out(value: str) -> None:
    with pytest.raises(UnsafeCommandError):
        rcpt(ALL, orcpt=value)
    with pytest.raises(UnsafeCommandError):
        mail(ALL, envid=value)


_ANY = st.text(max_size=30)


@given(_ANY, _ANY, _ANY)
def test_a_command_is_one_line_whatever_it_is_made_of(path: str, envid: str, orcpt: str) -> None:
    builds: tuple[Callable[[], bytes], ...] = (
        lambda: mail(ALL, reverse_path=path, envid=envid),
        lambda: rcpt(ALL, path, orcpt=orcpt),
    )
    for build in builds:
        try:
            line = build()
        except UnsafeCommandError:
            continue
        assert line.endswith(b"\r\n")
        assert not any(octet < 0x20 or octet == 0x7F for octet in line[:-2])


@pytest.mark.parametrize(
    ("fields", "offered", "kind"),
    [
        ({}, NOTHING, None),
        ({}, replace(NOTHING, size=True, max_size=1234), None),
        ({}, replace(NOTHING, size=True, max_size=1233), FailureKind.TOO_LARGE),
        ({"eight_bit": True}, NOTHING, FailureKind.EIGHT_BIT),
        ({"eight_bit": True}, replace(NOTHING, eight_bit_mime=True), None),
        ({"utf8_header": True}, replace(NOTHING, eight_bit_mime=True), FailureKind.SMTPUTF8),
        ({"utf8_header": True}, replace(NOTHING, smtputf8=True), None),
        ({"envelope": envelope("ü@x.test")}, NOTHING, FailureKind.SMTPUTF8),
        ({"envelope": envelope("u@bücher.test")}, NOTHING, None),
    ],
)
@pytest.mark.rfc("1870-7-a", "6152-3-b", "6152-3-d", "6531-3.2-c")
def test_what_a_host_lacks(fields: dict[str, Any], offered: Extensions, kind: FailureKind | None) -> None:
    failure = unmet_need(message(**fields), 1234, offered)
    assert (failure.kind if failure else None) is kind


@pytest.mark.rfc("8689-2-b", "8689-4.2.1-o", "8689-4.2.1-p")
@pytest.mark.parametrize("said", [True, False])
@pytest.mark.parametrize("offered", [True, False])
def test_requiretls_is_said_for_a_message_that_has_it_where_it_is_offered(*, said: bool, offered: bool) -> None:
    letter = message(require_tls=said)
    command = mail_command(letter, 1234, Extensions(requiretls=offered), smtputf8=False)
    assert command == b"MAIL FROM:<sender@example.com>" + (b" REQUIRETLS" if said and offered else b"") + b"\r\n"
    lacking = unmet_need(letter, 1234, Extensions(requiretls=offered))
    assert (lacking is not None and lacking.kind is FailureKind.REQUIRETLS_MISSING) is (said and not offered)
    assert unmet_need(replace(letter, envelope=envelope("")), 1234, Extensions(requiretls=offered)) is None
