"""What every QueueStore keeps to. Subclass it in a test file that has `clock` and `store` fixtures."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from policy_fakes import ManualClock

from policy.requirement import Level, MxMatch
from relay.queue.attempt import Action, Attempt, HostAttempt, HostFailure, Outcome, Phase, Security
from relay.queue.attempt import FailureKind as Kind
from relay.queue.message import (
    Client,
    Envelope,
    HoldReason,
    Job,
    NewMessage,
    NewRecipient,
    Notify,
    Origin,
    Ret,
    State,
    StoredContent,
)
from relay.status import Reply, Status
from relay.store.protocols import (
    LeaseLostError,
    QueueEntry,
    QueueFilter,
    QueueStore,
    SettledRecipient,
    Settlement,
    StoreError,
    Verdict,
)

START = datetime(2026, 1, 1, 12, tzinfo=UTC)
SECOND, MINUTE, HOUR, DAY = timedelta(seconds=1), timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
LEASE = 2 * MINUTE
RETAIN = 7 * DAY
CONTENT = b"Received: by relay.test\r\nSubject: hello\r\n\r\nbody\r\n"
ALL = QueueFilter(all=True)
OK, TEMPORARY, PERMANENT = Status(2, 0, 0), Status(4, 4, 1), Status(5, 1, 1)


def message(
    queue_id: str, *forward_paths: str, content: bytes | StoredContent = CONTENT, reverse_path: str = "a@from.test"
) -> NewMessage:
    """A message to the forward-paths; the destination of each is what follows its "@"."""
    recipients = tuple(
        NewRecipient(forward_path=path, destination=path.rpartition("@")[2]) for path in forward_paths or ("b@to.test",)
    )
    return NewMessage(
        queue_id=queue_id, envelope=Envelope(reverse_path=reverse_path), recipients=recipients, content=content
    )


def notice(queue_id: str) -> NewMessage:
    return replace(message(queue_id, "a@from.test", reverse_path=""), origin=Origin.RELAY)


def settlement(job: Job, *verdicts: Verdict, retry_in: timedelta | None = None) -> Settlement:
    """A settlement with one verdict for all, or one for each; those queued again wait an hour if nothing is said."""
    told = verdicts * len(job.recipients) if len(verdicts) == 1 else verdicts
    statuses = {Verdict.DELIVERED: OK, Verdict.FAILED: PERMANENT, Verdict.QUEUED: TEMPORARY}
    return Settlement(
        job=job,
        recipients=tuple(
            SettledRecipient(
                recipient_id=recipient.id, verdict=verdict, status=statuses[verdict], diagnostic=f"is {verdict.value}"
            )
            for recipient, verdict in zip(job.recipients, told, strict=True)
        ),
        attempt=None,
        retry_in=HOUR if retry_in is None and Verdict.QUEUED in told else retry_in,
    )


def attempt(number: int, recipient_id: int = 1) -> Attempt:
    """A record with something in every corner."""
    host = HostAttempt(
        mx_host="mx.to.test",
        address="192.0.2.1",
        port=25,
        phase=Phase.RCPT,
        level=Level.VERIFIED,
        mx_match=MxMatch.MATCHED,
        security=Security.STS,
        reply=Reply(451, ("4.7.1 later", "caf\u00e9 \u2028")),
        failure=HostFailure(kind=Kind.REPLY, detail="greylisted", reply=Reply(451)),
    )
    outcome = Outcome(
        recipient_id=recipient_id, action=Action.DEFERRED, status=TEMPORARY, diagnostic="later", refused=True
    )
    at = START + timedelta(microseconds=number)
    return Attempt(number=number, started_at=at, finished_at=at + SECOND, hosts=(host,), outcomes=(outcome,))


async def read(store: QueueStore, queue_id: str) -> bytes:
    pieces = [piece async for piece in store.content(queue_id)]
    assert all(0 < len(piece) <= 65536 for piece in pieces)
    return b"".join(pieces)


async def claim_one(store: QueueStore, destination: str = "to.test") -> Job:
    (job,) = await store.claim(destination, 1)
    return job


async def entry(store: QueueStore, queue_id: str) -> QueueEntry:
    (found,) = await store.show(queue_id)
    return found


async def queue_ids(store: QueueStore, which: QueueFilter = ALL) -> list[str]:
    return [found.message.queue_id for found in await store.list(which, 1000)]


async def names(store: QueueStore, limit: int = 100) -> list[str]:
    return list(await store.due_destinations(limit))


def ids(jobs: Sequence[Job]) -> list[str]:
    return [job.message.queue_id for job in jobs]


class QueueStoreContract:
    """The contract of relay.store.protocols.QueueStore. The store under test: leases of 2 minutes, five lapses in a
    row are poison, traces stay 7 days."""

    @pytest.fixture
    def clock(self) -> ManualClock:
        return ManualClock(START)

    @pytest.fixture
    def store(self, clock: ManualClock) -> QueueStore:
        raise NotImplementedError

    # -- taking messages in

    @pytest.mark.rfc("5321-4.5.4.1-c")
    async def test_a_message_comes_back_as_it_was_enqueued(self, store: QueueStore) -> None:
        new = NewMessage(
            queue_id="Q1",
            envelope=Envelope(reverse_path="\u00fc@from.test", ret=Ret.HDRS, envid="Ab+2B1", smtputf8=True),
            recipients=(
                NewRecipient(forward_path="b@to.test", destination="to.test", notify=frozenset(), orcpt="rfc822;B@x"),
                NewRecipient(
                    forward_path="c@to.test",
                    destination="to.test",
                    notify=frozenset({Notify.DELAY, Notify.FAILURE, Notify.SUCCESS}),
                ),
                NewRecipient(forward_path="d@to.test", destination="to.test"),
            ),
            content=CONTENT,
            message_id="<1@from.test>",
            eight_bit=True,
            utf8_header=True,
            require_tls=True,
            client=Client(
                address="192.0.2.7", helo="old.test", tls_version="TLSv1.3", tls_cipher="AES", user="o'brien"
            ),
        )
        assert await store.enqueue(new) == []
        found = await entry(store, "Q1")
        assert found.message.accepted_at == START
        assert found.message.accepted_at.utcoffset() == timedelta(0)
        kept = ("queue_id", "envelope", "size", "origin", "message_id", "eight_bit", "utf8_header", "client")
        for name in (*kept, "require_tls", "tls_optional"):
            assert getattr(found.message, name) == getattr(new, name)
        assert (found.state, found.attempts, found.next_attempt_at) == (State.QUEUED, 0, START)
        assert [(r.forward_path, r.notify, r.orcpt) for r in found.recipients] == [
            (r.forward_path, r.notify, r.orcpt) for r in new.recipients
        ]
        job = await claim_one(store)
        assert job.message == found.message
        assert [(r.forward_path, r.notify, r.orcpt) for r in job.recipients] == [
            (r.forward_path, r.notify, r.orcpt) for r in new.recipients
        ]
        assert await read(store, "Q1") == CONTENT

    @pytest.mark.rfc("8689-4.1-a", "8689-4.1-d")
    @pytest.mark.parametrize(("required", "optional"), [(True, False), (False, True)])
    async def test_what_a_message_says_about_tls_holds_for_each_of_its_jobs(
        self, store: QueueStore, *, required: bool, optional: bool
    ) -> None:
        new = message("Q1", "b@one.test", "c@two.test")
        await store.enqueue(replace(new, require_tls=required, tls_optional=optional))
        await store.enqueue(message("Q2", "b@one.test"))
        said, silent = await store.claim("one.test", 2)
        (other,) = await store.claim("two.test", 1)
        assert [(m.require_tls, m.tls_optional) for m in (said.message, other.message, silent.message)] == [
            (required, optional),
            (required, optional),
            (False, False),
        ]

    async def test_times_keep_their_microseconds(self, store: QueueStore, clock: ManualClock) -> None:
        clock.set(START + timedelta(microseconds=123457))
        (job,) = await store.enqueue(message("Q1"), frozenset({"to.test"}))
        assert job.message.accepted_at == clock.now()
        assert (await entry(store, "Q1")).message == job.message

    @pytest.mark.rfc("5321-4.5.4.1-a")
    async def test_the_recipients_at_one_destination_are_one_job(self, store: QueueStore) -> None:
        await store.enqueue(message("Q1", "a@one.test", "b@two.test", "c@one.test"))
        assert [e.destination for e in await store.show("Q1")] == ["one.test", "two.test"]
        job = await claim_one(store, "one.test")
        assert [recipient.forward_path for recipient in job.recipients] == ["a@one.test", "c@one.test"]

    async def test_the_same_forward_path_twice_is_two_recipients(self, store: QueueStore) -> None:
        await store.enqueue(message("Q1", "b@to.test", "b@to.test"))
        job = await claim_one(store)
        assert len({recipient.id for recipient in job.recipients}) == 2

    async def test_a_job_leased_at_once_is_counted_and_carries_its_content(self, store: QueueStore) -> None:
        jobs = await store.enqueue(message("Q1", "b@to.test", "c@other.test"), frozenset({"to.test", "else.test"}))
        assert [(job.destination, job.attempts, job.content) for job in jobs] == [("to.test", 1, CONTENT)]
        assert await store.claim("to.test", 10) == []
        assert await names(store) == ["other.test"]
        await store.settle(settlement(jobs[0], Verdict.DELIVERED))

    async def test_a_job_leased_at_once_is_the_same_as_one_read_back(
        self, store: QueueStore, clock: ManualClock
    ) -> None:
        (first,) = await store.enqueue(message("Q1"), frozenset({"to.test"}))
        await store.settle(settlement(first, Verdict.QUEUED, retry_in=MINUTE))
        clock.move(MINUTE)
        second = await claim_one(store)
        assert second.lease.fence > first.lease.fence
        assert replace(second, attempts=1, lease=first.lease) == first

    async def test_nothing_is_leased_past_due_work(self, store: QueueStore) -> None:
        await store.enqueue(message("Q1"))
        assert await store.enqueue(message("Q2"), frozenset({"to.test"})) == []
        assert ids(await store.claim("to.test", 10)) == ["Q1", "Q2"]

    async def test_work_that_is_due_later_does_not_stand_before(self, store: QueueStore) -> None:
        (first,) = await store.enqueue(message("Q1"), frozenset({"to.test"}))
        await store.settle(settlement(first, Verdict.QUEUED))
        assert ids(await store.enqueue(message("Q2"), frozenset({"to.test"}))) == ["Q2"]

    async def test_nothing_is_leased_at_a_destination_that_is_paused(self, store: QueueStore) -> None:
        await store.pause("to.test")
        assert await store.enqueue(message("Q1"), frozenset({"to.test"})) == []
        assert await names(store) == []

    async def test_nothing_is_leased_at_a_destination_that_is_cooled(
        self, store: QueueStore, clock: ManualClock
    ) -> None:
        (job,) = await store.enqueue(message("Q1"), frozenset({"to.test"}))
        await store.settle(replace(settlement(job, Verdict.DELIVERED), cool_destination=MINUTE))
        assert await store.enqueue(message("Q2"), frozenset({"to.test"})) == []
        clock.move(MINUTE)
        assert await names(store) == ["to.test"]

    async def test_a_queue_id_is_taken_once_and_a_refused_message_leaves_nothing(self, store: QueueStore) -> None:
        await store.enqueue(message("Q1"))
        before = await store.destinations(10)
        with pytest.raises(StoreError):
            await store.enqueue(message("Q1", "x@else.test"))
        assert await store.destinations(10) == before
        assert len(await store.show("Q1")) == 1

    async def test_many_at_once_are_all_taken_in_order(self, store: QueueStore) -> None:
        await asyncio.gather(*(store.enqueue(message(f"Q{number:03}")) for number in range(100)))
        assert await queue_ids(store) == [f"Q{number:03}" for number in range(100)]

    @pytest.mark.parametrize("size", [0, 1, 65536, 65537, 262144, 262145, 1_000_000, 1_048_576, 1_048_577, 3_000_000])
    async def test_content_of_any_size_is_read_back_in_pieces(self, store: QueueStore, size: int) -> None:
        content = bytes(range(251)) * (size // 251 + 1)
        jobs = await store.enqueue(message("Q1", content=content[:size]), frozenset({"to.test"}))
        assert await read(store, "Q1") == content[:size]
        assert jobs[0].content == (content[:size] if size <= 1_048_576 else None)
        assert jobs[0].message.size == size

    @pytest.mark.parametrize("sizes", [(1,), (262144,), (100_000,) * 7, (1_500_000, 3)])
    async def test_uploaded_content_is_seen_once_a_message_names_it(
        self, store: QueueStore, sizes: tuple[int, ...]
    ) -> None:
        upload = await store.begin_upload()
        for number, size in enumerate(sizes):
            await upload.append(bytes([number]) * size)
        stored = await upload.finish()
        assert stored.size == sum(sizes)
        assert await queue_ids(store) == []
        jobs = await store.enqueue(message("Q1", content=stored), frozenset({"to.test"}))
        assert jobs[0].content is None
        assert jobs[0].message.size == sum(sizes)
        await upload.discard()
        assert await read(store, "Q1") == b"".join(bytes([n]) * size for n, size in enumerate(sizes))

    async def test_uploads_do_not_mix(self, store: QueueStore) -> None:
        uploads = [await store.begin_upload() for _ in range(3)]
        for _ in range(5):
            for number, upload in enumerate(uploads):
                await upload.append(bytes([number]) * 123_456)
        for number, upload in enumerate(uploads):
            await store.enqueue(message(f"Q{number}", content=await upload.finish()))
        for number in range(3):
            assert await read(store, f"Q{number}") == bytes([number]) * (5 * 123_456)

    async def test_discarded_content_cannot_be_named(self, store: QueueStore) -> None:
        upload = await store.begin_upload()
        await upload.append(CONTENT)
        stored = await upload.finish()
        await upload.discard()
        await upload.discard()
        with pytest.raises(StoreError):
            await store.enqueue(message("Q1", content=stored))
        assert await queue_ids(store) == []

    async def test_uploaded_content_is_named_by_one_message_only(self, store: QueueStore) -> None:
        upload = await store.begin_upload()
        await upload.append(CONTENT)
        stored = await upload.finish()
        await store.enqueue(message("Q1", content=stored))
        with pytest.raises(StoreError):
            await store.enqueue(message("Q2", content=stored))
        assert await read(store, "Q1") == CONTENT

    async def test_there_is_room(self, store: QueueStore) -> None:
        assert await store.room_for(1000)

    @pytest.mark.parametrize(
        ("content", "max_bytes", "section"),
        [
            (b"A: 1\r\nB: 2\r\n\r\nbody\r\n", 100, b"A: 1\r\nB: 2\r\n\r\n"),
            (b"A: 1\r\nB: 2\r\n\r\nbody\r\n", 14, b"A: 1\r\nB: 2\r\n\r\n"),
            (b"A: 1\r\nB: 2\r\n\r\nbody\r\n", 13, b"A: 1\r\nB: 2\r\n"),
            (b"A: 1\r\nB: 2\r\n\r\nbody\r\n", 11, b"A: 1\r\n"),
            (b"A: 1\r\nB: 2\r\n", 100, b"A: 1\r\nB: 2\r\n"),
            (b"\r\nbody\r\n", 100, b"\r\n"),
            (b"A: " + b"x" * 50 + b"\r\n\r\n", 10, b""),
            (b"A: " + b"x" * 300_000 + b"\r\nB: 2\r\n\r\nbody", 400_000, b"A: " + b"x" * 300_000 + b"\r\nB: 2\r\n\r\n"),
            (b"A: 1\r\n" + b"x" * 300_000, 262_144, b"A: 1\r\n"),
            (b"", 100, b""),
        ],
    )
    async def test_headers_end_with_the_empty_line_or_at_a_line(
        self, store: QueueStore, content: bytes, max_bytes: int, section: bytes
    ) -> None:
        await store.enqueue(message("Q1", content=content))
        assert await store.headers("Q1", max_bytes) == section

    async def test_there_is_no_content_of_an_unknown_message(self, store: QueueStore) -> None:
        with pytest.raises(StoreError):
            await read(store, "Q1")
        with pytest.raises(StoreError):
            await store.headers("Q1")

    # -- claiming

    async def test_due_destinations_come_the_longest_due_first(self, store: QueueStore, clock: ManualClock) -> None:
        for number, name in enumerate(("late.test", "early.test", "middle.test")):
            (job,) = await store.enqueue(message(f"Q{number}", f"b@{name}"), frozenset({name}))
            await store.settle(settlement(job, Verdict.QUEUED, retry_in=(3 - number) * MINUTE))
        assert await names(store) == []
        clock.move(MINUTE)
        assert await names(store) == ["middle.test"]
        clock.move(2 * MINUTE)
        assert await names(store) == ["middle.test", "early.test", "late.test"]
        assert await names(store, 2) == ["middle.test", "early.test"]
        assert {row.name: row.due_in for row in await store.destinations(10)}["middle.test"] == -2 * MINUTE

    async def test_a_claim_takes_the_longest_due_and_no_more_than_asked_for(
        self, store: QueueStore, clock: ManualClock
    ) -> None:
        await store.enqueue(message("Q1"))
        job = await claim_one(store)
        await store.settle(settlement(job, Verdict.QUEUED, retry_in=2 * MINUTE))
        clock.move(MINUTE)
        await store.enqueue(message("Q2"))
        await store.enqueue(message("Q3"))
        clock.move(MINUTE)
        await store.enqueue(message("Q4"))
        assert ids(await store.claim("to.test", 2)) == ["Q2", "Q3"]
        assert ids(await store.claim("to.test", 10)) == ["Q1", "Q4"]
        assert await store.claim("to.test", 10) == []

    async def test_a_tls_report_does_not_wait_behind_what_policy_refuses(
        self, store: QueueStore, clock: ManualClock
    ) -> None:
        for number in range(3):
            await store.enqueue(message(f"Q{number}"))
        clock.move(20 * HOUR)
        await store.enqueue(replace(message("R"), origin=Origin.REPORT))
        assert ids(await store.claim("to.test", 1)) == ["R"]
        assert ids(await store.claim("to.test", 10)) == ["Q0", "Q1", "Q2"]

    async def test_a_claim_is_counted_before_the_attempt(self, store: QueueStore) -> None:
        await store.enqueue(message("Q1"))
        assert (await claim_one(store)).attempts == 1
        assert (await entry(store, "Q1")).attempts == 1
        assert (await entry(store, "Q1")).state is State.LEASED

    async def test_a_claim_leaves_other_destinations_alone(self, store: QueueStore) -> None:
        await store.enqueue(message("Q1", "a@one.test", "b@two.test"))
        assert await store.claim("else.test", 10) == []
        await claim_one(store, "one.test")
        assert await names(store) == ["two.test"]

    @pytest.mark.rfc("5321-4.5.4.1-g")
    async def test_a_cooled_destination_costs_nothing_until_it_is_over(
        self, store: QueueStore, clock: ManualClock
    ) -> None:
        for number in range(5):
            await store.enqueue(message(f"Q{number}"))
        job = await claim_one(store)
        await store.settle(replace(settlement(job, Verdict.QUEUED), cool_destination=10 * MINUTE))
        assert await names(store) == []
        assert await store.claim("to.test", 10) == []
        (row,) = await store.destinations(10)
        assert row.due_in == 10 * MINUTE
        clock.move(10 * MINUTE)
        assert await names(store) == ["to.test"]
        assert len(await store.claim("to.test", 10)) == 4

    async def test_a_shorter_cool_down_does_not_end_a_longer_one(self, store: QueueStore) -> None:
        await store.enqueue(message("Q1"))
        await store.enqueue(message("Q2"))
        first, second = await store.claim("to.test", 2)
        await store.settle(replace(settlement(first, Verdict.QUEUED, retry_in=SECOND), cool_destination=HOUR))
        await store.settle(replace(settlement(second, Verdict.QUEUED, retry_in=SECOND), cool_destination=MINUTE))
        (row,) = await store.destinations(10)
        assert row.due_in == HOUR

    # -- settling

    async def test_a_delivered_message_is_final_and_its_content_goes(self, store: QueueStore) -> None:
        (job,) = await store.enqueue(message("Q1"), frozenset({"to.test"}))
        await store.settle(replace(settlement(job, Verdict.DELIVERED), attempt=attempt(1)))
        found = await entry(store, "Q1")
        assert (found.state, found.next_attempt_at) == (State.DELIVERED, None)
        assert [(r.state, r.status, r.diagnostic) for r in found.recipients] == [
            (State.DELIVERED, "2.0.0", "is delivered")
        ]
        with pytest.raises(StoreError):
            await read(store, "Q1")
        assert await names(store) == []
        assert all(row.queued == row.in_flight == row.queued_bytes == 0 for row in await store.destinations(10))

    async def test_content_stays_until_the_last_recipient_is_final(self, store: QueueStore) -> None:
        await store.enqueue(message("Q1", "a@one.test", "b@two.test"))
        await store.settle(settlement(await claim_one(store, "one.test"), Verdict.FAILED))
        assert await read(store, "Q1") == CONTENT
        await store.settle(settlement(await claim_one(store, "two.test"), Verdict.DELIVERED))
        with pytest.raises(StoreError):
            await read(store, "Q1")
        assert [e.state for e in await store.show("Q1")] == [State.FAILED, State.DELIVERED]

    async def test_big_content_goes_as_well(self, store: QueueStore) -> None:
        (job,) = await store.enqueue(message("Q1", content=b"x" * 3_000_000), frozenset({"to.test"}))
        await store.settle(settlement(job, Verdict.DELIVERED))
        with pytest.raises(StoreError):
            await read(store, "Q1")
        with pytest.raises(StoreError):
            await store.headers("Q1")

    async def test_only_the_recipients_that_wait_are_tried_again(self, store: QueueStore, clock: ManualClock) -> None:
        (job,) = await store.enqueue(message("Q1", "a@to.test", "b@to.test", "c@to.test"), frozenset({"to.test"}))
        await store.settle(settlement(job, Verdict.FAILED, Verdict.QUEUED, Verdict.DELIVERED, retry_in=MINUTE))
        found = await entry(store, "Q1")
        assert (found.state, found.next_attempt_at) == (State.QUEUED, START + MINUTE)
        assert [r.state for r in found.recipients] == [State.FAILED, State.QUEUED, State.DELIVERED]
        assert [r.status for r in found.recipients] == ["5.1.1", "4.4.1", "2.0.0"]
        clock.move(MINUTE)
        again = await claim_one(store)
        assert (again.recipients, again.attempts) == (job.recipients[1:2], 2)
        await store.settle(settlement(again, Verdict.DELIVERED))
        found = await entry(store, "Q1")
        assert found.state is State.FAILED
        assert [r.state for r in found.recipients] == [State.FAILED, State.DELIVERED, State.DELIVERED]

    @pytest.mark.rfc("3464-3-c")
    async def test_a_lease_settles_once(self, store: QueueStore) -> None:
        (job,) = await store.enqueue(message("Q1"), frozenset({"to.test"}))
        await store.settle(settlement(job, Verdict.QUEUED))
        with pytest.raises(LeaseLostError):
            await store.settle(settlement(job, Verdict.DELIVERED))
        assert (await entry(store, "Q1")).state is State.QUEUED

    async def test_an_old_fence_writes_nothing_neither_notices_nor_records(
        self, store: QueueStore, clock: ManualClock
    ) -> None:
        (old,) = await store.enqueue(message("Q1"), frozenset({"to.test"}))
        clock.move(LEASE)
        await store.sweep()
        new = await claim_one(store)
        late = replace(settlement(old, Verdict.FAILED), notices=(notice("N1"),), attempt=attempt(1))
        with pytest.raises(LeaseLostError):
            await store.settle(late)
        with pytest.raises(LeaseLostError):
            await store.hold(old, HoldReason.POISON)
        with pytest.raises(LeaseLostError):
            await store.drop(old, (notice("N2"),))
        assert await queue_ids(store) == ["Q1"]
        assert (await entry(store, "Q1")).attempts_made == ()
        await store.settle(settlement(new, Verdict.DELIVERED))

    async def test_a_lease_of_another_incarnation_settles_nothing(self, store: QueueStore) -> None:
        (job,) = await store.enqueue(message("Q1"), frozenset({"to.test"}))
        foreign = replace(job, lease=replace(job.lease, incarnation="else"))
        with pytest.raises(LeaseLostError):
            await store.settle(settlement(foreign, Verdict.DELIVERED))

    async def test_a_lease_that_ran_out_may_settle_while_nobody_else_has_the_job(
        self, store: QueueStore, clock: ManualClock
    ) -> None:
        (job,) = await store.enqueue(message("Q1"), frozenset({"to.test"}))
        clock.move(10 * LEASE)
        await store.settle(settlement(job, Verdict.DELIVERED))
        assert (await entry(store, "Q1")).state is State.DELIVERED

    async def test_notices_are_queued_with_the_settlement(self, store: QueueStore) -> None:
        (job,) = await store.enqueue(message("Q1"), frozenset({"to.test"}))
        await store.settle(replace(settlement(job, Verdict.FAILED), notices=(notice("N1"), notice("N2"))))
        found = await entry(store, "N1")
        assert (found.message.origin, found.message.envelope.reverse_path) == (Origin.RELAY, "")
        assert await read(store, "N2") == CONTENT
        assert ids(await store.claim("from.test", 10)) == ["N1", "N2"]

    async def test_a_notice_that_cannot_be_queued_undoes_the_settlement(self, store: QueueStore) -> None:
        (job,) = await store.enqueue(message("Q1"), frozenset({"to.test"}))
        missing = replace(notice("N1"), content=StoredContent(content_id=10**6, size=1))
        with pytest.raises(StoreError):
            await store.settle(replace(settlement(job, Verdict.FAILED), notices=(missing,)))

    async def test_an_attempt_that_is_not_charged_is_given_back(self, store: QueueStore) -> None:
        (job,) = await store.enqueue(message("Q1"), frozenset({"to.test"}))
        await store.settle(replace(settlement(job, Verdict.QUEUED, retry_in=timedelta(0)), charged=False))
        again = await claim_one(store)
        assert again.attempts == 1
        await store.settle(replace(settlement(again, Verdict.QUEUED), charged=False, retry_in=None))
        assert (await claim_one(store)).attempts == 1

    async def test_a_charged_attempt_cannot_be_queued_again_at_once_for_want_of_a_time(self, store: QueueStore) -> None:
        (job,) = await store.enqueue(message("Q1"), frozenset({"to.test"}))
        with pytest.raises(ValueError, match="retry"):
            await store.settle(replace(settlement(job, Verdict.QUEUED), retry_in=None))

    async def test_a_delay_notice_is_remembered(self, store: QueueStore, clock: ManualClock) -> None:
        (job,) = await store.enqueue(message("Q1"), frozenset({"to.test"}))
        assert not job.delay_notified
        await store.settle(replace(settlement(job, Verdict.QUEUED), delay_notified=True))
        for _ in range(2):
            clock.move(HOUR)
            job = await claim_one(store)
            assert job.delay_notified
            await store.settle(settlement(job, Verdict.QUEUED))

    async def test_the_first_and_the_last_ten_records_are_kept(self, store: QueueStore, clock: ManualClock) -> None:
        await store.enqueue(message("Q1"))
        for number in range(1, 26):
            job = await claim_one(store)
            await store.settle(replace(settlement(job, Verdict.QUEUED), attempt=attempt(number)))
            clock.move(HOUR)
        made = (await entry(store, "Q1")).attempts_made
        assert [record.number for record in made] == [1, *range(16, 26)]
        assert made == tuple(attempt(record.number) for record in made)

    async def test_a_list_spares_the_records(self, store: QueueStore) -> None:
        (job,) = await store.enqueue(message("Q1"), frozenset({"to.test"}))
        await store.settle(replace(settlement(job, Verdict.QUEUED), attempt=attempt(1)))
        assert [found.attempts_made for found in await store.list(ALL, 10)] == [()]

    @pytest.mark.rfc("3461-5.2-b")
    async def test_a_double_bounce_is_held_with_its_content(self, store: QueueStore, clock: ManualClock) -> None:
        (job,) = await store.enqueue(message("Q1", "a@to.test", "b@to.test"), frozenset({"to.test"}))
        held = replace(settlement(job, Verdict.QUEUED, Verdict.FAILED), hold=HoldReason.DOUBLE_BOUNCE, retry_in=None)
        await store.settle(held)
        found = await entry(store, "Q1")
        assert (found.state, found.hold_reason, found.next_attempt_at) == (State.HELD, HoldReason.DOUBLE_BOUNCE, None)
        assert [r.state for r in found.recipients] == [State.HELD, State.FAILED]
        clock.move(30 * DAY)
        assert await store.sweep() in ([], ())
        assert await names(store) == []
        assert await read(store, "Q1") == CONTENT

    # -- leases that end otherwise

    async def test_a_lapsed_lease_is_due_again_and_charged(self, store: QueueStore, clock: ManualClock) -> None:
        await store.enqueue(message("Q1"))
        await claim_one(store)
        clock.move(LEASE - SECOND)
        assert not await store.sweep()
        assert await names(store) == []
        clock.move(SECOND)
        assert not await store.sweep()
        assert await names(store) == ["to.test"]
        assert (await claim_one(store)).attempts == 2

    async def test_the_fifth_lapse_in_a_row_is_held_as_poison_and_told(
        self, store: QueueStore, clock: ManualClock
    ) -> None:
        await store.enqueue(message("Q1"))
        for _ in range(4):
            await claim_one(store)
            clock.move(LEASE)
            assert not await store.sweep()
        await claim_one(store)
        clock.move(LEASE)
        (poison,) = await store.sweep()
        assert (poison.message.queue_id, poison.state) == ("Q1", State.HELD)
        assert (poison.hold_reason, poison.attempts) == (HoldReason.POISON, 5)
        assert not await store.sweep()
        assert await names(store) == []
        assert await read(store, "Q1") == CONTENT

    async def test_an_attempt_that_ends_begins_the_count_of_lapses_anew(
        self, store: QueueStore, clock: ManualClock
    ) -> None:
        await store.enqueue(message("Q1"))
        for _ in range(3):
            for _ in range(4):
                await claim_one(store)
                clock.move(LEASE)
                assert not await store.sweep()
            await store.settle(settlement(await claim_one(store), Verdict.QUEUED))
            clock.move(HOUR)
        assert (await entry(store, "Q1")).state is State.QUEUED

    async def test_released_poison_gets_as_many_lapses_again(self, store: QueueStore, clock: ManualClock) -> None:
        await store.enqueue(message("Q1"))
        for _ in range(5):
            await claim_one(store)
            clock.move(LEASE)
            await store.sweep()
        assert await store.release(ALL) == 1
        await claim_one(store)
        clock.move(LEASE)
        assert not await store.sweep()

    async def test_a_renewed_lease_does_not_lapse(self, store: QueueStore, clock: ManualClock) -> None:
        (job,) = await store.enqueue(message("Q1"), frozenset({"to.test"}))
        for _ in range(4):
            clock.move(LEASE - SECOND)
            await store.renew()
            await store.sweep()
        await store.settle(settlement(job, Verdict.DELIVERED))

    async def test_leases_can_be_renewed_by_name(self, store: QueueStore, clock: ManualClock) -> None:
        await store.enqueue(message("Q1"))
        await store.enqueue(message("Q2"))
        first, _ = await store.claim("to.test", 2)
        clock.move(MINUTE)
        await store.renew([first])
        clock.move(MINUTE)
        await store.sweep()
        assert ids(await store.claim("to.test", 2)) == ["Q2"]

    async def test_a_leased_job_can_be_held(self, store: QueueStore) -> None:
        (job,) = await store.enqueue(message("Q1"), frozenset({"to.test"}))
        await store.hold(job, HoldReason.POISON)
        found = await entry(store, "Q1")
        assert (found.state, found.hold_reason) == (State.HELD, HoldReason.POISON)
        with pytest.raises(LeaseLostError):
            await store.settle(settlement(job, Verdict.DELIVERED))

    # -- what operators do

    async def test_an_empty_filter_means_nothing(self, store: QueueStore) -> None:
        await store.enqueue(message("Q1"))
        assert await store.list(QueueFilter(), 10) == []
        assert await store.retry(QueueFilter()) == 0
        assert await store.operator_hold(QueueFilter()) == 0
        assert await store.release(QueueFilter()) == 0
        assert await store.claim_for_drop(QueueFilter(), 10) == []

    @pytest.mark.parametrize(
        ("which", "found"),
        [
            (ALL, ["Q1", "Q2", "Q3", "Q4"]),
            (QueueFilter(ids=("Q2", "Q4", "nonesuch")), ["Q2", "Q4"]),
            (QueueFilter(ids=("' OR 1=1 --",)), []),
            (QueueFilter(domain="two.test"), ["Q2", "Q4"]),
            (QueueFilter(domain="two.test", all=True), ["Q2", "Q4"]),
            (QueueFilter(sender="Boss@from.TEST"), ["Q2"]),
            (QueueFilter(sender=""), ["Q3"]),
            (QueueFilter(states=frozenset({State.HELD})), ["Q3"]),
            (QueueFilter(states=frozenset({State.QUEUED, State.LEASED})), ["Q1", "Q2", "Q4"]),
            (QueueFilter(older_than=MINUTE), ["Q1", "Q2"]),
            (QueueFilter(domain="two.test", older_than=MINUTE), ["Q2"]),
            (QueueFilter(ids=("Q1", "Q2"), domain="two.test", sender="boss@from.test"), ["Q2"]),
        ],
    )
    async def test_a_filter_means_jobs_that_meet_all_of_it(
        self, store: QueueStore, clock: ManualClock, which: QueueFilter, found: list[str]
    ) -> None:
        await store.enqueue(message("Q1", "a@one.test"))
        await store.enqueue(message("Q2", "a@two.test", reverse_path="boss@from.test"))
        clock.move(MINUTE)
        await store.enqueue(message("Q3", "a@three.test", reverse_path=""))
        await store.operator_hold(QueueFilter(ids=("Q3",)))
        await store.enqueue(message("Q4", "a@two.test"))
        await store.claim("one.test", 1)
        assert await queue_ids(store, which) == found

    async def test_a_list_is_bounded(self, store: QueueStore) -> None:
        for number in range(5):
            await store.enqueue(message(f"Q{number}"))
        assert [e.message.queue_id for e in await store.list(ALL, 2)] == ["Q0", "Q1"]

    async def test_nothing_is_shown_of_an_unknown_message(self, store: QueueStore) -> None:
        assert list(await store.show("Q1")) == []

    async def test_retry_makes_queued_jobs_due_and_ends_the_cool_down(self, store: QueueStore) -> None:
        (job,) = await store.enqueue(message("Q1"), frozenset({"to.test"}))
        await store.settle(replace(settlement(job, Verdict.QUEUED), cool_destination=HOUR))
        (_,) = await store.enqueue(message("Q2", "b@else.test"), frozenset({"else.test"}))
        assert await store.retry(ALL) == 1
        assert await names(store) == ["to.test"]
        assert ids(await store.claim("to.test", 10)) == ["Q1"]

    async def test_held_jobs_wait_for_release_and_the_time_does_not_count(
        self, store: QueueStore, clock: ManualClock
    ) -> None:
        await store.enqueue(message("Q1"))
        assert await store.operator_hold(ALL) == 1
        assert await store.operator_hold(ALL) == 0
        assert await names(store) == []
        found = await entry(store, "Q1")
        assert (found.state, found.hold_reason) == (State.HELD, HoldReason.OPERATOR)
        clock.move(DAY)
        assert await store.release(ALL) == 1
        assert await store.release(ALL) == 0
        clock.move(HOUR)
        job = await claim_one(store)
        assert job.held_for == DAY
        await store.settle(settlement(job, Verdict.QUEUED))
        await store.operator_hold(ALL)
        clock.move(HOUR)
        await store.release(ALL)
        assert (await claim_one(store)).held_for == DAY + HOUR

    async def test_release_ends_the_cool_down(self, store: QueueStore) -> None:
        (job,) = await store.enqueue(message("Q1"), frozenset({"to.test"}))
        await store.settle(replace(settlement(job, Verdict.QUEUED), cool_destination=HOUR))
        await store.operator_hold(ALL)
        assert await store.release(ALL) == 1
        assert ids(await store.claim("to.test", 10)) == ["Q1"]

    async def test_a_leased_job_is_left_alone(self, store: QueueStore) -> None:
        (job,) = await store.enqueue(message("Q1"), frozenset({"to.test"}))
        assert await store.retry(ALL) == 0
        assert await store.operator_hold(ALL) == 0
        assert await store.release(ALL) == 0
        assert await store.claim_for_drop(ALL, 10) == []
        await store.settle(settlement(job, Verdict.DELIVERED))

    async def test_dropping_ends_a_job_with_its_notices(self, store: QueueStore) -> None:
        await store.enqueue(message("Q1", "a@to.test", "b@to.test"))
        first = await claim_one(store)
        await store.settle(settlement(first, Verdict.DELIVERED, Verdict.QUEUED))
        (job,) = await store.claim_for_drop(ALL, 10)
        assert (job.attempts, [r.forward_path for r in job.recipients]) == (1, ["b@to.test"])
        await store.drop(job, (notice("N1"),))
        found = await entry(store, "Q1")
        assert found.state is State.DROPPED
        assert [r.state for r in found.recipients] == [State.DELIVERED, State.DROPPED]
        assert await queue_ids(store) == ["Q1", "N1"]
        with pytest.raises(StoreError):
            await read(store, "Q1")
        with pytest.raises(LeaseLostError):
            await store.drop(job, ())

    async def test_a_drop_that_was_not_finished_leaves_the_job_as_it_was(
        self, store: QueueStore, clock: ManualClock
    ) -> None:
        (job,) = await store.enqueue(message("Q1"), frozenset({"to.test"}))
        await store.settle(replace(settlement(job, Verdict.QUEUED), hold=HoldReason.DOUBLE_BOUNCE))
        await store.enqueue(message("Q2", "b@else.test"))
        for _ in range(6):
            assert len(await store.claim_for_drop(ALL, 10)) == 2
            clock.move(LEASE)
            assert not await store.sweep()
        held = await entry(store, "Q1")
        assert (held.state, held.hold_reason, held.attempts) == (State.HELD, HoldReason.DOUBLE_BOUNCE, 1)
        queued = await entry(store, "Q2")
        assert (queued.state, queued.next_attempt_at, queued.attempts) == (State.QUEUED, START, 0)
        await store.release(ALL)
        (job,) = await store.claim("to.test", 1)
        assert job.held_for == 6 * LEASE

    async def test_drops_are_claimed_by_filter_and_bounded(self, store: QueueStore) -> None:
        for number in range(5):
            await store.enqueue(message(f"Q{number}"))
        assert ids(await store.claim_for_drop(QueueFilter(ids=("Q3",)), 10)) == ["Q3"]
        assert ids(await store.claim_for_drop(ALL, 2)) == ["Q0", "Q1"]

    async def test_a_paused_domain_keeps_its_mail_new_mail_too(self, store: QueueStore) -> None:
        await store.enqueue(message("Q1"))
        await store.pause("to.test")
        await store.pause("never.test")
        await store.enqueue(message("Q2"))
        await store.retry(ALL)
        assert await names(store) == []
        assert await store.claim("to.test", 10) == []
        assert {row.name: row.paused for row in await store.destinations(10)} == {"to.test": True, "never.test": True}
        await store.resume("to.test")
        assert ids(await store.claim("to.test", 10)) == ["Q1", "Q2"]

    async def test_a_pause_outlives_the_mail_and_the_sweep(self, store: QueueStore, clock: ManualClock) -> None:
        await store.pause("to.test")
        clock.move(30 * DAY)
        await store.sweep()
        assert await store.enqueue(message("Q1"), frozenset({"to.test"})) == []
        assert await names(store) == []

    # -- waiting

    async def test_waiting_ends_with_new_work(self, store: QueueStore) -> None:
        waiting = asyncio.ensure_future(store.wait_for_work(HOUR))
        await store.enqueue(message("Q1"))
        async with asyncio.timeout(5):
            await waiting
        assert await names(store) == ["to.test"]

    async def test_work_before_the_wait_is_not_missed(self, store: QueueStore) -> None:
        await store.enqueue(message("Q1"))
        async with asyncio.timeout(5):
            await store.wait_for_work(HOUR)

    async def test_work_that_was_announced_is_not_announced_again(self, store: QueueStore, clock: ManualClock) -> None:
        await store.enqueue(message("Q1"))
        async with asyncio.timeout(5):
            await store.wait_for_work(HOUR)
        waiting = asyncio.ensure_future(store.wait_for_work(HOUR))
        for _ in range(10):
            await until_asleep(clock)
            clock.move(SECOND)
        assert not waiting.done()
        waiting.cancel()

    @pytest.mark.parametrize("what", ["deferred", "cooled", "resumed", "released", "retried", "returned"])
    async def test_waiting_ends_when_work_becomes_due(self, store: QueueStore, clock: ManualClock, what: str) -> None:
        (job,) = await store.enqueue(message("Q1"), frozenset({"to.test"}))
        deferred = settlement(job, Verdict.QUEUED, retry_in=3 * MINUTE if what == "deferred" else DAY)
        if what == "cooled":
            await store.enqueue(message("Q2"))
            await store.settle(replace(deferred, cool_destination=3 * MINUTE))
        elif what != "returned":
            await store.settle(deferred)
        if what == "resumed":
            await store.pause("to.test")
            await store.enqueue(message("Q2"))
        elif what == "released":
            await store.operator_hold(ALL)
        while not await wait_briefly(store, clock):
            pass  # what was announced before has nothing to do with it
        waiting = asyncio.ensure_future(store.wait_for_work(HOUR))
        if what == "resumed":
            await store.resume("to.test")
        elif what == "released":
            await store.release(ALL)
        elif what == "retried":
            await store.retry(ALL)
        elif what == "returned":
            await store.settle(replace(deferred, charged=False, retry_in=timedelta(0)))
        while not waiting.done() and clock.now() < START + 10 * MINUTE:
            await until_asleep(clock, waiting)
            clock.move(SECOND)
        async with asyncio.timeout(5):
            await waiting
        assert await names(store) == ["to.test"]

    async def test_waiting_ends_after_the_time_out(self, store: QueueStore, clock: ManualClock) -> None:
        assert await wait_briefly(store, clock)

    # -- gauges and traces

    async def test_gauges_are_sums_by_state(self, store: QueueStore, clock: ManualClock) -> None:
        stats = await store.stats()
        assert (stats.queued_bytes, stats.oldest_at) == (0, None)
        await store.enqueue(message("Q1", "a@one.test", "b@one.test", "c@two.test"))
        clock.move(MINUTE)
        await store.enqueue(message("Q2", "a@three.test", "b@three.test"))
        await store.enqueue(message("Q3", "a@four.test"))
        await store.operator_hold(QueueFilter(ids=("Q3",)))
        job = await claim_one(store, "one.test")
        stats = await store.stats()
        assert stats.by_state == {State.QUEUED: 3, State.LEASED: 2, State.HELD: 1}
        assert (stats.queued_bytes, stats.oldest_at) == (4 * len(CONTENT), START)
        await store.settle(settlement(job, Verdict.DELIVERED))
        await store.settle(settlement(await claim_one(store, "two.test"), Verdict.FAILED))
        stats = await store.stats()
        assert stats.by_state == {State.QUEUED: 2, State.LEASED: 0, State.HELD: 1}
        assert (stats.queued_bytes, stats.oldest_at) == (2 * len(CONTENT), START + MINUTE)

    async def test_a_destination_row_tells_what_waits_there(self, store: QueueStore, clock: ManualClock) -> None:
        await store.enqueue(message("Q1"))
        clock.move(MINUTE)
        await store.enqueue(message("Q2"))
        await store.enqueue(message("Q3"))
        job = await claim_one(store)
        (row,) = await store.destinations(10)
        assert (row.name, row.queued, row.in_flight, row.paused) == ("to.test", 2, 1, False)
        assert (row.queued_bytes, row.oldest_at, row.due_in) == (3 * len(CONTENT), START, timedelta(0))
        await store.settle(settlement(job, Verdict.DELIVERED))
        await store.operator_hold(QueueFilter(ids=("Q2",)))
        clock.move(MINUTE)
        (row,) = await store.destinations(10)
        assert (row.queued, row.in_flight, row.oldest_at) == (1, 0, START + MINUTE)
        assert row.due_in == -MINUTE

    async def test_destinations_come_by_what_is_queued(self, store: QueueStore) -> None:
        await store.enqueue(message("Q1", "a@one.test", "a@two.test"))
        await store.enqueue(message("Q2", "a@two.test", "a@three.test"))
        assert [row.name for row in await store.destinations(10)] == ["two.test", "one.test", "three.test"]
        assert [row.name for row in await store.destinations(1)] == ["two.test"]

    async def test_a_trace_stays_for_a_while_and_then_goes(self, store: QueueStore, clock: ManualClock) -> None:
        await store.enqueue(message("Q1", "a@one.test", "b@two.test"))
        first = await claim_one(store, "one.test")
        await store.settle(replace(settlement(first, Verdict.DELIVERED), attempt=attempt(1)))
        clock.move(2 * RETAIN)
        await store.sweep()
        assert len(await store.show("Q1")) == 2
        await store.settle(settlement(await claim_one(store, "two.test"), Verdict.DELIVERED))
        clock.move(RETAIN - SECOND)
        await store.sweep()
        assert len(await store.show("Q1")) == 2
        clock.move(SECOND)
        await store.sweep()
        assert list(await store.show("Q1")) == []
        assert await queue_ids(store) == []
        assert list(await store.destinations(10)) == []

    async def test_a_closed_store_says_so(self, store: QueueStore) -> None:
        await store.close()
        with pytest.raises(StoreError):
            await store.enqueue(message("Q1"))


async def until_asleep(clock: ManualClock, *unless: asyncio.Future[None]) -> None:
    """Wait until somebody sleeps on the clock (or one of the futures is done)."""
    await asyncio.sleep(0.002)
    async with asyncio.timeout(5):
        while not clock.sleepers and not any(future.done() for future in unless):  # noqa: ASYNC110  fakes tell nobody
            await asyncio.sleep(0.001)


async def wait_briefly(store: QueueStore, clock: ManualClock) -> bool:
    """Wait for work for three seconds of the clock; True if none was announced."""
    before = clock.now()
    waiting = asyncio.ensure_future(store.wait_for_work(3 * SECOND))
    while not waiting.done():
        await until_asleep(clock, waiting)
        clock.move(SECOND)
        await asyncio.sleep(0.001)
    return clock.now() - before >= 3 * SECOND
