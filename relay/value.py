"""What a frozen value is made of where each message makes dozens of them. **Pure.**"""

from dataclasses import dataclass, field
from typing import TypeVar, dataclass_transform

T = TypeVar("T")


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(field,))
def value(cls: type[T]) -> type[T]:
    """Make a dataclass that compares and hashes by what it holds, and that mypy lets nobody change.

    `frozen=True` would refuse it at run time as well; but each field is then set through `object.__setattr__`, and an
    object of ten fields takes three times as long to make: four microseconds.
    """
    return dataclass(slots=True, kw_only=True, unsafe_hash=True)(cls)
