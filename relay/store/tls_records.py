"""TLS results as every store keeps them: policy and failures as JSON, equal values as equal text. **Pure.**"""

from pydantic import TypeAdapter, ValidationError

from relay.queue.tls_results import ReportedPolicy, SessionFailure

_POLICY = TypeAdapter(ReportedPolicy)
_FAILURES = TypeAdapter(tuple[SessionFailure, ...])


def dump_policy(policy: ReportedPolicy) -> str:
    return _POLICY.dump_json(policy, exclude_defaults=True).decode()


def dump_failures(failures: tuple[SessionFailure, ...]) -> str:
    """Return the failures of one session; "[]" is a success."""
    return _FAILURES.dump_json(failures, exclude_defaults=True).decode()


def load_result(policy: str, failures: str) -> tuple[ReportedPolicy, tuple[SessionFailure, ...]] | None:
    """Return both, or None if this version cannot read them."""
    try:
        return _POLICY.validate_json(policy), _FAILURES.validate_json(failures)
    except ValidationError:
        return None
