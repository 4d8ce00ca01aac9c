"""What enforcement meant for a host and for a job: the same words whether it refused or would have."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from policy.requirement import Level, MxMatch, ResultType
from policy.tls_facts import TlsFailure
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
from relay.queue.enforcement import BreachMode, Standing, host_breach, recipient_breach, standing
from relay.status import Status

NOW = datetime(2026, 1, 1, tzinfo=UTC)
EXPIRED = TlsFailure(result_type=ResultType.CERTIFICATE_EXPIRED, reason="CertificateExpired", detail="ended")
MISMATCH = TlsFailure(result_type=ResultType.VALIDATION_FAILURE, reason="MxNotInPolicy", detail="not named")
GOOD = HostAttempt(
    mx_host="mx.test", address="192.0.2.1", port=25, phase=Phase.END_OF_DATA, level=Level.VERIFIED,
    mx_match=MxMatch.MATCHED, security=Security.STS,
)  # fmt: skip


def failing(kind: FailureKind, tls: TlsFailure | None = None, **fields: object) -> HostAttempt:
    changed = {"security": None, "failure": HostFailure(kind=kind, detail="x", tls=tls)} | fields
    return replace(GOOD, **changed)  # type: ignore[arg-type]


def tolerating(failure: TlsFailure, mx_match: MxMatch = MxMatch.MATCHED) -> HostAttempt:
    return replace(
        GOOD, level=Level.TESTING, mx_match=mx_match, security=Security.OPPORTUNISTIC, testing_failure=failure
    )


def attempt(
    *hosts: HostAttempt, mode: str | None = "enforce", action: Action = Action.DELIVERED, refused: bool = False
) -> Attempt:
    policy = PolicyFacts(
        policy_domain="x.test", record_id="1", mode=mode or "", mx=("mx.test",), fetched_at=NOW, expires_at=NOW
    )
    delivered = action is Action.DELIVERED
    outcome = Outcome(
        recipient_id=1, action=action, status=Status(2 if delivered else 4, 0, 0), diagnostic="", refused=refused,
        remote_mta="mx.test" if delivered else None, remote_address="192.0.2.1" if delivered else None,
        security=hosts[-1].security if delivered else None,
    )  # fmt: skip
    return Attempt(
        number=1, started_at=NOW, finished_at=NOW + timedelta(seconds=1), hosts=hosts, outcomes=(outcome,),
        policy=policy if mode else None,
    )  # fmt: skip


def refused(host: HostAttempt) -> Attempt:
    return attempt(host, action=Action.DEFERRED, refused=True)


PAIRS = [
    (failing(FailureKind.CERTIFICATE, EXPIRED), tolerating(EXPIRED), "certificate-expired"),
    (
        failing(FailureKind.MX_NOT_IN_POLICY, mx_match=MxMatch.NOT_MATCHED, address=None, phase=Phase.ROUTE),
        tolerating(MISMATCH, MxMatch.NOT_MATCHED),
        "mx-not-in-policy",
    ),
    (
        failing(FailureKind.STARTTLS_MISSING),
        tolerating(TlsFailure(result_type=ResultType.STARTTLS_NOT_SUPPORTED, reason="", detail="")),
        "starttls-not-supported",
    ),
    (
        failing(FailureKind.HANDSHAKE),
        tolerating(TlsFailure(result_type=ResultType.VALIDATION_FAILURE, reason="", detail="")),
        "validation-failure",
    ),
]


@pytest.mark.parametrize(("refusing", "delivering", "reason"), PAIRS)
def test_both_modes_say_the_same(refusing: HostAttempt, delivering: HostAttempt, reason: str) -> None:
    enforced, reported = refused(refusing), attempt(delivering)
    real, would_be = host_breach(refusing, enforced), host_breach(delivering, reported)
    assert real is not None
    assert would_be is not None
    assert (real.mode, would_be.mode) == (BreachMode.ENFORCE, BreachMode.REPORT_ONLY)
    assert (real.reason, real.result_type) == (would_be.reason, would_be.result_type)
    assert real.reason == reason
    assert recipient_breach(enforced.outcomes[0], enforced) == real
    assert recipient_breach(reported.outcomes[0], reported) == would_be
    assert standing([enforced]) == (Standing.REFUSED, reason)
    assert standing([reported]) == (Standing.WOULD_REFUSE, reason)
    own = attempt(delivering, mode="testing")
    assert standing([own]) == (Standing.TESTING, reason)


@pytest.mark.parametrize(
    ("host", "mode"),
    [
        (GOOD, None),
        (failing(FailureKind.TIMEOUT), None),
        (failing(FailureKind.HANDSHAKE, level=Level.OPPORTUNISTIC), None),
        (failing(FailureKind.DANE_CERTIFICATE, dane=True, level=Level.OPPORTUNISTIC), BreachMode.DANE),
        (failing(FailureKind.DANE_CERTIFICATE, dane=True), BreachMode.DANE),
        (failing(FailureKind.STARTTLS_MISSING, dane=True, level=Level.OPPORTUNISTIC), BreachMode.DANE),
        (failing(FailureKind.STARTTLS_MISSING, dane=True), BreachMode.ENFORCE),
    ],
)
def test_which_failures_are_a_breach_and_of_what(host: HostAttempt, mode: BreachMode | None) -> None:
    breach = host_breach(host, refused(host))
    assert (breach.mode if breach else None) == mode


PROVEN = attempt(GOOD)
PLAIN = attempt(replace(GOOD, level=Level.OPPORTUNISTIC, security=Security.PLAINTEXT), mode=None)
DOWN = attempt(failing(FailureKind.TIMEOUT), action=Action.DEFERRED)
REFUSED = refused(failing(FailureKind.CERTIFICATE, EXPIRED))


@pytest.mark.parametrize(
    ("attempts", "expected"),
    [
        ([PROVEN], (Standing.PROVEN, "")),
        ([PLAIN], (Standing.WITHOUT_POLICY, "")),
        ([DOWN], (Standing.OTHER, "")),
        ([DOWN, PROVEN], (Standing.PROVEN, "")),
        ([REFUSED, PROVEN], (Standing.REFUSED_FIRST, "certificate-expired")),
        ([REFUSED, DOWN], (Standing.REFUSED, "certificate-expired")),
        ([REFUSED, attempt(tolerating(EXPIRED))], (Standing.WOULD_REFUSE, "certificate-expired")),
        ([refused(PAIRS[1][0]), REFUSED], (Standing.REFUSED, "certificate-expired")),
    ],
)
def test_where_a_job_stands(attempts: list[Attempt], expected: tuple[Standing, str]) -> None:
    assert standing(attempts) == expected


def test_of_several_recipients_the_refused_one_counts() -> None:
    delivered, waiting = PROVEN.outcomes[0], REFUSED.outcomes[0]
    mixed = replace(REFUSED, hosts=(*REFUSED.hosts, GOOD), outcomes=(delivered, replace(waiting, recipient_id=2)))
    assert standing([mixed]) == (Standing.REFUSED, "certificate-expired")


@pytest.mark.parametrize(
    "kind",
    [
        FailureKind.REQUIRETLS_MISSING,
        FailureKind.REQUIRETLS_TLS,
        FailureKind.REQUIRETLS_CERTIFICATE,
        FailureKind.MX_NOT_VALIDATED,
        FailureKind.MX_VALIDATION_UNKNOWN,
    ],
)
@pytest.mark.parametrize("dane", [None, DaneScope.DOMAIN])
def test_what_a_message_demands_is_no_breach_of_what_the_domain_says(kind: FailureKind, dane: DaneScope | None) -> None:
    found = failing(kind, level=Level.OPPORTUNISTIC, mx_match=MxMatch.NO_POLICY, dane=dane)
    assert host_breach(found, refused(found)) is None
