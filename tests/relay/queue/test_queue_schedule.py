"""Retries, the two expiry clocks, the delay notice (RFC 5321 §4.5.4.1; design decision 13)."""

from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from queue_makers import ACCEPTED, make_job

from relay.queue.schedule import (
    ScheduleSettings,
    delay_notice_due,
    expires_at,
    retry_after,
)

SETTINGS = ScheduleSettings()


@pytest.mark.rfc("5321-4.5.4.1-f")
@pytest.mark.parametrize(("attempts", "minutes"), [(1, 5), (2, 10), (3, 15), (4, 30), (5, 60), (6, 60), (1000, 60)])
def test_the_last_step_of_the_schedule_repeats(attempts: int, minutes: int) -> None:
    assert retry_after(attempts, SETTINGS, 0.0) == timedelta(minutes=minutes)


@given(st.integers(1, 200), st.floats(0, 1, exclude_max=True))
def test_spread_lengthens_a_wait_by_less_than_a_tenth(attempts: int, spread: float) -> None:
    step = retry_after(attempts, SETTINGS, 0.0)
    assert step <= retry_after(attempts, SETTINGS, spread) <= step * 1.1


@pytest.mark.parametrize(("attempts", "spread"), [(0, 0.0), (1, 1.0), (1, -0.1)])
def test_no_attempt_and_no_spread_are_mistakes(attempts: int, spread: float) -> None:
    with pytest.raises(ValueError, match="no attempt number or no spread"):
        retry_after(attempts, SETTINGS, spread)


@pytest.mark.parametrize("retry", [(), (timedelta(0),), (timedelta(minutes=5), timedelta(seconds=-1))])
def test_a_schedule_without_waiting_is_refused(retry: tuple[timedelta, ...]) -> None:
    with pytest.raises(ValueError, match="retry schedule"):
        ScheduleSettings(retry=retry)


@pytest.mark.rfc("5321-4.5.4.1-e")
def test_expiry_is_measured_from_acceptance_and_security_has_the_shorter_clock() -> None:
    job = make_job(attempts=40)
    assert expires_at(job, SETTINGS, refused=False) == ACCEPTED + timedelta(days=5)
    assert expires_at(job, SETTINGS, refused=True) == ACCEPTED + timedelta(hours=24)


def test_time_held_does_not_count() -> None:
    job = make_job(held_hours=10)
    assert expires_at(job, SETTINGS, refused=True) == ACCEPTED + timedelta(hours=34)
    assert not delay_notice_due(job, ACCEPTED + timedelta(hours=13), SETTINGS)
    assert delay_notice_due(job, ACCEPTED + timedelta(hours=14), SETTINGS)


def test_the_delay_notice_is_due_once_or_never() -> None:
    job, late = make_job(), ACCEPTED + timedelta(hours=5)
    assert delay_notice_due(job, late, SETTINGS)
    assert not delay_notice_due(replace(job, delay_notified=True), late, SETTINGS)
    assert not delay_notice_due(job, late, ScheduleSettings(delay_notice_after=None))
