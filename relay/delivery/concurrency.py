"""How many connections a host takes, learnt from what it does with them. **Pure.**

| what the host did                                                      | connections that it may have from now on   |
|------------------------------------------------------------------------|--------------------------------------------|
| it took mail while all that it may have were in use                    | one more                                   |
| it refused a connection while others with it stand                     | as many as there are without this one      |
| 4yz to greeting, EHLO or MAIL; 421; once connected, silence or a close  | half as many, once in a second at most     |
| 5yz, what it says of recipients and content, what TLS or a policy say   | as many as before                          |

After either of the middle rows the number rises above the new one by one in half a minute at most, so that a host with
a bound of its own is asked beyond it but rarely.
"""

import math
from dataclasses import dataclass

from relay.queue.attempt import FailureKind, HostFailure, Phase

FIRST_LIMIT = 5
"""How many connections a host may have of which nothing is known."""
RISE_SECONDS = 30.0
_BURST_SECONDS = 1.0  # what many connections are told at once counts as said once


def overloaded(failure: HostFailure, phase: Phase) -> bool:
    """Whether the host says, or shows, that it has too much to do; the third row of the table."""
    match failure.kind:
        case FailureKind.REPLY if failure.reply is not None and failure.reply.transient:
            return failure.reply.code == 421 or phase.value <= Phase.MAIL.value
        case FailureKind.TIMEOUT:
            return True
        case FailureKind.CONNECTION_REFUSED | FailureKind.BROKEN_OFF:
            return phase.value <= Phase.EHLO.value
        case _:
            return False


def one_too_many(failure: HostFailure, phase: Phase, sessions: int) -> bool:
    """Whether the host only has connections enough; `sessions` are those that stand with it at the same address."""
    return sessions > 0 and phase.value <= Phase.EHLO.value and overloaded(failure, phase)


@dataclass(slots=True)
class Window:
    """How many connections one host may have. Times are seconds of a timer that never goes back."""

    limit: int = FIRST_LIMIT
    _lowered_to: float = math.inf
    _lowered_at: float = -math.inf

    def took_mail(self, in_use: int, most: int, now: float) -> bool:
        """Return whether the host may have one more by that."""
        if in_use < self.limit or self.limit >= most:
            return False
        if self.limit >= self._lowered_to + (now - self._lowered_at) // RISE_SECONDS:
            return False
        self.limit += 1
        return True

    def refused_one(self, others: int, now: float) -> None:
        self._lower(min(self.limit, others), now)

    def was_overloaded(self, now: float) -> None:
        if now - self._lowered_at >= _BURST_SECONDS:
            self._lower(self.limit // 2, now)

    def _lower(self, limit: int, now: float) -> None:
        self.limit = max(1, limit)
        self._lowered_to, self._lowered_at = self.limit, now
