"""Questions and answers octet by octet, beside what dnspython makes of the same message."""

import contextlib
import itertools

import dns.edns
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policy.dns_wire import MAX_CHAIN, ContradictionError, MalformedError, Question, Response, read_response

ID = 4711
SOA = "ns.test. admin.test. 1 3600 600 86400 60"
NAMES = ("x.test.", "y.test.", "z.y.test.", "other.")
OTHER_TYPES = ("A", "RRSIG", "TXT", "CNAME")
RRSIG = "MX 13 2 300 20300101000000 20200101000000 1 test. c2lnbmF0dXJl"


def question(name: str = "x.test.", rdtype: str = "MX", *, dnssec: bool = True) -> Question:
    return Question(dns.name.from_text(name), dns.rdatatype.from_text(rdtype), dnssec=dnssec, payload=1232)


def reply_to(asked: Question, *, rcode: dns.rcode.Rcode = dns.rcode.NOERROR) -> dns.message.QueryMessage:
    response = dns.message.make_response(dns.message.from_wire(asked.message(ID)))
    response.set_rcode(rcode)
    assert isinstance(response, dns.message.QueryMessage)
    return response


def rrset(name: str, rdtype: str, *values: str, ttl: int = 300) -> dns.rrset.RRset:
    return dns.rrset.from_text(name, ttl, "IN", rdtype, *values)


def read(response: dns.message.Message, asked: Question) -> Response:
    return read_response(response.to_wire(max_size=65535), asked, ID)


@pytest.mark.parametrize("dnssec", [True, False])
def test_a_question_is_what_dnspython_would_ask(dnssec: bool) -> None:
    flags = dns.flags.DO if dnssec else 0
    theirs = dns.message.make_query("x.test.", "MX", use_edns=0, ednsflags=flags, payload=1232, id=ID)
    theirs.flags = dns.flags.RD | dns.flags.AD
    assert question(dnssec=dnssec).message(ID) == theirs.to_wire()


@st.composite
def answers(draw: st.DrawFn) -> dns.message.QueryMessage:
    response = reply_to(question(), rcode=draw(st.sampled_from([dns.rcode.NOERROR, dns.rcode.NXDOMAIN])))
    ttls = st.integers(0, 1000)
    for name in draw(st.lists(st.sampled_from(NAMES), unique=True)):
        kinds = draw(st.lists(st.sampled_from(("MX", *OTHER_TYPES)), unique=True))
        for kind in kinds:
            values = {
                "MX": draw(st.lists(st.sampled_from(["10 mx.x.test.", "20 y.test.", "0 ."]), min_size=1)),
                "CNAME": [draw(st.sampled_from(NAMES))],
                "RRSIG": [RRSIG],
                "A": ["192.0.2.1"],
                "TXT": ['"a" "b"'],
            }[kind]
            response.answer.append(rrset(name, kind, *values, ttl=draw(ttls)))
    for zone in draw(st.lists(st.sampled_from((".", "test.", "y.test.", "elsewhere.")), unique=True)):
        response.authority.append(rrset(zone, "SOA", SOA, ttl=draw(ttls)))
    response.additional.append(rrset("x.test.", "MX", "1 poison.test."))
    return response


@given(answers())
def test_an_answer_is_read_as_dnspython_reads_it(response: dns.message.QueryMessage) -> None:
    wire = response.to_wire()  # once: the records are in another order each time
    parsed = dns.message.from_wire(wire)
    assert isinstance(parsed, dns.message.QueryMessage)
    try:
        theirs = parsed.resolve_chaining()
    except (dns.message.ChainTooLong, dns.message.AnswerForNXDOMAIN):
        with pytest.raises(ContradictionError):
            read_response(wire, question(), ID)
        return
    ours = read_response(wire, question(), ID)
    assert ours.rcode == response.rcode()
    assert ours.canonical_name == theirs.canonical_name
    assert ours.records == (tuple(theirs.answer) if theirs.answer is not None else ())
    if ours.records or ours.denied:
        assert ours.ttl == theirs.minimum_ttl
    zones = [record.name for record in response.authority if theirs.canonical_name.is_subdomain(record.name)]
    assert ours.denied is (bool(zones) and not ours.records)


@given(answers(), st.integers(0, 400), st.binary(min_size=1, max_size=3))
def test_whatever_comes_is_an_answer_or_one_of_two_errors(
    response: dns.message.QueryMessage, at: int, octets: bytes
) -> None:
    wire = bytearray(response.to_wire())
    wire[at : at + len(octets)] = octets
    with contextlib.suppress(MalformedError, ContradictionError):
        read_response(bytes(wire), question(), ID)


@given(st.binary(max_size=80))
def test_octets_behind_the_right_header_are_an_answer_or_one_of_two_errors(octets: bytes) -> None:
    wire = reply_to(question()).to_wire()[:12] + octets
    with contextlib.suppress(MalformedError, ContradictionError):
        read_response(wire, question(), ID)


def test_every_answer_that_is_cut_short_is_malformed() -> None:
    response = reply_to(question())
    response.answer.append(rrset("x.test.", "MX", "10 mx.x.test."))
    response.authority.append(rrset("test.", "SOA", SOA))
    wire = response.to_wire()
    for end in range(len(wire)):
        with pytest.raises(MalformedError):
            read_response(wire[:end], question(), ID)
    with pytest.raises(MalformedError):
        read_response(wire + b"\0", question(), ID)


def test_an_soa_record_too_short_to_be_one_is_malformed() -> None:
    response = reply_to(question())
    response.authority.append(rrset("test.", "NULL", r"\# 1 00"))
    wire = response.to_wire().replace(b"\x00\x0a\x00\x01\x00\x00\x01\x2c", b"\x00\x06\x00\x01\x00\x00\x01\x2c")
    with pytest.raises(MalformedError):
        read_response(wire, question(), ID)


@pytest.mark.parametrize(
    ("octets", "other"),
    [
        (slice(0, 2), b"\x00\x00"),  # the id
        (slice(2, 3), b"\x01"),  # no answer
        (slice(2, 3), b"\xa1"),  # an answer to another kind of request
        (slice(4, 6), b"\x00\x00"),  # without its question
        (slice(4, 6), b"\x00\x02"),
        (slice(13, 14), b"y"),  # another name
        (slice(20, 22), b"\x00\x01"),  # another type
        (slice(22, 24), b"\x00\x03"),  # another class
    ],
)
def test_c6_an_answer_to_another_question_is_malformed(octets: slice, other: bytes) -> None:
    response = reply_to(question())
    response.answer.append(rrset("x.test.", "MX", "10 mx.x.test."))
    wire = bytearray(response.to_wire())
    read_response(bytes(wire), question(), ID)
    wire[octets] = other
    with pytest.raises(MalformedError):
        read_response(bytes(wire), question(), ID)


def test_the_case_of_the_question_may_come_back_changed() -> None:
    asked = question()
    response = reply_to(asked)
    response.answer.append(rrset("x.test.", "MX", "10 mx.x.test."))
    wire = response.to_wire().replace(b"\x01x\x04test\x00", b"\x01X\x04TeST\x00", 1)
    assert len(read_response(wire, asked, ID).records) == 1


@pytest.mark.parametrize(
    ("rcode", "allowed"),
    [
        (dns.rcode.SERVFAIL, True),
        (dns.rcode.REFUSED, True),
        (dns.rcode.FORMERR, True),
        (dns.rcode.NOTIMP, True),
        (dns.rcode.NXDOMAIN, False),
        (dns.rcode.NOERROR, False),
    ],
)
def test_an_error_may_leave_the_question_out_an_answer_may_not(rcode: dns.rcode.Rcode, allowed: bool) -> None:
    response = reply_to(question(), rcode=rcode)
    response.question = []
    if allowed:
        assert read(response, question()).rcode == rcode
    else:
        with pytest.raises(MalformedError):
            read(response, question())


def test_of_an_answer_that_is_cut_off_only_that_is_read() -> None:
    response = reply_to(question())
    response.answer.append(rrset("x.test.", "MX", "10 mx.x.test."))
    response.flags |= dns.flags.TC
    cut = read_response(response.to_wire()[:-20], question(), ID)
    assert cut.truncated
    assert not cut.records


def test_the_errors_of_edns_have_more_bits_and_come_with_options() -> None:
    response = reply_to(question())
    response.use_edns(0, 0, 1232, options=[dns.edns.EDEOption(dns.edns.EDECode.DNSSEC_BOGUS, "why")])
    response.set_rcode(dns.rcode.BADVERS)
    ours = read(response, question())
    assert ours.rcode == dns.rcode.BADVERS
    assert [str(option) for option in ours.options] == ["EDE 6 (DNSSEC Bogus): why"]


def test_a_record_given_twice_is_one() -> None:
    response = reply_to(question())
    for _ in range(2):
        response.answer.append(rrset("x.test.", "MX", "10 mx.x.test."))
    assert len(read(response, question()).records) == 1


def test_a_ttl_beyond_31_bits_counts_as_none() -> None:
    response = reply_to(question())
    response.answer.append(rrset("x.test.", "MX", "10 mx.x.test.", ttl=0x01020304))
    wire = response.to_wire().replace(b"\x01\x02\x03\x04", b"\x80\x00\x00\x00")
    assert read_response(wire, question(), ID).ttl == 0


def test_records_of_another_class_are_not_used() -> None:
    response = reply_to(question())
    response.answer.append(dns.rrset.from_text("x.test.", 300, "CH", "TXT", '"chaos"'))
    assert not read(response, question()).records


@pytest.mark.parametrize("aliases", [MAX_CHAIN - 1, MAX_CHAIN])
def test_a_chain_has_an_end(aliases: int) -> None:
    response = reply_to(question())
    names = ["x.test.", *(f"a{number}.test." for number in range(aliases))]
    for name, target in itertools.pairwise(names):
        response.answer.append(rrset(name, "CNAME", target))
    response.answer.append(rrset(names[-1], "MX", "10 mx.x.test."))
    if aliases < MAX_CHAIN:
        assert read(response, question()).canonical_name == dns.name.from_text(names[-1])
    else:
        with pytest.raises(ContradictionError):
            read(response, question())
