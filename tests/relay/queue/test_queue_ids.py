"""Queue ids: ordered, unique, safe in text, and they say who made them."""

from contextlib import suppress
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.queue.ids import MAX_WORKER, QueueIds, worker_of

START = datetime(2026, 1, 1, tzinfo=UTC)


class Times:
    """A clock that shows the times given, and then the last of them for ever."""

    def __init__(self, *offsets: int) -> None:
        self._offsets = list(offsets)

    def __call__(self) -> datetime:
        milliseconds = self._offsets.pop(0) if len(self._offsets) > 1 else self._offsets[0]
        return START + timedelta(milliseconds=milliseconds)


def ones(count: int) -> bytes:
    return b"\xff" * count


def zeros(count: int) -> bytes:
    return bytes(count)


def test_an_id_is_26_letters_of_base_32() -> None:
    assert QueueIds(0, Times(0), zeros)() == "01KDVDNA000000000000000000"
    assert QueueIds(MAX_WORKER, Times(0), ones)() == "01KDVDNA00ZZR0ZZZZZZZZZZZZ"


@given(
    worker=st.integers(0, MAX_WORKER),
    offsets=st.lists(st.integers(-10_000, 10_000), min_size=1, max_size=50),
    random=st.sampled_from([ones, zeros]),
)
def test_ids_grow_whatever_the_clock_does_and_name_their_worker(
    worker: int, offsets: list[int], random: type[bytes]
) -> None:
    new_id = QueueIds(worker, Times(*offsets), random)
    made = [new_id() for _ in range(len(offsets) + 20)]
    assert made == sorted(set(made))
    assert {worker_of(queue_id) for queue_id in made} == {worker}
    assert all(len(queue_id) == 26 and queue_id.isascii() and queue_id.isalnum() for queue_id in made)
    assert all(queue_id == queue_id.upper() for queue_id in made)


def test_more_ids_than_a_millisecond_can_count_run_on_into_the_next() -> None:
    new_id = QueueIds(0, Times(0), zeros)
    made = [new_id() for _ in range(257)]
    assert (made[0], made[255]) == ("01KDVDNA000000000000000000", "01KDVDNA00007Z000000000000")
    assert made[256] == "01KDVDNA010000000000000000"


def test_later_ids_sort_after_earlier_ones_of_any_worker() -> None:
    early = QueueIds(MAX_WORKER, Times(0), ones)()
    late = QueueIds(0, Times(1), zeros)()
    assert early < late


def test_workers_never_make_the_same_id() -> None:
    assert QueueIds(1, Times(0), zeros)() != QueueIds(2, Times(0), zeros)()


@pytest.mark.parametrize("worker", [-1, MAX_WORKER + 1])
def test_a_worker_number_has_bounds(worker: int) -> None:
    with pytest.raises(ValueError, match="worker"):
        QueueIds(worker, Times(0), zeros)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0",
        "0" * 25,
        "0" * 27,
        "8" + "0" * 25,
        "Z" * 26,
        "0" * 25 + "U",
        "0" * 25 + "i",
        "0" * 25 + "\u0660",
        "../" * 9,
    ],
)
def test_what_is_no_queue_id_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no queue id"):
        worker_of(text)


@given(st.text(max_size=30))
def test_any_text_is_read_or_refused(text: str) -> None:
    with suppress(ValueError):
        assert 0 <= worker_of(text) <= MAX_WORKER
