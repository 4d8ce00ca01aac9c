"""What an SMTP server says, read strictly (RFC 5321 §4.2). **Pure.**

A reply is accepted or it is an error; nothing is guessed, because a guess would answer for the wrong recipient.
Text is cleaned where it enters, so that it can go into logs, stores and NDRs as it is.
"""

import re
from collections.abc import Iterator
from functools import lru_cache

from relay.status import Reply

MAX_LINE = 4096
MAX_LINES = 128
MAX_REPLY = 65536
"""Octets of a line with its CRLF, lines of a reply, octets of a reply. RFC 5321 §4.5.3.1.5 asks for 512 a line."""

MAX_TEXT = 500
MAX_TEXT_IN_ALL = 8192
"""Characters kept of a line, and of all lines of a reply; what is beyond is dropped."""

_LINE = re.compile(rb"([2-5][0-9]{2})(?:([ -])([^\n]*))?\r")


class ReplyError(Exception):
    """The server said something that is no reply. The connection cannot be used any further."""


class ReplyParser:
    """Takes bytes as they come, gives replies. After an error it must not be fed again.

    Only CRLF ends a line: a bare LF is an error. A bare CR is text, and escaped like any control character.
    """

    def __init__(self) -> None:
        self._buffer = b""
        self._code = b""
        self._lines: list[str] = []
        self._octets = 0
        self._characters = 0

    @property
    def unfinished(self) -> bool:
        """Whether a reply has begun that is not complete."""
        return bool(self._buffer or self._code)

    def feed(self, data: bytes) -> Iterator[Reply]:
        """Yield the replies that `data` completes, up to the first thing that is none. Raises ReplyError."""
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        for line in lines:
            if len(line) >= MAX_LINE:
                raise ReplyError(f"a reply line of more than {MAX_LINE} octets")
            reply = None if self._code else _single_line(line)
            if reply is None:
                reply = self._line(line)
            if reply is not None:
                yield reply
        if len(self._buffer) > MAX_LINE:
            raise ReplyError(f"a reply line of more than {MAX_LINE} octets")

    def _line(self, line: bytes) -> Reply | None:
        """Take one line of several, without its LF; return the reply if it is the last one of it."""
        match = _LINE.fullmatch(line)
        if match is None:
            raise ReplyError(_what_is_wrong(line))
        code, separator, text = match.groups(b"")
        if self._code and code != self._code:
            raise ReplyError(f"a reply that begins with {self._code.decode()} and goes on with {code.decode()}")
        line_text = clean(text)
        self._lines.append(line_text[: max(0, MAX_TEXT_IN_ALL - self._characters)])
        self._characters += len(line_text)
        self._octets += len(line) + 1
        if len(self._lines) + (separator == b"-") > MAX_LINES or self._octets > MAX_REPLY:
            raise ReplyError(f"a reply of more than {MAX_LINES} lines or {MAX_REPLY} octets")
        if separator == b"-":
            self._code = code
            return None
        lines = tuple(self._lines)
        self._code, self._lines, self._octets, self._characters = b"", [], 0, 0
        return Reply(int(code), lines)


@lru_cache(256)
def _single_line(line: bytes) -> Reply | None:
    """Return the reply if the line, without its LF, is a whole one. Hosts say the same again and again."""
    match = _LINE.fullmatch(line)
    if match is None or match[2] == b"-":
        return None
    return Reply(int(match[1]), (clean(match[3] or b""),))


def _what_is_wrong(line: bytes) -> str:
    if not line.endswith(b"\r"):
        return f"a reply line that a bare LF ends: {clean(line)}"
    return f"what is not a reply: {clean(line[:-1])}"


def clean(octets: bytes) -> str:
    """Return text from a peer as one printable line of at most MAX_TEXT characters.

    What is not UTF-8, and every character that is not printable (C0, C1, bidirectional controls, line separators),
    is shown as an escape; a tab becomes a space.
    """
    text = octets[: MAX_TEXT * 4].decode("utf-8", "backslashreplace")
    if not text.isprintable():
        text = "".join(map(_printable, text))
    return text[:MAX_TEXT]


def _printable(character: str) -> str:
    if character.isprintable():
        return character
    return " " if character == "\t" else character.encode("unicode_escape").decode("ascii")
