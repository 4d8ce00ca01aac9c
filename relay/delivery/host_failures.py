"""Why a host could not be used, in the words of records and reports (RFC 8460 §4.3)."""

from dataclasses import replace

from policy.requirement import Level, Requirement, ResultType
from policy.tls import classify
from policy.tls_facts import TlsFailure
from relay.delivery.protocol import LinkError
from relay.delivery.seam import HostError
from relay.queue.attempt import FailureKind, HostFailure, Phase

_BY_ROUTE = {
    FailureKind.CERTIFICATE: FailureKind.ROUTE_CERTIFICATE,
    FailureKind.STARTTLS_MISSING: FailureKind.ROUTE_TLS,
    FailureKind.STARTTLS_REFUSED: FailureKind.ROUTE_TLS,
    FailureKind.HANDSHAKE: FailureKind.ROUTE_TLS,
}
_BY_MESSAGE = {
    FailureKind.CERTIFICATE: FailureKind.REQUIRETLS_CERTIFICATE,
    FailureKind.STARTTLS_MISSING: FailureKind.REQUIRETLS_TLS,
    FailureKind.STARTTLS_REFUSED: FailureKind.REQUIRETLS_TLS,
    FailureKind.HANDSHAKE: FailureKind.REQUIRETLS_TLS,
}


def host_failure(error: LinkError, requirement: Requirement) -> HostFailure:
    """Say what went wrong, and whether it is the route alone that minds, or the message."""
    failure = _as_failure(error)
    about_certificate = failure.kind is FailureKind.CERTIFICATE
    if requirement.level is not Level.OPPORTUNISTIC or (requirement.dane is not None and not about_certificate):
        return failure
    if requirement.by_route or (requirement.route is not None and not about_certificate):
        return replace(failure, kind=_BY_ROUTE.get(failure.kind, failure.kind))
    if requirement.requiretls:
        return replace(failure, kind=_BY_MESSAGE.get(failure.kind, failure.kind))
    return failure


def _as_failure(error: LinkError) -> HostFailure:
    """Put it in our words; of a TLS failure also what it is in a report (RFC 8460 §4.3)."""
    if error.kind is FailureKind.HANDSHAKE:
        tls = classify(error)
        # In a handshake only a certificate gives another result type than validation-failure.
        handshake = tls.result_type is ResultType.VALIDATION_FAILURE
        kind = FailureKind.HANDSHAKE if handshake else FailureKind.CERTIFICATE
        return HostFailure(kind=kind, detail=tls.detail, tls=tls)
    if error.tls is not None:
        return HostFailure(kind=error.kind, detail=error.detail, tls=error.tls)
    if error.kind.refusal:
        return HostFailure(kind=error.kind, detail=error.detail, reply=error.reply, tls=no_starttls(error.detail))
    return HostFailure(kind=error.kind, detail=error.detail, reply=error.reply)


def refuses_ehlo(error: HostError) -> bool:
    reply = error.failure.reply
    return error.phase is Phase.EHLO and reply is not None and reply.permanent


def tls_failure(error: HostError) -> TlsFailure | None:
    """Return what of TLS failed, if that is what failed: a host that knows no EHLO offers no STARTTLS either."""
    if refuses_ehlo(error) and error.tls is None:
        return no_starttls("the host refuses EHLO")
    return error.failure.tls


def no_starttls(detail: str) -> TlsFailure:
    return TlsFailure(result_type=ResultType.STARTTLS_NOT_SUPPORTED, reason="StartTlsNotSupported", detail=detail)
