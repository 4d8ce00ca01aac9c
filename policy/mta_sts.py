"""The MTA-STS record and policy: parse, render, match (RFC 8461 §3.1, §3.2, §4.1). **Pure.**"""

from dataclasses import dataclass
from datetime import timedelta
from enum import Enum


class Mode(Enum):
    """Policy modes of RFC 8461 §5."""

    ENFORCE = "enforce"
    TESTING = "testing"
    NONE = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """A valid policy file (RFC 8461 §3.2). `text` is the file as it was served, for reports and for re-reading."""

    mode: Mode
    mx: tuple[str, ...]
    max_age: timedelta
    text: str
