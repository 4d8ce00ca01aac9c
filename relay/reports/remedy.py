"""Ready words for the recipient's postmaster: what is wrong with their policy or server, what to change. **Pure.**

RFC 8461 §4.1 and §4.2; §8.3 on changing MX records and policy together. RFC 7671 §8.1 on changing certificates and
TLSA records together. RFC 8689 §4.2.1 on what REQUIRETLS asks for.
"""

from collections.abc import Iterator

from policy.requirement import Level, ResultType
from policy.tls_facts import CertificateFacts, TlsFailure
from relay.queue.attempt import Attempt, FailureKind, HostAttempt, HostFailure, PolicyFacts
from relay.reports.fields import clean

_MAX_SHOWN = 10


def remedies(domain: str, attempt: Attempt) -> list[str]:
    """Return paragraphs, one for each thing to mend; none unless security is what refused."""
    found: dict[str, None] = {}
    strangers = tuple(dict.fromkeys(h.mx_host for h in attempt.hosts if _failed(h, FailureKind.MX_NOT_IN_POLICY)))
    if strangers and attempt.policy:
        found[_add_to_policy(domain, strangers, attempt.policy)] = None
    for host in attempt.hosts:
        for paragraph in _host_remedy(host):
            found[paragraph] = None
    return list(found)


def listed(items: tuple[str, ...]) -> str:
    """Return names as a list in a sentence, the first ten of them."""
    shown = [clean(item, 253) for item in items[:_MAX_SHOWN]]
    if len(items) > _MAX_SHOWN:
        shown.append(f"{len(items) - _MAX_SHOWN} more")
    if not shown:
        return "nothing"
    return " and ".join(filter(None, [", ".join(shown[:-1]), shown[-1]]))


def _failed(host: HostAttempt, *kinds: FailureKind) -> bool:
    return host.failure is not None and host.failure.kind in kinds


def _add_to_policy(domain: str, strangers: tuple[str, ...], policy: PolicyFacts) -> str:
    lines = " and ".join(f'"mx: {clean(name, 253)}"' for name in strangers[:_MAX_SHOWN])
    them, is_yours = ("it", "that host is") if len(strangers) == 1 else ("them", "those hosts are")
    return (
        f"The MTA-STS policy of {domain} (https://mta-sts.{domain}/.well-known/mta-sts.txt, "
        f"id {clean(policy.record_id)}, mode {clean(policy.mode)}) lists {listed(policy.mx)}; your MX is "
        f"{listed(strangers)}, which it does not list. If {is_yours} yours, add {lines} to the policy and then change "
        f"the id in the TXT record _mta-sts.{domain}. If not, remove {them} from your MX records, and find out who "
        f"put {them} there."
    )


def _host_remedy(host: HostAttempt) -> Iterator[str]:
    name = clean(host.mx_host, 253)
    failure = host.failure
    if _failed(host, FailureKind.CERTIFICATE) and failure and failure.tls:
        yield _certificate_remedy(name, failure.tls)
    elif _failed(host, FailureKind.STARTTLS_MISSING, FailureKind.STARTTLS_REFUSED):
        yield (
            f"Your mail host {name} does not let us use STARTTLS, which your {_demands(host)}. Turn STARTTLS on, "
            f"with a certificate for {name}, and see that no firewall in front of it removes STARTTLS."
        )
    elif _failed(host, FailureKind.HANDSHAKE) and failure:
        yield (
            f"The TLS handshake with your mail host {name} fails ({clean(failure.detail, 200)}). It has to offer "
            f"TLS 1.2 or later with a certificate for {name}."
        )
    elif _failed(host, FailureKind.REQUIRETLS_MISSING):
        yield (
            f"The sender of this message demands REQUIRETLS (RFC 8689), which your mail host {name} does not offer "
            "after STARTTLS. If its software knows it, turn it on."
        )
    elif failure and failure.kind.dane and failure.kind is not FailureKind.DANE_REQUIRED:
        yield _dane_remedy(name, failure)


def _demands(host: HostAttempt) -> str:
    return "MTA-STS policy demands" if host.level is Level.VERIFIED else "TLSA records (DANE) demand"


def _dane_remedy(name: str, failure: HostFailure) -> str:
    detail = clean(failure.detail, 300)
    match failure.kind:
        case FailureKind.DNSSEC_BOGUS:
            return (
                f"DNSSEC fails for the TLSA records of your mail host {name} ({detail}). See that the signatures of "
                "the zone are not out of date, and that its DS record belongs to a key that signs it."
            )
        case FailureKind.DANE_EXPIRED:
            return f"The certificate of your mail host {name} expired. Renew it and let the mail server load it."
        case FailureKind.DANE_NAME:
            return f"The certificate of your mail host {name} does not name it: {detail}."
        case _:
            return (
                f"Your mail host {name} does not agree with its TLSA records: {detail}. If the certificate that it "
                "shows is yours, publish a TLSA record for it; before the next change of certificate publish the new "
                "record beside the old, and let the TTL pass."
            )


def _certificate_remedy(name: str, failure: TlsFailure) -> str:
    shown = failure.certificate
    match failure.result_type:
        case ResultType.CERTIFICATE_EXPIRED:
            when = f" on {shown.not_after:%Y-%m-%d}" if shown else ""
            return f"The certificate of your mail host {name} expired{when}. Renew it and let the mail server load it."
        case ResultType.CERTIFICATE_HOST_MISMATCH:
            return (
                f"The certificate of your mail host {name} is made out to {_names(shown)}, not to {name}. It needs "
                f"{name} as a DNS name in its subjectAltName."
            )
        case ResultType.CERTIFICATE_NOT_TRUSTED:
            issuer = f" (issued by {clean(shown.issuer, 200)})" if shown else ""
            return (
                f"The certificate of your mail host {name}{issuer} does not chain to a public CA. Use one from a "
                "public CA, and let the server send the intermediate certificates with it: senders do not fetch them."
            )
        case _:
            return f"The certificate of your mail host {name} does not verify: {clean(failure.detail, 200)}."


def _names(certificate: CertificateFacts | None) -> str:
    return listed(certificate.names) if certificate and certificate.names else "no DNS name"
