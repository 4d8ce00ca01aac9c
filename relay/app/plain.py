"""Settings into the plain values that classes take, one function for each of them. Pure but for `own_addresses`."""

import ipaddress
import socket
from collections.abc import Iterable, Mapping

from policy.decide import DaneMode, Enforcement
from policy.freshness import FreshnessSettings
from policy.names import IPAddress
from policy.nameservers import IpFamily, NameServer, TrustAd
from relay.app.static_routes import static_routes
from relay.config import Settings
from relay.config.models import ListenerTable
from relay.delivery.dispatcher import DispatchSettings
from relay.delivery.route import RouteSettings
from relay.delivery.routing_table import Judgement, NextHop
from relay.delivery.slot_table import SlotSettings
from relay.delivery.timeouts import Timeouts
from relay.ingress.settings import (
    AccessSettings,
    BareNewlines,
    IngressSettings,
    ListenerSettings,
    TlsMode,
    TlsRequiredNo,
)
from relay.queue.schedule import ScheduleSettings
from relay.reports.ndr import NoticeSettings
from relay.reports.tlsrpt import Reporter


def ingress_settings(settings: Settings) -> IngressSettings:
    access, ingress = settings.access, settings.ingress
    return IngressSettings(
        hostname=settings.relay.hostname,
        postmaster=settings.relay.postmaster,
        listeners=tuple(_listener(one) for one in settings.listener),
        access=AccessSettings(
            networks=access.networks,
            users_file=access.users_file,
            certificates=access.certificates,
            sender_domains=access.sender_domains,
            proxies=access.proxies,
            max_connections=access.max_connections,
            max_connections_per_client=access.max_connections_per_client,
            max_messages_per_minute_per_client=access.max_messages_per_minute_per_client,
        ),
        max_message_size=ingress.max_message_size,
        max_recipients=ingress.max_recipients,
        bare_newlines=BareNewlines(ingress.bare_newlines),
        idle_timeout=ingress.idle_timeout,
        max_hops=ingress.max_hops,
        memory_budget=_memory_share(settings),
        requiretls=settings.requiretls.mode == "on",
        tls_required_no=TlsRequiredNo(settings.requiretls.tls_required_no),
    )


def dispatch_settings(settings: Settings) -> DispatchSettings:
    return DispatchSettings(memory_budget=_memory_share(settings))


def _memory_share(settings: Settings) -> int:
    """Half of `queue.memory_budget`: one is for content on its way in, the other for what was handed to a worker."""
    return settings.queue.memory_budget // 2


def _listener(listener: ListenerTable) -> ListenerSettings:
    return ListenerSettings(
        address=str(listener.address),
        tls=TlsMode(listener.tls),
        certificate=listener.certificate,
        key=listener.key,
        client_ca=listener.client_ca,
        proxy_protocol=listener.proxy_protocol,
    )


def schedule_settings(settings: Settings) -> ScheduleSettings:
    queue = settings.queue
    return ScheduleSettings(
        retry=queue.retry,
        expire_after=queue.expire_after,
        expire_refused_after=queue.expire_refused_after,
        delay_notice_after=queue.delay_notice_after,
    )


def notice_settings(settings: Settings) -> NoticeSettings:
    return NoticeSettings(
        hostname=settings.relay.hostname,
        postmaster=settings.relay.postmaster,
        include_full=settings.ndr.include == "full",
    )


def reporter(settings: Settings) -> Reporter:
    return Reporter(organization_name=settings.tlsrpt.organization_name, contact=settings.tlsrpt.contact)


def counts_sessions(settings: Settings) -> bool:
    """Whether TLS sessions are counted: only where reports are to tell of them (RFC 8460 §8)."""
    return settings.tlsrpt.mode == "on"


def freshness_settings(settings: Settings) -> FreshnessSettings:
    return FreshnessSettings(unknown_grace=settings.mta_sts.unknown_grace)


def slot_settings(settings: Settings) -> SlotSettings:
    return SlotSettings(
        max_connections=settings.delivery.max_connections,
        max_connections_per_destination=settings.delivery.max_connections_per_destination,
    )


def timeouts(settings: Settings) -> Timeouts:
    return Timeouts(**dict(settings.delivery.timeouts))


def name_servers(settings: Settings) -> tuple[NameServer, ...]:
    return tuple(NameServer(address=one.host, port=one.port) for one in settings.dns.nameservers)


def trust_ad(settings: Settings) -> TrustAd:
    match settings.dns.trust_ad:
        case True:
            return TrustAd.YES
        case False:
            return TrustAd.NO
        case "auto":
            return TrustAd.AUTO


def ip_family(settings: Settings) -> IpFamily:
    return IpFamily(settings.delivery.ip_family)


def judgement(settings: Settings) -> Judgement:
    return Judgement(
        enforcement=Enforcement(settings.mta_sts.mode),
        dane=DaneMode(settings.dane.mode),
        precedence=settings.dane.precedence,
    )


def route_settings(settings: Settings, environ: Mapping[str, str]) -> RouteSettings:
    """Raises SecretError if the password of a route cannot be had."""
    return RouteSettings(
        smtp_port=settings.delivery.smtp_port,
        own_names=frozenset({settings.relay.hostname}),
        own_addresses=own_addresses(settings),
        allow_private_addresses=settings.delivery.allow_private_addresses,
        ndr_route=tuple(NextHop.parse(f"smtp://{one}") for one in settings.ndr.route),
        judgement=judgement(settings),
        routes=static_routes(settings.route, judgement(settings), environ),
    )


def own_addresses(settings: Settings) -> frozenset[IPAddress]:
    """Return the addresses at which mail sent to `smtp_port` would come back to us (loop check).

    Of a listener on all addresses these are the ones that the system would send from; others of a machine with many
    are not known.
    """
    port = settings.delivery.smtp_port
    bound = [ipaddress.ip_address(one.address.host) for one in settings.listener if one.address.port == port]
    return frozenset(bound) | frozenset(_outward(one for one in bound if one.is_unspecified))


_SOMEWHERE_PUBLIC = {4: (socket.AF_INET, "192.0.2.1"), 6: (socket.AF_INET6, "2001:db8::1")}


def _outward(wildcards: Iterable[IPAddress]) -> Iterable[IPAddress]:
    for wildcard in wildcards:
        family, somewhere = _SOMEWHERE_PUBLIC[wildcard.version]
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as probe:
                probe.connect((somewhere, 9))  # chooses the route and sends nothing
                yield ipaddress.ip_address(probe.getsockname()[0])
        except OSError:
            continue
