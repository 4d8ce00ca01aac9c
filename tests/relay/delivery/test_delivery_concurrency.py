"""What a host says of how many connections it takes, and what follows: the table, row by row; a host with a bound."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.delivery.concurrency import FIRST_LIMIT, RISE_SECONDS, Window, one_too_many, overloaded
from relay.queue.attempt import FailureKind, HostFailure, Phase
from relay.status import Reply

SIGNS: list[tuple[FailureKind, int | None, Phase, bool]] = [
    (FailureKind.REPLY, 421, Phase.GREETING, True),
    (FailureKind.REPLY, 421, Phase.END_OF_DATA, True),
    (FailureKind.REPLY, 450, Phase.GREETING, True),
    (FailureKind.REPLY, 451, Phase.EHLO, True),
    (FailureKind.REPLY, 452, Phase.MAIL, True),
    (FailureKind.REPLY, 451, Phase.RCPT, False),
    (FailureKind.REPLY, 452, Phase.END_OF_DATA, False),
    (FailureKind.REPLY, 554, Phase.GREETING, False),
    (FailureKind.TIMEOUT, None, Phase.CONNECT, True),
    (FailureKind.TIMEOUT, None, Phase.END_OF_DATA, True),
    (FailureKind.CONNECTION_REFUSED, None, Phase.CONNECT, True),
    (FailureKind.BROKEN_OFF, None, Phase.GREETING, True),
    (FailureKind.BROKEN_OFF, None, Phase.DATA, False),
    (FailureKind.STARTTLS_REFUSED, 454, Phase.STARTTLS, False),
    (FailureKind.CERTIFICATE, None, Phase.HANDSHAKE, False),
    (FailureKind.PROTOCOL, None, Phase.EHLO, False),
    (FailureKind.TOO_LARGE, None, Phase.EHLO, False),
    (FailureKind.INTERNAL, None, Phase.CONNECT, False),
]


def failure_of(kind: FailureKind, code: int | None) -> HostFailure:
    return HostFailure(kind=kind, detail="x", reply=Reply(code, ("x",)) if code else None)


@pytest.mark.parametrize(("kind", "code", "phase", "expected"), SIGNS)
def test_what_says_that_a_host_has_too_much_to_do(
    kind: FailureKind, code: int | None, phase: Phase, expected: bool
) -> None:
    failure = failure_of(kind, code)
    assert overloaded(failure, phase) is expected
    assert not one_too_many(failure, phase, 0), "if nobody has a session there, the host is down"
    assert one_too_many(failure, phase, 1) is (expected and phase.value <= Phase.EHLO.value)


def test_a_host_gets_one_more_only_while_all_are_in_use() -> None:
    window = Window()
    window.took_mail(FIRST_LIMIT - 1, 20, 0.0)
    assert window.limit == FIRST_LIMIT
    for _ in range(50):
        window.took_mail(window.limit, 20, 0.0)
    assert window.limit == 20


def test_one_too_many_leaves_those_that_stand_and_one_more_is_tried_after_half_a_minute() -> None:
    window = Window(limit=6)
    window.refused_one(5, 100.0)
    limits = []
    for now in (100.0, 100.0 + RISE_SECONDS - 1, 100.0 + RISE_SECONDS, 100.0 + 2 * RISE_SECONDS):
        for _ in range(5):
            window.took_mail(window.limit, 20, now)
        limits.append(window.limit)
    assert limits == [5, 5, 6, 7]


def test_an_overloaded_host_gets_half_and_a_burst_counts_once() -> None:
    window = Window(limit=20)
    for now in (10.0, 10.1, 10.9):
        window.was_overloaded(now)
    assert window.limit == 10
    for now in range(11, 20):
        window.was_overloaded(now)
    assert window.limit == 1


@given(st.integers(1, 20), st.integers(1, 20))
def test_a_host_with_a_bound_is_asked_beyond_it_once_in_half_a_minute(bound: int, most: int) -> None:
    window, refused = Window(), []
    for second in range(600):
        for _ in range(20):
            in_use = window.limit
            while in_use > bound:
                in_use -= 1
                refused.append(second)
                window.refused_one(in_use, float(second))
            window.took_mail(in_use, most, float(second))
    assert window.limit <= min(max(most, FIRST_LIMIT), bound + 1)
    later = [second for second in refused if second > 0]
    assert len(later) <= 600 / RISE_SECONDS
