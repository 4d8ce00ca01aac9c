"""The cases that the golden files show; `python tests/relay/reports/report_makers.py` writes them anew."""

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from policy.requirement import Level, MxMatch, ResultType
from policy.tls_facts import CertificateFacts, TlsFailure, TlsSession
from relay.queue.attempt import (
    Action,
    Attempt,
    DaneScope,
    FailureKind,
    HostAttempt,
    HostFailure,
    Outcome,
    Phase,
    PolicyFacts,
    Security,
)
from relay.queue.final_status import host_verdict
from relay.queue.message import Client, Envelope, Job, Lease, Message, NewMessage, Notify, Recipient, Ret
from relay.queue.notice import NoticeRequest, drop_notice
from relay.queue.schedule import ScheduleSettings
from relay.queue.settle import settle
from relay.reports.ndr import NoticeSettings, build_notice
from relay.status import Reply

GOLDEN = Path(__file__).parent / "golden"
ACCEPTED = datetime(2026, 11, 20, 9, 0, 3, tzinfo=UTC)
SETTINGS = NoticeSettings(hostname="relay.contoso.test", postmaster="postmaster@contoso.test")
NOTICE_ID = "01JD4Q0NOTICE00000000000001"

HEADER = (
    b"Received: from exchange.contoso.test (exchange.contoso.test [10.1.2.3])\r\n"
    b"\tby relay.contoso.test with ESMTPS id 01JD3X0MESSAGE0000000000007;\r\n"
    b"\tFri, 20 Nov 2026 09:00:03 +0000\r\n"
    b"From: Alice <alice@contoso.test>\r\n"
    b"To: Bob <bob@example.test>\r\n"
    b"Subject: Quarterly figures\r\n"
    b"Message-ID: <q3-figures@contoso.test>\r\n"
    b"Date: Fri, 20 Nov 2026 09:00:00 +0000\r\n"
    b"MIME-Version: 1.0\r\n"
    b"Content-Type: text/plain\r\n"
)
CONTENT = HEADER + b"\r\nDear Bob,\r\n\r\nplease find the figures below.\r\n"

POLICY = PolicyFacts(
    policy_domain="example.test",
    record_id="20260301T080000",
    mode="enforce",
    mx=("mx1.example.test", "*.mail.example.test"),
    fetched_at=datetime(2026, 11, 18, 7, 12, 44, tzinfo=UTC),
    expires_at=datetime(2026, 11, 25, 7, 12, 44, tzinfo=UTC),
)
EXPIRED = CertificateFacts(
    names=("mx1.example.test", "www.example.test"),
    subject="CN=mx1.example.test",
    issuer="CN=R11,O=Let's Encrypt,C=US",
    not_before=datetime(2026, 8, 20, 6, 0, tzinfo=UTC),
    not_after=datetime(2026, 11, 18, 5, 59, 59, tzinfo=UTC),
    sha256="3f1c7c0b5a0f4c0d9a6d1b2e8f7a6c5d4e3f2a1b0c9d8e7f6a5b4c3d2e1f0a9b",
)


def make_host(
    name: str = "mx1.example.test",
    address: str | None = "192.0.2.10",
    *,
    phase: Phase = Phase.RCPT,
    failure: HostFailure | None = None,
    tls: TlsSession | None = None,
    level: Level = Level.VERIFIED,
    matched: MxMatch = MxMatch.MATCHED,
) -> HostAttempt:
    return HostAttempt(
        mx_host=name,
        address=address,
        port=25,
        phase=phase,
        level=level,
        mx_match=matched,
        security=Security.STS if tls else None,
        tls=tls,
        failure=failure,
    )


STRANGER = make_host(
    "mx9.hoster.test",
    None,
    phase=Phase.ROUTE,
    matched=MxMatch.NOT_MATCHED,
    failure=HostFailure(kind=FailureKind.MX_NOT_IN_POLICY, detail="mx9.hoster.test matches no mx line of the policy"),
)
BAD_CERTIFICATE = make_host(
    phase=Phase.HANDSHAKE,
    failure=HostFailure(
        kind=FailureKind.CERTIFICATE,
        detail="certificate has expired",
        tls=TlsFailure(
            result_type=ResultType.CERTIFICATE_EXPIRED,
            reason="CertificateExpired",
            detail="certificate has expired",
            certificate=EXPIRED,
        ),
    ),
)
NO_STARTTLS = make_host(
    phase=Phase.EHLO,
    failure=HostFailure(
        kind=FailureKind.STARTTLS_MISSING,
        detail="STARTTLS is not in the reply to EHLO",
        tls=TlsFailure(
            result_type=ResultType.STARTTLS_NOT_SUPPORTED, reason="StartTlsNotSupported", detail="no STARTTLS offered"
        ),
    ),
)

_MISMATCH = "no TLSA record of mx1.example.test matches: 3 1 1 0d6fce3320fb5be9b4be8bb4..."
TLSA_MISMATCH = replace(
    make_host(
        phase=Phase.HANDSHAKE,
        level=Level.OPPORTUNISTIC,
        matched=MxMatch.NO_POLICY,
        failure=HostFailure(
            kind=FailureKind.DANE_CERTIFICATE,
            detail=_MISMATCH,
            tls=TlsFailure(
                result_type=ResultType.VALIDATION_FAILURE, reason="TlsaMismatch", detail=_MISMATCH, certificate=EXPIRED
            ),
        ),
    ),
    dane=DaneScope.DOMAIN,
)


def make_job(
    *recipients: Recipient,
    attempts: int = 1,
    reverse_path: str = "alice@contoso.test",
    destination: str = "example.test",
    ret: Ret | None = None,
    envid: str | None = None,
    message_id: str = "<q3-figures@contoso.test>",
    helo: str = "exchange.contoso.test",
) -> Job:
    message = Message(
        queue_id="01JD3X0MESSAGE0000000000007",
        accepted_at=ACCEPTED,
        envelope=Envelope(reverse_path=reverse_path, ret=ret, envid=envid),
        size=len(CONTENT),
        message_id=message_id,
        client=Client(address="10.1.2.3", helo=helo),
    )
    return Job(
        id=7,
        message=message,
        destination=destination,
        recipients=recipients or (Recipient(id=1, forward_path="bob@example.test"),),
        attempts=attempts,
        lease=Lease(fence=1, incarnation="i"),
    )


def make_attempt(
    job: Job,
    now: datetime,
    *,
    hosts: tuple[HostAttempt, ...] = (),
    failure: HostFailure | None = None,
    replies: tuple[Reply, ...] = (),
    policy: PolicyFacts | None = None,
) -> Attempt:
    """An attempt in which the first host gave these replies, or in which no host took the message."""
    finished = now - timedelta(seconds=1)
    if replies:
        outcomes = tuple(
            Outcome(
                recipient_id=recipient.id,
                action=Action.DELIVERED if reply.positive else Action.FAILED if reply.permanent else Action.DEFERRED,
                status=reply.status,
                diagnostic=str(reply),
                reply=reply,
                remote_mta=hosts[0].mx_host,
                remote_address=hosts[0].address,
            )
            for recipient, reply in zip(job.recipients, replies, strict=True)
        )
    else:
        found = host_verdict(hosts, failure, domain=job.destination)
        outcomes = tuple(
            Outcome(
                recipient_id=recipient.id,
                action=Action.FAILED if found.status.permanent else Action.DEFERRED,
                status=found.status,
                diagnostic=found.diagnostic,
                reply=found.reply,
                remote_mta=found.remote_mta,
                remote_address=found.remote_address,
                refused=found.refused,
            )
            for recipient in job.recipients
        )
    return Attempt(
        number=job.attempts,
        started_at=finished - timedelta(seconds=2),
        finished_at=finished,
        hosts=hosts,
        outcomes=outcomes,
        policy=policy,
        record_checked=True,
        failure=failure,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One notice that is due."""

    request: NoticeRequest
    job: Job
    attempt: Attempt | None
    now: datetime
    returned: bytes = HEADER + b"\r\n"
    settings: NoticeSettings = SETTINGS

    def build(self) -> NewMessage:
        return build_notice(
            self.request, self.job, self.attempt, self.returned, self.now, self.settings, queue_id=NOTICE_ID
        )


def settled(
    job: Job,
    age: timedelta,
    *,
    hosts: tuple[HostAttempt, ...] = (),
    failure: HostFailure | None = None,
    replies: tuple[Reply, ...] = (),
    policy: PolicyFacts | None = None,
    returned: bytes = HEADER + b"\r\n",
) -> Case:
    """The notice that settling such an attempt at this age of the message calls for."""
    now = ACCEPTED + age
    attempt = make_attempt(job, now, hosts=hosts, failure=failure, replies=replies, policy=policy)
    (request,) = settle(job, attempt, now, ScheduleSettings()).notices
    return Case(request=request, job=job, attempt=attempt, now=now, returned=returned)


def _dropped() -> Case:
    job = make_job(attempts=3)
    request = drop_notice(job)
    assert request is not None
    return Case(request=request, job=job, attempt=None, now=ACCEPTED + timedelta(hours=2))


def _smtputf8() -> Case:
    recipient = Recipient(id=1, forward_path="用户@example.test", orcpt="utf-8;\\x{7528}\\x{6237}@example.test")
    job = make_job(recipient, message_id="<utf8@contoso.test>")
    header = HEADER.replace(b"Bob <bob@example.test>", "Bob <用户@example.test>".encode())
    host = make_host(
        phase=Phase.MAIL,
        failure=HostFailure(kind=FailureKind.SMTPUTF8, detail="SMTPUTF8 is not offered"),
        matched=MxMatch.NO_POLICY,
    )
    return settled(job, timedelta(seconds=4), hosts=(host,), returned=header + b"\r\n")


SESSION = TlsSession(version="TLSv1.3", cipher="TLS_AES_256_GCM_SHA384", server_name="mx1.example.test", verified=True)


def cases() -> dict[str, Case]:
    """Every golden file by name."""
    day, five_days = timedelta(hours=24, seconds=5), timedelta(days=5, seconds=9)
    two = (
        Recipient(id=1, forward_path="bob@example.test", orcpt="rfc822;Robert+2BHood@example.test"),
        Recipient(id=2, forward_path="Carol@example.test"),
    )
    unknown = Reply(
        550, ("5.1.1 <bob@example.test>: Recipient address rejected:", "5.1.1 User unknown in virtual mailbox table")
    )
    full = Reply(552, ("5.2.2 Mailbox full",))
    session = make_host(tls=SESSION)
    success = Recipient(id=1, forward_path="bob@example.test", notify=frozenset({Notify.SUCCESS}))
    refused = make_host(
        phase=Phase.CONNECT,
        level=Level.OPPORTUNISTIC,
        failure=HostFailure(kind=FailureKind.CONNECTION_REFUSED, detail=""),
    )
    silent = make_host(
        "mx2.example.test",
        "2001:db8::25",
        phase=Phase.GREETING,
        level=Level.OPPORTUNISTIC,
        failure=HostFailure(kind=FailureKind.TIMEOUT, detail="no greeting within 300 s"),
    )
    absent = HostFailure(kind=FailureKind.DOMAIN_ABSENT, detail="NXDOMAIN")
    return {
        "mx-not-in-policy": settled(make_job(attempts=27), day, hosts=(STRANGER,), policy=POLICY),
        "certificate-expired": settled(make_job(attempts=27), day, hosts=(STRANGER, BAD_CERTIFICATE), policy=POLICY),
        "no-starttls": settled(make_job(attempts=27), day, hosts=(NO_STARTTLS,), policy=POLICY),
        "tlsa-mismatch": settled(make_job(attempts=27), day, hosts=(TLSA_MISMATCH,)),
        "unknown-user-and-full-mailbox": settled(
            make_job(*two, ret=Ret.FULL, envid="QQ+2B1"),
            timedelta(seconds=2),
            hosts=(session,),
            replies=(unknown, full),
            returned=CONTENT,
        ),
        "greylisted-for-ever": settled(
            make_job(attempts=125), five_days, hosts=(session,), replies=(Reply(451, ("4.7.1 Greylisted, try later",)),)
        ),
        "unreachable": settled(make_job(attempts=125), five_days, hosts=(refused, silent)),
        "no-such-domain": settled(make_job(), timedelta(seconds=1), failure=absent),
        "delayed-by-certificate": settled(
            make_job(attempts=8), timedelta(hours=4, minutes=3, seconds=27), hosts=(BAD_CERTIFICATE,), policy=POLICY
        ),
        "relayed": settled(
            make_job(success), timedelta(seconds=2), hosts=(session,), replies=(Reply(250, ("2.0.0 queued as 4Xyz",)),)
        ),
        "smtputf8": _smtputf8(),
        "dropped": _dropped(),
    }


if __name__ == "__main__":
    for name, case in cases().items():
        content = case.build().content
        assert isinstance(content, bytes)
        (GOLDEN / f"{name}.eml").write_bytes(content)
