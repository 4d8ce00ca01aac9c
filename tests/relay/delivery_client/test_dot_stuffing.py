"""Content as it leaves us: dots doubled, nothing bare (RFC 5321 §4.5.2, §2.3.8)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.delivery.dot_stuffing import BareNewlineError, DotStuffer, chunk


def stuffed(*pieces: bytes) -> bytes:
    stuffer = DotStuffer()
    return b"".join([*(stuffer.feed(piece) for piece in pieces), stuffer.finish()])


@pytest.mark.parametrize(
    ("content", "sent"),
    [
        (b"", b".\r\n"),
        (b"a\r\n", b"a\r\n.\r\n"),
        (b"a", b"a\r\n.\r\n"),
        (b".\r\n", b"..\r\n.\r\n"),
        (b"..\r\n", b"...\r\n.\r\n"),
        (b".x\r\n", b"..x\r\n.\r\n"),
        (b"a\r\n.\r\nb\r\n", b"a\r\n..\r\nb\r\n.\r\n"),
        (b"a.\r\n", b"a.\r\n.\r\n"),
        (b"\r\n\r\n", b"\r\n\r\n.\r\n"),
        (b"a\r\n.", b"a\r\n..\r\n.\r\n"),
        (b"\x00\x80\xff\r\n", b"\x00\x80\xff\r\n.\r\n"),
    ],
)
@pytest.mark.rfc("5321-4.5.2-a", "5321-4.1.1.4-b")
def test_content_is_stuffed_and_ends_in_one_crlf(content: bytes, sent: bytes) -> None:
    assert stuffed(content) == sent
    assert stuffed(*(content[at : at + 1] for at in range(len(content)))) == sent


@pytest.mark.parametrize(
    "content",
    [
        b"a\nb\r\n",
        b"a\rb\r\n",
        b"a\r",
        b"\n",
        b"\n.\n",
        b"\n.\r\n",
        b"a\r\n.\r",
        b"a\r\n.\rMAIL FROM:<x@y.test>\r\n",
        b"\r\r\n",
        b"a\r\n\n",
        b"a\rb\nc\r\n",
    ],
)
@pytest.mark.rfc("5321-2.3.8-b", "5321-4.1.1.4-a")
def test_f2_nothing_bare_leaves(content: bytes) -> None:
    with pytest.raises(BareNewlineError):
        stuffed(content)
    with pytest.raises(BareNewlineError):
        stuffed(*(content[at : at + 1] for at in range(len(content))))
    with pytest.raises(BareNewlineError):
        chunk(content)


_LINES = st.lists(st.sampled_from([b"", b".", b"..", b".x", b"x.", b"text", b"\x00\xff"]), max_size=12)


@given(_LINES, st.booleans(), st.integers(1, 9))
def test_what_is_sent_is_read_back(lines: list[bytes], ended: bool, size: int) -> None:
    content = b"\r\n".join(lines) + (b"\r\n" if ended else b"")
    sent = stuffed(*(content[at : at + size] for at in range(0, len(content), size)))
    assert sent == stuffed(content)
    body, end = sent[:-3], sent[-3:]
    assert end == b".\r\n"
    assert b"\r\n.\r\n" not in b"\r\n" + body
    read = (b"\r\n" + body).replace(b"\r\n.", b"\r\n")[2:]
    assert read == content if content.endswith(b"\r\n") or not content else read == content + b"\r\n"


@given(st.lists(st.sampled_from([b"\r", b"\n", b"\r\n", b".", b"x"]), max_size=12), st.integers(1, 5))
def test_what_is_sent_has_no_bare_cr_or_lf(parts: list[bytes], size: int) -> None:
    content = b"".join(parts)
    bare = content.replace(b"\r\n", b"")
    try:
        sent = stuffed(*(content[at : at + size] for at in range(0, len(content), size)))
    except BareNewlineError:
        assert b"\r" in bare or b"\n" in bare
    else:
        assert b"\r" not in bare
        assert b"\n" not in bare
        assert sent.endswith(b".\r\n")


@pytest.mark.rfc("3030-2-e")
@given(_LINES, st.booleans())
def test_a_chunk_is_the_content_as_it_is_with_a_crlf_at_its_end(lines: list[bytes], ended: bool) -> None:
    content = b"\r\n".join(lines) + (b"\r\n" if ended else b"")
    assert chunk(content) == (content if content.endswith(b"\r\n") or not content else content + b"\r\n")
