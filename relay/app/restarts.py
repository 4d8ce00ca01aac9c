"""When a process that has died is started again. **Pure.**"""

from dataclasses import dataclass

_WAITS = (0.0, 1.0, 2.0, 4.0, 8.0)
_SOUND_AFTER_SECONDS = 60.0
"""Who has lived so long has not died of how it was started."""


@dataclass(slots=True)
class Restarts:
    """`in_a_row` counts deaths soon after the start."""

    in_a_row: int = 0

    def died(self, lived_seconds: float) -> float:
        """Return how many seconds to wait before the next start."""
        self.in_a_row = 1 if lived_seconds >= _SOUND_AFTER_SECONDS else self.in_a_row + 1
        return _WAITS[min(self.in_a_row, len(_WAITS)) - 1]
