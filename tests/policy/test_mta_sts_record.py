"""The `_mta-sts` record against the ABNF of RFC 8461 §3.1."""

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policy.mta_sts import NoRecord, Record, parse_record


@pytest.mark.rfc(
    "8461-9-a", "8461-3.1-d", "8461-3.1-g", "8461-3.1-h", "8461-3.1-i", "8461-3.1-q", "8461-3.1-r", "8461-3.1-s"
)
@pytest.mark.parametrize(
    ("txt", "record_id"),
    [
        (b"v=STSv1; id=1", "1"),
        (b"v=STSv1; id=1;", "1"),
        (b"v=STSv1;id=1", "1"),
        (b"v=STSv1 ;\tid=1 ; ", "1"),
        (b"v=STSv1; id=20160831085700Z;", "20160831085700Z"),
        (b"v=STSv1; id=" + b"a" * 32, "a" * 32),
        (b"v=STSv1; a=b; id=1", "1"),
        (b"v=STSv1; foo=bar; id=1; x.y-z_1=2", "1"),
        (b"v=STSv1; ID=9; id=1", "1"),
        (b"v=STSv1; id=1; id=2", "1"),
        (b"v=STSv1; id=1; id=not-an-id", "1"),
        (b"v=STSv1; v=STSv2; id=1", "1"),
        (b"v=STSv1; " + b"n" * 32 + b"=!~; id=1", "1"),
    ],
)
def test_a_valid_record_gives_its_id(txt: bytes, record_id: str) -> None:
    assert parse_record([txt]) == Record(record_id=record_id)


@pytest.mark.rfc(
    "8461-3.1-b", "8461-3.1-c", "8461-3.1-d", "8461-3.1-e", "8461-3.1-h", "8461-3.1-i", "8461-3.1-m", "8461-3.1-t",
    "8461-3.1-v",
)  # fmt: skip
@pytest.mark.parametrize(
    "txt",
    [
        b"",
        b"v=spf1 -all",
        b"V=STSv1; id=1",
        b"v=stsv1; id=1",
        b"v = STSv1; id=1",
        b" v=STSv1; id=1",
        b'v="STSv1"; id=1',
        b"id=1; v=STSv1",
        b"v=STSv10; id=1",
        b"v=STSv1",
        b"v=STSv1;",
        b"v=STSv1; ID=1;",
        b"v=STSv1; foo",
        b"v=STSv1; id=",
        b"v=STSv1; id=" + b"a" * 33,
        b"v=STSv1; id=2024-01-01",
        b"v=STSv1; id=a_b",
        b"v=STSv1; id=a.b",
        b"v=STSv1; id=a b",
        b"v=STSv1; id=\xc3\xa9;",
        b"v=STSv1; id = 1",
        b"v=STSv1; id=1 ",
        b"v=STSv1; id=1;;",
        b"v=STSv1;;id=1",
        b"v=STSv1; id=1; a=",
        b"v=STSv1; id=1; _a=b",
        b"v=STSv1; id=1; -a=b",
        b"v=STSv1; id=1; .a=b",
        b"v=STSv1; id=1; " + b"n" * 33 + b"=b",
        b"v=STSv1; id=1; a=b=c",
        b"v=STSv1; id=1; a=\x7f",
        b"v=STSv1; id=1; a=b c",
        b"v=STSv1; id=1\n",
        b"v=STSv1; id=1\x00",
        b"v=STSv1; id=bad-id; id=1",
        b"v=STSv1, id=1",
    ],
)
def test_a_record_outside_the_grammar_is_no_record(txt: bytes) -> None:
    assert isinstance(parse_record([txt]), NoRecord)


@pytest.mark.rfc("8461-3.1-j", "8461-3.1-k")
@pytest.mark.parametrize(
    ("txts", "record_id"),
    [
        ([b"spf junk", b"v=STSv1; id=1"], "1"),
        ([b"v=STSv1; id=1", b"v=STSv10; id=2"], "1"),
        ([b"v=STSv1; id=1", b"v=STSv1"], "1"),
        ([b"v=STSv1 ;id=1"], "1"),
        ([b"v=STSv1 ;id=1", b"v=STSv1;id=2"], "2"),
    ],
)
def test_of_several_records_only_those_with_the_exact_prefix_count(txts: list[bytes], record_id: str) -> None:
    assert parse_record(txts) == Record(record_id=record_id)


@pytest.mark.rfc("8461-3.1-l", "8461-3.1-m")
@pytest.mark.parametrize(
    ("txts", "reason"),
    [
        ([], "no TXT record begins with v=STSv1;"),
        ([b"a", b"b"], "no TXT record begins with v=STSv1;"),
        ([b"v=STSv1; id=1", b"v=STSv1; id=2"], "2 TXT records begin with v=STSv1; where one is allowed"),
        ([b"v=STSv1; id=1", b"v=STSv1; id=1"], "2 TXT records begin with v=STSv1; where one is allowed"),
        ([b"junk", b"v=STSv1; foo"], "the record is not valid: 'v=STSv1; foo'"),
        ([b"v=STSv1; a=b"], "the record has no id: 'v=STSv1; a=b'"),
        ([b"v=STSv1; id=a-b"], "the id is not 1 to 32 letters and digits: 'a-b'"),
    ],
)
def test_none_or_several_records_are_no_record_and_say_why(txts: list[bytes], reason: str) -> None:
    assert parse_record(txts) == NoRecord(reason=reason)


ALNUM = string.ascii_letters + string.digits
NAME = st.builds(str.__add__, st.sampled_from(ALNUM), st.text(ALNUM + "_-.", max_size=31)).filter(lambda n: n != "id")
VALUE = st.text([chr(c) for c in range(0x21, 0x7F) if chr(c) not in ";="], min_size=1, max_size=40)
DELIMITER = st.builds(lambda a, b: f"{a};{b}", st.text(" \t", max_size=3), st.text(" \t", max_size=3))


@st.composite
def records(draw: st.DrawFn) -> tuple[str, str]:
    """A record drawn from the ABNF, and its id."""
    record_id = draw(st.text(ALNUM, min_size=1, max_size=32))
    fields = [f"{name}={value}" for name, value in draw(st.lists(st.tuples(NAME, VALUE), max_size=4))]
    fields.insert(draw(st.integers(0, len(fields))), f"id={record_id}")
    text = "v=STSv1" + "".join(draw(DELIMITER) + field for field in fields)
    return text + draw(st.one_of(st.just(""), DELIMITER)), record_id


@pytest.mark.rfc("8461-3.1-g")
@given(records())
def test_all_that_the_abnf_makes_is_accepted(record: tuple[str, str]) -> None:
    text, record_id = record
    assert parse_record([text.encode()]) == Record(record_id=record_id)


@pytest.mark.rfc("8461-3.1-g", "8461-3.1-b")
@given(records(), st.data())
def test_an_octet_that_the_abnf_has_nowhere_makes_it_invalid(record: tuple[str, str], data: st.DataObject) -> None:
    text, _ = record
    octet = data.draw(st.sampled_from([*range(9), *range(10, 0x20), *range(0x7F, 0x100)]))
    at = data.draw(st.integers(0, len(text)))
    txt = text[:at].encode() + bytes([octet]) + text[at:].encode()
    assert isinstance(parse_record([txt]), NoRecord)


@given(st.lists(st.binary(max_size=60) | st.binary(max_size=60).map(lambda tail: b"v=STSv1;" + tail), max_size=4))
def test_no_octets_raise_and_reasons_are_one_printable_line(txts: list[bytes]) -> None:
    answer = parse_record(txts)
    if isinstance(answer, NoRecord):
        assert answer.reason.isascii()
        assert answer.reason.isprintable()


def test_a_huge_record_is_judged_in_linear_time() -> None:
    hostile = b"v=STSv1" + b" ; a=b" * 10_000 + b" \t" * 20_000
    assert isinstance(parse_record([hostile]), NoRecord)
