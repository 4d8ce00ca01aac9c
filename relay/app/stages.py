"""The stages that mail goes through until it could be handed over, as `check` shows them. **Pure.**"""

from dataclasses import dataclass
from enum import Enum

from policy.requirement import Requirement
from policy.tls_facts import CertificateFacts, TlsFailure, TlsSession
from relay.app.advice import host_advice
from relay.delivery.seam import Target
from relay.queue.attempt import FailureKind, HostFailure, Phase

_NOT_REACHED = "not looked at"


class LookUp(Enum):
    """A question to the DNS, or to the policy host."""

    TXT = "txt"
    POLICY = "policy"
    MX = "mx"
    ADDRESSES = "addresses"
    CNAME = "cname"
    TLSA = "tlsa"


class Proof(Enum):
    """What a certificate has to show."""

    CHAIN = "chain"
    NAMES = "names"


Stage = LookUp | Phase | Proof


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What came of one stage. `about` is the name that was asked for, or the host.

    `seconds` is None where it took no time of its own. `advice` says what to do, where it failed.
    """

    stage: Stage
    about: str
    result: str
    seconds: float | None = None
    failed: bool = False
    advice: str = ""


def proven(target: Target, tls: TlsSession) -> list[Step]:
    """Say why the certificate of a session is good enough."""
    chain, names = _basis(target.requirement, tls)
    if tls.certificate is not None:
        chain, names = f"{chain}: {_issued(tls.certificate)}", f"{names}: {_named(tls.certificate)}"
    return [_step(Proof.CHAIN, target, chain), _step(Proof.NAMES, target, names)]


def disproven(target: Target, failure: HostFailure) -> list[Step]:
    """Say what is wrong with a certificate, if it is that which has failed."""
    if failure.tls is None or failure.kind not in _CERTIFICATES:
        return []
    return _refused(target, failure.kind, failure.tls, host_advice(failure, Phase.HANDSHAKE, target))


_CERTIFICATES = frozenset(
    {
        FailureKind.CERTIFICATE,
        FailureKind.ROUTE_CERTIFICATE,
        FailureKind.DANE_CERTIFICATE,
        FailureKind.DANE_EXPIRED,
        FailureKind.DANE_NAME,
    }
)


def _basis(requirement: Requirement, tls: TlsSession) -> tuple[str, str]:
    chain, names = ("leads to a trusted CA", f"hold {tls.server_name}") if tls.verified else ("", "")
    if requirement.by_dane:
        chain = " and ".join(filter(None, [chain, "as a TLSA record has it"]))
        names = names or "as the TLSA record demands"
    return chain or "not verified, nothing demands it", names or "not compared, nothing demands it"


def _refused(target: Target, kind: FailureKind, failure: TlsFailure, advice: str) -> list[Step]:
    by_name = kind is FailureKind.DANE_NAME or failure.reason == "SubjectMismatch"
    if not by_name:
        said = f"{failure.reason}: {failure.detail}"
        return [
            _step(Proof.CHAIN, target, said, failed=True, advice=advice),
            _step(Proof.NAMES, target, _NOT_REACHED),
        ]
    chain = f"good: {_issued(failure.certificate)}" if failure.certificate else "good"
    said = f"{failure.reason}: {failure.detail}"
    return [_step(Proof.CHAIN, target, chain), _step(Proof.NAMES, target, said, failed=True, advice=advice)]


def _step(stage: Proof, target: Target, result: str, *, failed: bool = False, advice: str = "") -> Step:
    return Step(stage=stage, about=target.mx_host, result=result, failed=failed, advice=advice)


def _issued(certificate: CertificateFacts) -> str:
    return f"issuer {certificate.issuer}, until {certificate.not_after:%Y-%m-%d}"


def _named(certificate: CertificateFacts) -> str:
    return ", ".join(certificate.names[:5]) or "no DNS name"
