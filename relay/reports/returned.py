"""The last part: the message that the notice is about, or its header section (RFC 6522 §3 and §4). **Pure.**

Whatever it holds, the part is 7-bit: an NDR must never itself need 8BITMIME or SMTPUTF8 on its way back
(RFC 6522 §3, RFC 6533 §4.5).
"""

from relay.queue.message import Message, Ret
from relay.queue.notice import NoticeKind
from relay.reports.mime import Part, is_seven_bit, quoted_printable

MAX_FULL_REQUESTED = 1024 * 1024
MAX_FULL_BY_DEFAULT = 64 * 1024
_ENDS = b"\r\n\r\n"


def returns_content(kind: NoticeKind, message: Message, *, include_full: bool) -> bool:
    """Whether a notice returns the whole content, so that it has to be fetched; else the header section.

    RET rules up to 1 MiB, `ndr.include` up to 64 KiB where RET is absent (design §6). Only failures return it
    (RFC 3461 §6.2), and never those of a message with REQUIRETLS, whatever RET says (RFC 8689 §5).
    """
    if kind not in (NoticeKind.FAILED, NoticeKind.DROPPED) or message.envelope.ret is Ret.HDRS:
        return False
    if message.require_tls:
        return False
    if message.envelope.ret is Ret.FULL:
        return message.size <= MAX_FULL_REQUESTED
    return include_full and message.size <= MAX_FULL_BY_DEFAULT


def returned_part(content: bytes, *, full: bool) -> Part:
    """Return the part for `content`, which is the whole message if `full`, else at least its header section.

    message/rfc822 may not be encoded (RFC 2046 §5.2.1), so that 8-bit content comes back as headers only, unless
    its header is UTF-8: message/global may be.
    """
    header = header_section(content)
    utf8 = not header.isascii() and _is_utf8(header)
    if full and is_seven_bit(content):
        return Part("message/rfc822", content)
    if full and utf8:
        return Part("message/global", quoted_printable(content), "quoted-printable")
    kind = "message/global-headers" if utf8 else "text/rfc822-headers"
    if is_seven_bit(header):
        return Part(kind, header)
    return Part(kind, quoted_printable(header), "quoted-printable")


def header_section(content: bytes) -> bytes:
    """All header fields, without the empty line after them (RFC 6522 §4)."""
    if content.startswith(b"\r\n"):
        return b""
    header, found, _ = content.partition(_ENDS)
    return header + b"\r\n" if found else header


def _is_utf8(octets: bytes) -> bool:
    try:
        octets.decode()
    except UnicodeDecodeError:
        return False
    return True
