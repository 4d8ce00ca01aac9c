"""Reads a notice back, part by part, with no code of the relay's own."""

import quopri
from dataclasses import dataclass
from email.message import Message
from email.parser import BytesHeaderParser

from relay.queue.message import NewMessage


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadPart:
    """One body part: header, body as it travels, body decoded."""

    header: Message
    wire: bytes
    body: bytes

    @property
    def content_type(self) -> str:
        return self.header.get_content_type()


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadNotice:
    """A notice, taken apart. `groups` are the fields of the delivery status, unfolded, per message first."""

    raw: bytes
    header: Message
    parts: tuple[ReadPart, ...]
    groups: tuple[tuple[tuple[str, str], ...], ...]

    @property
    def text(self) -> str:
        return self.parts[0].body.decode()

    @property
    def per_message(self) -> dict[str, str]:
        return dict(self.groups[0])

    @property
    def per_recipient(self) -> list[dict[str, str]]:
        return [dict(group) for group in self.groups[1:]]


def read(notice: NewMessage) -> ReadNotice:
    assert isinstance(notice.content, bytes)
    head, _, body = notice.content.partition(b"\r\n\r\n")
    header = BytesHeaderParser().parsebytes(head + b"\r\n\r\n")
    boundary = header.get_boundary()
    assert boundary is not None
    sections = (b"\r\n" + body).split(f"\r\n--{boundary}".encode())
    assert sections[0] == b""
    assert sections[-1] == b"--\r\n"
    parts = tuple(_part(section.removeprefix(b"\r\n")) for section in sections[1:-1])
    return ReadNotice(raw=notice.content, header=header, parts=parts, groups=_groups(parts[1].body))


def _part(section: bytes) -> ReadPart:
    head, found, wire = section.partition(b"\r\n\r\n")
    assert found
    header = BytesHeaderParser().parsebytes(head + b"\r\n\r\n")
    encoding = header["Content-Transfer-Encoding"]
    assert encoding in ("7bit", "quoted-printable")
    body = wire if encoding == "7bit" else quopri.decodestring(wire)
    return ReadPart(header=header, wire=wire, body=body)


def _groups(body: bytes) -> tuple[tuple[tuple[str, str], ...], ...]:
    unfolded = body.decode().replace("\r\n ", " ").replace("\r\n\t", "\t")
    groups = [group for group in unfolded.split("\r\n\r\n") if group]
    return tuple(tuple(_field(line) for line in group.split("\r\n") if line) for group in groups)


def _field(line: str) -> tuple[str, str]:
    name, colon, value = line.partition(": ")
    assert colon, line
    return name, value
