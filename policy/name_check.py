"""Checks a session for the names beyond the one that its handshake was verified for (RFC 9525 §6.3)."""

import ssl

from policy.certificates import presented_names
from policy.mta_sts import matches
from policy.requirement import Requirement
from policy.tls import certificate_failure
from policy.tls_facts import TlsFailure


def name_failure(requirement: Requirement, ssl_object: ssl.SSLObject) -> TlsFailure | None:
    """Return what is wrong if the certificate lacks one of the names, but the first, which OpenSSL has looked for."""
    others = requirement.names[1:]
    if not others:
        return None
    der = ssl_object.getpeercert(binary_form=True) or b""
    dns_ids, _ = presented_names(der)
    for name in others:
        if not matches(name, dns_ids):
            return certificate_failure("SubjectMismatch", f"the certificate does not name {name}", der)
    return None
