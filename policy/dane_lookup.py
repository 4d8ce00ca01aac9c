"""Looks for a host's TLSA records, in the order that RFC 7672 §2.2.2 and §2.2.3 give.

The host's addresses come first, and where they are not secure no TLSA question is sent: name servers that answer it
wrongly are common in zones that are not signed.
"""

from typing import assert_never

from policy.answers import Absent, Answer, Found, MxRecord, Resolver, Unknown
from policy.dane import base_domains, is_alias_of_insecure, is_mx_secure, reference_names, tlsa_name
from policy.findings import NoTlsa, SecureTlsa, TlsaFindings, TlsaUnknown
from policy.names import IPAddress


async def find_tlsa(
    resolver: Resolver,
    *,
    host: str,
    port: int,
    addresses: Answer[IPAddress],
    domain: str,
    mx: Answer[MxRecord] | None,
) -> TlsaFindings:
    """Return what DANE has to say about one host, whose addresses have been asked for already.

    `host` takes mail for `domain`, as the MX answer says; None where the operator has named the host. Never raises
    for what the network does.
    """
    match addresses:
        case Unknown():
            return TlsaUnknown(name=host, unknown=addresses)
        case Absent():
            return NoTlsa(detail=f"{host} has no address", ttl=addresses.ttl)
        case Found():
            pass
        case _:
            assert_never(addresses)
    alias = await resolver.cname(host) if is_alias_of_insecure(host, addresses) else None
    if isinstance(alias, Unknown):
        return TlsaUnknown(name=host, unknown=alias)
    ttl = addresses.ttl if alias is None else min(addresses.ttl, alias.ttl)
    names = base_domains(host, addresses, alias)
    for base_domain in names:
        answer = await resolver.tlsa(tlsa_name(base_domain, port))
        if isinstance(answer, Unknown):
            return TlsaUnknown(name=tlsa_name(base_domain, port), unknown=answer)
        ttl = min(ttl, answer.ttl)
        if isinstance(answer, Found) and answer.authentic:
            return SecureTlsa(
                base_domain=base_domain,
                reference_names=reference_names(base_domain, host, domain, mx),
                records=answer.records,
                mx_secure=is_mx_secure(mx),
                ttl=ttl,
            )
    if not names:
        return NoTlsa(detail=f"DNSSEC does not secure the addresses of {host}", ttl=ttl)
    return NoTlsa(detail=f"DNSSEC shows no TLSA records of {host}", ttl=ttl)
