"""Replies: the grammar of RFC 5321 §4.2, its bounds, and what is left of hostile text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.delivery.replies import (
    MAX_LINE,
    MAX_LINES,
    MAX_TEXT,
    MAX_TEXT_IN_ALL,
    ReplyError,
    ReplyParser,
    clean,
)
from relay.status import Reply


@pytest.mark.parametrize(
    ("octets", "reply"),
    [
        (b"250 ok\r\n", Reply(250, ("ok",))),
        (b"250\r\n", Reply(250, ("",))),
        (b"250 \r\n", Reply(250, ("",))),
        (b"250-one\r\n250-two\r\n250 three\r\n", Reply(250, ("one", "two", "three"))),
        (b"250-one\r\n250\r\n", Reply(250, ("one", ""))),
        (b"250-\r\n250 \r\n", Reply(250, ("", ""))),
        (b"299 odd\r\n", Reply(299, ("odd",))),
        (b"599 odd\r\n", Reply(599, ("odd",))),
        (b"354 End with <CRLF>.<CRLF>\r\n", Reply(354, ("End with <CRLF>.<CRLF>",))),
    ],
)
@pytest.mark.rfc("5321-4.2-d")
def test_well_formed_replies(octets: bytes, reply: Reply) -> None:
    assert list(ReplyParser().feed(octets)) == [reply]


@pytest.mark.parametrize(
    "octets",
    [
        pytest.param(b"250 ok\n", id="bare LF"),
        pytest.param(b"\n", id="only LF"),
        pytest.param(b"\r\n", id="empty line"),
        pytest.param(b"ok\r\n", id="no code"),
        pytest.param(b"25 ok\r\n", id="two digits"),
        pytest.param(b"2500 ok\r\n", id="four digits"),
        pytest.param(b"2_5 ok\r\n", id="int() takes it"),
        pytest.param(b"+25 ok\r\n", id="sign"),
        pytest.param(b" 25 ok\r\n", id="blank"),
        pytest.param("٢٥٠ ok\r\n".encode(), id="Arabic digits"),
        pytest.param(b"250ok\r\n", id="no separator"),
        pytest.param(b"250_ok\r\n", id="wrong separator"),
        pytest.param(b"000 ok\r\n", id="000"),
        pytest.param(b"150 ok\r\n", id="1yz"),
        pytest.param(b"600 ok\r\n", id="6yz"),
        pytest.param(b"900 ok\r\n", id="9yz"),
        pytest.param(b"250-ok\r\n550 no\r\n", id="mixed codes, good first"),
        pytest.param(b"550-no\r\n250 ok\r\n", id="mixed codes, bad first"),
        pytest.param(b"250-ok\r\n250-more\r\n251 other\r\n", id="mixed at the end"),
        pytest.param(b"250-ok\r\nhello\r\n", id="continued without a code"),
        pytest.param(b"250-ok\r\n250 ok\n", id="bare LF at the end"),
    ],
)
@pytest.mark.rfc("5321-4.2-c")
def test_l12_what_is_no_reply_is_an_error(octets: bytes) -> None:
    with pytest.raises(ReplyError):
        list(ReplyParser().feed(octets))


def test_a_reply_may_come_in_any_pieces() -> None:
    parser = ReplyParser()
    octets = b"250-one\r\n250 two\r\n550 no\r\n"
    replies = [reply for octet in octets for reply in parser.feed(bytes([octet]))]
    assert replies == [Reply(250, ("one", "two")), Reply(550, ("no",))]
    assert not parser.unfinished


@pytest.mark.parametrize("octets", [b"2", b"250 ok\r", b"250-one\r\n"])
def test_a_reply_that_has_begun_is_unfinished(octets: bytes) -> None:
    parser = ReplyParser()
    assert list(parser.feed(octets)) == []
    assert parser.unfinished


def test_e1_lines_replies_and_their_number_are_bounded() -> None:
    longest = b"250 " + b"x" * (MAX_LINE - 6) + b"\r\n"
    assert list(ReplyParser().feed(longest))
    with pytest.raises(ReplyError):
        list(ReplyParser().feed(b"250 x" + longest[4:]))
    with pytest.raises(ReplyError):
        list(ReplyParser().feed(b"2" * (MAX_LINE + 1)))  # no end in sight
    assert list(ReplyParser().feed(b"250-x\r\n" * (MAX_LINES - 1) + b"250 x\r\n"))
    with pytest.raises(ReplyError):
        list(ReplyParser().feed(b"250-x\r\n" * MAX_LINES))
    with pytest.raises(ReplyError):
        list(ReplyParser().feed((b"250-" + longest[4:]) * 17))


def test_e1_the_text_that_is_kept_is_bounded() -> None:
    (reply,) = list(ReplyParser().feed((b"250-" + b"x" * 4000 + b"\r\n") * 15 + b"250 end\r\n"))
    assert len(reply.lines[0]) == MAX_TEXT
    assert sum(map(len, reply.lines)) <= MAX_TEXT_IN_ALL + MAX_TEXT


@pytest.mark.parametrize(
    ("octets", "text"),
    [
        (b"plain text", "plain text"),
        ("grüße".encode(), "grüße"),
        (b"a\tb", "a b"),
        (b"esc \x1b[31m", r"esc \x1b[31m"),
        (b"nul \x00 del \x7f", r"nul \x00 del \x7f"),
        (b"cr \r in the middle", r"cr \r in the middle"),
        ("c1 \x85 \x9b".encode(), r"c1 \x85 \x9b"),
        ("bidi \u202e\u2066".encode(), r"bidi \u202e\u2066"),
        ("lines \u2028\u2029".encode(), r"lines \u2028\u2029"),
        (b"latin-1 \xe9", r"latin-1 \xe9"),
        (b"surrogate \xed\xa0\x80", r"surrogate \xed\xa0\x80"),
    ],
)
def test_e11_text_from_a_peer_is_cleaned(octets: bytes, text: str) -> None:
    assert clean(octets) == text


@given(st.binary(max_size=3000))
def test_cleaned_text_is_one_short_printable_line(octets: bytes) -> None:
    text = clean(octets)
    assert text.isprintable()
    assert len(text) <= MAX_TEXT
    assert text.encode().decode() == text


@given(st.lists(st.binary(max_size=80), max_size=12))
def test_the_parser_raises_nothing_but_its_own_error(pieces: list[bytes]) -> None:
    parser = ReplyParser()
    try:
        for piece in pieces:
            for reply in parser.feed(piece):
                assert 200 <= reply.code <= 599
                assert all(line.isprintable() for line in reply.lines)
    except ReplyError:
        pass


_TEXT = st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z")), max_size=40)
_REPLIES = st.lists(st.builds(Reply, st.integers(200, 599), st.lists(_TEXT, min_size=1, max_size=5).map(tuple)))


@given(_REPLIES, st.integers(1, 40))
def test_rendered_replies_are_read_back_whatever_the_pieces(replies: list[Reply], size: int) -> None:
    octets = b"".join(_render(reply) for reply in replies)
    parser = ReplyParser()
    read = [reply for at in range(0, len(octets), size) for reply in parser.feed(octets[at : at + size])]
    assert read == replies
    assert not parser.unfinished


def _render(reply: Reply) -> bytes:
    *first, last = reply.lines
    text = "".join(f"{reply.code}-{line}\r\n" for line in first) + f"{reply.code} {last}\r\n"
    return text.encode()
