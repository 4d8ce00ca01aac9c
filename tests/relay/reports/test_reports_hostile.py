"""Whatever peers and clients send, a notice has its own fields and lines and no others (threats H3, J1, L11)."""

from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from notice_reader import read
from report_makers import (
    ACCEPTED,
    EXPIRED,
    HEADER,
    POLICY,
    Case,
    make_attempt,
    make_host,
    make_job,
)

from policy.requirement import ResultType
from policy.tls_facts import TlsFailure
from relay.queue.attempt import FailureKind, HostFailure, Phase
from relay.queue.message import Notify, Recipient
from relay.queue.schedule import ScheduleSettings
from relay.queue.settle import settle
from relay.status import Reply

NASTY = [
    "\r\nBcc: victim@x.test", "\n\n", "\r", "\n.\r\n", "\x00", "\x1b[2J", "\x85", "\u2028", "\x0b", "\x1c",
    "\u202e", "é", "用",
    "\udcff", "=?utf-8?q?=0D=0AX:?=", "--=_01JD4Q0NOTICE00000000000001_0", "{domain}", "'", ";", "(", "\\",
    "<script>", "a" * 1200, " " * 90, "+0D+0A", "\\x{0D}",
]  # fmt: skip
HOSTILE = st.lists(st.one_of(st.sampled_from(NASTY), st.text(max_size=30)), max_size=6).map("".join)
ALLOWED = {
    "Original-Envelope-Id", "Reporting-MTA", "Received-From-MTA", "Arrival-Date", "Original-Recipient",
    "Final-Recipient", "Action", "Status", "Remote-MTA", "Diagnostic-Code", "Last-Attempt-Date", "Final-Log-ID",
    "Will-Retry-Until",
}  # fmt: skip


@st.composite
def hostile_cases(draw: st.DrawFn, text: st.SearchStrategy[str]) -> Case:
    """A failed, delayed or relayed message in which every text is an attack."""
    notify = draw(st.sampled_from([None, frozenset(Notify) - {Notify.NEVER}]))
    orcpt = draw(st.one_of(st.none(), text.map("rfc822;{}".format), text.map("utf-8;{}".format), text))
    job = make_job(
        Recipient(id=1, forward_path=f"{draw(text)}@example.test"[-320:], notify=notify, orcpt=orcpt and orcpt[:500]),
        Recipient(id=2, forward_path="bob@example.test", notify=notify),
        reverse_path=f"{draw(text)}@contoso.test"[-320:],
        envid=draw(st.one_of(st.none(), text)),
        message_id=draw(text),
        helo=draw(text),
        attempts=draw(st.integers(1, 300)),
    )
    tls = TlsFailure(
        result_type=draw(st.sampled_from(ResultType)),
        reason=draw(text),
        detail=draw(text),
        certificate=replace(EXPIRED, names=(draw(text),), subject=draw(text), issuer=draw(text), sha256=draw(text)),
    )
    reply = Reply(draw(st.sampled_from([250, 451, 550])), tuple(draw(st.lists(text, min_size=1, max_size=4))))
    failure = HostFailure(
        kind=draw(st.sampled_from(FailureKind)), detail=draw(text), reply=draw(st.sampled_from([None, reply])), tls=tls
    )
    host = make_host(draw(text), draw(st.sampled_from([None, "192.0.2.1"])), phase=draw(st.sampled_from(Phase)))
    hosts = (host,) if draw(st.booleans()) else (replace(host, failure=failure), host)
    policy = replace(POLICY, record_id=draw(text), mode=draw(text), mx=(draw(text), draw(text)))
    now = ACCEPTED + draw(st.sampled_from([timedelta(0), timedelta(hours=5), timedelta(days=6)]))
    attempt = make_attempt(
        job, now, hosts=hosts, failure=failure, replies=(reply, reply) if draw(st.booleans()) else (), policy=policy
    )
    attempt = replace(attempt, policy_problem=draw(text))
    notices = settle(job, attempt, now, ScheduleSettings()).notices
    header = HEADER.replace(b"Quarterly figures", draw(text).encode("utf-8", "surrogateescape"))
    if not notices:
        job = make_job(Recipient(id=1, forward_path="bob@example.test"))
        attempt = make_attempt(job, now, hosts=hosts, replies=(Reply(550, reply.lines),))
        notices = settle(job, attempt, now, ScheduleSettings()).notices
    return Case(request=notices[0], job=job, attempt=attempt, now=now, returned=header + b"\r\n")


@pytest.mark.rfc("dsn-hdr-e", "3464-2.1-a", "3464-2.1-b", "3464-2.1-c")
@settings(max_examples=100, deadline=None)
@given(hostile_cases(HOSTILE))
def test_a_notice_has_its_own_fields_and_lines_and_no_others(case: Case) -> None:
    check(case)


@pytest.mark.parametrize("text", NASTY)
@settings(max_examples=10, deadline=None)
@given(st.data())
def test_one_attack_in_every_place_at_once(text: str, data: st.DataObject) -> None:
    check(data.draw(hostile_cases(st.just(text))))


def check(case: Case) -> None:
    notice = case.build()
    found = read(notice)

    assert found.raw.isascii() or notice.envelope.smtputf8
    assert found.raw.endswith(b"--\r\n")
    assert max(map(len, found.raw.split(b"\r\n"))) <= 998
    assert not {b"\r", b"\n", b"\0"} & {bytes((octet,)) for octet in found.raw.replace(b"\r\n", b"")}

    names = found.header.keys()
    assert len(names) == len(set(names))
    assert set(names) <= {
        "Date", "From", "To", "Subject", "Message-ID", "Auto-Submitted", "Content-Language", "In-Reply-To",
        "References", "X-MS-Exchange-Message-Is-Ndr", "MIME-Version", "Content-Type",
    }  # fmt: skip

    assert len(found.parts) == 3
    assert len(found.groups) == 1 + len(case.request.recipients)
    for group in found.groups:
        fields = [name for name, _ in group]
        assert len(fields) == len(set(fields))
        assert all(name in ALLOWED or name.startswith("X-MTA-STS-Relay-") for name in fields)
    if found.parts[1].content_type == "message/delivery-status":
        # RFC 3464 §2.1: never encoded.
        assert found.parts[1].header["Content-Transfer-Encoding"] == "7bit"
    for part in found.parts:
        assert part.header.keys() == ["Content-Type", "Content-Transfer-Encoding"]
    if found.parts[2].content_type != "message/rfc822":
        assert case.returned.startswith(found.parts[2].body)
