"""Attempts as JSON, as every store keeps them. **Pure**, but for a warning about a record that cannot be read."""

import logging

from pydantic import TypeAdapter, ValidationError

from relay.queue.attempt import Attempt

log = logging.getLogger(__name__)

_ATTEMPT = TypeAdapter(Attempt)


def dump_attempt(attempt: Attempt) -> str:
    """Return the record; what has its default value is left out."""
    return _ATTEMPT.dump_json(attempt, exclude_defaults=True).decode()


def load_attempt(record: str) -> Attempt | None:
    """Return the attempt, or None (and log it) if this version cannot read the record."""
    try:
        return _ATTEMPT.validate_json(record)
    except ValidationError as error:
        log.warning("store.attempt_unreadable", extra={"errors": error.error_count()})
        return None
