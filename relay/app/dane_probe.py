"""Whether DANE can work with this resolver, found out at the start and from time to time (RFC 7672 §2.1.1).

Nothing is switched off where it cannot: an answer that nobody vouches for has no TLSA records to be kept to.
"""

from typing import Protocol

from policy.nameservers import DnssecSupport
from relay import events
from relay.clock import Clock
from relay.metrics import Metrics

_AGAIN_SECONDS = 3600.0
_UNKNOWN_AGAIN_SECONDS = 60.0

_REASONS = {
    DnssecSupport.NOT_TRUSTED: "the name servers are not on this machine, so that their word on DNSSEC does not count",
    DnssecSupport.NOT_VALIDATING: "the name servers do not validate DNSSEC",
}


class DnssecProbe(Protocol):
    """Says what the name servers' word is worth; `policy.resolver.DnsResolver`."""

    async def dnssec_support(self) -> DnssecSupport: ...


async def watch_dnssec(probe: DnssecProbe, clock: Clock, metrics: Metrics) -> None:
    """Probe until cancelled, and tell of what has changed. While there is no answer, DANE is taken to work."""
    told: DnssecSupport | None = None
    metrics.dane_active.set(1)
    while True:
        found = await probe.dnssec_support()
        if found is not DnssecSupport.UNKNOWN and found is not told:
            told = found
            reason = _REASONS.get(found)
            metrics.dane_active.set(0 if reason else 1)
            if reason:
                events.dane_inactive(reason)
            else:
                events.dane_active()
        await clock.sleep(_UNKNOWN_AGAIN_SECONDS if found is DnssecSupport.UNKNOWN else _AGAIN_SECONDS)
