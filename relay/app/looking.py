"""What the relay would do with mail for a domain, found out by the parts that the relay itself is made of."""

import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from policy.findings import Findings, LookupResult
from relay.app import plain
from relay.app.advice import policy_advice, route_advice
from relay.app.clock import SystemClock
from relay.app.outbound import NO_WATCH, Outbound, Watch, build_outbound
from relay.app.stages import LookUp, Step
from relay.app.state_dir import POLICY_FILE
from relay.app.stopwatch import Stopwatch
from relay.config import Settings
from relay.delivery.hosts import Host, Route
from relay.delivery.routing_table import ORDINARY, Directions, NextHop
from relay.delivery.seam import HostError, SessionFacts
from relay.delivery.slots import Slots
from relay.metrics import Metrics, process_registry
from relay.queue.attempt import HostFailure, Phase
from relay.queue.message import Envelope, Message
from relay.store.sqlite.policies import SqlitePolicyStore

_MAX_ADDRESSES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class AddressLook:
    """What came of connecting to one address of a host, up to the certificate; no mail was offered.

    `tries` are the connections that were made, each as its steps: where nothing demands TLS there may be several.
    """

    address: str
    tries: tuple[tuple[Step, ...], ...] = ()
    facts: SessionFacts | None = None
    phase: Phase | None = None
    failure: HostFailure | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HostLook:
    """One host in the order of trial. `connections` is empty unless connecting was asked for."""

    host: Host
    connections: tuple[AddressLook, ...] = ()

    def advice(self, destination: str) -> str:
        """What to do where the host is not to be connected to, else ""."""
        failure = self.host.failure
        if failure is None:
            return ""
        return route_advice(failure, domain=destination, host=self.host.name, port=self.host.port)

    @property
    def usable(self) -> bool:
        if self.host.failure is not None:
            return False
        return not self.connections or any(one.facts is not None for one in self.connections)


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """The whole answer. `failure` is set where there is no host to try.

    `directions` is the route that applies; of several next hops this is about `next_hop`, and `others` about the rest.
    `look_ups` are the questions and answers, for all of them.
    """

    destination: str
    directions: Directions = ORDINARY
    next_hop: NextHop | None = None
    findings: Findings | None
    failure: HostFailure | None
    hosts: tuple[HostLook, ...]
    look_ups: tuple[Step, ...] = ()
    others: tuple["Look", ...] = ()

    @property
    def deliverable(self) -> bool:
        return any(host.usable for host in self.hosts) or any(other.deliverable for other in self.others)

    @property
    def advice(self) -> str:
        """What to do where there is no host to try, else ""."""
        return route_advice(self.failure, domain=self.destination) if self.failure is not None else ""


async def look(
    outbound: Outbound, watch: Stopwatch, destination: str, now: datetime, *, connect: bool, require_tls: bool = False
) -> Look:
    """Find the route to a destination in canonical form, and with `connect` try its hosts.

    `watch` is what `outbound` was built with. `require_tls`: for a message that demands REQUIRETLS (RFC 8689).
    """
    # It has a sender, since one without may go where REQUIRETLS is not kept (RFC 8689 §5).
    envelope = Envelope(reverse_path="somebody@localhost")
    message = Message(queue_id="", accepted_at=now, envelope=envelope, size=0, require_tls=require_tls)
    route = await outbound.router.route(message, destination)
    found = await _look_along(outbound, watch, destination, route, connect)
    told = [step for way in (route, *route.others) for step in _policy_steps(way.findings, watch.look_ups)]
    return replace(found, look_ups=(*watch.look_ups, *told))


async def _look_along(outbound: Outbound, watch: Stopwatch, destination: str, route: Route, connect: bool) -> Look:
    hosts = [HostLook(host=host, connections=await _connect(outbound, watch, host, connect)) for host in route.hosts]
    others = [await _look_along(outbound, watch, destination, other, connect) for other in route.others]
    return Look(
        destination=destination,
        directions=route.directions,
        next_hop=route.next_hop,
        others=tuple(others),
        findings=route.findings,
        failure=route.failure,
        hosts=tuple(hosts),
    )


def _policy_steps(findings: Findings | None, look_ups: Sequence[Step]) -> Iterator[Step]:
    """Say of the policy what no question has told: that it was cached, or that what was fetched is none."""
    if findings is None:
        return
    domain, cached, problem = findings.policy_domain, findings.cached, findings.problem
    if findings.result is LookupResult.CACHED and cached is not None:
        said = f"cached, mode {cached.policy.mode.value}, until {cached.expires_at:%Y-%m-%d %H:%M} UTC"
        yield Step(stage=LookUp.POLICY, about=domain, result=said)
    if problem is not None and (LookUp.POLICY, domain) not in {
        (one.stage, one.about) for one in look_ups if one.failed
    }:
        said = f"{problem.result_type.value}: {problem.detail}"
        advice = policy_advice(problem.result_type, domain)
        yield Step(stage=LookUp.POLICY, about=domain, result=said, failed=True, advice=advice)


async def _connect(outbound: Outbound, watch: Stopwatch, host: Host, wanted: bool) -> tuple[AddressLook, ...]:
    looks = []
    for target in host.targets[:_MAX_ADDRESSES] if wanted else ():
        address = str(target.address)
        try:
            async with outbound.pool.open(target, destination=host.name, size=0) as session:
                looks.append(AddressLook(address=address, tries=watch.take_tries(), facts=session.facts))
        except HostError as error:
            tries = watch.take_tries()
            looks.append(AddressLook(address=address, tries=tries, phase=error.phase, failure=error.failure))
    return tuple(looks)


@asynccontextmanager
async def looking_outward(settings: Settings, watch: Watch = NO_WATCH) -> AsyncIterator[Outbound]:
    """Build the way out of these settings, over the relay's own policies if it has any. Raises StoreError."""
    with tempfile.TemporaryDirectory(prefix="mta-sts-relay-") as elsewhere:
        file = settings.relay.state_dir / POLICY_FILE
        async with policies_in(file if file.exists() else Path(elsewhere) / POLICY_FILE) as store:
            metrics = Metrics(process_registry())
            slots = Slots(settings=plain.slot_settings(settings), timer=time.monotonic)
            outbound = build_outbound(
                settings, policy_store=store, slots=slots, clock=SystemClock(), metrics=metrics, watch=watch
            )
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
