"""Hostile text into fields and lines (RFC 2047, RFC 3461 §4, RFC 5322 §2.2, RFC 6533 §3)."""

from email import message_from_bytes
from email.header import decode_header, make_header
from email.policy import SMTP

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.reports.fields import (
    ascii_only,
    clean,
    clean_address,
    decode_utf8_address,
    decode_xtext,
    fold,
    header_address,
    original_subject,
    subject_field,
    utf8_address_xtext,
)


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("550 no\x1b[31m", "550 no\\x1b[31m"),
        ("a\r\nBcc: x", "a Bcc: x"),
        ("a\x00b", "a\\x00b"),
        ("\u202etxt.exe", "\\u202etxt.exe"),
        ("one\x1ctwo\u2028three\x85four", "one two three four"),
        ("tab\tand  spaces ", "tab and spaces"),
        ("é", "é"),
        ("\udcff", "\\udcff"),
    ],
)
def test_cleaned_text_is_one_printable_line(text: str, cleaned: str) -> None:
    assert clean(text) == cleaned


@given(st.text(max_size=3000), st.integers(10, 600))
def test_cleaned_text_is_printable_and_capped(text: str, limit: int) -> None:
    cleaned = clean(text, limit)
    assert len(cleaned) <= limit
    assert cleaned.isprintable()


@pytest.mark.rfc("3461-4-a", "3461-6.3-a")
@pytest.mark.parametrize(
    ("xtext", "text"),
    [
        ("QQ+2B1", "QQ+1"),
        ("plain", "plain"),
        ("a+20b", "a b"),
        ("a+3Db", "a=b"),
        ("+2b", None),
        ("a=b", None),
        ("+", None),
        ("+4", None),
        ("a b", None),
        ("+0D+0ABcc:x", None),
        ("+FF", None),
        ("é", None),
    ],
)
def test_rfc3461_s4_xtext(xtext: str, text: str | None) -> None:
    assert decode_xtext(xtext) == text


@pytest.mark.rfc("6533-3-b")
@pytest.mark.parametrize(
    ("value", "address"),
    [
        ("\\x{7528}\\x{6237}@example.test", "用户@example.test"),
        ("用户@example.test", "用户@example.test"),
        ("a\\x{5C}b@example.test", "a\\b@example.test"),
        ("a+2Bb@example.test", "a+b@example.test"),
        ("\\x{110000}@example.test", None),
        ("\\x{D800}@example.test", None),
    ],
)
def test_rfc6533_s3_forms_of_a_utf8_address(value: str, address: str | None) -> None:
    assert decode_utf8_address(value) == address


@pytest.mark.rfc("6533-3-b")
@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=60))
def test_rfc6533_s3_the_xtext_form_is_ascii_and_comes_back(address: str) -> None:
    written = utf8_address_xtext(address)
    assert written.isascii()
    assert written.isprintable()
    assert " " not in written
    if len(written) < 900 and "+" not in address:
        assert decode_utf8_address(written) == address


def test_an_address_is_never_made_to_fit_but_cannot_end_a_line() -> None:
    assert clean_address('"Bob  (x)"@Example.TEST') == '"Bob  (x)"@Example.TEST'
    assert clean_address("a\r\nRCPT@b.test\x85\u2028") == "a??RCPT@b.test??"


@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("alice@contoso.test", "<alice@contoso.test>"),
        ("alice@bücher.test", "<alice@xn--bcher-kva.test>"),
        ("用户@bücher.test", "<用户@bücher.test>"),
        ("a@[192.0.2.1]", "<a@[192.0.2.1]>"),
        ("a@℀℀.test", "<a@\\x{2100}\\x{2100}.test>"),
    ],
)
def test_an_ascii_local_part_gets_an_ascii_domain(path: str, field: str) -> None:
    assert header_address(path) == field


def test_non_ascii_is_written_as_rfc_6533_writes_it() -> None:
    assert ascii_only("voilà 用") == "voil\\x{E0} \\x{7528}"


@given(st.text(st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"]), max_size=300))
def test_a_folded_field_unfolds_to_itself(text: str) -> None:
    text = clean(text)
    lines = fold("Diagnostic-Code", text).split("\r\n")
    assert "".join(lines) == f"Diagnostic-Code: {text}"
    assert all(line.strip() for line in lines)
    assert all(line.startswith(" ") for line in lines[1:])


@given(st.text(max_size=300))
def test_a_subject_of_any_text_comes_back_from_its_encoded_words(text: str) -> None:
    text = clean(text)
    field = subject_field(text)
    assert field.isascii()
    assert all(len(line) <= 76 or " " not in line.strip() for line in field.split("\r\n"))
    value = field.replace("\r\n", "").removeprefix("Subject:").strip()
    assert str(make_header(decode_header(value))) == text


@pytest.mark.parametrize(
    ("header", "subject"),
    [
        (b"Subject: Hello\r\n", "Hello"),
        (b"SUBJECT : Hello\r\n", "Hello"),
        (b"X: 1\r\nSubject: one\r\n\ttwo\r\n three\r\nSubject: second\r\n", "one two three"),
        (b"Subject: =?utf-8?B?R3LDvMOfZQ==?=\r\n", "Grüße"),
        (b"Subject: =?iso-8859-1?q?Gr=FC=DFe?= aus K=?utf-8?q?=C3=B6?=\r\n", "Grüße aus Kö"),
        ("Subject: Grüße\r\n".encode(), "Grüße"),
        ("Subject: =?utf-8?q?a?= ü\r\n".encode(), "a ü"),
        (b"Subject: Gr\xfc\xdfe\r\n", "Gr\ufffd\ufffde"),
        (b"Subject: =?no-such?q?abc?=\r\n", "abc"),
        (b"Subject: =?zlib_codec?b?eJw=?=\r\n", "x\ufffd"),
        (b"Subject: =?utf-8?b?a?=\r\n", "=?utf-8?b?a?="),
        (b"Subject: =?utf-8?q?a=0D=0ABcc:_x?=\r\n", "a Bcc: x"),
        (b"Subject: one\x1cX-Injected: two\r\n", "one X-Injected: two"),
        (b"From: a\r\n", ""),
        (b"\r\nSubject: body\r\n", ""),
        (b"Subject:\r\n", ""),
        (b"", ""),
        (b"Subject: " + b"a" * 5000, "a" * 197 + "..."),
    ],
)
def test_the_original_subject_is_read_safely(header: bytes, subject: str) -> None:
    assert original_subject(header) == subject


@given(st.binary(max_size=400))
def test_no_header_section_breaks_the_reader(octets: bytes) -> None:
    assert original_subject(b"Subject:" + octets).isprintable()
    assert original_subject(octets).isprintable()


@pytest.mark.stock
def test_stock_l11_email_splits_a_header_line_at_a_file_separator() -> None:
    """L11: parsed and written again, one header becomes two."""
    parsed = message_from_bytes(b"Subject: one\x1cX-Injected: two\r\n\r\n", policy=SMTP)
    assert b"\r\nX-Injected: two" in parsed.as_bytes()
