"""Every row of the report, in its order."""

from functools import partial

from commit_row import commits
from figures import Row
from harness_row import harness
from latency_row import latency
from memory_rows import backlog, idle_sessions, large
from throughput import MANY_DOMAINS, ONE_DOMAIN, Workload, throughput

BOTH = ("relay", "postfix")
ALL = (*BOTH, "relay-cores")
"""Postfix between the two, so that the turns which are compared follow each other."""
BACKLOG = 100_000

ROWS = {
    row.name: row
    for row in (
        Row(
            name="one-domain",
            title="1 domain, 4,000 messages",
            systems=(*ALL, "postfix-no-reuse"),
            measure=partial(throughput, Workload(domains=[ONE_DOMAIN], messages=4000, warm=True)),
        ),
        Row(
            name="many-domains",
            title="200 domains, 20 messages each, nothing known of them before",
            systems=ALL,
            measure=partial(throughput, Workload(domains=MANY_DOMAINS, messages=20, warm=False)),
        ),
        Row(
            name="one-domain-delayed",
            title="1 domain, 2,000 messages, each reply of the MX host 50 ms late, 20 connections",
            systems=ALL,
            measure=partial(throughput, Workload(domains=[ONE_DOMAIN], messages=2000, delay=0.05, warm=True)),
        ),
        Row(
            name="many-domains-delayed",
            title="200 domains, 5 messages each, nothing known of them before, replies 50 ms late",
            systems=ALL,
            measure=partial(throughput, Workload(domains=MANY_DOMAINS, messages=5, delay=0.05, warm=False)),
        ),
        Row(name="latency", title="lightly loaded, 1 domain, 50 messages a second", systems=BOTH, measure=latency),
        Row(
            name="backlog",
            title=f"{BACKLOG:,} messages for a destination that is down",
            systems=("relay",),
            measure=partial(backlog, BACKLOG),
            turns=1,
        ),
        Row(name="large", title="10 messages of 100 MB at once, in and out", systems=("relay",), measure=large),
        Row(name="idle-sessions", title="10,000 idle sessions", systems=("relay",), measure=idle_sessions, turns=1),
        Row(name="commits", title="250 only after a sync to disk", systems=BOTH, measure=commits, turns=1),
        Row(name="harness", title="the harness by itself", systems=("none",), measure=harness, turns=1),
    )
}
