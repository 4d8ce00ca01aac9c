"""Status codes and replies: what is parsed, and which of two codes rules."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.status import Reply, Status


@pytest.mark.rfc("3463-2-a")
@pytest.mark.parametrize(
    ("text", "status"),
    [
        ("5.1.1 no such user", Status(5, 1, 1)),
        ("2.0.0", Status(2, 0, 0)),
        ("4.7.321 starttls", Status(4, 7, 321)),
        ("3.1.1 no such class", None),
        ("5.01.1 leading zero", None),
        ("5.1", None),
        ("5.1.1.1", None),
        ("5.1.1000", None),
        (" 5.1.1", None),
        ("", None),
    ],
)
def test_a_status_stands_at_the_start_or_nowhere(text: str, status: Status | None) -> None:
    assert Status.parse(text) == status
    assert status is None or text.startswith(str(status))


@pytest.mark.parametrize("numbers", [(3, 0, 0), (5, -1, 0), (5, 0, 1000)])
def test_no_status_is_made_of_other_numbers(numbers: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="no status code"):
        Status(*numbers)


@pytest.mark.rfc("2034-c-a", "5321-4.2-b", "5321-4.2-c", "3463-2-c")
@pytest.mark.parametrize(
    ("reply", "status", "permanent"),
    [
        (Reply(250, ("2.1.5 ok",)), "2.1.5", False),
        (Reply(550, ("4.2.2 mailbox full",)), "5.2.2", True),
        (Reply(450, ("5.1.1 no such user",)), "4.1.1", False),
        (Reply(550, ("no such user",)), "5.0.0", True),
        (Reply(499, ("4.9.999 who knows",)), "4.9.999", False),
        (Reply(600, ("beyond",)), "5.0.0", True),
        (Reply(354, ("go ahead",)), "2.0.0", False),
    ],
)
def test_the_class_is_the_first_digit_of_the_reply(reply: Reply, status: str, permanent: bool) -> None:
    assert str(reply.status) == status
    assert reply.permanent is permanent
    assert reply.positive + reply.transient + reply.permanent == 1


def test_a_reply_reads_as_one_line() -> None:
    assert str(Reply(550, ("5.1.1 no", "such user"))) == "550 5.1.1 no such user"
    assert str(Reply(250)) == "250"


def test_our_own_verdict_changes_its_class_alone() -> None:
    assert Status(4, 7, 5).as_class(5) == Status(5, 7, 5)
    assert Status(4, 7, 5).as_class(5).permanent


@given(st.sampled_from([250, 451, 550]), st.text() | st.from_regex(r"[245]\.\d{1,4}\.\d{1,4}.{0,2}"))
def test_the_status_of_a_reply_is_what_its_text_begins_with_in_the_class_of_the_reply(code: int, text: str) -> None:
    told = Status.parse(text)
    expected = told.as_class(code // 100) if told else Status(code // 100, 0, 0)
    assert Reply(code, (text,)).status == expected


@pytest.mark.parametrize(
    ("text", "status"),
    [("2.999.999 x", "5.999.999"), ("2.999.9990", "5.0.0"), ("2.999.999.1", "5.0.0"), ("2.1.10", "5.1.10")],
)
def test_what_comes_behind_the_longest_status_has_a_say(text: str, status: str) -> None:
    assert str(Reply(550, (text,)).status) == status
