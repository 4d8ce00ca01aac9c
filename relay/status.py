"""Status codes and replies (RFC 3463, RFC 5321 §4.2). **Pure.**"""

import re
from dataclasses import dataclass
from functools import lru_cache

_STATUS = re.compile(r"([245])\.(0|[1-9][0-9]{0,2})\.(0|[1-9][0-9]{0,2})(?![0-9.])")
_LONGEST = 10
"""Characters that may have a say in it: the longest status and the one behind it."""


@dataclass(frozen=True, slots=True, order=True)
class Status:
    """An enhanced mail system status code (RFC 3463 §2). The class digit alone decides about a retry."""

    class_: int
    subject: int
    detail: int

    def __post_init__(self) -> None:
        if self.class_ not in (2, 4, 5) or not (0 <= self.subject <= 999 and 0 <= self.detail <= 999):
            raise ValueError(f"no status code: {self.class_}.{self.subject}.{self.detail}")

    def __str__(self) -> str:
        return f"{self.class_}.{self.subject}.{self.detail}"

    @property
    def permanent(self) -> bool:
        return self.class_ == 5

    def as_class(self, class_: int) -> "Status":
        """The same subject and detail with another class: our own verdicts are 4.x while queued, 5.x when final."""
        return Status(class_, self.subject, self.detail)

    @classmethod
    def parse(cls, text: str) -> "Status | None":
        """Return the status that the text begins with, or None."""
        match = _STATUS.match(text)
        return cls(*(int(part) for part in match.groups())) if match else None


@dataclass(frozen=True, slots=True)
class Reply:
    """A reply that an SMTP server really gave: its code and the text of each line, without the code.

    Lines are cleaned of control characters and capped by whoever read them from the network.
    """

    code: int
    lines: tuple[str, ...] = ("",)

    @property
    def positive(self) -> bool:
        return 200 <= self.code < 400

    @property
    def transient(self) -> bool:
        return 400 <= self.code < 500

    @property
    def permanent(self) -> bool:
        """5yz; a first digit that SMTP does not know is fatal as well (RFC 5321 §4.2.1)."""
        return not (self.positive or self.transient)

    @property
    def status(self) -> Status:
        """The enhanced status; its class is the first digit of the reply, which rules (RFC 2034 §4, design §6)."""
        class_ = 2 if self.positive else 4 if self.transient else 5
        return _told(class_, self.lines[0][:_LONGEST])

    def __str__(self) -> str:
        return f"{self.code} {' '.join(self.lines)}".rstrip()


@lru_cache(maxsize=1024)
def _told(class_: int, text: str) -> Status:
    """The status that the text begins with; nearly all replies begin with one of a few."""
    told = Status.parse(text)
    return told.as_class(class_) if told else Status(class_, 0, 0)
