"""All that is needed to know where mail goes and what it must keep to: DNS, policies, routes, TLS, connections.

The relay and `check` build it from here alike, so that what `check` says is what the relay does.
"""

import os
import random
import time
from dataclasses import dataclass

from policy.answers import Resolver
from policy.cache import CachedPolicyStore
from policy.fetch import HttpsPolicyFetcher
from policy.lookup import PolicyService
from policy.nameservers import NameServer
from policy.report_post import HttpsReportPoster
from policy.resolver import DnsResolver, system_nameservers
from policy.store import PolicyFetcher, PolicyStore
from policy.tls import TlsContexts
from relay.app import plain
from relay.app.discovery_failures import DiscoveryFailures
from relay.app.observers import Observer
from relay.clock import Clock
from relay.config import Settings
from relay.delivery.client import Connector
from relay.delivery.pool import ConnectionPool
from relay.delivery.route import Router
from relay.delivery.seam import LinkObserver, NullLinkObserver, Target
from relay.delivery.slots import Slots
from relay.metrics import Metrics

LOCAL_RESOLVER = (NameServer(address="127.0.0.1"),)
"""Who is asked where neither the settings nor resolv.conf name anybody, as resolv.conf(5) has it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outbound:
    """One configuration's way out; a reload builds another one beside it."""

    resolver: DnsResolver
    fetcher: HttpsPolicyFetcher
    policies: PolicyService
    policy_store: PolicyStore
    router: Router
    pool: ConnectionPool
    poster: HttpsReportPoster | None

    async def close(self) -> None:
        await self.pool.close()
        if self.poster is not None:
            await self.poster.aclose()
        await self.fetcher.aclose()


class Watch:
    """Sees how the parts are used, from their own seams. This one looks away."""

    def resolver(self, resolver: Resolver) -> Resolver:
        return resolver

    def fetcher(self, fetcher: PolicyFetcher) -> PolicyFetcher:
        return fetcher

    def connection(self, _target: Target) -> LinkObserver:
        return _NOBODY


_NOBODY = NullLinkObserver()
NO_WATCH = Watch()


def build_outbound(
    settings: Settings,
    *,
    policy_store: PolicyStore,
    slots: Slots,
    clock: Clock,
    metrics: Metrics,
    watch: Watch = NO_WATCH,
    failures: DiscoveryFailures | None = None,
) -> Outbound:
    """Raises ValueError if the CA file, or the password of a route, cannot be used.

    `failures` hears of policies for TLS reports, if they are on.
    """
    delivery, tls = settings.delivery, settings.tls
    ca_file = str(tls.ca_file or "")
    observer = Observer(metrics, failures if plain.counts_sessions(settings) else None)
    store = CachedPolicyStore(policy_store, timer=time.monotonic)
    resolver = DnsResolver(
        nameservers=plain.name_servers(settings) or system_nameservers() or LOCAL_RESOLVER,
        timer=time.monotonic,
        timeout=settings.dns.timeout,
        trust_ad=plain.trust_ad(settings),
        ip_family=plain.ip_family(settings),
        observer=observer,
    )
    fetcher = HttpsPolicyFetcher(
        resolver=resolver,
        ca_file=ca_file,
        timeout=settings.mta_sts.fetch_timeout,
        policy_port=delivery.policy_port,
        allow_private_addresses=delivery.allow_private_addresses,
    )
    asked = watch.resolver(resolver)
    policies = PolicyService(
        resolver=asked,
        fetcher=watch.fetcher(fetcher),
        store=store,
        clock=clock,
        settings=plain.freshness_settings(settings),
        observer=observer,
    )
    router = Router(
        resolver=asked,
        policies=policies,
        settings=plain.route_settings(settings, os.environ),
        draw=random.random,
        timer=time.monotonic,
        now=clock.now,
    )
    contexts = TlsContexts(
        ca_file=ca_file,
        minimum_version=tls.minimum_version,
        opportunistic_minimum_version=tls.opportunistic_minimum_version,
    )
    limits = plain.timeouts(settings)
    connector = Connector(
        hostname=settings.relay.hostname,
        contexts=contexts,
        timeouts=limits,
        clock=clock,
        source_addresses=delivery.source_addresses,
        observe=watch.connection,
        counts_sessions=plain.counts_sessions(settings),
    )
    pool = ConnectionPool(
        connector=connector,
        slots=slots,
        clock=clock,
        metrics=metrics,
        timeouts=limits,
        connection_idle=delivery.connection_idle,
        max_messages_per_connection=delivery.max_messages_per_connection,
        max_recipients_per_transaction=delivery.max_recipients_per_transaction,
        max_idle=delivery.max_connections,
    )
    poster = None
    if settings.tlsrpt.mode == "on":
        allow_private = delivery.allow_private_addresses
        poster = HttpsReportPoster(resolver=resolver, ca_file=ca_file, allow_private_addresses=allow_private)
    return Outbound(
        resolver=resolver,
        fetcher=fetcher,
        policies=policies,
        policy_store=store,
        router=router,
        pool=pool,
        poster=poster,
    )
