"""A multipart/report of ready parts, byte for byte (RFC 2045, RFC 2046 §5.1, RFC 6522 §3). **Pure.**"""

import itertools
from dataclasses import dataclass

_MAX_LINE = 998
_MAX_QP_LINE = 76
_HEX = [f"={octet:02X}".encode() for octet in range(256)]


@dataclass(frozen=True, slots=True)
class Part:
    """One body part: media type with its parameters, body, content-transfer-encoding; an attachment has a filename."""

    content_type: str
    body: bytes
    encoding: str = "7bit"
    filename: str = ""


def is_seven_bit(octets: bytes) -> bool:
    """Whether these octets may travel unencoded (RFC 2045 §2.7): ASCII without NUL, CRLF only, no line too long."""
    lines = octets.split(b"\r\n")
    return octets.isascii() and all(
        len(line) <= _MAX_LINE and not any(bad in line for bad in (b"\0", b"\r", b"\n")) for line in lines
    )


def text_part(content_type: str, text: str) -> Part:
    """A part of text, encoded only if it has to be; `content_type` of text/plain gets its charset."""
    body = text.encode()
    charset = f"; charset={'us-ascii' if body.isascii() else 'utf-8'}" if content_type == "text/plain" else ""
    if is_seven_bit(body):
        return Part(content_type + charset, body)
    return Part(content_type + charset, quoted_printable(body), "quoted-printable")


def quoted_printable(octets: bytes) -> bytes:
    """Encode octets whose lines end in CRLF (RFC 2045 §6.7); a bare CR or LF is an octet like any other."""
    return b"\r\n".join(_quoted_line(line) for line in octets.split(b"\r\n"))


def _quoted_line(line: bytes) -> bytes:
    tokens = [bytes((octet,)) if 32 <= octet <= 126 and octet != ord("=") else _HEX[octet] for octet in line]
    if tokens and tokens[-1] == b" ":
        tokens[-1] = b"=20"
    lines, width = [b""], 0
    for token in tokens:
        if width + len(token) >= _MAX_QP_LINE:
            lines.append(b"")
            width = 0
        lines[-1] += token
        width += len(token)
    return b"=\r\n".join(lines)


def multipart(fields: list[str], report_type: str, parts: list[Part], name: str) -> bytes:
    """Return a whole message: header `fields`, then the parts. `name` is a unique text that the boundary is made of."""
    boundary = _boundary(parts, name)
    header = [
        *fields,
        "MIME-Version: 1.0",
        f'Content-Type: multipart/report; report-type={report_type};\r\n boundary="{boundary}"',
    ]
    chunks = ["".join(f"{field}\r\n" for field in header).encode(), b"\r\n"]
    for part in parts:
        own = [f"--{boundary}", f"Content-Type: {part.content_type}", f"Content-Transfer-Encoding: {part.encoding}"]
        if part.filename:
            own.append(f'Content-Disposition: attachment;\r\n filename="{part.filename}"')
        chunks += ["".join(f"{line}\r\n" for line in own).encode(), b"\r\n", part.body, b"\r\n"]
    chunks.append(f"--{boundary}--\r\n".encode())
    return b"".join(chunks)


def _boundary(parts: list[Part], name: str) -> str:
    """A boundary that occurs in no part; the unguessable name makes the first one do."""
    safe = "".join(char for char in name if char.isascii() and char.isalnum())[-40:]
    candidates = (f"=_{safe}_{number}" for number in itertools.count())
    return next(one for one in candidates if not any(one.encode() in part.body for part in parts))
