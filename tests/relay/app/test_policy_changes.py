"""A change of a policy in the log and in the metrics."""

import logging
from datetime import UTC, datetime, timedelta

import pytest
from prometheus_client import CollectorRegistry

from policy.findings import CachedPolicy, PolicyState
from policy.journal import JournalEntry, expired, fetched
from policy.mta_sts import Mode, Policy
from relay.app.observers import Observer
from relay.metrics import Metrics

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def cached(mode: Mode) -> CachedPolicy:
    policy = Policy(mode=mode, mx=("mx.x.test",), max_age=timedelta(days=7), text="")
    return CachedPolicy(policy_domain="x.test", record_id=mode.value, policy=policy, fetched_at=NOW)


def entry(old: Mode | None, new: Mode | None) -> JournalEntry:
    state = PolicyState(policy_domain="x.test", cached=cached(old) if old else None)
    made = fetched(state, cached(new)) if new else expired(state, NOW)
    assert made is not None
    return made


@pytest.mark.parametrize(
    ("old", "new", "level", "changes"),
    [
        (None, Mode.ENFORCE, logging.INFO, {("new", "enforce")}),
        (Mode.TESTING, Mode.ENFORCE, logging.INFO, {("id-changed", "enforce"), ("mode-strengthened", "enforce")}),
        (Mode.ENFORCE, Mode.NONE, logging.WARNING, {("id-changed", "none"), ("mode-weakened", "none")}),
        (Mode.ENFORCE, None, logging.WARNING, {("expired", "no-policy")}),
        (Mode.NONE, None, logging.INFO, {("expired", "no-policy")}),
    ],
)
def test_a_change_is_logged_and_counted_and_a_weakening_is_a_warning(
    caplog: pytest.LogCaptureFixture, old: Mode | None, new: Mode | None, level: int, changes: set[tuple[str, str]]
) -> None:
    registry = CollectorRegistry()
    with caplog.at_level(logging.INFO, logger="relay"):
        Observer(Metrics(registry)).policy_changed(entry(old, new))
    [record] = caplog.records
    assert (record.getMessage(), record.levelno) == ("policy.changed", level)
    assert record.__dict__["policy_domain"] == "x.test"
    assert set(record.__dict__["changes"].split(", ")) == {change for change, _ in changes}
    assert record.__dict__["old_policy_mode"] == (old.value if old else None)
    for change, mode in changes:
        value = registry.get_sample_value("mta_sts_relay_policy_changes_total", {"change": change, "mode": mode})
        assert value == 1.0
