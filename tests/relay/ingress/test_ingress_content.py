"""Content: what is refused, and what is found in it."""

import time
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.ingress.content import MAX_LINE, Content, ContentProblem
from relay.ingress.settings import BareNewlines

UMLAUT = "ü".encode()


def cut(data: bytes, cuts: list[int]) -> Iterator[bytes]:
    start = 0
    for end in [*sorted(min(c, len(data)) for c in cuts), len(data)]:
        yield data[start:end]
        start = end


def take(data: bytes, cuts: list[int] | None = None, *, reject: bool = False, hops: int = 100) -> tuple[Content, bytes]:
    mode = BareNewlines.REJECT if reject else BareNewlines.NORMALIZE
    content = Content(bare_newlines=mode, max_hops=hops)
    out = b"".join(content.feed(piece) for piece in cut(data, cuts or []))
    return content, out + content.finish()


@pytest.mark.rfc("5321-4.4-b", "5321-3.6.3-r", "6152-3-a", "5321-4.4-h")
@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\r\n",
        b"no header at all\r\n",
        b"Return-Path: <x@y>\r\nReceived: a\r\nreceived: b\r\n\r\nbody\r\n",
        b"Subject: x\r\n\r\n" + bytes(range(1, 10)) + bytes(range(14, 256)) + b"\r\n",
        b"Subject: one\x1cX-Injected: two\r\nFrom : x\r\n\r\n\x85\x0b\x0c\r\n",
    ],
)
def test_content_is_kept_octet_by_octet(data: bytes) -> None:
    content, out = take(data)
    assert out == data
    assert content.problem is None


def test_l11_only_crlf_ends_a_line() -> None:
    """Not VT, FF, FS, GS, RS, NEL or U+2028, at which str.splitlines() splits."""
    for octets in (b"\x0b", b"\x0c", b"\x1c", b"\x1d", b"\x1e", b"\x85", "\u0085".encode(), "\u2028".encode()):
        header = b"Subject: x" + (octets + b"Received: x") * 200 + octets + b"Message-ID: <no@x>\r\n\r\n"
        content, out = take(header)
        assert out == header
        assert content.problem is None
        assert content.facts.message_id == ""


def test_bdat_content_gets_the_crlf_that_it_lacks() -> None:
    assert take(b"Subject: x\r\n\r\nno line end")[1] == b"Subject: x\r\n\r\nno line end\r\n"
    assert take(b"Subject: x\r\n\r\ncr at the end\r")[1] == b"Subject: x\r\n\r\ncr at the end\r\n"


@pytest.mark.rfc("5321-4.5.2-b")
def test_nul_is_refused() -> None:
    assert take(b"a\0b\r\n")[0].problem is ContentProblem.NUL


@pytest.mark.rfc("5321-2.3.8-c")
@pytest.mark.parametrize("data", [b"a\nb\r\n", b"a\rb\r\n", b"a\r\r\n", b"a\r\n\n", b"a\r"])
def test_bare_line_ends_are_made_crlf_or_refused(data: bytes) -> None:
    content, out = take(data)
    assert content.problem is None
    assert b"\r\n".join(out.split(b"\r\n")) == out
    assert out.count(b"\r") == out.count(b"\n") == out.count(b"\r\n")
    assert take(data, reject=True)[0].problem is ContentProblem.BARE_NEWLINE


@pytest.mark.rfc("5321-4.5.3.1.6-a")
@pytest.mark.parametrize("before", [b"", b"x\r\n", b"x\r\n" * 50_000])
@pytest.mark.parametrize("length", [998, 1000, 1001, MAX_LINE])
def test_lines_up_to_the_limit_are_accepted(before: bytes, length: int) -> None:
    data = before + b"l" * length + b"\r\n" + b"y\r\n"
    for cuts in ([], [len(before) + 7], [len(before) + length + 1], list(range(0, len(data), 65536))):
        content, out = take(data, cuts)
        assert content.problem is None
        assert out == data


@pytest.mark.parametrize("before", [b"", b"x\r\n", b"x\r\n" * 50_000])
@pytest.mark.parametrize("after", [b"", b"\r\n", b"\r\n" + b"y\r\n" * 100])
def test_longer_lines_are_refused_wherever_they_stand(before: bytes, after: bytes) -> None:
    data = before + b"l" * (MAX_LINE + 1) + after
    for cuts in ([], [len(before) + 7], [len(before) + MAX_LINE], list(range(0, len(data), 65536))):
        assert take(data, cuts)[0].problem is ContentProblem.LONG_LINE


@pytest.mark.rfc("5321-6.3-a")
def test_loops_are_found_by_counting_received() -> None:
    hop = b"Received: from a by b;\r\n\tThu, 01 Jan 2026 00:00:00 +0000\r\n"
    assert take(hop * 100 + b"\r\nbody\r\n")[0].problem is None
    assert take(hop * 101 + b"\r\nbody\r\n")[0].problem is ContentProblem.LOOP
    assert take(b"RECEIVED : x\r\n" * 101)[0].problem is ContentProblem.LOOP
    assert take(b"X: y\r\n\r\n" + hop * 200)[0].problem is None, "what the body says is not a trace"
    assert take(b"Received-SPF: pass\r\n" * 200)[0].problem is None


@pytest.mark.parametrize(
    ("header", "message_id"),
    [
        (b"", ""),
        (b"Message-ID: <a@b>\r\n", "<a@b>"),
        (b"Message-ID : <a@b>\r\n", "<a@b>"),
        (b"Message-ID-Old: <no@b>\r\nMessage-ID: <a@b>\r\n", "<a@b>"),
        (b"Subject: Message-ID: <no@b>\r\nMESSAGE-ID:<a@b>\r\n", "<a@b>"),
        (b"Message-Id:\r\n <a@b>\r\n", "<a@b>"),
        (b"Message-ID: <a\x1b[31m@b>\r\n", "<a?[31m@b>"),
        (b"Message-ID: <\xff@b>\r\n", "<\N{REPLACEMENT CHARACTER}@b>"),
        (b"Message-ID: <" + b"m" * 600 + b">\r\n", "<" + "m" * 499),
    ],
)
def test_message_id(header: bytes, message_id: str) -> None:
    assert take(b"X: y\r\n" + header + b"\r\nMessage-ID: <body@b>\r\n")[0].facts.message_id == message_id


PART = b"--b1\r\nContent-Type: text/plain\r\n\r\ntext\r\n"
MIXED = b'Content-Type: multipart/mixed;\r\n boundary="b1"\r\n\r\n'
NESTED = b"--b1\r\nContent-Type: multipart/alternative; boundary=b2\r\n\r\n--b2\r\n"


@pytest.mark.rfc("6152-3-d")
@pytest.mark.parametrize(
    ("data", "eight_bit", "utf8_header"),
    [
        (b"Subject: x\r\n\r\nascii\r\n", False, False),
        (b"Subject: x\r\n\r\n" + UMLAUT + b"\r\n", True, False),
        (b"Subject: " + UMLAUT + b"\r\n\r\nascii\r\n", True, True),
        (b"Subject: " + UMLAUT + b"\r\n", True, True),
        (b"\r\n" + UMLAUT + b"\r\n", True, False),
        (MIXED + PART + b"--b1--\r\n", False, False),
        (MIXED + UMLAUT + b" preamble\r\n" + PART + b"--b1--\r\n", True, False),
        (MIXED + PART + UMLAUT + b"\r\n--b1--\r\n", True, False),
        (MIXED + PART + b"--b1--\r\n" + UMLAUT + b": epilogue\r\n\r\n", True, False),
        (
            MIXED + PART + b"--b1\r\nContent-Disposition: attachment; filename=" + UMLAUT + b"\r\n\r\nx\r\n--b1--\r\n",
            True,
            True,
        ),
        (MIXED + b"--b1 \t\r\nX: " + UMLAUT + b"\r\n\r\nx\r\n--b1--\r\n", True, True),
        (MIXED + b"--b1\r\n\r\n" + UMLAUT + b"\r\n--b1--\r\n", True, False),
        (MIXED + b"-- \r\nM" + UMLAUT + b": signature\r\n\r\n", True, False),
        (MIXED + b"--b11\r\nX: " + UMLAUT + b"\r\n\r\n", True, False),
        (MIXED + NESTED + b"X: " + UMLAUT + b"\r\n\r\nx\r\n--b2--\r\n--b1--\r\n", True, True),
        (MIXED + NESTED + b"X: y\r\n\r\nx\r\n--b2--\r\n--b1\r\nX: " + UMLAUT + b"\r\n\r\nx\r\n--b1--\r\n", True, True),
        (MIXED + NESTED + b"X: y\r\n\r\n" + UMLAUT + b"\r\n--b2--\r\n--b1--\r\n", True, False),
        (
            MIXED + b"--b1\r\nContent-Type: message/rfc822\r\n\r\nSubject: " + UMLAUT + b"\r\n\r\nx\r\n--b1--\r\n",
            True,
            True,
        ),
        (
            MIXED + b"--b1\r\nContent-Type: message/rfc822\r\n\r\nSubject: x\r\n\r\n" + UMLAUT + b"\r\n--b1--\r\n",
            True,
            False,
        ),
        (b"Content-Type: message/global\r\n\r\nSubject: " + UMLAUT + b"\r\n\r\nx\r\n", True, True),
        (b"Content-Type: multipart/mixed\r\n\r\n--b1\r\nX: " + UMLAUT + b"\r\n\r\n", True, False),
        (b"Content-Type: text/rfc822-headers\r\n\r\nSubject: " + UMLAUT + b"\r\n", True, False),
        (b"Content-Type: text/plain; boundary=b1\r\n\r\n--b1\r\nX: " + UMLAUT + b"\r\n\r\n", True, False),
        (MIXED + b"--b1\r\nX: cut off " + UMLAUT, True, True),
        (b"X: " + b"x" * 300_000 + b"\r\n" + UMLAUT + b": y\r\n\r\n", True, True),
    ],
)
def test_eight_bit_and_utf8_header(data: bytes, eight_bit: bool, utf8_header: bool) -> None:
    for cuts in (
        [],
        list(range(0, len(data), 1 + len(data) // 400)),
        [len(data) // 2],
        [len(data) // 3, len(data) // 2],
    ):
        content, _ = take(data, cuts)
        assert (content.facts.eight_bit, content.facts.utf8_header) == (eight_bit, utf8_header)


@pytest.mark.parametrize("extra", [-1, 0, 1, 5000])
def test_endless_header_is_looked_at_to_its_bound_however_it_is_cut(extra: int) -> None:
    hop = b"Received: x\r\n"
    filler = b"X: " + b"x" * 80_000 + b"\r\n"
    header = filler * 3 + b"Y: " + b"y" * (256 * 1024 - 3 * len(filler) - 5 + extra) + b"\r\n" + hop * 200 + b"\r\n"
    for tail in (b"", UMLAUT + b"\r\n"):
        whole, _ = take(header + tail)
        for step in (1000, 65536, 100_000):
            pieces, _ = take(header + tail, list(range(0, len(header), step)))
            assert (pieces.facts, pieces.problem) == (whole.facts, whole.problem)
        assert whole.facts.utf8_header == bool(tail)


@pytest.mark.parametrize("line", [b"--\r\n", b"--x\r\n", b"--b1\r\n\r\n", b"Content-Type: message/rfc822\r\n\r\n"])
def test_content_made_to_be_slow_to_read_is_not(line: bytes) -> None:
    """It is read on the loop that all other mail waits for: 150 MiB took minutes."""
    data = MIXED + b"--b1\r\n" + line * (8 * 1024 * 1024 // len(line))
    began = time.process_time()
    take(data, list(range(0, len(data), 65536)))
    assert time.process_time() - began < 3.0


def test_so_many_parts_are_looked_at_and_what_comes_behind_counts_as_header() -> None:
    parts = MIXED + (b"--b1\r\n\r\n" * 9_998)
    body = b"--b1\r\n\r\n" + UMLAUT + b"\r\n"
    assert not take(parts + body)[0].facts.utf8_header
    assert take(parts + b"--b1\r\n\r\n" + body)[0].facts.utf8_header


_WORDS = st.lists(
    st.sampled_from(
        [
            b"\r",
            b"\n",
            b"\r\n",
            b"\r\n\r\n",
            b"--b1",
            b"--b2",
            b"--",
            b"\r\n--b1\r\n",
            UMLAUT,
            b"x",
            b":",
            b" ",
            b"Received: x",
            b"\0",
            b"Content-Type: multipart/mixed; boundary=b1\r\n",
            b"Content-Type: multipart/mixed; boundary=b2\r\n",
            b"Content-Type: message/rfc822\r\n",
            b"Message-ID: <m@x>\r\n",
        ]
    ),
    max_size=30,
).map(b"".join)


@given(_WORDS, st.lists(st.integers(0, 300), max_size=8))
def test_cutting_never_changes_content_or_facts(data: bytes, cuts: list[int]) -> None:
    whole, out = take(data, hops=3)
    pieces, out_of_pieces = take(data, cuts, hops=3)
    assert out_of_pieces == out
    assert (pieces.problem is None) == (whole.problem is None)
    if whole.problem is None:
        assert pieces.facts == whole.facts
    rest = out.replace(b"\r\n", b"")
    assert b"\r" not in rest
    assert b"\n" not in rest
    assert not out or out.endswith(b"\r\n")
    assert whole.facts.eight_bit == (not out.isascii())
    assert whole.facts.eight_bit or not whole.facts.utf8_header


@pytest.mark.rfc("8689-3-a", "8689-3-b", "8689-3-e", "8689-3-f")
@pytest.mark.parametrize(
    ("header", "says_no"),
    [
        (b"TLS-Required: No", True),
        (b"tls-required: no", True),
        (b"TLS-REQUIRED:NO", True),
        (b"TLS-Required:\r\n\tNo", True),
        (b"TLS-Required: \r\n No", True),
        (b"Subject: x\r\nTLS-Required: No\r\nFrom: y", True),
        (b"TLS-Required: Yes", False),
        (b"TLS-Required:", False),
        (b"TLS-Required: ", False),
        (b"TLS-Required: No (really)", False),
        (b"TLS-Required: (really) No", False),
        (b"TLS-Required: Nope", False),
        (b"TLS-Required: No\r\n thanks", False),
        (b"TLS-Required: No\r\nTLS-Required: No", False),
        (b"TLS-Required: No\r\nSubject: x\r\ntls-required: Yes", False),
        (b"X-TLS-Required: No", False),
        (b"TLS-Required-Not: No", False),
        (b"Subject: TLS-Required: No", False),
        (b"Subject: x\r\n TLS-Required: No", False),
        (b"Subject: x\r\n\r\nTLS-Required: No", False),
        (b"Content-Type: message/rfc822\r\n\r\nTLS-Required: No", False),
        (b"Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\nTLS-Required: No", False),
    ],
)
def test_tls_required_no_is_found_in_the_header_section_alone(header: bytes, *, says_no: bool) -> None:
    data = header + b"\r\n\r\nbody\r\n"
    for cuts in ([], [5], list(range(1, len(data)))):
        content, out = take(data, cuts)
        assert content.facts.tls_required_no is says_no
        assert out == data
