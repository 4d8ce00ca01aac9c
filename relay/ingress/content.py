"""Content as it comes in: line ends, what is refused, and the facts that delivery needs. **Pure.**

RFC 5321 §2.3.8, §4.5.3.1.6, §6.3; RFC 6531 §3.4; RFC 8689 §3. Content is only read: nothing is changed but bare line
ends, and an empty line goes before content that begins with a blank.

Limits: the header section is looked at up to 256 KiB, a part's header up to 64 KiB, and the headers of 10 000 parts;
beyond, any octet above 127 in the content counts as one in a header. A boundary in RFC 2231 form (`boundary*0=`) is
not followed.
"""

import re
from collections.abc import Callable
from enum import Enum

from relay.ingress.framing import LineEnds
from relay.ingress.settings import BareNewlines
from relay.value import value

MAX_LINE = 100_000

_MAX_HEADER = 256 * 1024
_MAX_PART_HEADER = 64 * 1024
_MAX_PARTS = 10_000
_MAX_BOUNDARIES = 100
_MAX_BOUNDARY_LINE = 1000
_MAX_MESSAGE_ID = 500
_RECEIVED = re.compile(rb"(?im)^received[ \t]*:")
_MESSAGE_TYPE = re.compile(rb"(?i)[ \t]*message/(?:rfc822|global)[ \t]*(?:;|\r|$)")
_MULTIPART_TYPE = re.compile(rb"(?i)[ \t]*multipart/")
_TLS_REQUIRED = re.compile(rb"\ntls-required[ \t]*:([^\r\n]*(?:\r\n[ \t][^\r\n]*)*)")
_NO = re.compile(rb"(?:(?:[ \t]*\r\n)?[ \t]+)?no")
_FIELD_BODY = re.compile(rb"[ \t]*:([^\r\n]*(?:\r\n[ \t][^\r\n]*)*)")
# A line that may be a delimiter. Content can have one every four octets, so they are not each worth a step of Python.
_DELIMITER = re.compile(rb"\n(--[^\r\n]{0,997}[^ \t\r\n])[ \t]*(?=\r?\n)")
_BOUNDARY = re.compile(rb'(?i);[\s]*boundary[\s]*=[\s]*(?:"((?:[^"\\\r\n]|\\.){1,70})"|([^\s";,]{1,70}))')


class ContentProblem(Enum):
    """Why content is refused; found while it comes in, told at its end."""

    NUL = "a NUL octet"
    BARE_NEWLINE = "a bare CR or LF"
    LONG_LINE = "a line that is too long"
    LOOP = "too many Received fields"


@value
class ContentFacts:
    """What was found by reading.

    `utf8_header`: an octet above 127 in the header section or a part's header. `tls_required_no`: the header section
    has the field TLS-Required, once, and it says No (RFC 8689 §3).
    """

    eight_bit: bool
    utf8_header: bool
    message_id: str
    tls_required_no: bool


class Content:
    """One message's content on its way in. After a problem the rest is of no interest."""

    problem: ContentProblem | None = None
    _line = 0
    _eight_bit = False
    _ends_line = True
    _begun = False

    def __init__(self, *, bare_newlines: BareNewlines, max_hops: int) -> None:
        self._reject_bare = bare_newlines is BareNewlines.REJECT
        self._max_hops = max_hops
        self._line_ends = LineEnds()
        self._header = HeaderScan(max_hops)

    def feed(self, data: bytes) -> bytes:
        """Return the octets to keep."""
        return self._take(self._line_ends.feed(data)) if data else data

    def finish(self) -> bytes:
        """Return the last octets to keep; the content then ends with CRLF (a BDAT message may not have)."""
        last = self._line_ends.finish()
        if last:
            last = self._take(last)
        if not self._ends_line:
            last += self._take(b"\r\n")
        self._header.finish()
        self._check_hops()
        return last

    @property
    def facts(self) -> ContentFacts:
        return ContentFacts(
            eight_bit=self._eight_bit,
            utf8_header=self._eight_bit and self._header.eight_bit,
            message_id=self._header.message_id,
            tls_required_no=self._header.tls_required_no,
        )

    def _take(self, data: bytes) -> bytes:
        if not data:
            return data
        if not self._begun:
            self._begun = True
            if data.startswith((b" ", b"\t")):  # it has no header, and must not fold onto the field put before it
                data = b"\r\n" + data
        self._ends_line = data.endswith(b"\n")
        if b"\0" in data:
            self.problem = self.problem or ContentProblem.NUL
        if self._reject_bare and self._line_ends.bare:
            self.problem = self.problem or ContentProblem.BARE_NEWLINE
        self._check_lines(data)
        self._eight_bit = self._eight_bit or not data.isascii()
        self._header.feed(data)
        self._check_hops()
        return data

    def _check_hops(self) -> None:
        if self._header.received > self._max_hops:
            self.problem = self.problem or ContentProblem.LOOP

    def _check_lines(self, data: bytes) -> None:
        """A line may have MAX_LINE octets without its CRLF. Jumps from line end to line end, as far as one may be."""
        start = -self._line
        while len(data) - start > MAX_LINE + 2:
            end = data.rfind(b"\n", max(start, 0), start + MAX_LINE + 2)
            if end < 0:
                self.problem = self.problem or ContentProblem.LONG_LINE
                self._line = 0
                return
            start = end + 1
        last = data.rfind(b"\n")
        self._line = len(data) - start if last < max(start, 0) else len(data) - last - 1


class HeaderScan:
    """Reads the header section, and behind it the headers of MIME parts (RFC 2046 §5.1), "at any MIME level"."""

    received = 0
    message_id = ""
    eight_bit = False
    tls_required_no = False
    _parts = 0
    _looked_at = 0

    def __init__(self, max_received: int) -> None:
        self._max_received = max_received
        self._boundaries: set[bytes] = set()
        self._held = bytearray()
        self._step: Callable[[bool], bool] = self._read_header

    def feed(self, data: bytes) -> None:
        if self._step == self._skip_all:
            return
        self._held += data
        while self._step(False):
            pass

    def finish(self) -> None:
        """The content is over: what is held is all there is."""
        while self._step(True):
            pass

    # Each step looks at what is held and returns whether the next one has something to do.

    def _read_header(self, last: bool) -> bool:
        header = self._cut_header(_MAX_HEADER, last=last)
        if header is None:
            return False
        if header.count(b"\n") > self._max_received:
            self.received = len(_RECEIVED.findall(header))
        lowered = b"\n" + header.lower()
        self.message_id = _printable(_field(header, lowered, b"message-id"))
        if b"\ntls-required" in lowered:
            self.tls_required_no = _is_tls_required_no(lowered)
        return self._read_type(header, lowered)

    def _read_part_header(self, last: bool) -> bool:
        header = self._cut_header(_MAX_PART_HEADER, last=last)
        return header is not None and self._read_type(header, b"\n" + header.lower())

    def _read_type(self, header: bytes, lowered: bytes) -> bool:
        if not header.isascii():
            self.eight_bit = True
        self._parts += 1
        if self._parts > _MAX_PARTS:
            self.eight_bit = True
            self._step = self._skip_all
            return True
        media_type = _field(header, lowered, b"content-type")
        if _MESSAGE_TYPE.match(media_type):
            self._step = self._read_part_header
            return True
        if _MULTIPART_TYPE.match(media_type) and len(self._boundaries) < _MAX_BOUNDARIES:
            boundary = _BOUNDARY.search(media_type)
            if boundary is not None:
                self._boundaries.add(b"--" + (boundary[1] or boundary[2]).replace(b"\\", b""))
        if not self._boundaries:
            self._step = self._skip_all
            return True
        self._step = self._find_boundary
        self._held[:0] = b"\r\n"  # a boundary line may follow the header at once
        return True

    def _cut_header(self, most: int, *, last: bool) -> bytes | None:
        """Take a header section and its empty line off what is held, or return None until it is whole."""
        held = self._held
        end = 2 if held.startswith(b"\r\n") else held.find(b"\r\n\r\n", self._looked_at, most) + 4
        if end == 3:  # not found
            if len(held) < most and not last:
                self._looked_at = max(len(held) - 3, 0)
                return None
            end = min(len(held), most)
            self.eight_bit = self.eight_bit or end == most  # it goes on beyond what is looked at
        self._looked_at = 0
        header = bytes(held[:end])
        del held[:end]
        return header

    def _find_boundary(self, _last: bool) -> bool:
        held = self._held
        lines = _DELIMITER.finditer(bytes(held))
        end = next((line.end() for line in lines if line[1] in self._boundaries), None)
        if end is not None:
            del held[: held.index(b"\n", end) + 1]
            self._step = self._read_part_header
            return bool(held)
        unfinished = held.rfind(b"\n")
        if unfinished < 0 or len(held) - unfinished > _MAX_BOUNDARY_LINE:
            held.clear()
        else:
            del held[:unfinished]
        return False

    def _skip_all(self, _last: bool) -> bool:
        self._held.clear()
        return False


def _is_tls_required_no(lowered: bytes) -> bool:
    """RFC 8689 §3: there must be no second one, and the only value is No. What is malformed weakens nothing."""
    bodies = _TLS_REQUIRED.findall(lowered)
    return len(bodies) == 1 and _NO.fullmatch(bodies[0]) is not None


def _field(header: bytes, lowered: bytes, name: bytes) -> bytes:
    """The body of the first field of that name; empty if there is none.

    `lowered` is the header in lower case behind a line end, and the name in lower case too.
    """
    at = lowered.find(b"\n" + name)
    while at >= 0:
        match = _FIELD_BODY.match(header, at + len(name))
        if match is not None:
            return match[1]
        at = lowered.find(b"\n" + name, at + 1)
    return b""


def _printable(value: bytes) -> str:
    text = value.decode("ascii", "replace").strip()[:_MAX_MESSAGE_ID]
    return text if text.isprintable() else "".join(char if char.isprintable() else "?" for char in text)
