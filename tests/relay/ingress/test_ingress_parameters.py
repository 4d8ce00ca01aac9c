"""Parameters of MAIL and RCPT, value by value."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.ingress.parameters import (
    MailParameters,
    ParameterError,
    RcptParameters,
    is_xtext,
    parse_mail_parameters,
    parse_rcpt_parameters,
)
from relay.queue.message import Notify, Ret

FULL = MailParameters(ret=Ret.FULL)


@pytest.mark.rfc(
    "8689-2-a", "8689-2-b", "1870-3-a", "6152-2-a", "6531-3.1-b", "3461-4.3-a", "3461-4.4-a", "4954-5-a", "3461-5.4-a"
)
@pytest.mark.parametrize(
    ("text", "parameters"),
    [
        (b"", MailParameters()),
        (b"SIZE=0", MailParameters(size=0)),
        (b"size=12345678901234567890", MailParameters(size=12345678901234567890)),
        (b"BODY=7BIT", MailParameters()),
        (b"body=8bitmime", MailParameters()),
        (b"SMTPUTF8", MailParameters(smtputf8=True)),
        (b"RET=FULL", FULL),
        (b"Ret=full", FULL),
        (b"RET=HDRS", MailParameters(ret=Ret.HDRS)),
        (b"ENVID=QQ+2B1", MailParameters(envid="QQ+2B1")),
        (b"ENVID=CaseIsKept", MailParameters(envid="CaseIsKept")),
        (b"ENVID=" + b"e" * 100, MailParameters(envid="e" * 100)),
        (b"AUTH=<>", MailParameters()),
        (b"AUTH=e+3Dmc2@example.com", MailParameters()),
        (b"REQUIRETLS", MailParameters(requiretls=True)),
        (b"RequireTLS RET=FULL", MailParameters(requiretls=True, ret=Ret.FULL)),
        (b"SIZE=1  BODY=8BITMIME SMTPUTF8 RET=HDRS ENVID=x AUTH=<>",
         MailParameters(size=1, smtputf8=True, ret=Ret.HDRS, envid="x")),
    ],
)  # fmt: skip
def test_mail_parameters(text: bytes, parameters: MailParameters) -> None:
    assert parse_mail_parameters(text) == parameters


@pytest.mark.rfc("3461-4.5-a", "3461-5.1-b", "3461-4-a", "5321-4.1.1.11-a", "smug-c", "6531-3.1-b")
@pytest.mark.parametrize(
    "text",
    [
        b"SIZE", b"SIZE=", b"SIZE=+25", b"SIZE=-1",
        b"SIZE=2_5", b"SIZE=1.0", b"SIZE=0x1", b"SIZE=123456789012345678901",
        "SIZE=٢٥".encode(), b"SIZE=1 SIZE=1", b"BODY", b"BODY=BINARYMIME", b"BODY=8BIT", b"BODY=7BIT BODY=7BIT",
        b"REQUIRETLS=1", b"REQUIRETLS=", b"REQUIRETLS REQUIRETLS",
        b"SMTPUTF8=1", b"SMTPUTF8 SMTPUTF8", b"RET", b"RET=foo", b"RET=FULL RET=FULL", b"RET=FULL ret=HDRS",
        b"ENVID", b"ENVID=", b"ENVID=QQ+2b1", b"ENVID=QQ+2",
        b"ENVID=a+0D+0Ab", b"ENVID=a+00", b"ENVID=a+FF", b"ENVID=a=b",
        b"ENVID=" + b"e" * 101, b"ENVID=a ENVID=b", "ENVID=ü".encode(),
        b"ENVID=\xff", b"AUTH", b"AUTH=a+3", b"AUTH=<> AUTH=<>",
        b"=x", b"-SIZE=1", b"SI\tZE=1", b"SIZE=1\tRET=FULL", b"SIZE=1\0", b"SIZE =1", b"SIZE= 1",
    ],
)  # fmt: skip
def test_bad_values_and_repeats_of_mail_parameters_are_501(text: bytes) -> None:
    with pytest.raises(ParameterError) as refused:
        parse_mail_parameters(text)
    assert refused.value.code == 501


@pytest.mark.rfc("5321-4.1.1.11-a", "5321-2.2-b", "code-s")
@pytest.mark.parametrize(
    "text",
    [
        b"FOO",
        b"FOO=1",
        b"BY=120;R",
        b"MT-PRIORITY=3",
        b"HOLDFOR=60",
        b"XOORG=x",
        b"NOTIFY=NEVER",
        b"SIZE=1 FOO",
    ],
)
def test_unknown_mail_parameters_are_555(text: bytes) -> None:
    with pytest.raises(ParameterError) as refused:
        parse_mail_parameters(text)
    assert refused.value.code == 555


ORCPT_500 = b"rfc822;" + b"o" * 493


@pytest.mark.rfc("3461-4.1-a", "3461-4.2-a", "3461-5.4-a", "6533-3-b")
@pytest.mark.parametrize(
    ("text", "parameters"),
    [
        (b"", RcptParameters()),
        (b"NOTIFY=NEVER", RcptParameters(notify=frozenset({Notify.NEVER}))),
        (b"notify=success,Failure", RcptParameters(notify=frozenset({Notify.SUCCESS, Notify.FAILURE}))),
        (b"NOTIFY=SUCCESS,FAILURE,DELAY",
         RcptParameters(notify=frozenset({Notify.SUCCESS, Notify.FAILURE, Notify.DELAY}))),
        (b"ORCPT=rfc822;Bob@x.test", RcptParameters(orcpt="rfc822;Bob@x.test")),
        (b"ORCPT=rfc822;bob+40x.test", RcptParameters(orcpt="rfc822;bob+40x.test")),
        (b"orcpt=RFC822;Bob@x.test", RcptParameters(orcpt="RFC822;Bob@x.test")),
        (b"ORCPT=" + ORCPT_500, RcptParameters(orcpt=ORCPT_500.decode())),
        (b"ORCPT=utf-8;\\x{7528}\\x{6237}@x.test", RcptParameters(orcpt="utf-8;\\x{7528}\\x{6237}@x.test")),
        (b"ORCPT=utf-8;bob\\x{2B}tag@x.test", RcptParameters(orcpt="utf-8;bob\\x{2B}tag@x.test")),
        (b"ORCPT=x400;whatever", RcptParameters(orcpt="x400;whatever")),
    ],
)  # fmt: skip
def test_rcpt_parameters(text: bytes, parameters: RcptParameters) -> None:
    assert parse_rcpt_parameters(text, smtputf8=False) == parameters


@pytest.mark.rfc("6533-3-a")
def test_orcpt_may_be_utf8_only_where_smtputf8_was_said() -> None:
    text = "ORCPT=utf-8;用户@例え.test".encode()
    assert parse_rcpt_parameters(text, smtputf8=True).orcpt == "utf-8;用户@例え.test"
    with pytest.raises(ParameterError):
        parse_rcpt_parameters(text, smtputf8=False)
    with pytest.raises(ParameterError):
        parse_rcpt_parameters("ORCPT=rfc822;用户@例え.test".encode(), smtputf8=True)


@pytest.mark.rfc("3461-4.1-a", "3461-4.2-a", "3461-4.5-a", "3461-5.1-d", "smug-c")
@pytest.mark.parametrize(
    "text",
    [
        b"NOTIFY", b"NOTIFY=", b"NOTIFY=NEVER,SUCCESS",
        b"NOTIFY=SUCCESS,NEVER", b"NOTIFY=SUCCESS,", b"NOTIFY=SOMETIMES",
        b"NOTIFY=NEVER NOTIFY=NEVER", b"ORCPT", b"ORCPT=bob@x.test",
        b"ORCPT=;bob@x.test", b"ORCPT=rfc822;", b"ORCPT=rfc822;a=b",
        b"ORCPT=rfc822;a+0D+0Ab", b"ORCPT=rfc822;a+2b", b"ORCPT=rfc822;a+FF", b"ORCPT=rfc822;a ORCPT=rfc822;a",
        b"ORCPT=" + ORCPT_500 + b"o", b"ORCPT=utf-8;a+40b",
        b"ORCPT=utf-8;a\\b", b"ORCPT=utf-8;\\x{0A}", b"ORCPT=utf-8;\\x{0D}",
        b"ORCPT=utf-8;\\x{00}", b"ORCPT=utf-8;\\x{D800}", b"ORCPT=utf-8;\\x{110000}", b"ORCPT=utf-8;\\x{1234567}",
        b"ORCPT=utf-8;\\x{}", b"ORCPT=rfc822;\xff",
    ],
)  # fmt: skip
def test_bad_values_and_repeats_of_rcpt_parameters_are_501(text: bytes) -> None:
    with pytest.raises(ParameterError) as refused:
        parse_rcpt_parameters(text, smtputf8=True)
    assert refused.value.code == 501


@pytest.mark.parametrize("text", [b"FOO", b"SIZE=1", b"RRVS=2014-04-03T23:01:00Z", b"NOTIFY=NEVER X=1"])
def test_unknown_rcpt_parameters_are_555(text: bytes) -> None:
    with pytest.raises(ParameterError) as refused:
        parse_rcpt_parameters(text, smtputf8=False)
    assert refused.value.code == 555


def test_letters_that_only_upper_case_makes_ascii_are_not_keywords() -> None:
    for text in ("BODY=8BıTMIME", "RET=HDRſ"):
        with pytest.raises(ParameterError, match="ASCII"):
            parse_mail_parameters(text.encode())
    with pytest.raises(ParameterError, match="ASCII"):
        parse_rcpt_parameters("NOTIFY=ſUCCEſſ".encode(), smtputf8=True)


def test_l12_digits_are_ascii_digits() -> None:
    for digits in (b"+25", b"2_5", b" 25", "٢٥".encode()):
        with pytest.raises(ParameterError):
            parse_mail_parameters(b"SIZE=" + digits)


_WORDS = st.sampled_from(
    [
        b"SIZE",
        b"BODY",
        b"RET",
        b"ENVID",
        b"AUTH",
        b"NOTIFY",
        b"ORCPT",
        b"SMTPUTF8",
        b"=",
        b" ",
        b"rfc822;",
        b"utf-8;",
        b"+",
        b"2B",
        b"\\x{",
        b"}",
        b"FULL",
        b"NEVER",
        b",",
        b"\r\n",
        b"\0",
        b"\xff",
        "ü".encode(),
        b"1",
        b"<>",
        b"x",
    ]
)


def fit_for_reply(error: ParameterError) -> None:
    assert str(error).isascii()
    assert str(error).isprintable()


@given(st.lists(_WORDS, max_size=12).map(b"".join), st.booleans())
def test_parsing_raises_nothing_but_its_own_error(text: bytes, smtputf8: bool) -> None:
    try:
        mail = parse_mail_parameters(text)
    except ParameterError as error:
        fit_for_reply(error)
    else:
        assert mail.envid is None or is_xtext(mail.envid)
    try:
        rcpt = parse_rcpt_parameters(text, smtputf8=smtputf8)
    except ParameterError as error:
        fit_for_reply(error)
    else:
        assert rcpt.orcpt is None or not set(rcpt.orcpt) & set("\r\n\0 =")
