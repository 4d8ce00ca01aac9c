"""NDR, delay notice and success notice against RFC 3461 §6, RFC 3464, RFC 3834, RFC 6522 and RFC 6533."""

import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.message import Message
from email.parser import BytesParser

import pytest
from notice_reader import ReadNotice, read
from report_makers import (
    ACCEPTED,
    BAD_CERTIFICATE,
    CONTENT,
    HEADER,
    NOTICE_ID,
    POLICY,
    SESSION,
    SETTINGS,
    STRANGER,
    Case,
    cases,
    make_host,
    make_job,
    settled,
)

from policy.names import InvalidNameError
from relay.queue.attempt import FailureKind, HostFailure, Phase
from relay.queue.message import Notify, Origin, Recipient, Ret
from relay.queue.notice import NoticeKind
from relay.reports.ndr import NoticeSettings, wants_content
from relay.reports.returned import MAX_FULL_BY_DEFAULT, MAX_FULL_REQUESTED
from relay.status import Reply

UNKNOWN = Reply(550, ("5.1.1 no such user",))
HOST = make_host()
ORDER = (
    "Original-Recipient", "Final-Recipient", "Action", "Status", "Remote-MTA", "Diagnostic-Code",
    "Last-Attempt-Date", "Final-Log-ID", "Will-Retry-Until",
)  # fmt: skip
MESSAGE_ORDER = ("Original-Envelope-Id", "Reporting-MTA", "Received-From-MTA", "Arrival-Date")


def bounced(*recipients: Recipient, reply: Reply = UNKNOWN, returned: bytes = HEADER + b"\r\n", **job: object) -> Case:
    """The NDR for recipients that were all refused at RCPT."""
    made = make_job(*recipients, **job)  # type: ignore[arg-type]
    replies = (reply,) * len(made.recipients)
    return settled(made, timedelta(seconds=2), hosts=(HOST,), replies=replies, returned=returned)


def notice(case: Case) -> ReadNotice:
    return read(case.build())


# -- envelope and header ---------------------------------------------------------------------------------------


@pytest.mark.rfc(
    "3461-6.1-a", "3461-6.1-b", "3461-6.1-c", "3461-6.1-d", "3464-2-a", "3464-2-c", "5321-6.1-a", "5321-6.1-b",
    "5321-3.6.3-a", "5321-3.6.3-b", "3834-3.3-a",
)  # fmt: skip
def test_the_notice_goes_to_the_reverse_path_from_nobody() -> None:
    built = bounced(reverse_path="Alice@Contoso.TEST").build()
    assert built.origin is Origin.RELAY
    assert built.envelope.reverse_path == ""
    assert built.envelope.ret is None
    (recipient,) = built.recipients
    assert recipient.forward_path == "Alice@Contoso.TEST"
    assert recipient.destination == "contoso.test"
    assert recipient.notify == frozenset({Notify.NEVER})
    assert read(built).header["To"] == "<Alice@Contoso.TEST>"


@pytest.mark.parametrize(
    ("reverse_path", "destination"),
    [
        ("a@bücher.test", "xn--bcher-kva.test"),
        ("a@[192.0.2.1]", "[192.0.2.1]"),
        ("a@[IPv6:2001:DB8::1]", "[ipv6:2001:db8::1]"),
    ],
)
def test_the_destination_is_the_reverse_path_s_domain(reverse_path: str, destination: str) -> None:
    assert bounced(reverse_path=reverse_path).build().recipients[0].destination == destination


def test_a_reverse_path_without_a_domain_is_no_address() -> None:
    with pytest.raises(InvalidNameError):
        bounced(reverse_path="root").build()


@pytest.mark.rfc("3464-2-b", "3834-5-a", "3834-5-b", "3834-3.1.6-a", "3834-3.1-a", "dsn-hdr-a")
@pytest.mark.parametrize("name", sorted(cases()))
def test_the_header_is_complete_and_each_field_is_there_once(name: str) -> None:
    header = notice(cases()[name]).header
    failure = not name.startswith(("delayed", "relayed"))
    assert sorted(header.keys()) == sorted(
        [
            "Date", "From", "To", "Subject", "Message-ID", "Auto-Submitted", "Content-Language", "In-Reply-To",
            "References", "MIME-Version", "Content-Type",
        ]
        + (["X-MS-Exchange-Message-Is-Ndr"] if failure else [])
    )  # fmt: skip
    assert header["Auto-Submitted"] == "auto-replied"
    assert header["From"] == "Mail Delivery System <postmaster@contoso.test>"
    assert header["Date"].endswith("+0000")
    assert header["In-Reply-To"] == header["References"] == cases()[name].job.message.message_id


@pytest.mark.parametrize("message_id", ["", "no-brackets", "<a b>", "<a>\r\nBcc: <x>", "<é@x>", f"<{'a' * 300}>"])
def test_a_message_id_that_is_none_is_not_answered(message_id: str) -> None:
    header = notice(bounced(message_id=message_id)).header
    assert header["In-Reply-To"] is None
    assert header["References"] is None


def test_the_notice_s_own_message_id_is_its_queue_id() -> None:
    built = bounced().build()
    assert built.queue_id == NOTICE_ID
    assert built.message_id == read(built).header["Message-ID"] == f"<{NOTICE_ID}@relay.contoso.test>"


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("Undeliverable", "mx-not-in-policy"),
        ("Delivery delayed", "delayed-by-certificate"),
        ("Relayed", "relayed"),
        ("Undeliverable", "dropped"),
    ],
)
def test_the_subject_says_what_became_of_the_message(kind: str, name: str) -> None:
    assert notice(cases()[name]).header["Subject"] == f"{kind}: Quarterly figures"


def test_without_a_subject_there_is_still_one() -> None:
    assert notice(bounced(returned=b"From: a\r\n\r\n")).header["Subject"] == "Undeliverable:"


@pytest.mark.rfc("3834-2-b")
def test_rfc3834_a_message_that_a_program_sent_gets_its_ndr_too() -> None:
    found = notice(bounced(returned=b"Auto-Submitted: auto-generated\r\n\r\n"))
    assert found.header["Auto-Submitted"] == "auto-replied"
    assert found.per_recipient[0]["Action"] == "failed"


@pytest.mark.rfc("code-t")
def test_a_relayed_notice_has_the_peer_s_own_status() -> None:
    (group,) = notice(cases()["relayed"]).per_recipient
    assert (group["Action"], group["Status"]) == ("relayed", "2.0.0")


# -- the container ---------------------------------------------------------------------------------------------


@pytest.mark.rfc("3461-6.2-a", "6522-3-a", "6522-3-b", "3464-2-d")
@pytest.mark.parametrize("name", sorted(cases()))
def test_rfc6522_three_parts_and_their_types(name: str) -> None:
    found = notice(cases()[name])
    assert found.header.get_content_type() == "multipart/report"
    assert found.header.get_param("report-type") == "delivery-status"
    kinds = [part.content_type for part in found.parts]
    assert kinds[0] == "text/plain"
    if name == "smtputf8":
        assert kinds[1:] == ["message/global-delivery-status", "message/global-headers"]
    elif name == "unknown-user-and-full-mailbox":
        assert kinds[1:] == ["message/delivery-status", "message/rfc822"]
    else:
        assert kinds[1:] == ["message/delivery-status", "text/rfc822-headers"]


@pytest.mark.rfc("3464-2.1-a", "3464-2.1-b", "6522-3-e", "8461-5-k")
@pytest.mark.parametrize("name", sorted(cases()))
def test_the_whole_notice_is_seven_bit_with_short_lines(name: str) -> None:
    built = cases()[name].build()
    raw = read(built).raw
    assert raw.isascii()
    assert (built.eight_bit, built.utf8_header, built.envelope.smtputf8) == (False, False, False)
    assert max(map(len, raw.split(b"\r\n"))) <= 998
    assert b"\r" not in raw.replace(b"\r\n", b"")
    assert b"\n" not in raw.replace(b"\r\n", b"")


def test_the_library_s_parser_reads_the_groups_as_fields() -> None:
    raw = notice(cases()["unknown-user-and-full-mailbox"]).raw
    message = BytesParser().parsebytes(raw)
    assert not message.defects
    _, status, returned = _subparts(message)
    assert [group.get("Final-Recipient") for group in _subparts(status)] == [
        None,
        "rfc822; bob@example.test",
        "rfc822; Carol@example.test",
    ]
    assert _subparts(returned)[0]["Subject"] == "Quarterly figures"


def _subparts(message: Message) -> list[Message]:
    payload = message.get_payload()
    assert isinstance(payload, list)
    return [part for part in payload if isinstance(part, Message)]


@pytest.mark.rfc("6522-3-g")
def test_rfc6522_the_boundary_is_not_in_the_content() -> None:
    found = notice(bounced(returned=HEADER + f"X: --=_{NOTICE_ID}_0\r\nY: --=_{NOTICE_ID}_1\r\n\r\n".encode()))
    assert found.header.get_boundary() == f"=_{NOTICE_ID}_2"
    assert len(found.parts) == 3


# -- what is returned ------------------------------------------------------------------------------------------

KIB = 1024
RETURNS = [
    # kind, RET, ndr.include = full, size, whole content
    (NoticeKind.FAILED, None, False, 1, False),
    (NoticeKind.FAILED, None, True, MAX_FULL_BY_DEFAULT, True),
    (NoticeKind.FAILED, None, True, MAX_FULL_BY_DEFAULT + 1, False),
    (NoticeKind.FAILED, Ret.FULL, False, MAX_FULL_REQUESTED, True),
    (NoticeKind.FAILED, Ret.FULL, True, MAX_FULL_REQUESTED + 1, False),
    (NoticeKind.FAILED, Ret.HDRS, True, 1, False),
    (NoticeKind.DROPPED, Ret.FULL, False, 1, True),
    (NoticeKind.DELAYED, Ret.FULL, True, 1, False),
    (NoticeKind.RELAYED, Ret.FULL, True, 1, False),
]


@pytest.mark.rfc("3461-6.2-b", "3461-6.2-c", "3461-4.3-b")
@pytest.mark.parametrize(("kind", "ret", "include_full", "size", "whole"), RETURNS)
def test_ret_beats_the_setting_and_only_failures_return_the_content(
    kind: NoticeKind, ret: Ret | None, include_full: bool, size: int, whole: bool
) -> None:
    case = bounced(ret=ret)
    job = replace(case.job, message=replace(case.job.message, size=size))
    settings = NoticeSettings(hostname="h.test", postmaster="p@h.test", include_full=include_full)
    assert wants_content(replace(case.request, kind=kind), job, settings) is whole


@pytest.mark.rfc("6522-3-f", "6522-3-g")
def test_rfc6522_the_returned_message_is_byte_for_byte_what_was_accepted() -> None:
    part = notice(bounced(ret=Ret.FULL, returned=CONTENT)).parts[2]
    assert part.content_type == "message/rfc822"
    assert part.header["Content-Transfer-Encoding"] == "7bit"
    assert part.wire == CONTENT


@pytest.mark.rfc("6522-4-a", "6522-4-b")
def test_rfc6522_s4_headers_only_are_all_the_headers() -> None:
    part = notice(bounced(returned=CONTENT)).parts[2]
    assert part.content_type == "text/rfc822-headers"
    assert part.wire == HEADER


@pytest.mark.rfc("6522-4-c")
@pytest.mark.parametrize(
    "header",
    [
        b"Subject: Gr\xfc\xdfe\r\n",
        b"X: " + b"a" * 1200 + b"\r\n",
        b"X: a\0b\r\n",
        b"X: a\rb\nc\r\n",
        b"X: a \r\n\xff\r\n",
    ],
)
def test_rfc6522_s4_headers_that_are_not_seven_bit_are_quoted_printable(header: bytes) -> None:
    part = notice(bounced(returned=header + b"\r\nbody")).parts[2]
    assert part.content_type == "text/rfc822-headers"
    assert part.header["Content-Transfer-Encoding"] == "quoted-printable"
    assert part.body == header
    assert max(map(len, part.wire.split(b"\r\n"))) <= 76


@pytest.mark.rfc("6522-3-e")
@pytest.mark.parametrize("body", ["Grüße\r\n".encode(), b"x" * 1200 + b"\r\n"])
def test_content_that_may_not_travel_back_as_it_is_comes_as_headers(body: bytes) -> None:
    part = notice(bounced(ret=Ret.FULL, returned=HEADER + b"\r\n" + body)).parts[2]
    assert part.content_type == "text/rfc822-headers"
    assert part.wire == HEADER


@pytest.mark.rfc("6533-4.2-a", "6533-4.5-a")
def test_rfc6533_a_returned_smtputf8_message_is_message_global_and_encoded() -> None:
    content = "Subject: Grüße\r\n\r\nGrüße\r\n".encode()
    part = notice(bounced(ret=Ret.FULL, returned=content)).parts[2]
    assert part.content_type == "message/global"
    assert part.header["Content-Transfer-Encoding"] == "quoted-printable"
    assert part.body == content


@pytest.mark.rfc("6533-4.2-a")
def test_rfc6533_utf8_headers_alone_are_message_global_headers_without_a_charset() -> None:
    part = notice(cases()["smtputf8"]).parts[2]
    assert part.content_type == "message/global-headers"
    assert part.header.get_param("charset") is None


@pytest.mark.parametrize("content", [b"", b"\r\nonly a body\r\n"])
def test_a_message_without_a_header_section_returns_an_empty_one(content: bytes) -> None:
    assert notice(bounced(returned=content)).parts[2].wire == b""


# -- the delivery status ---------------------------------------------------------------------------------------


@pytest.mark.rfc(
    "3464-2.1-c", "3464-3-a", "3464-2.3.3-a", "3464-2.3.4-a", "3464-2.2.3-a", "3464-2.3.8-a", "3461-6.3-e", "3463-2-a"
)
@pytest.mark.parametrize("name", sorted(cases()))
def test_rfc3464_fields_stand_in_the_order_of_the_abnf_each_once(name: str) -> None:
    found = notice(cases()[name])
    message_fields = [field for field, _ in found.groups[0]]
    known = [field for field in message_fields if not field.startswith("X-MTA-STS-Relay-")]
    assert known == [field for field in MESSAGE_ORDER if field in known]
    assert message_fields[: len(known)] == known
    assert len(set(message_fields)) == len(message_fields)
    for group in found.groups[1:]:
        fields = [field for field, _ in group]
        assert fields == [field for field in ORDER if field in fields]
        assert {"Final-Recipient", "Action", "Status", "Final-Log-ID"} <= set(fields)
        assert dict(group)["Action"] in ("failed", "delayed", "relayed")
        assert re.fullmatch(r"[245]\.(0|[1-9]\d{0,2})\.(0|[1-9]\d{0,2})", dict(group)["Status"])


@pytest.mark.rfc("3464-2.3.9-a", "code-u")
@pytest.mark.parametrize("name", sorted(cases()))
def test_rfc3464_s2_3_9_will_retry_until_is_for_delays_only(name: str) -> None:
    for group in notice(cases()[name]).per_recipient:
        assert ("Will-Retry-Until" in group) == (group["Action"] == "delayed")
        if group["Action"] == "delayed":
            assert group["Status"].startswith("4.")
            assert group["Will-Retry-Until"] == "Sat, 21 Nov 2026 09:00:03 +0000"


@pytest.mark.rfc("3461-6.3-a", "3464-2.2.1-a")
@pytest.mark.parametrize(
    ("envid", "value"),
    [
        (None, None),
        ("QQ+2B1", "QQ+1"),
        ("Ab+20+20Cd", "Ab  Cd"),
        ("+0D+0ABcc", None),
        ("bad+2b", None),
        ("x" * 100, "x" * 100),
    ],
)
def test_rfc3461_s6_3_the_envelope_id_is_decoded(envid: str | None, value: str | None) -> None:
    found = notice(bounced(envid=envid))
    assert found.per_message.get("Original-Envelope-Id") == value


@pytest.mark.rfc("3461-6.3-b", "3464-2.2.2-a", "3464-2.2.5-a")
def test_rfc3464_s2_2_the_reporting_mta_is_this_relay() -> None:
    found = notice(bounced()).per_message
    assert found["Reporting-MTA"] == "dns; relay.contoso.test"
    assert found["Arrival-Date"] == "Fri, 20 Nov 2026 09:00:03 +0000"


@pytest.mark.rfc("3464-2.2.4-a", "3461-9.3-a")
@pytest.mark.parametrize(
    ("helo", "value"),
    [
        ("legacy.a.test", "dns; legacy.a.test (10.1.2.3)"),
        ("[10.9.9.9]", "dns; [10.9.9.9] (10.1.2.3)"),
        ("bücher.test", "dns; xn--bcher-kva.test (10.1.2.3)"),
        ("evil)\r\nX: y (", "dns; [10.1.2.3] (10.1.2.3)"),
        ("", "dns; [10.1.2.3] (10.1.2.3)"),
    ],
)
def test_rfc3464_s2_2_4_the_client_is_named(helo: str, value: str) -> None:
    assert notice(bounced(helo=helo)).per_message["Received-From-MTA"] == value


def test_an_ipv6_client_without_a_name_is_an_address_literal() -> None:
    case = bounced(helo="-")
    client = replace(case.job.message.client, address="2001:db8::1")
    job = replace(case.job, message=replace(case.job.message, client=client))
    found = notice(replace(case, job=job)).per_message
    assert found["Received-From-MTA"] == "dns; [IPv6:2001:db8::1] (2001:db8::1)"


def test_a_message_of_our_own_came_from_nobody() -> None:
    case = bounced()
    client = replace(case.job.message.client, address="")
    job = replace(case.job, message=replace(case.job.message, client=client))
    assert "Received-From-MTA" not in notice(replace(case, job=job)).per_message


@pytest.mark.rfc("3461-6.3-c", "3464-3-b", "3461-6.3-d", "3464-2.3.2-a", "3461-9.1-a")
@pytest.mark.parametrize(
    ("orcpt", "value"),
    [
        (None, None),
        ("rfc822;Bob@X.Test", "rfc822; Bob@X.Test"),
        ("rfc822;bob+2B1+40x.test", "rfc822; bob+1@x.test"),
        ("rfc822;bob+0D+0AX:@x.test", "rfc822; bob+0D+0AX:@x.test"),
        ("utf-8;plain@x.test", "utf-8; plain@x.test"),
        ("UTF-8;a\\x{2B}b@x.test", "UTF-8; a\\x{2B}b@x.test"),
    ],
)
def test_rfc3461_s6_3_original_and_final_recipient(orcpt: str | None, value: str | None) -> None:
    recipient = Recipient(id=1, forward_path='"Odd  one"@Example.TEST', orcpt=orcpt)
    found = notice(bounced(recipient))
    assert found.parts[1].content_type == "message/delivery-status"
    assert found.per_recipient[0].get("Original-Recipient") == value
    assert found.per_recipient[0]["Final-Recipient"] == 'rfc822; "Odd  one"@Example.TEST'


@pytest.mark.rfc("3461-6.3-f", "3461-6.3-g", "3461-9.2-a", "3464-2.3.6-a", "3464-2.3.7-a")
def test_rfc3461_s9_2_a_reply_is_written_down_word_for_word() -> None:
    reply = Reply(550, ("5.7.1 first line", "5.7.1 second  line", "5.7.1 last"))
    found = notice(bounced(reply=reply))
    assert found.per_recipient[0]["Remote-MTA"] == "dns; mx1.example.test"
    assert found.per_recipient[0]["Status"] == "5.7.1"
    assert found.per_recipient[0]["Last-Attempt-Date"] == "Fri, 20 Nov 2026 09:00:04 +0000"
    assert (
        b"Diagnostic-Code: smtp; 550-5.7.1 first line\r\n 550-5.7.1 second line\r\n 550 5.7.1 last\r\n"
        in found.parts[1].wire
    )


@pytest.mark.rfc("3461-6.3-i", "3464-2.3.5-a")
@pytest.mark.parametrize(
    ("name", "remote_mta"),
    [
        ("mx-not-in-policy", None),
        ("no-such-domain", None),
        ("dropped", None),
        ("certificate-expired", "dns; mx1.example.test"),
        ("unreachable", "dns; mx2.example.test"),
    ],
)
def test_our_own_words_are_not_smtp_and_a_remote_is_named_only_if_there_was_one(
    name: str, remote_mta: str | None
) -> None:
    (group,) = notice(cases()[name]).per_recipient
    assert group["Diagnostic-Code"].startswith("X-mta-sts-relay; 550 5.")
    assert group.get("Remote-MTA") == remote_mta


@pytest.mark.rfc("3464-2.3.5-a")
def test_a_host_that_never_took_the_connection_is_no_remote_mta() -> None:
    failure = HostFailure(kind=FailureKind.CONNECTION_REFUSED, detail="")
    host = make_host(phase=Phase.CONNECT, failure=failure)
    case = settled(make_job(), timedelta(days=5), hosts=(host,))
    assert "Remote-MTA" not in notice(case).per_recipient[0]
    assert "Receiving server: mx1.example.test (192.0.2.10)" in notice(case).text


def test_an_expired_greylisting_keeps_the_remote_s_words() -> None:
    (group,) = notice(cases()["greylisted-for-ever"]).per_recipient
    assert group["Status"] == "5.4.300"
    assert group["Diagnostic-Code"] == "smtp; 451 4.7.1 Greylisted, try later"


@pytest.mark.rfc("3464-2.4-a", "8461-5-k")
def test_private_fields_tell_a_program_what_the_policy_said() -> None:
    found = notice(cases()["certificate-expired"]).per_message
    assert found["X-MTA-STS-Relay-Policy-Domain"] == "example.test"
    assert found["X-MTA-STS-Relay-Policy-Mode"] == "enforce"
    assert found["X-MTA-STS-Relay-Policy-Id"] == "20260301T080000"
    assert found["X-MTA-STS-Relay-Policy-Expires"] == "Wed, 25 Nov 2026 07:12:44 +0000"
    assert found["X-MTA-STS-Relay-Record-Checked"] == "yes"
    assert found["X-MTA-STS-Relay-MX-Hosts"] == (
        "mx9.hoster.test (not contacted) route mx-not-in-policy; "
        "mx1.example.test (192.0.2.10) handshake certificate CertificateExpired"
    )


# -- UTF-8 -----------------------------------------------------------------------------------------------------


@pytest.mark.rfc("6533-4.1-a", "6533-4.1-b", "6533-4.5-a", "6533-3-c")
def test_rfc6533_utf8_addresses_are_native_in_the_global_form() -> None:
    found = notice(cases()["smtputf8"])
    assert found.parts[1].content_type == "message/global-delivery-status"
    assert found.per_recipient[0]["Final-Recipient"] == "utf-8; 用户@example.test"
    assert found.per_recipient[0]["Original-Recipient"] == "utf-8; 用户@example.test"
    assert "用户@example.test" in found.text


@pytest.mark.rfc("6533-4.4-b", "6533-6.2-a")
def test_rfc6533_a_utf8_reply_alone_leaves_the_report_ascii() -> None:
    found = notice(bounced(reply=Reply(550, ("5.1.1 utilisateur inconnu à Orléans",))))
    assert found.parts[1].content_type == "message/delivery-status"
    assert found.per_recipient[0]["Diagnostic-Code"] == "smtp; 550 5.1.1 utilisateur inconnu \\x{E0} Orl\\x{E9}ans"
    assert "utilisateur inconnu à Orléans" in found.text


@pytest.mark.rfc("6533-6.2-a")
def test_rfc6533_s6_2_in_the_global_form_a_reply_may_be_utf8() -> None:
    recipient = Recipient(id=1, forward_path="用户@example.test")
    found = notice(bounced(recipient, reply=Reply(550, ("5.1.1 inconnu à Orléans",))))
    assert found.per_recipient[0]["Diagnostic-Code"] == "smtp; 550 5.1.1 inconnu à Orléans"


def test_a_sender_beyond_ascii_needs_smtputf8_and_one_with_an_idn_domain_does_not() -> None:
    built = bounced(reverse_path="用户@contoso.test").build()
    assert (built.envelope.smtputf8, built.utf8_header, built.eight_bit) == (True, True, True)
    assert isinstance(built.content, bytes)
    assert "\r\nTo: <用户@contoso.test>\r\n".encode() in built.content
    idn = bounced(reverse_path="alice@bücher.test").build()
    assert (idn.envelope.smtputf8, idn.utf8_header, idn.eight_bit) == (False, False, False)
    assert read(idn).header["To"] == "<alice@xn--bcher-kva.test>"


# -- bounds ----------------------------------------------------------------------------------------------------


def test_a_thousand_recipients_are_all_in_the_status_part_and_fifty_in_the_text() -> None:
    recipients = tuple(Recipient(id=n, forward_path=f"r{n}@example.test") for n in range(1, 1001))
    found = notice(bounced(*recipients))
    assert len(found.per_recipient) == 1000
    assert "r50@example.test" in found.text
    assert "r51@example.test" not in found.text
    assert found.text.count("(and 950 more, all named in the delivery status part)") == 2


def test_a_reply_without_end_is_cut() -> None:
    found = notice(bounced(reply=Reply(550, tuple(f"5.1.1 line {n} {'x' * 900}" for n in range(128)))))
    assert len(found.per_recipient[0]["Diagnostic-Code"]) < 20 * 520
    assert len(found.raw) < 20_000


def test_many_hosts_and_many_patterns_are_cut() -> None:
    hosts = tuple(replace(STRANGER, mx_host=f"mx{n}.hoster.test") for n in range(60))
    policy = replace(POLICY, mx=tuple(f"mx{n}.example.test" for n in range(500)))
    found = notice(settled(make_job(), timedelta(hours=24), hosts=hosts, policy=policy))
    assert "mx9.example.test and 490 more" in found.text
    assert "  20. mx19.hoster.test" in found.text
    assert "  21. mx20.hoster.test" not in found.text


# -- the text --------------------------------------------------------------------------------------------------


def test_a_delay_notice_says_how_long_the_server_will_try() -> None:
    text = " ".join(notice(cases()["delayed-by-certificate"]).text.split())
    assert "will keep trying for the next 19 hours and 56 minutes, until 2026-11-21 09:00:03 UTC" in text
    assert "returned '400 4.4.7 Message delayed'" in text


@pytest.mark.parametrize(
    ("left", "words"),
    [
        (timedelta(days=1, hours=19, minutes=56), "1 day, 19 hours and 56 minutes"),
        (timedelta(days=2), "2 days"),
        (timedelta(hours=1, minutes=1), "1 hour and 1 minute"),
        (timedelta(seconds=5), "minute"),
        (timedelta(days=-1), "minute"),
    ],
)
def test_the_time_left_is_told_in_words(left: timedelta, words: str) -> None:
    case = cases()["delayed-by-certificate"]
    ends = datetime(2026, 11, 21, 9, 0, 3, tzinfo=UTC)
    text = " ".join(notice(replace(case, now=ends - left)).text.split())
    assert f"for the next {words}, until" in text


@pytest.mark.rfc("8461-5-k")
def test_a_policy_failure_names_every_host_its_certificate_and_the_policy() -> None:
    text = notice(cases()["certificate-expired"]).text
    for told in (
        "1. mx9.hoster.test (not contacted)",
        "2. mx1.example.test (192.0.2.10 port 25)",
        "certificate:  for mx1.example.test and www.example.test",
        "issuer:       CN=R11,O=Let's Encrypt,C=US",
        "valid:        2026-08-20 06:00:00 UTC to 2026-11-18 05:59:59 UTC",
        "SHA-256:      3f1c7c0b",
        "id:           20260301T080000",
        "mode:         enforce",
        "mx:           mx1.example.test and *.mail.example.test",
        "fetched:      2026-11-18 07:12:44 UTC",
        "valid until:  2026-11-25 07:12:44 UTC",
    ):
        assert told in text


def test_the_tls_of_a_host_that_got_a_session_is_told() -> None:
    failure = HostFailure(kind=FailureKind.BROKEN_OFF, detail="closed")
    host = replace(make_host(phase=Phase.DATA, tls=SESSION, failure=failure), security=None)
    text = notice(settled(make_job(), timedelta(days=5), hosts=(host,))).text
    assert "TLS:          TLSv1.3, TLS_AES_256_GCM_SHA384" in text


def test_a_problem_of_the_policy_host_is_told_even_without_a_policy() -> None:
    case = settled(make_job(), timedelta(days=5), failure=HostFailure(kind=FailureKind.DNS_UNKNOWN, detail="SERVFAIL"))
    assert case.attempt is not None
    attempt = replace(case.attempt, policy_problem="_mta-sts.example.test: SERVFAIL", record_checked=False)
    text = notice(replace(case, attempt=attempt)).text
    assert "problem:      _mta-sts.example.test: SERVFAIL" in text
    assert "the TXT record was not asked for again" in text


def test_several_reasons_are_each_explained_to_their_recipients() -> None:
    text = notice(cases()["unknown-user-and-full-mailbox"]).text
    user = text.partition("For Email Admins")[0]
    assert user.index("bob@example.test") < user.index("does not exist") < user.index("Carol@example.test")
    assert user.index("Carol@example.test") < user.index("mailbox is full")


def test_the_settings_name_the_relay() -> None:
    settings = replace(SETTINGS, hostname="other.test", postmaster="help@other.test")
    found = notice(replace(bounced(), settings=settings))
    assert found.per_message["Reporting-MTA"] == "dns; other.test"
    assert "<help@other.test>" in found.header["From"]
    assert "Generating server: other.test" in found.text


def test_an_attempt_without_hosts_says_why() -> None:
    text = notice(cases()["no-such-domain"]).text
    assert "Mail hosts tried: none (NXDOMAIN)" in text
    assert ACCEPTED.strftime("%Y-%m-%d") in text
    assert BAD_CERTIFICATE.mx_host not in text


# -- REQUIRETLS ------------------------------------------------------------------------------------------------


@pytest.mark.rfc("8689-5-a", "8689-5-b", "8689-5-c", "8689-5-e")
@pytest.mark.parametrize("ret", [None, Ret.FULL, Ret.HDRS])
@pytest.mark.parametrize("kind", [NoticeKind.FAILED, NoticeKind.RELAYED, NoticeKind.DROPPED])
def test_rfc8689_s5_a_notice_is_protected_as_the_message_was_and_returns_its_header_alone(
    kind: NoticeKind, ret: Ret | None
) -> None:
    plain = bounced(ret=ret, returned=CONTENT)
    job = replace(plain.job, message=replace(plain.job.message, require_tls=True))
    case = replace(plain, job=job, request=replace(plain.request, kind=kind))
    settings = NoticeSettings(hostname="h.test", postmaster="p@h.test", include_full=True)
    assert not wants_content(case.request, job, settings)
    built = case.build()
    assert (built.require_tls, built.envelope.reverse_path) == (True, "")
    assert notice(case).parts[2].content_type == "text/rfc822-headers"
    assert not plain.build().require_tls
