"""The memory store and the cache in front of a store, both under the contract of the seam."""

import asyncio
from datetime import timedelta

import pytest
from policy_fakes import ManualClock, MemoryPolicyStore
from policy_store_contract import NOW, PolicyStoreContract, cached, failure

from policy.cache import MAX_AGE, CachedPolicyStore
from policy.findings import CachedPolicy, PolicyState
from policy.store import PolicyStore

DAY = timedelta(days=1)


class TestMemoryPolicyStore(PolicyStoreContract):
    @pytest.fixture
    def store(self) -> PolicyStore:
        return MemoryPolicyStore()


class TestCachedPolicyStore(PolicyStoreContract):
    @pytest.fixture
    def store(self) -> PolicyStore:
        return CachedPolicyStore(MemoryPolicyStore(), timer=ManualClock().seconds)


class TestCachedPolicyStoreOfOne(PolicyStoreContract):
    """What falls out of the cache is still in the store."""

    @pytest.fixture
    def store(self) -> PolicyStore:
        return CachedPolicyStore(MemoryPolicyStore(), timer=ManualClock().seconds, max_domains=1)


async def test_a_hot_domain_costs_one_read_also_when_nothing_is_known_of_it() -> None:
    inner = MemoryPolicyStore()
    store = CachedPolicyStore(inner, timer=ManualClock().seconds)
    await store.put(cached("x.test"))
    for _ in range(100):
        await store.get("x.test")
        await store.get("none.test")
    assert inner.reads == {"x.test": 1, "none.test": 1}


@pytest.mark.rfc("8461-10.3-b", "8461-10.2-g")
async def test_what_another_process_does_is_seen_within_seconds() -> None:
    clock = ManualClock()
    inner = MemoryPolicyStore()
    store = CachedPolicyStore(inner, timer=clock.seconds)
    await store.put(cached("x.test"))
    await store.get("x.test")
    await inner.forget("x.test")
    clock.move(MAX_AGE)
    assert await store.get("x.test") is None
    assert timedelta(seconds=10) >= MAX_AGE


@pytest.mark.rfc("8461-10.2-e")
async def test_many_domains_do_not_push_a_policy_out() -> None:
    store = CachedPolicyStore(MemoryPolicyStore(), timer=ManualClock().seconds, max_domains=10)
    await store.put(cached("x.test"))
    for number in range(1000):
        await store.get(f"d{number}.test")
    state = await store.get("x.test")
    assert state is not None
    assert state.cached == cached("x.test")


class SlowStore(MemoryPolicyStore):
    """Reads what is there, and hands it out only when the test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.read = asyncio.Event()
        self.gate = asyncio.Event()

    async def get(self, policy_domain: str) -> PolicyState | None:
        state = await super().get(policy_domain)
        self.read.set()
        await self.gate.wait()
        return state


async def test_a_read_that_a_write_overtook_is_not_kept() -> None:
    inner = SlowStore()
    store = CachedPolicyStore(inner, timer=ManualClock().seconds)
    reading = asyncio.create_task(store.get("x.test"))
    await inner.read.wait()
    await store.put(cached("x.test"))
    inner.gate.set()
    assert await reading is None
    state = await store.get("x.test")
    assert state is not None
    assert state.cached == cached("x.test")


class BrokenStore(MemoryPolicyStore):
    async def put(self, cached: CachedPolicy) -> None:
        await super().put(cached)
        raise OSError("the disk is full, or is it")


async def test_after_a_failed_write_the_store_is_read_again() -> None:
    inner = BrokenStore()
    store = CachedPolicyStore(inner, timer=ManualClock().seconds)
    await store.get("x.test")
    with pytest.raises(OSError, match="disk"):
        await store.put(cached("x.test"))
    state = await store.get("x.test")
    assert state is not None
    assert state.cached == cached("x.test")


async def test_every_write_is_seen_at_once() -> None:
    store = CachedPolicyStore(MemoryPolicyStore(), timer=ManualClock().seconds)
    assert await store.get("x.test") is None
    await store.note_unknown("x.test", NOW)
    state = await store.get("x.test")
    assert state is not None
    assert state.unknown_since == NOW
    await store.note_failure("x.test", failure())
    state = await store.get("x.test")
    assert state is not None
    assert state.failure == failure()
    await store.put(cached("x.test"))
    state = await store.get("x.test")
    assert state is not None
    assert state.failure is None
    await store.prune(NOW + 100 * DAY)
    state = await store.get("x.test")
    assert state is None or state.cached is None
    await store.forget("x.test")
    assert await store.get("x.test") is None
