"""The way that an NDR would take to our own domains, looked at before one has to go it."""

from collections.abc import AsyncIterator
from datetime import datetime

from relay.config import Settings
from relay.delivery.hosts import Route
from relay.delivery.route import Router
from relay.queue.attempt import FailureKind, HostFailure
from relay.queue.message import Envelope, Message, Origin

_CANNOT_WORK = frozenset(
    {
        FailureKind.DOMAIN_ABSENT,
        FailureKind.NULL_MX,
        FailureKind.NO_ADDRESS,
        FailureKind.ADDRESS_REFUSED,
        FailureKind.LOOP,
        FailureKind.MX_NOT_IN_POLICY,
        FailureKind.POLICY_REQUIRED,
        FailureKind.DANE_REQUIRED,
    }
)


def ndr_domains(settings: Settings) -> tuple[str, ...]:
    """Return the domains that NDRs go to, as far as the settings tell: of postmaster and of the senders."""
    listed = (name.removeprefix("*.") for name in settings.access.sender_domains)
    return tuple(dict.fromkeys([settings.relay.postmaster.rpartition("@")[2], *listed]))


async def bad_ndr_routes(settings: Settings, router: Router, now: datetime) -> AsyncIterator[tuple[str, str]]:
    """Yield each of these domains that an NDR would not reach, and why. A DNS without answer accuses nobody."""
    ndr = Message(queue_id="", accepted_at=now, envelope=Envelope(reverse_path=""), size=0, origin=Origin.RELAY)
    for domain in ndr_domains(settings):
        route = await router.route(ndr, domain)
        failures = [failure for way in (route, *route.others) for failure in _failures(way)]
        reasons = [failure.detail for failure in failures if failure and failure.kind in _CANNOT_WORK]
        if reasons and len(reasons) == len(failures):
            yield domain, reasons[0]


def _failures(way: Route) -> list[HostFailure | None]:
    return [way.failure] if way.failure else [host.failure for host in way.hosts]
