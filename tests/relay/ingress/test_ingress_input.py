"""Lines out of octets: what is one, what is none, and however the octets are cut."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.ingress.input import MAX_LINE, EndlessLineError, Input, LineError, TlsError

_NOT_CRLF = "500 5.5.2 Lines must end with CRLF"
_NOT_CLEAN = "500 5.5.2 Lines must end with CRLF and have no control characters"
_TOO_LONG = "500 5.5.2 Line too long"


def lines(data: bytes, *cuts: int) -> tuple[list[bytes | str], int]:
    """The lines and complaints, in order, and how many octets are left."""
    given_, found, start = Input(), list[bytes | str](), 0
    for end in [*sorted(cuts), len(data)]:
        given_.feed(memoryview(data)[start:end])
        start = end
        while True:
            try:
                line = given_.take_line()
            except LineError as error:
                found.append(str(error))
                continue
            if line is None:
                break
            found.append(line)
    return found, len(given_)


@pytest.mark.parametrize(
    ("data", "found", "left"),
    [
        (b"", [], 0),
        (b"NOOP", [], 4),
        (b"NOOP\r\n", [b"NOOP"], 0),
        (b"\r\n\r\nQ", [b"", b""], 1),
        (b"A\nB\r\nC\r\n", [_NOT_CRLF, _NOT_CLEAN, b"C"], 0),
        (b"A\nB\nC\r\nD\r\n", [_NOT_CRLF, _NOT_CRLF, _NOT_CLEAN, b"D"], 0),
        (b"A\rB\r\nC\r\n", [_NOT_CLEAN, b"C"], 0),
        (b"A\0\r\nC\r\n", [_NOT_CLEAN, b"C"], 0),
        (b"A\r\r\nC\r\n", [_NOT_CLEAN, b"C"], 0),
        (b"x" * (MAX_LINE - 2) + b"\r\nC\r\n", [b"x" * (MAX_LINE - 2), b"C"], 0),
        (b"x" * (MAX_LINE - 1) + b"\r\nC\r\n", [_TOO_LONG, b"C"], 0),
        (b"x" * 90_000 + b"\nB\r\nC\r\n", [_TOO_LONG, _NOT_CLEAN, b"C"], 0),
    ],
)
def test_lines(data: bytes, found: list[bytes | str], left: int) -> None:
    assert lines(data) == (found, left)


_OCTETS = st.lists(st.sampled_from([b"\r", b"\n", b"a", b"\0", b"\r\n", b"NOOP\r\n", b"y" * 5000]), max_size=30)


@given(_OCTETS.map(b"".join), st.lists(st.integers(0, 80_000), max_size=6))
def test_cutting_never_changes_what_is_found(data: bytes, cuts: list[int]) -> None:
    data += b"\r\n"
    assert lines(data, *[min(cut, len(data)) for cut in cuts]) == lines(data)


def test_a_line_that_does_not_end_is_dropped_as_it_comes_and_then_given_up() -> None:
    endless = Input()
    for _ in range(16):
        endless.feed(b"x" * 65_536)
        assert endless.take_line() is None
        assert len(endless) == 1
    endless.feed(b"xx")
    endless.feed(b"x" * 65_536)
    with pytest.raises(EndlessLineError):
        endless.take_line()


def test_tls_where_commands_are_expected() -> None:
    for hello in (b"\x16", b"\x16\x03\x01\n\r\n"):
        handshake = Input()
        handshake.feed(b"NOOP\r\n" + hello)
        assert handshake.take_line() == b"NOOP"
        with pytest.raises(TlsError):
            handshake.take_line()


def test_octets_are_taken_and_given_back_between_lines() -> None:
    mixed = Input()
    mixed.feed(b"BDAT 5\r\nhel")
    assert mixed.take_line() == b"BDAT 5"
    assert mixed.take(5) == b"hel"
    mixed.feed(b"loNO")
    mixed.feed(b"OP\r\n")
    assert mixed.take(2) == b"lo"
    assert mixed.take_line() == b"NOOP"
    mixed.feed(b"QUIT\r\n")
    mixed.put_back(mixed.take())
    mixed.put_back(b"RSET\r\n")
    assert [mixed.take_line(), mixed.take_line(), mixed.take_line()] == [b"RSET", b"QUIT", None]
    mixed.feed(b"rest")
    mixed.clear()
    assert not mixed
