"""Ready words for the recipient's postmaster about what `check` has found: those of the NDR, before there is one."""

from collections.abc import Iterator
from datetime import datetime

from policy.requirement import Level, MxMatch, ResultType
from policy.tls_facts import TlsFailure
from relay.app.looking import AddressLook, HostLook, Look
from relay.delivery.policy_record import policy_facts
from relay.queue.attempt import Attempt, FailureKind, HostAttempt, HostFailure, Phase
from relay.reports.fields import clean
from relay.reports.remedy import remedies

_KINDS = {
    ResultType.STARTTLS_NOT_SUPPORTED: FailureKind.STARTTLS_MISSING,
    ResultType.VALIDATION_FAILURE: FailureKind.HANDSHAKE,
}


def words(found: Look, now: datetime) -> list[str]:
    """Return paragraphs, one for each thing that is theirs to mend; also where mail goes all the same (testing)."""
    attempt = Attempt(
        number=1,
        started_at=now,
        finished_at=now,
        hosts=tuple([one for host in found.hosts for one in _attempts(host)]),
        outcomes=(),
        policy=policy_facts(found.findings),
    )
    return [*_policy_host(found), *remedies(found.destination, attempt)]


def _policy_host(found: Look) -> Iterator[str]:
    if found.findings is None or (problem := found.findings.problem) is None:
        return
    domain = found.findings.policy_domain
    yield (
        f"The MTA-STS policy of {domain} (https://mta-sts.{domain}/.well-known/mta-sts.txt) cannot be used: "
        f"{problem.result_type.value}: {clean(problem.detail, 300)}. Serve it as RFC 8461 asks, with a valid "
        f"certificate for mta-sts.{domain}. To do without MTA-STS, publish mode none under a new id first, until "
        "everybody has seen it."
    )


def _attempts(one: HostLook) -> Iterator[HostAttempt]:
    if one.host.failure is not None:
        yield _host(one, None, Phase.ROUTE, one.host.failure)
    for look in one.connections:
        yield _host(one, look.address, look.phase or Phase.HANDSHAKE, _failure(one, look))


def _host(one: HostLook, address: str | None, phase: Phase, failure: HostFailure | None) -> HostAttempt:
    host = one.host
    level = Level.VERIFIED if host.level is Level.TESTING else host.level
    return HostAttempt(
        mx_host=host.name,
        address=address,
        port=host.port,
        phase=phase,
        level=level,
        mx_match=host.mx_match,
        failure=failure,
        dane=host.dane,
    )


def _failure(one: HostLook, look: AddressLook) -> HostFailure | None:
    """What refuses the host, or would if its policy were enforced."""
    tolerated = look.facts.testing_failure if look.facts else None
    return look.failure if tolerated is None else _as_refused(one, tolerated)


def _as_refused(one: HostLook, failure: TlsFailure) -> HostFailure:
    kind = _KINDS.get(failure.result_type, FailureKind.CERTIFICATE)
    if one.host.mx_match is MxMatch.NOT_MATCHED:
        kind = FailureKind.MX_NOT_IN_POLICY
    return HostFailure(kind=kind, detail=failure.detail, tls=failure)
