"""When a message is tried again, when it expires, when its sender is told of the delay. **Pure.**

RFC 5321 §4.5.4.1 (retries, expiry), RFC 8461 §5 (a refusal by policy is temporary); design decision 13: two clocks.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

from relay.queue.message import Job, Origin

REPORT_LIFETIME = timedelta(hours=24)
"""How long a TLS report is tried (RFC 8460 §5.5)."""
REPORT_HEAD_START = timedelta(hours=24)
"""How far a TLS report is put ahead of mail that is due when it comes in; what policy refuses is seldom due longer."""
_SPREAD_SHARE = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleSettings:
    """The [queue] table as the rules need it. `delay_notice_after` None means never.

    The last step of `retry` repeats. `expire_refused_after` is the clock of messages that a policy keeps from
    going out; all others have `expire_after`.
    """

    retry: tuple[timedelta, ...] = (
        timedelta(minutes=5),
        timedelta(minutes=10),
        timedelta(minutes=15),
        timedelta(minutes=30),
        timedelta(hours=1),
    )
    expire_after: timedelta = timedelta(days=5)
    expire_refused_after: timedelta = timedelta(hours=24)
    delay_notice_after: timedelta | None = timedelta(hours=4)

    def __post_init__(self) -> None:
        if not self.retry or min(self.retry) <= timedelta(0):
            raise ValueError("a retry schedule has at least one step, and each is longer than nothing")


def retry_after(attempts: int, settings: ScheduleSettings, spread: float) -> timedelta:
    """Return how long to wait after attempt number `attempts`, at least 1.

    `spread` in [0, 1) lengthens the wait by up to a tenth, so that what failed together does not return together.
    """
    if attempts < 1 or not 0 <= spread < 1:
        raise ValueError(f"no attempt number or no spread: {attempts}, {spread}")
    step = settings.retry[min(attempts, len(settings.retry)) - 1]
    return step * (1 + _SPREAD_SHARE * spread)


def expires_at(job: Job, settings: ScheduleSettings, *, refused: bool) -> datetime:
    """Return when the recipients of a job expire; time held does not count (design §4).

    Measured from acceptance, not from the first failure (RFC 5321 §4.5.4.1).
    """
    limit = settings.expire_refused_after if refused else settings.expire_after
    if job.message.origin is Origin.REPORT:
        limit = min(limit, REPORT_LIFETIME)
    return job.message.accepted_at + job.held_for + limit


def delay_notice_due(job: Job, now: datetime, settings: ScheduleSettings) -> bool:
    """Whether the sender is to be told now that the message waits; once for each job."""
    if settings.delay_notice_after is None or job.delay_notified:
        return False
    return now >= job.message.accepted_at + job.held_for + settings.delay_notice_after
