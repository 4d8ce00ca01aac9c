"""The end of data, stuffed dots and line ends: on CRLF alone, and however the octets are cut."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.ingress.framing import EndOfData, LineEnds

# Everything that some server has ever taken for an end of data (CVE-2023-51764, -51765, -51766, CVE-2024-27305).
SMUGGLES = [
    b"\n.\n", b"\n.\r\n", b"\r\n.\n", b"\r.\r", b"\r\n.\r",
    b"\r.\r\n", b"\n.\r", b"\r.\n", b"\r\n\0.\r\n", b"\0\r\n.\n",
    b"\r\n.\0\r\n", b"\r\r\n.\n", b"\n\n.\n\n", b"\r\r.\r\r",
    b"\n\r.\n\r", b"\r\n.\x0b\r\n", b"\r\n. \r\n", b"\r\n..\r\n",
    b"\r\n.\t\r\n", b"\x85.\x85", b"\x0c.\x0c", b"\r\n.\r\r\n", b"\r\n\r.\r\n", b"\n\r\n\r.\r\n",
]  # fmt: skip


def unframe(data: bytes, *cuts: int) -> tuple[bytes, bytes | None]:
    framing, content, rest = EndOfData(), b"", None
    start = 0
    for end in [*sorted(cuts), len(data)]:
        if rest is not None:
            rest += data[start:end]
        else:
            piece, rest = framing.feed(data[start:end])
            content += piece
        start = end
    return content, rest


@pytest.mark.rfc("5321-4.5.2-a", "5321-4.1.1.4-b")
@pytest.mark.parametrize(
    ("data", "content", "rest"),
    [
        (b".\r\n", b"", b""),
        (b".\r\nQUIT\r\n", b"", b"QUIT\r\n"),
        (b"a\r\n.\r\n", b"a\r\n", b""),
        (b"a\r\n.\r\n.\r\n", b"a\r\n", b".\r\n"),
        (b"..\r\n.\r\n", b".\r\n", b""),
        (b"...\r\n.\r\n", b"..\r\n", b""),
        (b".x\r\n..x\r\n.\r\n", b"x\r\n.x\r\n", b""),
        (b"a\r\n\r\n.\r\n", b"a\r\n\r\n", b""),
        (b"a", b"a", None),
        (b"a.\r\n", b"a.", None),
        (b".", b"", None),
    ],
)
def test_end_of_data(data: bytes, content: bytes, rest: bytes | None) -> None:
    assert unframe(data) == (content, rest)


@pytest.mark.rfc("5321-4.1.1.4-a", "5321-2.3.8-a")
@pytest.mark.parametrize("smuggle", SMUGGLES)
def test_only_crlf_dot_crlf_ends_data(smuggle: bytes) -> None:
    data = b"Subject: x\r\n\r\nhi" + smuggle + b"MAIL FROM:<evil@x.test>\r\n.\r\n"
    for cut in range(len(data)):
        content, rest = unframe(data, cut)
        assert rest == b"", "one message, and nothing left that could be a command"
        assert content.endswith(b"MAIL FROM:<evil@x.test>\r\n")


_OCTETS = st.lists(st.sampled_from([b"\r", b"\n", b".", b"a", b"\0", b"\r\n", b"\r\n."]), max_size=40).map(b"".join)


@given(_OCTETS, st.lists(st.integers(0, 120), max_size=6))
def test_cutting_never_changes_what_is_found(data: bytes, cuts: list[int]) -> None:
    data += b"\r\n.\r\ntail"
    assert unframe(data, *[min(cut, len(data)) for cut in cuts]) == unframe(data)


@given(_OCTETS)
def test_what_was_stuffed_comes_back(content: bytes) -> None:
    content += b"\r\n"
    stuffed = (b"." if content.startswith(b".") else b"") + content.replace(b"\r\n.", b"\r\n..")
    assert unframe(stuffed + b".\r\nQUIT") == (content, b"QUIT")


def normalise(data: bytes, *cuts: int) -> tuple[bytes, bool]:
    line_ends, out, start = LineEnds(), b"", 0
    for end in [*sorted(cuts), len(data)]:
        out += line_ends.feed(data[start:end])
        start = end
    return out + line_ends.finish(), line_ends.bare


@pytest.mark.rfc("5321-2.3.8-c")
@pytest.mark.parametrize(
    ("data", "out", "bare"),
    [
        (b"", b"", False),
        (b"a\r\nb\r\n", b"a\r\nb\r\n", False),
        (b"a\nb", b"a\r\nb", True),
        (b"a\rb", b"a\r\nb", True),
        (b"a\r", b"a\r\n", True),
        (b"a\r\r\nb", b"a\r\n\r\nb", True),
        (b"a\n\rb", b"a\r\n\r\nb", True),
        (b"\r\n\n\r", b"\r\n\r\n\r\n", True),
    ],
)
def test_line_ends(data: bytes, out: bytes, bare: bool) -> None:
    assert normalise(data) == (out, bare)


@given(_OCTETS, st.lists(st.integers(0, 120), max_size=6))
def test_normalised_content_has_only_crlf_however_it_is_cut(data: bytes, cuts: list[int]) -> None:
    out, bare = normalise(data, *[min(cut, len(data)) for cut in cuts])
    assert (out, bare) == normalise(data)
    rest = out.replace(b"\r\n", b"")
    assert b"\r" not in rest
    assert b"\n" not in rest
    assert bare == (out != data)


def test_f1_normalising_comes_after_the_end_of_data() -> None:
    """Were it the other way round, LF.LF would become the end of the message."""
    content, rest = unframe(b"hi\n.\nMAIL FROM:<evil@x.test>\r\n.\r\n")
    assert rest == b""
    assert normalise(content) == (b"hi\r\n.\r\nMAIL FROM:<evil@x.test>\r\n", True)
