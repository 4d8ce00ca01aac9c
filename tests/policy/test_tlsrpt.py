"""The `_smtp._tls` record (RFC 8460 §3): what counts as one, and which endpoints it names."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from policy.tlsrpt import (
    MAX_ENDPOINTS,
    Endpoint,
    HttpsEndpoint,
    MailEndpoint,
    NoReporting,
    ReportingRecord,
    parse_endpoint,
    parse_record,
)

T = MailEndpoint("t@x.test", "x.test")


def endpoints(*txts: bytes) -> tuple[Endpoint, ...] | None:
    found = parse_record(txts)
    return found.endpoints if isinstance(found, ReportingRecord) else None


@pytest.mark.rfc("8460-3-e", "8460-3-f", "8460-3-g", "8460-3-m", "8460-3-o")
@pytest.mark.parametrize(
    ("record", "valid"),
    [
        (b"v=TLSRPTv1;rua=mailto:t@x.test", True),
        (b"v=TLSRPTv1; rua=mailto:t@x.test;", True),
        (b"v=TLSRPTv1 \t; \trua=mailto:t@x.test ; ", True),
        (b"v=TLSRPTv1;foo=1;rua=mailto:t@x.test", True),
        (b"v=TLSRPTv1;rua=mailto:t@x.test;x.y-z_9=a,b:c", True),
        (b"v=TLSRPTv1;RUA=mailto:u@x.test;rua=mailto:t@x.test", True),
        (b"v=tlsrptv1;rua=mailto:t@x.test", False),
        (b"V=TLSRPTv1;rua=mailto:t@x.test", False),
        (b" v=TLSRPTv1;rua=mailto:t@x.test", False),
        (b"v=TLSRPTv12;rua=mailto:t@x.test", False),
        (b"v=TLSRPTv1", False),
        (b"v=TLSRPTv1;", False),
        (b"v=TLSRPTv1;foo=1", False),
        (b"v=TLSRPTv1;RUA=mailto:t@x.test", False),
        (b"v=TLSRPTv1;rua=", False),
        (b"v=TLSRPTv1;rua=mailto:t@x.test,", False),
        (b"v=TLSRPTv1;;rua=mailto:t@x.test", False),
        (b"v=TLSRPTv1;rua=mailto:t@x.test;foo", False),
        (b"v=TLSRPTv1;-a=1;rua=mailto:t@x.test", False),
        (b"v=TLSRPTv1;" + b"a" * 33 + b"=1;rua=mailto:t@x.test", False),
        (b"v=TLSRPTv1;a=b=c;rua=mailto:t@x.test", False),
        (b"v=TLSRPTv1;rua=mailto:t@x.test\r\nBcc: v@y.test", False),
        (b"v=TLSRPTv1;rua=mailto:t@x.test\n", False),
        (b"v=TLSRPTv1;rua=mailto:t\xc3\xa9@x.test", False),
    ],
)
def test_the_grammar_of_the_record(record: bytes, valid: bool) -> None:
    assert endpoints(record) == ((T,) if valid else None)


@pytest.mark.rfc("8460-3-k", "8460-3-l", "8460-3-m")
def test_of_several_records_exactly_one_may_begin_with_the_version() -> None:
    record = b"v=TLSRPTv1;rua=mailto:t@x.test"
    assert endpoints(b"v=spf1 -all", record) == (T,)
    assert endpoints(record, record) is None
    assert endpoints(b"v=spf1 -all", b"v=TLSRPTv1 ;rua=mailto:t@x.test") is None
    assert endpoints() is None
    assert endpoints(b"v=spf1 -all", b"other") is None


@pytest.mark.rfc("8460-3-p")
def test_of_a_repeated_rua_the_first_counts() -> None:
    assert endpoints(b"v=TLSRPTv1;rua=mailto:t@x.test;rua=mailto:u@x.test") == (T,)


@pytest.mark.rfc("8460-3-i", "8460-3-j")
def test_a_list_may_mix_schemes_and_what_is_unknown_is_passed_over() -> None:
    found = endpoints(
        b"v=TLSRPTv1;rua=http://a.test/,ftp://a.test/ , mailto:t@x.test\t,file:///etc/passwd,mailto:t@x.test!10m,"
        b"https://r.test/v1?a=b"
    )
    assert found == (T, HttpsEndpoint("https://r.test/v1?a=b"))


def test_equal_endpoints_count_once_and_there_is_an_end_to_them() -> None:
    same = b",".join([b"mailto:t@x.test"] * 50)
    assert endpoints(b"v=TLSRPTv1;rua=" + same) == (T,)
    many = b",".join(b"mailto:t%d@x.test" % number for number in range(50))
    assert len(endpoints(b"v=TLSRPTv1;rua=" + many) or ()) == MAX_ENDPOINTS


def test_a_record_without_a_usable_endpoint_is_still_one() -> None:
    assert endpoints(b"v=TLSRPTv1;rua=http://a.test/") == ()


@pytest.mark.rfc("8460-3-h", "8460-3-q", "8460-3-t")
@pytest.mark.parametrize(
    ("uri", "address"),
    [
        ("mailto:t@x.test", "t@x.test"),
        ("MAILTO:T.u+v@X.Test", "T.u+v@x.test"),
        ("mailto:a%2Cb@x.test", '"a,b"@x.test'),
        ("mailto:a%20b@x.test", '"a b"@x.test'),
        ("mailto:%22a%3Bb%22@x.test", '"a;b"@x.test'),
        ("mailto:a%22b@x.test", r'"a\"b"@x.test'),
        ("mailto:a%21b@x.test", "a!b@x.test"),
        ("mailto:a@b@x.test", '"a@b"@x.test'),
        ("mailto:t@x.test?bcc=v@y.test&subject=hello", "t@x.test"),
        ("mailto:t@x.test%3Fbcc=v", None),
        ("mailto:t@b%C3%BCcher.test", "t@xn--bcher-kva.test"),
        ("mailto:t%0D%0ABcc:v@x.test", None),
        ("mailto:t@x.test%0D%0ABcc:v@y.test", None),
        ("mailto:t%00@x.test", None),
        ("mailto:t%C3%A9@x.test", None),
        ("mailto:t%FF@x.test", None),
        ("mailto:t%2@x.test", None),
        ("mailto:t%zz@x.test", None),
        ("mailto:@x.test", None),
        ("mailto:x.test", None),
        ("mailto:", None),
        ("mailto:t@", None),
        ("mailto:t@[127.0.0.1]", None),
        ("mailto:t@127.0.0.1", None),
        ("mailto:t@-x.test", None),
        ("mailto:" + "a" * 65 + "@x.test", None),
        ("mailto:" + "a" * 1000 + "@x.test", None),
    ],
)
def test_mailto(uri: str, address: str | None) -> None:
    found = parse_endpoint(uri)
    assert (found.address if isinstance(found, MailEndpoint) else None) == address


@pytest.mark.rfc("8460-3-al")
@pytest.mark.parametrize(
    ("uri", "url"),
    [
        ("https://r.test", "https://r.test/"),
        ("HTTPS://R.Test/V1/x?A=b", "https://r.test/V1/x?A=b"),
        ("https://r.test:8443/v1", "https://r.test:8443/v1"),
        ("https://r.test:443/", "https://r.test/"),
        ("https://r.test?a=b", "https://r.test/?a=b"),
        ("https://r.test/a%2Cb", "https://r.test/a%2Cb"),
        ("https://r.test:0/", None),
        ("https://r.test:65536/", None),
        ("https://r.test:x/", None),
        ("https://user:secret@r.test/", None),
        ("https://user@r.test/", None),
        ("https://127.0.0.1/", None),
        ("https://2130706433/", None),
        ("https://[::1]/", None),
        ("https://r.test/#part", None),
        ("https:///v1", None),
        ("https:r.test", None),
        ("https://r.test\\@a.test/", None),
        ("https://r%2Etest/", None),
        ('https://r.test/"', None),
        ("http://r.test/", None),
        ("gopher://r.test/", None),
        ("javascript:alert(1)", None),
        ("", None),
    ],
)
def test_https(uri: str, url: str | None) -> None:
    found = parse_endpoint(uri)
    assert (found.url if isinstance(found, HttpsEndpoint) else None) == url


@given(st.lists(st.binary(max_size=200), max_size=4))
def test_any_octets_are_a_record_or_none(txts: list[bytes]) -> None:
    assert isinstance(parse_record(txts), ReportingRecord | NoReporting)


_HOSTILE = st.text(alphabet='mailto:hps/@%0DA"\\.,;!?[]x1 é\n', max_size=60)


@example("%0A@x.test")
@given(_HOSTILE)
def test_no_uri_gives_an_address_or_url_that_could_end_a_line(text: str) -> None:
    for scheme in ("mailto:", "https://"):
        found = parse_endpoint(scheme + text)
        if found is not None:
            shown = found.address if isinstance(found, MailEndpoint) else found.url
            assert shown.isascii()
            assert shown.isprintable()


def test_many_fields_are_read_in_no_time() -> None:
    record = b"v=TLSRPTv1" + b";rua=a" * 10_000 + b";\x00"
    assert endpoints(record) is None
