"""What the relay would do with mail for a domain, found out by the parts that the relay itself is made of."""

import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from policy.findings import Findings
from policy.requirement import Requirement
from relay.app import plain
from relay.app.clock import SystemClock
from relay.app.outbound import Outbound, build_outbound
from relay.app.state_dir import POLICY_FILE
from relay.config import Settings
from relay.delivery.hosts import Host
from relay.delivery.seam import HostError, SessionFacts, Target
from relay.delivery.slots import Slots
from relay.metrics import Metrics, process_registry
from relay.queue.attempt import HostFailure, Phase
from relay.queue.message import Envelope, Message
from relay.store.sqlite.policies import SqlitePolicyStore

_MAX_ADDRESSES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class AddressLook:
    """What came of connecting to one address of a host, up to the certificate; no mail was offered."""

    address: str
    facts: SessionFacts | None = None
    phase: Phase | None = None
    failure: HostFailure | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HostLook:
    """One host in the order of trial. `connections` is empty unless connecting was asked for."""

    host: Host
    connections: tuple[AddressLook, ...] = ()

    @property
    def usable(self) -> bool:
        if self.host.failure is not None:
            return False
        return not self.connections or any(one.facts is not None for one in self.connections)


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """The whole answer. `failure` is set where there is no host to try."""

    destination: str
    findings: Findings | None
    failure: HostFailure | None
    hosts: tuple[HostLook, ...]

    @property
    def deliverable(self) -> bool:
        return any(host.usable for host in self.hosts)


async def look(outbound: Outbound, destination: str, now: datetime, *, connect: bool) -> Look:
    """Find the route to a destination in canonical form, and with `connect` try its hosts."""
    message = Message(queue_id="", accepted_at=now, envelope=Envelope(reverse_path=""), size=0)
    route = await outbound.router.route(message, destination)
    hosts = [HostLook(host=host, connections=await _connect(outbound, host, connect)) for host in route.hosts]
    return Look(destination=destination, findings=route.findings, failure=route.failure, hosts=tuple(hosts))


async def _connect(outbound: Outbound, host: Host, wanted: bool) -> tuple[AddressLook, ...]:
    if not wanted or isinstance(host.where, HostFailure) or not isinstance(host.verdict, Requirement):
        return ()
    looks = []
    for address in host.where[:_MAX_ADDRESSES]:
        target = Target(mx_host=host.name, address=address, port=host.port, requirement=host.verdict)
        try:
            async with outbound.pool.open(target, destination=host.name, size=0) as session:
                looks.append(AddressLook(address=str(address), facts=session.facts))
        except HostError as error:
            looks.append(AddressLook(address=str(address), phase=error.phase, failure=error.failure))
    return tuple(looks)


@asynccontextmanager
async def looking_outward(settings: Settings) -> AsyncIterator[Outbound]:
    """Build the way out of these settings, over the relay's own policies if it has any. Raises StoreError."""
    with tempfile.TemporaryDirectory(prefix="mta-sts-relay-") as elsewhere:
        file = settings.relay.state_dir / POLICY_FILE
        async with policies_in(file if file.exists() else Path(elsewhere) / POLICY_FILE) as store:
            metrics = Metrics(process_registry())
            slots = Slots(settings=plain.slot_settings(settings), timer=time.monotonic)
            outbound = build_outbound(settings, policy_store=store, slots=slots, clock=SystemClock(), metrics=metrics)
            try:
                yield outbound
            finally:
                await outbound.close()


@asynccontextmanager
async def policies_in(file: Path) -> AsyncIterator[SqlitePolicyStore]:
    """Open a file of policies. Raises StoreError."""
    store = await SqlitePolicyStore.open(file)
    try:
        yield store
    finally:
        await store.close()
