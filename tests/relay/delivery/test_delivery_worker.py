"""One attempt, end to end of the worker: what enforcement refuses, what a host answers, what is written down."""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from datetime import timedelta
from ipaddress import ip_address
from typing import Any

import pytest
from delivery_fakes import World, down, found_addresses, found_mx
from policy_fakes import NODATA, NXDOMAIN, SERVFAIL, TIMEOUT, found_txt, sts_record

from policy.answers import Answer
from policy.decide import Enforcement
from policy.findings import Findings
from policy.names import IPAddress
from policy.requirement import ResultType
from policy.store import FetchFailedError
from relay.delivery.route import POLICY_SECONDS, Policies
from relay.delivery.routing_table import NextHop
from relay.delivery.seam import BLOCK, SendResult
from relay.delivery.slot_table import SlotSettings
from relay.logs import fields
from relay.queue.attempt import FailureKind, Phase
from relay.queue.message import HoldReason, Notify, Origin, Ret, State
from relay.queue.schedule import ScheduleSettings
from relay.status import Reply
from relay.store.protocols import QueueFilter, StoreError

MINUTE = timedelta(minutes=1)
TLS_FAULTS = [
    FailureKind.STARTTLS_MISSING,
    FailureKind.STARTTLS_REFUSED,
    FailureKind.HANDSHAKE,
    FailureKind.CERTIFICATE,
]


class StaleUntilAskedPast:
    """Our own caches have the old record until they are asked past: `happenings` come just before."""

    def __init__(self, policies: Policies, happenings: list[Callable[[], None]]) -> None:
        self._policies = policies
        self._happenings = happenings

    async def ask_record(self, policy_domain: str) -> None:
        await self._policies.ask_record(policy_domain)

    async def findings(self, policy_domain: str, *, recheck: bool = False) -> Findings:
        while recheck and self._happenings:
            self._happenings.pop()()
        return await self._policies.findings(policy_domain, recheck=recheck)


class BrokenPolicies:
    async def ask_record(self, policy_domain: str) -> None:
        pass

    async def findings(self, policy_domain: str, *, recheck: bool = False) -> Findings:
        raise StoreError("the database is locked")


# -- the fail-closed table -----------------------------------------------------------------------------------


@pytest.mark.rfc("8461-3.1-u", "8461-3.3-r")
@pytest.mark.parametrize("mode", ["enforce", "testing", "none"])
@pytest.mark.parametrize(
    "record",
    [NXDOMAIN, NODATA, SERVFAIL, TIMEOUT, found_txt(b"v=STSv1; id=2;", b"v=STSv1; id=3;"), found_txt(b"v=STSv2")],
    ids=["nxdomain", "nodata", "servfail", "timeout", "two-records", "wrong-record"],
)
async def test_a_cached_policy_outlasts_a_record_that_vanishes_or_breaks(mode: str, record: Answer[bytes]) -> None:
    world = World()
    world.publish("example.test", "1", mode, "mx.example.test")
    assert (await world.attempt()).state is State.DELIVERED
    world.resolver.publish("example.test", record)
    world.transport.hosts["mx.example.test"].tls = FailureKind.CERTIFICATE
    entry = await world.attempt()
    policy = entry.attempts_made[0].policy
    assert policy is not None
    assert (policy.mode, policy.record_id) == (mode, "1")
    assert entry.state is (State.QUEUED if mode == "enforce" else State.DELIVERED)


@pytest.mark.rfc("8461-3.3-r", "8461-3.3-m")
async def test_a_cached_policy_outlasts_a_policy_host_that_fails() -> None:
    world = World()
    world.publish("example.test", "1", "enforce", "mx.example.test")
    await world.attempt()
    world.resolver.publish("example.test", sts_record("2"))
    world.fetcher.bodies["example.test"] = FetchFailedError(ResultType.STS_POLICY_FETCH_ERROR, "HTTP status 500")
    world.transport.hosts["mx.example.test"].tls = FailureKind.CERTIFICATE
    world.clock.move(timedelta(seconds=POLICY_SECONDS))
    entry = await world.attempt()
    assert entry.state is State.QUEUED
    assert entry.attempts_made[0].policy_problem == "sts-policy-fetch-error: HTTP status 500"
    await world.store.retry(QueueFilter(domain="example.test"))
    await world.again(after=MINUTE)
    assert len(world.fetcher.fetched) == 2, "one fetch for each id in five minutes"


@pytest.mark.rfc("8461-3.3-q")
@pytest.mark.parametrize("fault", [None, *TLS_FAULTS])
async def test_without_a_cached_policy_a_failed_fetch_delivers_as_without_mta_sts(fault: FailureKind | None) -> None:
    world = World()
    world.publish("example.test", "1", "enforce", "other.test")
    world.fetcher.bodies["example.test"] = FetchFailedError(ResultType.STS_WEBPKI_INVALID, "expired")
    world.transport.hosts["mx.example.test"].tls = fault
    assert (await world.attempt()).state is State.DELIVERED


@pytest.mark.rfc("8461-4-b", "8461-5-a", "8461-5-g", "8461-8.4-b")
async def test_a_host_that_the_policy_does_not_name_is_never_contacted_and_the_mail_waits() -> None:
    world = World()
    world.publish("example.test", "1", "enforce", "other.test")
    entry = await world.attempt()
    assert entry.state is State.QUEUED
    assert entry.recipients[0].status == "4.4.8"
    assert world.transport.contacted == []
    record = entry.attempts_made[0].hosts[0]
    assert record.address is None
    assert record.failure is not None
    assert record.failure.kind is FailureKind.MX_NOT_IN_POLICY
    assert world.metric("enforcement_failures_total", type="validation-failure", mode="enforce") == 1


@pytest.mark.rfc("8461-5-c", "8461-5-d", "8461-5-e")
@pytest.mark.parametrize("mode", ["testing", "none"])
async def test_a_host_that_a_policy_not_enforced_does_not_name_gets_its_mail(mode: str) -> None:
    world = World()
    world.publish("example.test", "1", mode, "other.test")
    entry = await world.attempt()
    assert entry.state is State.DELIVERED
    failures = world.metric("enforcement_failures_total", type="validation-failure", mode="testing")
    assert failures == (1 if mode == "testing" else 0)


@pytest.mark.rfc("8461-5-a", "8461-5-b", "8461-5-g", "8461-5.1-c")
@pytest.mark.parametrize("fault", TLS_FAULTS)
@pytest.mark.parametrize("others", [0, 1], ids=["alone", "second-host-good"])
async def test_enforce_never_delivers_to_a_host_whose_tls_fails(fault: FailureKind, others: int) -> None:
    world = World()
    world.domain("example.test", "mx.example.test", *["mx2.example.test"] * others)
    world.publish("example.test", "1", "enforce", "*.example.test")
    world.transport.hosts["mx.example.test"].tls = fault
    entry = await world.attempt()
    assert entry.state is (State.DELIVERED if others else State.QUEUED)
    assert [target.mx_host for target, _ in world.transport.sent] == ["mx2.example.test"] * others
    assert world.hosts_contacted().count("mx.example.test") == 1, "not a second time in plaintext"


@pytest.mark.rfc("8461-5-c", "8461-5-d", "8461-5-e")
@pytest.mark.parametrize("fault", TLS_FAULTS)
@pytest.mark.parametrize("mode", ["testing", "none", ""])
async def test_without_enforce_a_host_whose_tls_fails_gets_its_mail(fault: FailureKind, mode: str) -> None:
    world = World()
    if mode:
        world.publish("example.test", "1", mode, "mx.example.test")
    world.transport.hosts["mx.example.test"].tls = fault
    entry = await world.attempt()
    assert entry.state is State.DELIVERED
    assert (entry.attempts_made[0].hosts[0].testing_failure is not None) == (mode == "testing")


@pytest.mark.parametrize("mode", ["enforce", "testing"])
async def test_report_only_takes_enforce_for_testing(mode: str) -> None:
    world = World(enforcement=Enforcement.REPORT_ONLY)
    world.publish("example.test", "1", mode, "other.test")
    assert (await world.attempt()).state is State.DELIVERED


async def test_with_mta_sts_off_no_policy_is_asked_for() -> None:
    world = World(enforcement=Enforcement.OFF)
    world.publish("example.test", "1", "enforce", "other.test")
    assert (await world.attempt()).state is State.DELIVERED
    assert ("TXT", "_mta-sts.example.test") not in world.resolver.asked


# -- RFC 8461 §5: asking again before anything is final ----------------------------------------------------------


@pytest.mark.rfc("8461-5-f", "8461-5.1-d", "8461-5-i")
async def test_rfc8461_s5_a_refusal_becomes_final_only_after_the_record_was_asked_past_our_caches() -> None:
    world = World()
    world.publish("example.test", "1", "enforce", "other.test")
    first = await world.attempt()
    assert first.state is State.QUEUED
    assert world.resolver.asked_fresh == ["_mta-sts.example.test"], "on every failing attempt"
    last = await world.again(after=timedelta(hours=25))
    assert last.state is State.FAILED
    assert last.recipients[0].status == "5.4.8"
    assert last.attempts_made[-1].record_checked
    assert len(world.resolver.asked_fresh) == 2
    (ndr,) = await world.notices_to()
    assert b"5.4.8" in ndr
    assert b"mx.example.test" in ndr


async def test_a_dead_dns_does_not_keep_a_refused_message_for_ever() -> None:
    world = World()
    world.publish("example.test", "1", "enforce", "other.test")
    await world.attempt()
    world.resolver.publish("example.test", SERVFAIL)
    assert (await world.again(after=timedelta(hours=25))).state is State.FAILED


@pytest.mark.rfc("8461-5-h", "8461-10.3-a")
async def test_rfc8461_s5_a_changed_policy_is_tried_at_once_in_the_same_attempt() -> None:
    happenings: list[Callable[[], None]] = []
    world = World(wrapped=lambda policies: StaleUntilAskedPast(policies, happenings))
    happenings.append(lambda: world.publish("example.test", "2", "enforce", "mx.example.test"))
    world.publish("example.test", "1", "enforce", "old.example.test")
    entry = await world.attempt()
    assert entry.state is State.DELIVERED
    attempt = entry.attempts_made[0]
    assert attempt.record_checked
    assert attempt.policy is not None
    assert attempt.policy.record_id == "2"
    assert [host.failure is None for host in attempt.hosts] == [False, True]


@pytest.mark.rfc("8461-5-h")
async def test_a_new_id_whose_fetch_fails_leaves_the_old_policy_in_force() -> None:
    world = World()
    world.publish("example.test", "1", "enforce", "old.example.test")
    await world.attempt()
    world.resolver.publish("example.test", sts_record("2"))
    world.fetcher.bodies.clear()
    assert (await world.again(after=6 * MINUTE)).recipients[0].status == "4.4.8"


@pytest.mark.rfc("8461-5.1-e", "8461-8.3-a")
async def test_the_policy_of_the_moment_counts_not_that_of_acceptance() -> None:
    world = World()
    world.publish("example.test", "1", "enforce", "other.test")
    await world.attempt()
    world.publish("example.test", "2", "none")
    assert (await world.again(after=6 * MINUTE)).state is State.DELIVERED


@pytest.mark.rfc("8461-5-j")
async def test_a_550_from_a_host_that_keeps_to_the_policy_needs_no_further_look() -> None:
    world = World()
    world.publish("example.test", "1", "enforce", "mx.example.test")
    world.transport.hosts["mx.example.test"].replies = {"bob@example.test": Reply(550, ("5.1.1 who?",))}
    entry = await world.attempt()
    assert entry.state is State.FAILED
    assert entry.recipients[0].status == "5.1.1"
    assert world.resolver.asked_fresh == []


@pytest.mark.rfc("8461-5-i")
async def test_the_second_attempt_uses_the_policy_that_came_between() -> None:
    world = World()
    world.publish("example.test", "1", "enforce", "other.test")
    await world.attempt()
    world.publish("example.test", "2", "enforce", "mx.example.test")
    entry = await world.again(after=6 * MINUTE)
    assert entry.state is State.DELIVERED
    assert not entry.attempts_made[-1].record_checked, "nothing was refused, so nothing had to be checked"


@pytest.mark.rfc("8461-8.4-a")
async def test_our_own_name_in_the_list_counts_before_the_policy_does() -> None:
    world = World()
    world.domain("example.test", "mx.example.test", "relay.example.com", "late.example.test")
    world.publish("example.test", "1", "enforce", "late.example.test")
    entry = await world.attempt()
    assert world.hosts_contacted() == []
    assert [host.mx_host for host in entry.attempts_made[0].hosts] == ["mx.example.test"]


@pytest.mark.rfc("8461-5.1-b", "8461-5.1-a")
async def test_the_first_message_to_a_domain_waits_for_its_policy() -> None:
    world = World()
    world.publish("example.test", "1", "enforce", "other.test")
    world.fetcher.gate.clear()
    job = await world.job()
    attempt = asyncio.create_task(world.worker.attempt(job))
    for _ in range(20):
        await asyncio.sleep(0)
    assert world.fetcher.fetched == ["example.test"]
    assert world.transport.contacted == []
    world.fetcher.gate.set()
    await attempt
    assert world.transport.contacted == []


@pytest.mark.rfc("8461-3.1-z")
async def test_an_unknown_record_defers_to_the_end_of_the_grace_and_then_delivers() -> None:
    world = World()
    world.resolver.publish("example.test", SERVFAIL)
    entry = await world.attempt()
    assert entry.state is State.QUEUED
    assert entry.recipients[0].status == "4.4.312"
    assert entry.next_attempt_at == world.clock.now() + timedelta(minutes=30)
    assert world.transport.contacted == []
    assert (await world.again(after=timedelta(minutes=30))).state is State.DELIVERED


@pytest.mark.rfc("8461-1.1-a", "8461-1.1-c")
async def test_each_recipient_domain_has_a_policy_and_a_job_of_its_own() -> None:
    world = World()
    modes = {"enforce.test": "enforce", "testing.test": "testing", "none.test": ""}
    for domain, mode in modes.items():
        world.domain(domain, "shared.example.test")
        if mode:
            world.publish(domain, "1", mode, "shared.example.test")
    world.transport.hosts["shared.example.test"].tls = FailureKind.CERTIFICATE
    content = b"To: <dave@other.test>\r\n\r\nhello\r\n"
    await world.enqueue(*(f"bob@{domain}" for domain in modes), content=content)
    states = {}
    for domain in modes:
        job = await world.claim(domain)
        await world.worker.attempt(job)
        states[domain] = (await world.entry(job)).state
    assert states == {"enforce.test": State.QUEUED, "testing.test": State.DELIVERED, "none.test": State.DELIVERED}
    records = {name for kind, name in world.resolver.asked if kind == "TXT"}
    assert records == {f"_mta-sts.{domain}" for domain in modes}


@pytest.mark.rfc("8461-B-a")
async def test_a_host_that_cannot_be_connected_to_is_no_failure_of_the_policy() -> None:
    world = World()
    world.publish("example.test", "1", "enforce", "mx.example.test")
    world.transport.hosts["mx.example.test"].down = down(FailureKind.CONNECTION_REFUSED)
    entry = await world.attempt()
    assert entry.recipients[0].status == "4.4.316"
    assert not entry.attempts_made[0].outcomes[0].refused
    assert not any("enforcement_failures" in line and not line.startswith("#") for line in world.exposition())
    assert world.resolver.asked_fresh == []


@pytest.mark.rfc("8461-B-b")
@pytest.mark.parametrize("mode", ["enforce", "testing"])
async def test_a_name_that_does_not_match_is_what_counts_not_the_tls_behind_it(mode: str) -> None:
    world = World()
    world.publish("example.test", "1", mode, "other.test")
    world.transport.hosts["mx.example.test"].tls = FailureKind.CERTIFICATE
    await world.attempt()
    assert world.metric("enforcement_failures_total", type="validation-failure", mode=mode) == 1
    assert world.metric("enforcement_failures_total", type="certificate-expired", mode=mode) == 0


async def test_one_host_whose_addresses_cannot_be_found_does_not_hold_up_the_others() -> None:
    world = World()
    world.domain("example.test", "mx.example.test", "mx2.example.test")
    world.addresses("mx.example.test", SERVFAIL)
    entry = await world.attempt()
    assert entry.state is State.DELIVERED
    assert [host.failure.kind if host.failure else None for host in entry.attempts_made[0].hosts] == [
        FailureKind.DNS_UNKNOWN,
        None,
    ]


async def test_jobs_that_share_an_unknown_policy_wait_for_the_end_of_its_grace_too() -> None:
    world = World()
    world.resolver.publish("example.test", SERVFAIL)
    first, second = await world.job(), await world.job()
    ended = await world.worker.attempt(first)
    assert ended is not None
    await world.worker.share(second, ended)
    assert (await world.entry(second)).next_attempt_at == world.clock.now() + timedelta(minutes=30)


# -- what hosts answer -------------------------------------------------------------------------------------------


@pytest.mark.rfc("5321-rcpt-a", "5321-4.5.4.1-a")
async def test_each_recipient_has_its_own_outcome_from_one_transaction() -> None:
    world = World()
    host = world.transport.hosts["mx.example.test"]
    host.replies = {"b@example.test": Reply(451, ("4.2.0 later",)), "c@example.test": Reply(550, ("5.1.1 no",))}
    entry = await world.attempt("a@example.test", "b@example.test", "c@example.test")
    assert [one.state for one in entry.recipients] == [State.DELIVERED, State.QUEUED, State.FAILED]
    assert [one.status for one in entry.recipients] == ["2.0.0", "4.2.0", "5.1.1"]
    assert len(world.transport.sent) == 1
    (ndr,) = await world.notices_to()
    assert b"c@example.test" in ndr
    assert b"b@example.test" not in ndr


@pytest.mark.rfc("5321-4.5.3.1.10-a", "5321-4.5.3.1.8-b")
async def test_postponed_recipients_go_at_once_on_the_same_session() -> None:
    world = World()
    world.transport.hosts["mx.example.test"].per_transaction = 10
    entry = await world.attempt(*(f"r{n}@example.test" for n in range(25)))
    assert entry.state is State.DELIVERED
    assert entry.attempts == 1
    assert len(world.transport.contacted) == 1
    assert [len(parcel.recipients) for _, parcel in world.transport.sent] == [25, 15, 5]
    assert len(entry.attempts_made[0].hosts) == 1


@pytest.mark.rfc("5321-5.1-n", "5321-4.2.1-a")
async def test_4yz_goes_to_the_next_host_and_5yz_does_not() -> None:
    world = World()
    world.domain("example.test", "mx.example.test", "mx2.example.test")
    world.transport.hosts["mx.example.test"].replies = {
        "a@example.test": Reply(450, ("4.7.1 greylisted",)),
        "b@example.test": Reply(550, ("5.1.1 no",)),
    }
    entry = await world.attempt("a@example.test", "b@example.test")
    assert [one.state for one in entry.recipients] == [State.DELIVERED, State.FAILED]
    assert [one.forward_path for one in world.transport.sent[1][1].recipients] == ["a@example.test"]


@pytest.mark.parametrize(
    ("kind", "phase", "reply"),
    [
        (FailureKind.REPLY, Phase.GREETING, Reply(554, ("5.7.1 go away",))),
        (FailureKind.REPLY, Phase.EHLO, Reply(554, ("5.5.1 no",))),
        (FailureKind.REPLY, Phase.GREETING, Reply(421, ("4.3.2 busy",))),
        (FailureKind.CONNECTION_REFUSED, Phase.CONNECT, None),
        (FailureKind.TIMEOUT, Phase.GREETING, None),
        (FailureKind.BROKEN_OFF, Phase.MAIL, None),
        (FailureKind.PROTOCOL, Phase.EHLO, None),
    ],
)
async def test_what_concerns_the_host_only_defers(kind: FailureKind, phase: Phase, reply: Reply | None) -> None:
    world = World()
    host = world.transport.hosts["mx.example.test"]
    host.down, host.down_at = down(kind, "trouble", reply), phase
    entry = await world.attempt()
    assert entry.state is State.QUEUED
    assert entry.recipients[0].status.startswith("4.")
    assert await world.notices_to() == []
    cooled = world.store.settlements[0].cool_destination
    assert cooled == (None if phase is Phase.MAIL else timedelta(minutes=5))


@pytest.mark.rfc("6152-3-c", "5321-2.2.3-a")
@pytest.mark.parametrize(
    ("kind", "status"),
    [(FailureKind.EIGHT_BIT, "5.6.3"), (FailureKind.SMTPUTF8, "5.6.9"), (FailureKind.TOO_LARGE, "5.3.4")],
)
@pytest.mark.parametrize("second", ["has-it", "lacks-it", "down"])
async def test_a_host_that_lacks_an_extension_is_passed_over(kind: FailureKind, status: str, second: str) -> None:
    world = World()
    world.domain("example.test", "mx.example.test", "mx2.example.test")
    world.transport.hosts["mx.example.test"].down = down(kind)
    if second == "lacks-it":
        world.transport.hosts["mx2.example.test"].down = down(kind)
    if second == "down":
        world.transport.hosts["mx2.example.test"].down = down(FailureKind.TIMEOUT)
    entry = await world.attempt()
    state = {"has-it": State.DELIVERED, "lacks-it": State.FAILED, "down": State.QUEUED}[second]
    assert entry.state is state
    if second == "lacks-it":
        assert entry.recipients[0].status == status


async def test_a_host_that_breaks_off_between_replies_leaves_the_rest_to_the_next() -> None:
    world = World()
    world.domain("example.test", "mx.example.test", "mx2.example.test")
    job = await world.job("a@example.test", "b@example.test")
    world.transport.hosts["mx.example.test"].results = [
        SendResult(
            replies={job.recipients[0].id: Reply(550, ("5.1.1 no",))},
            phase=Phase.RCPT,
            failure=down(FailureKind.BROKEN_OFF),
        )
    ]
    await world.worker.attempt(job)
    entry = await world.entry(job)
    assert [one.state for one in entry.recipients] == [State.FAILED, State.DELIVERED]


# -- routes ------------------------------------------------------------------------------------------------------


@pytest.mark.rfc("7505-3-a", "7505-4.1-a", "8461-3.4-g")
async def test_a_null_mx_fails_at_once_and_nobody_is_asked_for_a_policy() -> None:
    world = World()
    world.resolver.mx_answers["example.test"] = found_mx((0, ""))
    entry = await world.attempt()
    assert entry.state is State.FAILED
    assert entry.recipients[0].status == "5.1.10"
    assert world.resolver.asked == [("MX", "example.test")]


@pytest.mark.rfc("5321-5.1-c")
async def test_a_domain_that_does_not_exist_fails_at_once() -> None:
    world = World()
    entry = await world.attempt("bob@nowhere.test")
    assert (entry.state, entry.recipients[0].status) == (State.FAILED, "5.4.310")


@pytest.mark.rfc("5321-5.1-d", "5321-5.1-f")
async def test_an_unknown_mx_defers_and_never_falls_through_to_addresses() -> None:
    world = World()
    world.resolver.mx_answers["example.test"] = SERVFAIL
    world.addresses("example.test", found_addresses("198.41.0.9"))
    entry = await world.attempt()
    assert (entry.state, entry.recipients[0].status) == (State.QUEUED, "4.4.312")
    assert world.transport.contacted == []


@pytest.mark.rfc("5321-5.1-g")
@pytest.mark.parametrize(("second", "state"), [(NXDOMAIN, State.FAILED), (TIMEOUT, State.QUEUED)])
async def test_hosts_without_an_address_are_final_only_if_all_are(second: Answer[IPAddress], state: State) -> None:
    world = World()
    world.domain("example.test", "mx.example.test", "mx2.example.test")
    world.addresses("mx.example.test", NODATA)
    world.addresses("mx2.example.test", second)
    assert (await world.attempt()).state is state


@pytest.mark.rfc("5321-5.1-h")
@pytest.mark.parametrize("how", ["name", "address"])
async def test_an_mx_that_is_ourselves_is_a_loop(how: str) -> None:
    own = frozenset({ip_address("198.41.50.1")})
    world = World(own_addresses=own)
    world.domain("example.test", "relay.example.com" if how == "name" else "mx.example.test")
    world.addresses("mx.example.test", found_addresses("198.41.50.1"))
    entry = await world.attempt()
    assert (entry.state, entry.recipients[0].status) == (State.FAILED, "5.4.6")


@pytest.mark.rfc("5321-5.1-p")
async def test_a_host_at_a_private_address_is_not_contacted() -> None:
    world = World()
    world.addresses("mx.example.test", found_addresses("10.0.0.1", "127.0.0.1"))
    entry = await world.attempt()
    assert entry.state is State.QUEUED
    assert world.transport.contacted == []


@pytest.mark.rfc("5321-5.1-o", "8461-3.4-c")
async def test_an_address_literal_goes_straight_there_without_a_policy() -> None:
    world = World()
    job = await world.job("bob@[198.41.7.7]")
    await world.worker.attempt(job)
    assert (await world.entry(job)).state is State.DELIVERED
    assert str(world.transport.contacted[0].address) == "198.41.7.7"
    assert world.resolver.asked == []


@pytest.mark.parametrize(
    ("literal", "state", "status"),
    [("[10.0.0.1]", State.QUEUED, "4.4.4"), ("[198.41.50.1]", State.FAILED, "5.4.6")],
)
async def test_an_address_literal_that_is_private_or_ours_is_not_contacted(
    literal: str, state: State, status: str
) -> None:
    world = World(own_addresses=frozenset({ip_address("198.41.50.1")}))
    entry = await world.attempt(f"bob@{literal}")
    assert (entry.state, entry.recipients[0].status) == (state, status)
    assert world.transport.contacted == []


@pytest.mark.rfc("8461-3.4-d", "8461-3.4-f")
async def test_policies_of_parents_and_of_alias_targets_are_never_asked_for() -> None:
    world = World()
    world.domain("mail.example.test", "mx.example.test")
    world.publish("example.test", "1", "enforce", "other.test")
    assert (await world.attempt("bob@mail.example.test")).state is State.DELIVERED
    assert {name for kind, name in world.resolver.asked if kind == "TXT"} == {"_mta-sts.mail.example.test"}


@pytest.mark.rfc("8461-3.4-e")
async def test_a_domain_without_mx_is_its_own_host_and_must_be_named_by_its_policy() -> None:
    world = World()
    world.resolver.mx_answers["plain.test"] = NODATA
    world.addresses("plain.test", found_addresses("198.41.9.9"))
    world.publish("plain.test", "1", "enforce", "mx.plain.test")
    assert (await world.attempt("bob@plain.test")).recipients[0].status == "4.4.8"
    world.publish("plain.test", "2", "enforce", "plain.test")
    assert (await world.again("plain.test", after=6 * MINUTE)).state is State.DELIVERED
    assert world.transport.contacted[0].requirement.mx_host == "plain.test"


@pytest.mark.rfc("dsn-hdr-b")
async def test_notices_of_ours_take_the_fixed_route_and_clients_mail_does_not() -> None:
    route = (NextHop(host=ip_address("10.1.1.1"), port=2525), NextHop(host="mta.contoso.test"))
    world = World(ndr_route=route)
    world.addresses("mta.contoso.test", found_addresses("10.1.1.2"))
    world.transport.hosts["10.1.1.1"].down = down(FailureKind.CONNECTION_REFUSED)
    job = await world.job("alice@contoso.test", reverse_path="", origin=Origin.RELAY)
    await world.worker.attempt(job)
    assert (await world.entry(job)).state is State.DELIVERED
    assert [(target.mx_host, target.port) for target in world.transport.contacted] == [
        ("10.1.1.1", 2525),
        ("mta.contoso.test", 25),
    ]
    entry = await world.attempt("alice@contoso.test")
    assert entry.state is State.FAILED, "contoso.test is not in the DNS"


# -- writing it down ---------------------------------------------------------------------------------------------


async def test_cancelled_worker_still_writes_the_settlement_down() -> None:
    world = World()
    world.store.settle_gate = asyncio.Event()
    job = await world.job()
    attempt = asyncio.create_task(world.worker.attempt(job))
    await asyncio.wait_for(world.store.settling.wait(), 5)
    assert world.worker.must_finish(job)
    attempt.cancel()
    await asyncio.sleep(0)
    assert not attempt.done()
    world.store.settle_gate.set()
    with pytest.raises(asyncio.CancelledError):
        await attempt
    assert (await world.entry(job)).state is State.DELIVERED


async def test_an_attempt_that_is_broken_off_before_any_answer_is_not_charged() -> None:
    world = World()
    world.transport.hosts["mx.example.test"].gate = asyncio.Event()
    job = await world.job()
    attempt = asyncio.create_task(world.worker.attempt(job))
    await asyncio.wait_for(world.transport.started.wait(), 5)
    assert not world.worker.must_finish(job)
    attempt.cancel()
    with pytest.raises(asyncio.CancelledError):
        await attempt
    entry = await world.entry(job)
    assert (entry.state, entry.attempts, entry.attempts_made) == (State.QUEUED, 0, ())


async def test_an_attempt_that_is_broken_off_between_transactions_keeps_what_was_answered() -> None:
    world = World()
    world.transport.hosts["mx.example.test"].per_transaction = 1
    job = await world.job("a@example.test", "b@example.test")
    host = world.transport.hosts["mx.example.test"]
    host.gate, host.committing = asyncio.Event(), True
    attempt = asyncio.create_task(world.worker.attempt(job))
    await asyncio.wait_for(world.transport.started.wait(), 5)
    assert world.worker.must_finish(job)
    world.worker.drain()
    host.gate.set()
    await attempt
    entry = await world.entry(job)
    assert [one.state for one in entry.recipients] == [State.DELIVERED, State.QUEUED]
    assert len(world.transport.sent) == 1


async def test_a_store_that_fails_for_a_while_is_asked_again(caplog: pytest.LogCaptureFixture) -> None:
    world = World()
    world.store.fail_settles = 2
    job = await world.job()
    with caplog.at_level(logging.WARNING, "relay"):
        attempt = asyncio.create_task(world.worker.attempt(job))
        while not attempt.done():
            world.clock.move(timedelta(seconds=1))
            await asyncio.sleep(0)
    assert (await world.entry(job)).state is State.DELIVERED
    assert [record.message for record in caplog.records] == ["queue.settle_failed"] * 2


async def test_what_a_notice_returns_may_be_late_and_nobody_gets_the_message_twice(
    caplog: pytest.LogCaptureFixture,
) -> None:
    world = World()
    world.transport.hosts["mx.example.test"].replies = {"b@example.test": Reply(550, ("5.1.1 no",))}
    world.store.fail_headers = 2
    job = await world.job("a@example.test", "b@example.test")
    with caplog.at_level(logging.WARNING, "relay"):
        await _with_time_passing(world, world.worker.attempt(job))
    assert [one.state for one in (await world.entry(job)).recipients] == [State.DELIVERED, State.FAILED]
    (notice,) = await world.notices_to()
    assert b"Subject: Undeliverable: hello" in notice
    assert [record.message for record in caplog.records] == ["queue.settle_failed"] * 2


async def test_a_notice_of_a_message_that_cannot_be_read_any_more_returns_nothing_of_it() -> None:
    world = World()
    world.transport.hosts["mx.example.test"].replies = {"b@example.test": Reply(550, ("5.1.1 no",))}
    world.store.fail_headers = 1_000
    job = await world.job("a@example.test", "b@example.test")
    await _with_time_passing(world, world.worker.attempt(job))
    assert [one.state for one in (await world.entry(job)).recipients] == [State.DELIVERED, State.FAILED]
    (notice,) = await world.notices_to()
    assert b"Final-Recipient: rfc822; b@example.test" in notice


async def _with_time_passing(world: World, attempt: Coroutine[Any, Any, object]) -> None:
    task = asyncio.ensure_future(attempt)
    while not task.done():
        world.clock.move(timedelta(seconds=1))
        await asyncio.sleep(0)
    task.result()


async def test_a_lost_lease_writes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    world = World()
    job = await world.job()
    world.clock.move(timedelta(minutes=3))
    await world.store.sweep()
    stolen = await world.claim()
    with caplog.at_level(logging.WARNING, "relay"):
        await world.worker.attempt(job)
    assert [record.message for record in caplog.records] == ["queue.lease_lost"]
    assert (await world.entry(stolen)).state is State.LEASED


async def test_a_fault_of_ours_leaves_the_job_with_its_lease() -> None:
    world = World()
    world.transport.hosts["mx.example.test"].results = [RuntimeError("a bug")]
    job = await world.job()
    with pytest.raises(RuntimeError):
        await world.worker.attempt(job)
    assert (await world.entry(job)).state is State.LEASED
    assert world.store.settlements == []


async def test_a_policy_store_that_fails_defers() -> None:
    world = World(wrapped=lambda _: BrokenPolicies())
    entry = await world.attempt()
    assert (entry.state, entry.recipients[0].status) == (State.QUEUED, "4.3.0")


@pytest.mark.rfc("5321-4.5.4-a")
async def test_a_message_without_a_sender_that_fails_is_held(caplog: pytest.LogCaptureFixture) -> None:
    world = World()
    world.transport.hosts["mx.example.test"].replies = {"bob@example.test": Reply(550, ("5.1.1 no",))}
    with caplog.at_level(logging.ERROR, "relay"):
        entry = await world.attempt(reverse_path="")
    assert (entry.state, entry.hold_reason) == (State.HELD, HoldReason.DOUBLE_BOUNCE)
    assert [record.message for record in caplog.records] == ["queue.double_bounce"]
    assert world.metric("double_bounces_total") == 1


async def test_success_is_reported_where_the_next_hop_does_not() -> None:
    world = World()
    await world.enqueue(notify=frozenset({Notify.SUCCESS}))
    await world.worker.attempt(await world.claim())
    (notice,) = await world.notices_to()
    assert b"Action: relayed" in notice
    world.transport.hosts["mx.example.test"].dsn = True
    await world.enqueue(notify=frozenset({Notify.SUCCESS}))
    await world.worker.attempt(await world.claim())
    assert await world.notices_to() == []


async def test_one_line_is_logged_for_each_recipient(caplog: pytest.LogCaptureFixture) -> None:
    world = World()
    world.publish("example.test", "77", "enforce", "mx.example.test")
    world.transport.hosts["mx.example.test"].replies = {"b@example.test": Reply(451, ("4.2.0 later",))}
    with caplog.at_level(logging.INFO, "relay"):
        await world.attempt("a@example.test", "b@example.test")
    lines = [record for record in caplog.records if record.message.startswith("recipient.")]
    assert [line.message for line in lines] == ["recipient.delivered", "recipient.deferred"]
    shown, deferred = fields(lines[0]), fields(lines[1])
    assert shown["mx"] == "mx.example.test"
    assert shown["tls_version"] == "TLSv1.3"
    assert shown["tls_cipher"] == "TLS_AES_256_GCM_SHA384"
    assert (shown["security"], shown["policy_id"], shown["policy_mode"]) == ("sts", "77", "enforce")
    assert (shown["status"], shown["reply"]) == ("2.0.0", "250 2.0.0 queued")
    assert shown["retry_in_seconds"] is None
    assert deferred["retry_in_seconds"] == 300
    assert world.metric("deliveries_total", security="sts", tls_version="TLSv1.3") == 1
    assert world.metric("recipients_total", outcome="deferred", status_class="4") == 1


async def test_shared_failures_are_written_as_attempts_of_their_own() -> None:
    world = World()
    world.transport.hosts["mx.example.test"].down = down(FailureKind.TIMEOUT)
    first, second = await world.job(), await world.job()
    ended = await world.worker.attempt(first)
    assert ended is not None
    assert ended.unreachable
    await world.worker.share(second, ended)
    entry = await world.entry(second)
    assert (entry.state, entry.recipients[0].status) == (State.QUEUED, "4.4.315")
    assert len(world.transport.contacted) == 1


@pytest.mark.parametrize("size", [1000, BLOCK, BLOCK + 1])
async def test_content_is_handed_over_as_it_is_or_read_for_each_host_anew(size: int) -> None:
    world = World()
    world.domain("example.test", "mx.example.test", "mx2.example.test")
    for name in ("mx.example.test", "mx2.example.test"):
        world.transport.hosts[name].replies = {"bob@example.test": Reply(451, ("4.3.0 later",))}
    content = b"Subject: x\r\n\r\n"
    content += b"x" * (size - len(content))
    (in_memory,) = await world.enqueue(content=content, lease=frozenset({"example.test"}))
    await world.worker.attempt(in_memory)
    await world.enqueue(content=content)
    await world.worker.attempt(await world.claim())
    first, second, *read = [parcel.content for _, parcel in world.transport.sent]
    assert first is second is in_memory.content
    for one in read:
        assert callable(one) is (size > BLOCK), "only a small content is read before the host wants it"
        assert (b"".join([piece async for piece in one()]) if callable(one) else one) == content
    assert len(read) == 2


async def test_content_that_is_gone_defers_and_does_not_bounce() -> None:
    world = World()
    job = await world.job()
    world.store.lose(job.message.queue_id)
    ended = await world.worker.attempt(job)
    entry = await world.entry(job)
    assert (entry.state, entry.recipients[0].status) == (State.QUEUED, "4.3.0")
    assert ended is not None
    assert not ended.unreachable, "other mail for the destination is none the worse for it"
    assert world.store.settlements[-1].cool_destination is None


async def test_a_host_that_gave_way_to_others_is_tried_later() -> None:
    world = World(line_seconds=0.01, slots_settings=SlotSettings(max_connections=4, max_connections_per_destination=1))
    world.domain("slow.test", "mx.slow.test")
    world.transport.hosts["mx.slow.test"].connect_gate = asyncio.Event()
    slow, fresh = await world.job("bob@slow.test"), await world.job()
    attempt = asyncio.create_task(world.worker.attempt(slow))
    await asyncio.wait_for(world.transport.started.wait(), 5)
    await asyncio.wait_for(world.worker.attempt(fresh), 5)
    await attempt
    assert (await world.entry(fresh)).state is State.DELIVERED
    entry = await world.entry(slow)
    assert (entry.state, entry.recipients[0].status) == (State.QUEUED, "4.4.315")


async def test_after_drain_no_host_is_contacted_any_more() -> None:
    world = World()
    world.worker.drain()
    entry = await world.attempt()
    assert (entry.state, entry.attempts) == (State.QUEUED, 0)
    assert world.transport.contacted == []


async def test_an_ndr_to_an_address_that_is_none_is_reported_and_harms_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    world = World()
    with caplog.at_level(logging.ERROR, "relay"):
        entry = await world.attempt("bob@nowhere.test", reverse_path="alice@-bad-.test")
    assert entry.state is State.FAILED
    assert [record.message for record in caplog.records] == ["notice.impossible"]


async def test_ret_full_gets_the_whole_message_back() -> None:
    world = World()
    await world.enqueue("bob@nowhere.test", ret=Ret.FULL)
    await world.worker.attempt(await world.claim("nowhere.test"))
    (ndr,) = await world.notices_to()
    assert b"\r\nhello\r\n" in ndr


async def test_new_settings_hold_from_the_next_attempt_on() -> None:
    world, other = World(), World()
    world.worker.use(router=other.router, transport=other.transport, notices=world.notices, schedule=ScheduleSettings())
    assert (await world.attempt()).state is State.DELIVERED
    assert world.transport.contacted == []
    assert other.hosts_contacted() == ["mx.example.test"]
