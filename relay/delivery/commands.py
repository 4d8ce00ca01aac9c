"""MAIL and RCPT as they go over the wire, and what a message needs of a host. **Pure.**

RFC 5321 §4.1.1, RFC 1870 (SIZE), RFC 3461 (DSN), RFC 6152 (8BITMIME), RFC 6531 (SMTPUTF8), RFC 8689 (REQUIRETLS).
No parameter is sent that the host's latest EHLO did not offer. ENVID and ORCPT pass letter for letter.
"""

import re

from policy.names import InvalidNameError, to_domain
from relay.delivery.extensions import Extensions
from relay.queue.attempt import FailureKind, HostFailure
from relay.queue.message import Message, Notify, Recipient

# A path that cannot end its own command: quoted or not, no control character, no blank or bracket outside quotes.
_PATH = re.compile(
    r'(?:"(?:[^"\\\x00-\x1f\x7f]|\\[^\x00-\x1f\x7f])*"|[^"\\<>\x00-\x20\x7f]+)(?:@[^"\\<>\x00-\x20\x7f]+)?'
)
_PARAMETER = re.compile(r"[^=\x00-\x20\x7f]+")
_NOTIFY_ORDER = (Notify.NEVER, Notify.SUCCESS, Notify.FAILURE, Notify.DELAY)


REQUIRETLS_MISSING = HostFailure(
    kind=FailureKind.REQUIRETLS_MISSING,
    detail="the message demands REQUIRETLS, and the host does not offer it within TLS",
)


class UnsafeCommandError(Exception):
    """An address or a parameter would break out of its command: a fault of ours, and never sent."""


def unmet_need(message: Message, size: int, offered: Extensions) -> HostFailure | None:
    """Say what the host lacks for the message whoever its recipients are, or None.

    `size` counts the octets that will be sent, without stuffed dots (RFC 1870 §5).
    """
    if offered.max_size is not None and size > offered.max_size:
        detail = f"the message has {size} octets, and the host takes at most {offered.max_size}"
        return HostFailure(kind=FailureKind.TOO_LARGE, detail=detail)
    if message.require_tls and not offered.requiretls and message.envelope.reverse_path:
        return REQUIRETLS_MISSING
    if message.eight_bit and not offered.eight_bit_mime:
        detail = "the message has 8-bit content, and the host does not offer 8BITMIME"
        return HostFailure(kind=FailureKind.EIGHT_BIT, detail=detail)
    if not offered.smtputf8 and (message.utf8_header or needs_smtputf8(message.envelope.reverse_path)):
        what = "header" if message.utf8_header else "sender's address"
        detail = f"the {what} has characters beyond ASCII, and the host does not offer SMTPUTF8"
        return HostFailure(kind=FailureKind.SMTPUTF8, detail=detail)
    return None


def needs_smtputf8(path: str) -> bool:
    """Whether a path cannot be written in ASCII; a domain alone can, as A-labels (RFC 6531 §3.2)."""
    return not (path.isascii() or _in_ascii(path).isascii())


def mail_command(message: Message, size: int, offered: Extensions, *, smtputf8: bool) -> bytes:
    """Return MAIL with the parameters that the host offers. Raises UnsafeCommandError."""
    envelope = message.envelope
    parts = [f"MAIL FROM:<{_checked_path(envelope.reverse_path) if envelope.reverse_path else ''}>"]
    if offered.size:
        parts.append(f"SIZE={size}")
    if message.eight_bit:
        parts.append("BODY=8BITMIME")
    if smtputf8:
        parts.append("SMTPUTF8")
    if offered.logged_in:
        # RFC 4954 §5: who handed the message to us, we vouch for to nobody.
        parts.append("AUTH=<>")
    if offered.dsn and envelope.ret is not None:
        parts.append(f"RET={envelope.ret.value}")
    if offered.dsn and envelope.envid is not None:
        parts.append(f"ENVID={_checked_parameter(envelope.envid)}")
    if message.require_tls and offered.requiretls:
        parts.append("REQUIRETLS")
    return _line(parts)


def rcpt_command(recipient: Recipient, offered: Extensions, *, smtputf8: bool) -> bytes:
    """Return RCPT with the recipient's DSN parameters if the host offers DSN. Raises UnsafeCommandError."""
    parts = [f"RCPT TO:<{_checked_path(recipient.forward_path)}>"]
    if offered.dsn and recipient.notify:
        parts.append("NOTIFY=" + ",".join(n.value for n in _NOTIFY_ORDER if n in recipient.notify))
    if offered.dsn and recipient.orcpt is not None:
        orcpt = recipient.orcpt if smtputf8 else _ascii_orcpt(recipient.orcpt)
        parts.append(f"ORCPT={_checked_parameter(orcpt)}")
    return _line(parts)


def _line(parts: list[str]) -> bytes:
    return " ".join(parts).encode() + b"\r\n"


def _in_ascii(path: str) -> str:
    """Return the path with its domain as A-labels where that makes it ASCII, else as it is."""
    if path.isascii():
        return path
    local_part, at, domain = path.rpartition("@")
    if not local_part.isascii():
        return path
    try:
        return local_part + at + to_domain(domain)
    except InvalidNameError:
        return path


def _ascii_orcpt(orcpt: str) -> str:
    # RFC 6533 §3: without SMTPUTF8 the native form goes as utf-8-addr-xtext; what is ASCII is in that form already.
    return orcpt if orcpt.isascii() else "".join(c if c.isascii() else rf"\x{{{ord(c):X}}}" for c in orcpt)


def _checked_path(path: str) -> str:
    if _PATH.fullmatch(path) is None:
        raise UnsafeCommandError(f"not a path: {path!r}")
    return _in_ascii(path)


def _checked_parameter(value: str) -> str:
    if _PARAMETER.fullmatch(value) is None:
        raise UnsafeCommandError(f"not the value of a parameter: {value!r}")
    return value
