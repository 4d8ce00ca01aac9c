"""Paths: what RFC 5321 §4.1.2 and RFC 6531 §3.3 allow, and nothing else."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from relay.ingress import paths
from relay.ingress.paths import (
    NULL_PATH,
    Path,
    PathError,
    ordinary_path,
    parse_forward_path,
    parse_mailbox,
    parse_reverse_path,
    split_path,
)

LABEL63 = "a" * 63


@pytest.mark.rfc("5321-2.4-a", "5321-2.3.11-a")
@pytest.mark.parametrize(
    ("path", "mailbox", "destination"),
    [
        ("<a@b.test>", "a@b.test", "b.test"),
        ("<JoHn.Doe@B.Test>", "JoHn.Doe@b.test", "b.test"),
        ('<"John Doe"@x.test>', '"John Doe"@x.test', "x.test"),
        ('<"j\\"x\\\\y"@x.test>', '"j\\"x\\\\y"@x.test', "x.test"),
        ('<"a@b>c"@x.test>', '"a@b>c"@x.test', "x.test"),
        ('<""@x.test>', '""@x.test', "x.test"),
        ('<" "@x.test>', '" "@x.test', "x.test"),
        ("<user+tag@x.test>", "user+tag@x.test", "x.test"),
        ("<!#$%&'*+-/=?^_`{|}~@x.test>", "!#$%&'*+-/=?^_`{|}~@x.test", "x.test"),
        ("<a%b.test!c@x.test>", "a%b.test!c@x.test", "x.test"),
        ("<a@localhost>", "a@localhost", "localhost"),
        ("<a@1.2.3.test>", "a@1.2.3.test", "1.2.3.test"),
        ("<a@3com.test>", "a@3com.test", "3com.test"),
        ("<a@x.1and1>", "a@x.1and1", "x.1and1"),
        ("<a@xn--bcher-kva.test>", "a@xn--bcher-kva.test", "xn--bcher-kva.test"),
        ("<a@[192.0.2.1]>", "a@[192.0.2.1]", "[192.0.2.1]"),
        ("<a@[IPv6:2001:DB8::1]>", "a@[IPv6:2001:DB8::1]", "[ipv6:2001:db8::1]"),
        ("<a@[ipv6:::1]>", "a@[ipv6:::1]", "[ipv6:::1]"),
        (f"<a@{LABEL63}.test>", f"a@{LABEL63}.test", f"{LABEL63}.test"),
        ("<" + "l" * 64 + "@x.test>", "l" * 64 + "@x.test", "x.test"),
    ],
)
def test_ordinary_paths(path: str, mailbox: str, destination: str) -> None:
    assert parse_reverse_path(path.encode(), smtputf8=False) == Path(mailbox, destination)
    assert parse_forward_path(path.encode(), smtputf8=False) == Path(mailbox, destination)


@pytest.mark.rfc("5321-4.1.1.3-a", "5321-6.1-c")
@pytest.mark.parametrize("path", [b"<@a.test:user@c.test>", b"<@a.test,@b.test:user@c.test>"])
def test_source_route_is_accepted_and_ignored(path: bytes) -> None:
    assert parse_forward_path(path, smtputf8=False) == Path("user@c.test", "c.test")


@pytest.mark.parametrize("path", [b"<Postmaster>", b"<POSTMASTER>", b"<postmaster>"])
def test_postmaster_needs_no_domain(path: bytes) -> None:
    assert parse_forward_path(path, smtputf8=False) == Path("Postmaster", "")
    with pytest.raises(PathError):
        parse_reverse_path(path, smtputf8=False)


def test_null_path_is_a_reverse_path_only() -> None:
    assert parse_reverse_path(b"<>", smtputf8=False) == NULL_PATH
    with pytest.raises(PathError):
        parse_forward_path(b"<>", smtputf8=False)


@pytest.mark.rfc("6531-3.2-a", "6531-3.5-a")
@pytest.mark.parametrize(
    ("path", "mailbox", "destination"),
    [
        ("<用户@例え.test>", "用户@xn--r8jz45g.test", "xn--r8jz45g.test"),
        ("<user@bücher.test>", "user@xn--bcher-kva.test", "xn--bcher-kva.test"),
        ("<user@BÜCHER.test>", "user@xn--bcher-kva.test", "xn--bcher-kva.test"),
        ("<δοκιμή@x.test>", "δοκιμή@x.test", "x.test"),
        ('<"用 户"@x.test>', '"用 户"@x.test', "x.test"),
        ("<user@faß.test>", "user@xn--fa-hia.test", "xn--fa-hia.test"),
    ],
)
def test_internationalised_paths_need_smtputf8(path: str, mailbox: str, destination: str) -> None:
    assert parse_forward_path(path.encode(), smtputf8=True) == Path(mailbox, destination)
    with pytest.raises(PathError) as refused:
        parse_forward_path(path.encode(), smtputf8=False)
    assert refused.value.needs_smtputf8


@pytest.mark.rfc("smug-b")
@pytest.mark.parametrize(
    "path",
    [
        b"",
        b"<",
        b">",
        b"a@b.test",
        b"<a@b.test",
        b"a@b.test>",
        b"<<a@b.test>>",
        b"<a>",
        b"<@b.test>",
        b"<a@>",
        b"<a@b..test>",
        b"<a@.b.test>",
        b"<a@b.test.>",
        b"<a@-b.test>",
        b"<a@b-.test>",
        b"<a@b_c.test>",
        b"<a@192.0.2.1>",
        b"<a@1>",
        b"<.a@b.test>",
        b"<a.@b.test>",
        b"<a..b@b.test>",
        b"<a b@b.test>",
        b"<a@b c.test>",
        b"< a@b.test>",
        b"<a@b.test >",
        b"<a\t@b.test>",
        b"<(comment)a@b.test>",
        b"<a@b.test(comment)>",
        b'<"a@b.test>',
        b'<"a"b@b.test>',
        b'<a"b"@b.test>',
        b'<"a"."b"@b.test>',
        b'<"a\\"@b.test>',
        b'<"a\rb"@b.test>',
        b'<"a\nb"@b.test>',
        b'<"a\0b"@b.test>',
        b'<"a\\\nb"@b.test>',
        b"<a\r\nRCPT TO:<x@y.test>@b.test>",
        b"<a\0@b.test>",
        b"<a\x7f@b.test>",
        b"<a,b@b.test>",
        b"<a;b@b.test>",
        b"<a:b@b.test>",
        b"<a@b@c.test>",
        b"<a\\@b@c.test>",
        b"<a@[192.0.2.1>",
        b"<a@[192.0.2.256]>",
        b"<a@[192.0.2.01]>",
        b"<a@[]>",
        b"<a@[x]>",
        b"<a@[tag:value]>",
        b"<a@[IPv6:192.0.2.1]>",
        b"<a@[IPv6:fe80::1%eth0]>",
        b"<a@[192.0.2.1].test>",
        b"<@a.test>",
        b"<@a.test:>",
        b"<@a.test,b.test:u@c.test>",
        b"<@:u@c.test>",
        b"<a@" + b"b" * 64 + b".test>",
        b"<" + b"l" * 65 + b"@x.test>",
        b"<a@" + b".".join([b"b" * 49] * 6) + b">",
        b"<a@\xff.test>",
        b"<\xc3\x28@b.test>",
        "<a\u0085b@b.test>".encode(),
        "<a\u2028b@b.test>".encode(),
        "<a@b\u3002\u3002test>".encode(),
        "<a@\u2100.test>".encode(),
        b"<\xed\xa0\x80@b.test>",
    ],
)
def test_what_is_no_path(path: bytes) -> None:
    for parse in (parse_forward_path, parse_reverse_path):
        for smtputf8 in (False, True):
            with pytest.raises(PathError):
                parse(path, smtputf8=smtputf8)


def test_l1_encoded_words_are_never_decoded() -> None:
    """RFC 2047 words are legal atoms in a local part, and stay as they are; in a domain they are not legal."""
    for octets in (b"=?utf-8?q?a=0d=0aRCPT?=@b.test", b"=?utf-8?q?x=40evil.test=3e?=@b.test"):
        path = parse_forward_path(b"<" + octets + b">", smtputf8=False)
        assert path.mailbox.encode() == octets
        assert path.destination == "b.test"
    with pytest.raises(PathError):
        parse_forward_path(b"<u@=?utf-8?q?internal.corp?=>", smtputf8=True)


@pytest.mark.rfc("6531-3.2-b")
def test_l13_domains_go_through_idna_2008() -> None:
    assert parse_forward_path("<u@faß.test>".encode(), smtputf8=True).destination == "xn--fa-hia.test"
    with pytest.raises(PathError):
        parse_forward_path("<u@℀.test>".encode(), smtputf8=True)


@pytest.mark.rfc("5321-4.5.3.1-a")
def test_path_of_256_octets_is_accepted_and_257_not() -> None:
    domain = b".".join([b"d" * 61] * 3) + b".test"
    local = b"l" * (256 - len(domain) - 3)
    assert len(local) <= 64
    whole = b"<" + local + b"@" + domain + b">"
    assert len(whole) == 256
    assert parse_forward_path(whole, smtputf8=False).mailbox.encode() == whole[1:-1]
    with pytest.raises(PathError):
        parse_forward_path(b"<" + local + b"@d" + domain + b">", smtputf8=False)


@pytest.mark.parametrize(
    ("argument", "path", "rest"),
    [
        (b"<a@b.test>", b"<a@b.test>", b""),
        (b"<a@b.test> ", b"<a@b.test>", b""),
        (b"<> SIZE=1  RET=FULL ", b"<>", b"SIZE=1  RET=FULL"),
        (b'<"a>b"@b.test> SIZE=1', b'<"a>b"@b.test>', b"SIZE=1"),
        (b'<"a\\">b"@b.test> X', b'<"a\\">b"@b.test>', b"X"),
    ],
)
def test_split_path(argument: bytes, path: bytes, rest: bytes) -> None:
    assert split_path(argument) == (path, rest)


@pytest.mark.parametrize("argument", [b"", b"a@b.test", b" <a@b.test>", b"<", b'<"', b'<"a>', b"<a@b.test>SIZE=1"])
def test_split_path_refuses(argument: bytes) -> None:
    with pytest.raises(PathError):
        split_path(argument)


def test_parse_mailbox_of_the_configuration() -> None:
    assert parse_mailbox("postmaster@Example.COM") == Path("postmaster@example.com", "example.com")
    with pytest.raises(PathError):
        parse_mailbox("nobody")


_PIECES = st.sampled_from(
    [
        b"a",
        b"B",
        b"1",
        b".",
        b"-",
        b"_",
        b"@",
        b'"',
        b"\\",
        b" ",
        b"<",
        b">",
        b":",
        b",",
        b"[",
        b"]",
        b"IPv6:",
        b"::1",
        b"test",
        b"xn--",
        b"\r\n",
        b"\0",
        b"=?utf-8?q?x?=",
        "ü".encode(),
        "。".encode(),
        b"\xff",
        b"192.0.2.1",
        b"(",
        b"a@b.c",
    ]
)


def fit_for_reply(error: PathError) -> None:
    assert str(error).isascii()
    assert str(error).isprintable()


@given(st.lists(_PIECES, max_size=12).map(b"".join), st.booleans())
@example(b"a@b.c", False)
def test_parsing_raises_nothing_but_its_own_error(octets: bytes, smtputf8: bool) -> None:
    for argument in (octets, b"<" + octets + b">"):
        try:
            path, _ = split_path(argument)
            parsed = parse_forward_path(path, smtputf8=smtputf8)
        except PathError as error:
            fit_for_reply(error)
            continue
        assert not set(parsed.mailbox) & set("\r\n\0")
        if parsed.destination:
            assert parse_mailbox(parsed.mailbox) == parsed, "a parsed path is a fixed point"
            assert smtputf8 or parsed.mailbox.isascii()


@given(st.from_regex(paths._ORDINARY.pattern, fullmatch=True))
def test_the_fast_way_agrees_with_the_thorough_one(path: bytes) -> None:
    try:
        thorough = paths._parse_any(path, smtputf8=False)
    except PathError:
        with pytest.raises(PathError):
            parse_forward_path(path, smtputf8=False)
    else:
        assert parse_forward_path(path, smtputf8=False) == ordinary_path(path) == thorough
