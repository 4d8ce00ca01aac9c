"""What an operator can do about each thing that `check` finds wrong: a command first, where there is one. **Pure.**

What the recipient's postmaster has to do stands in `relay.app.postmaster`.
"""

from collections.abc import Mapping

from policy.answers import UnknownReason
from policy.requirement import ResultType
from relay.delivery.seam import Target
from relay.queue.attempt import FailureKind, HostFailure, Phase

_TELL_THEM = "Theirs to mend: send them the words at the end."
_OPENSSL = "openssl s_client -starttls smtp -connect {host}:{port} -servername {host}"
_DANE = (
    f"{_TELL_THEM} `dig TLSA _{{port}}._tcp.{{host}}` shows the records, `{_OPENSSL}` the certificate that they "
    "must stand for."
)
_OTHER = "docs/operations.md says under its status what it means; the detail is above."

_FAILURES: Mapping[FailureKind, str] = {
    FailureKind.MX_NOT_IN_POLICY: (
        f"{_TELL_THEM} Their MX records and their policy disagree, mostly after a move; nothing is wrong at your end."
    ),
    FailureKind.CERTIFICATE: f"{_TELL_THEM} `{_OPENSSL}` shows the certificate.",
    FailureKind.STARTTLS_MISSING: (
        f"`{_OPENSSL}` from outside your network: if STARTTLS is offered there, a firewall on your way out takes it "
        "away. If not, it is theirs to mend."
    ),
    FailureKind.STARTTLS_REFUSED: (
        f"`{_OPENSSL}` in a while: 454 often passes. If it stays, it is theirs to mend; if many hosts refuse, look for "
        "a firewall on your way out that inspects SMTP."
    ),
    FailureKind.HANDSHAKE: (
        f"`{_OPENSSL}` from outside your network: if that works, something on your way out inspects SMTP or loses "
        "large packets. If not, it is theirs to mend: TLS 1.2 or later is needed."
    ),
    FailureKind.DANE_CERTIFICATE: _DANE,
    FailureKind.DANE_EXPIRED: _DANE,
    FailureKind.DANE_NAME: _DANE,
    FailureKind.TLSA_UNUSABLE: _DANE,
    FailureKind.DNSSEC_BOGUS: (
        "`delv TLSA _{port}._tcp.{host}`, or dnsviz.net, shows where it breaks. Should every signed domain fail, the "
        "clock or the trust anchor of your resolver is wrong."
    ),
    FailureKind.DANE_REQUIRED: (
        "`delv TLSA _{port}._tcp.{host}`: a route of yours demands TLSA records. Either they no longer publish any, or "
        "your resolver does not validate."
    ),
    FailureKind.ROUTE_TLS: (
        f"`{_OPENSSL}`: a route of yours demands TLS, and the host does not let us have it. Theirs to mend, or your "
        "`[[route]]` asks too much of them."
    ),
    FailureKind.ROUTE_CERTIFICATE: (
        f"`{_OPENSSL}` shows the certificate. A route of yours demands another: see `tls` and `tls_name` of the "
        "`[[route]]`, and `tls.ca_file`, before you ask them to change theirs."
    ),
    FailureKind.POLICY_REQUIRED: (
        "`dig TXT _mta-sts.{domain}`: a route of yours demands a policy (MTA-STS), and there is none in force."
    ),
    FailureKind.REQUIRETLS_MISSING: (
        f"`{_OPENSSL} -crlf`, then `EHLO me`: REQUIRETLS is not among the lines. Few hosts know it; mostly the sender "
        "sends again without."
    ),
    FailureKind.REQUIRETLS_TLS: f"`{_OPENSSL}` from outside your network: the message demands TLS (REQUIRETLS).",
    FailureKind.REQUIRETLS_CERTIFICATE: (
        f"`{_OPENSSL}` shows the certificate: the message demands one that verifies (REQUIRETLS)."
    ),
    FailureKind.MX_NOT_VALIDATED: (
        "`dig +dnssec MX {domain}`, `dig TXT _mta-sts.{domain}`: REQUIRETLS needs a signed MX record, or a policy in "
        "mode enforce. Theirs to publish; meanwhile the sender sends again without."
    ),
    FailureKind.MX_VALIDATION_UNKNOWN: (
        "`dig TXT _mta-sts.{domain}`: REQUIRETLS needs a policy in mode enforce, and whether there is one cannot be "
        "found out now. The mail waits and is tried again."
    ),
    FailureKind.LOGIN: "See `user` and `password` of the `[[route]]`: the host did not take them, or offers no AUTH.",
    FailureKind.POLICY_UNKNOWN: (
        "`dig TXT _mta-sts.{domain}` at the resolver of `[dns] nameservers` and at another one. Until there is an "
        "answer the mail waits, for `mta_sts.unknown_grace` at most."
    ),
    FailureKind.DNS_UNKNOWN: (
        "`dig MX {domain}` and `dig A {host}` at the resolver of `[dns] nameservers` and at another one: if only yours "
        "fails, it is yours to mend. The mail waits and is tried again."
    ),
    FailureKind.DOMAIN_ABSENT: (
        "Look for a typing mistake. If the name is right, their registration or delegation has lapsed: "
        "`dig SOA {domain}`."
    ),
    FailureKind.NULL_MX: "The domain takes no mail (`dig MX {domain}`): another address is needed.",
    FailureKind.NO_ADDRESS: (
        "`dig A {host}` and `dig AAAA {host}`: their MX record names a host without an address, which is theirs to "
        "mend. See also `delivery.ip_family`."
    ),
    FailureKind.ADDRESS_REFUSED: (
        "If the host is in a network of yours, set `delivery.allow_private_addresses`. If not, their DNS is wrong, or "
        "yours is being lied to."
    ),
    FailureKind.LOOP: (
        "The best MX is this relay itself: `dig MX {domain}`. Mail for a domain of your own must not go out through "
        "the relay; for NDRs set `ndr.route`."
    ),
    FailureKind.CONNECTION_REFUSED: (
        "`nc -vz {address} {port}` from here and from another network. If only you are refused: a firewall of yours or "
        "of your provider, or a route that is missing."
    ),
    FailureKind.PROTOCOL: (
        "`nc {address} {port}` shows what it says; a device between the two that rewrites SMTP is a common cause."
    ),
    FailureKind.REPLY: (
        "The host's own words say why. A 4yz often passes; a 5yz at the greeting mostly means that your address is "
        "blocked: look for it in blocklists, and at its reverse DNS."
    ),
    FailureKind.INTERNAL: (
        "A fault at your end: see `delivery.source_addresses`, the limits of open files, and the log of the relay."
    ),
}

_UNTRUSTED_ROOT = (
    f"{_TELL_THEM} `{_OPENSSL}` shows the certificates. Should every domain fail so, the CA store of this machine is "
    "at fault: `tls.ca_file`, or the package ca-certificates."
)
_TIMEOUTS: Mapping[Phase, str] = {
    Phase.CONNECT: (
        "`nc -vz {address} {port}`: is the port open on your way out? Many providers block port 25. If other domains "
        "are reached, the host is down, or a firewall of theirs drops you."
    ),
}
_SILENT = (
    "`nc {address} {port}` shows whether it ever answers: the host is there and says nothing within "
    "`[delivery.timeouts]`. Some let senders wait whom they do not know."
)
_BROKEN_OFF: Mapping[Phase, str] = {
    Phase.GREETING: (
        "`nc {address} {port}` from here and from another network: hosts that hang up without a greeting mostly block "
        "your address. Look for it in blocklists."
    ),
}
_HUNG_UP = "`nc {address} {port}` shows how far it comes; the host's own log says why it hung up."


def host_advice(failure: HostFailure, phase: Phase, target: Target) -> str:
    """Say what to do about a connection that failed."""
    address = f"[{target.address}]" if target.address.version == 6 else str(target.address)
    untrusted = failure.tls is not None and failure.tls.reason == "UntrustedRoot"
    template = _template(failure.kind, phase)
    if untrusted and failure.kind is FailureKind.CERTIFICATE:
        template = _UNTRUSTED_ROOT
    return template.format(host=target.mx_host, address=address, port=target.port, domain=target.mx_host)


def route_advice(failure: HostFailure, *, domain: str, host: str = "", port: int = 25) -> str:
    """Say what to do about a domain, or one of its hosts, that nobody can connect to."""
    template = _template(failure.kind, Phase.ROUTE)
    return template.format(host=host or domain, address=host or domain, port=port, domain=domain)


def _template(kind: FailureKind, phase: Phase) -> str:
    if kind is FailureKind.TIMEOUT:
        return _TIMEOUTS.get(phase, _SILENT)
    if kind is FailureKind.BROKEN_OFF:
        return _BROKEN_OFF.get(phase, _HUNG_UP)
    return _FAILURES.get(kind, _OTHER)


_UNKNOWN: Mapping[UnknownReason, str] = {
    UnknownReason.TIMEOUT: (
        "`dig {record_type} {name}` at the resolver of `[dns] nameservers`: does it answer at all? If other names get "
        "answers, their name servers are down."
    ),
    UnknownReason.SERVFAIL: (
        "`dig {record_type} {name}` at your resolver and at another one: if both fail, their name servers are at "
        "fault; `dnsviz.net` shows where."
    ),
    UnknownReason.BOGUS: (
        "`delv {record_type} {name}`, or dnsviz.net, shows where DNSSEC breaks. Should every signed domain fail, the "
        "clock or the trust anchor of your resolver is wrong."
    ),
    UnknownReason.REFUSED: (
        "`dig {record_type} {name}`: your resolver refuses to answer. May this machine ask it? See `[dns] nameservers`."
    ),
    UnknownReason.MALFORMED: (
        "`dig {record_type} {name}` at your resolver and at another one: what came is no DNS answer, or too large."
    ),
}


def answer_advice(reason: UnknownReason, record_type: str, name: str) -> str:
    """Say what to do about a question that got no answer."""
    return _UNKNOWN[reason].format(record_type=record_type, name=name)


_CURL = "`curl -v https://mta-sts.{domain}/.well-known/mta-sts.txt` shows it."
_POLICY: Mapping[ResultType, str] = {
    ResultType.STS_WEBPKI_INVALID: (
        f"{_CURL} Theirs to mend: the policy host needs a certificate for mta-sts.{{domain}}. Should every policy host "
        "fail, see `tls.ca_file`."
    ),
    ResultType.STS_POLICY_INVALID: f"{_CURL} Theirs to mend: what is served is no policy (RFC 8461 section 3.2).",
}
_FETCH = (
    f"{_CURL} If it does so from here alone, look at your way out (port 443, proxies). Else it is theirs to mend. A "
    "policy that is cached stays in force meanwhile; without one the mail goes as without policy."
)


def policy_advice(result_type: ResultType, domain: str) -> str:
    """Say what to do about a policy that could not be had."""
    return _POLICY.get(result_type, _FETCH).format(domain=domain)
