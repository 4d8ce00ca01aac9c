"""The settings: one frozen model per table of config.toml. The defaults stand here; config.toml spells them out."""

import ipaddress
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    Strict,
    ValidationInfo,
)

from policy.decide import Precedence
from policy.names import IPAddress
from relay.config.quantities import (
    HostPort,
    parse_address_port,
    parse_certificate_name,
    parse_day,
    parse_domain,
    parse_domain_pattern,
    parse_duration,
    parse_mailbox,
    parse_network,
    parse_next_hop,
    parse_route_pattern,
    parse_selector,
    parse_size,
    parse_smtp_url,
    render_duration,
    render_size,
)
from relay.config.secrets import Secret
from relay.delivery.routing_table import NextHop

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def _written(parse: Callable[[str], object]) -> BeforeValidator:
    """Read what an admin writes as text; the parser names the form where it is something else."""
    return BeforeValidator(lambda value: parse(value if isinstance(value, str) else ""))


def _written_or_empty(parse: Callable[[str], str]) -> BeforeValidator:
    """The same, where "" stands for none."""
    return BeforeValidator(lambda value: value if value == "" else parse(value if isinstance(value, str) else ""))


def _positive_duration(text: str) -> timedelta:
    duration = parse_duration(text)
    if not duration:
        raise ValueError("longer than 0s")
    return duration


def _duration_or(word: str) -> Callable[[str], timedelta | None]:
    """Read a duration, or the word that stands for none."""

    def read(text: str) -> timedelta | None:
        try:
            return None if text == word else _positive_duration(text)
        except ValueError as error:
            raise ValueError(f'{error}, or "{word}"') from None

    return read


def _duration_or_said(word: str) -> Callable[[timedelta | None], str]:
    return lambda value: word if value is None else render_duration(value)


def _path(value: object, info: ValidationInfo) -> Path | None:
    """Take a relative path as relative to the config file's directory; "" is none."""
    if not isinstance(value, str):
        raise ValueError("a path in quotes")  # noqa: TRY004  pydantic collects ValueErrors only
    base: Path = (info.context or {})["base"]
    return base / value if value else None


def _directory(value: object, info: ValidationInfo) -> Path:
    if (path := _path(value, info)) is None:
        raise ValueError("the path of a directory")
    return path


def _secret(value: object, info: ValidationInfo) -> Secret | None:
    base: Path = (info.context or {})["base"]
    return Secret.parse(value if isinstance(value, str) else "", base) if value != "" else None


def _line(text: str) -> str:
    if not text.isprintable():
        raise ValueError("one line of text")
    return text


def _said(render: Callable[[Any], str]) -> PlainSerializer:
    return PlainSerializer(render, return_type=str)


Duration = Annotated[timedelta, _written(_positive_duration), _said(render_duration)]
DurationOrZero = Annotated[timedelta, _written(parse_duration), _said(render_duration)]
DurationOrNever = Annotated[timedelta | None, _written(_duration_or("never")), _said(_duration_or_said("never"))]
DurationOrForever = Annotated[timedelta | None, _written(_duration_or("forever")), _said(_duration_or_said("forever"))]
Size = Annotated[int, _written(parse_size), _said(render_size)]
Count = Annotated[int, Strict(), Field(ge=1)]
CountOrZero = Annotated[int, Strict(), Field(ge=0)]
Port = Annotated[int, Strict(), Field(ge=1, le=65535)]
Flag = Annotated[bool, Strict()]
OptionalPath = Annotated[Path | None, BeforeValidator(_path), _said(lambda value: str(value or ""))]
Directory = Annotated[Path, BeforeValidator(_directory), _said(str)]
Domain = Annotated[str, _written(parse_domain)]
DomainPattern = Annotated[str, _written(parse_domain_pattern)]
Mailbox = Annotated[str, _written(parse_mailbox)]
OptionalMailbox = Annotated[str, _written_or_empty(parse_mailbox)]
OptionalDomain = Annotated[str, _written_or_empty(parse_domain)]
OptionalSelector = Annotated[str, _written_or_empty(parse_selector)]
Listening = Annotated[HostPort, _written(parse_address_port), _said(str)]
NameServer = Annotated[HostPort, _written(lambda text: parse_address_port(text, 53)), _said(str)]
SmtpUrl = Annotated[HostPort, _written(parse_smtp_url), _said(lambda value: f"smtp://{value}")]
NextHopUrl = Annotated[NextHop, _written(parse_next_hop), _said(str)]
RoutePattern = Annotated[str, _written(parse_route_pattern)]
DomainOrNone = Annotated[str, _written(lambda text: parse_domain(text) if text else "")]
Line = Annotated[str, Strict(), AfterValidator(_line)]
Day = Annotated[date | None, BeforeValidator(parse_day), _said(lambda day: day.isoformat() if day else "")]
OptionalSecret = Annotated[Secret | None, BeforeValidator(_secret), _said(lambda value: str(value or ""))]
AnyNetwork = Annotated[Network, _written(parse_network), _said(str)]
CertificateName = Annotated[str, _written(parse_certificate_name)]


class Table(BaseModel):
    """What all tables have in common: no unknown keys, nothing changes."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class RelayTable(Table):
    hostname: Domain = "relay.example.com"
    postmaster: Mailbox = "postmaster@example.com"
    state_dir: Directory = Path("state")
    workers: Count = 1
    stop_timeout: Duration = timedelta(seconds=25)


class ListenerTable(Table):
    address: Listening = HostPort("127.0.0.1", 2525)
    tls: Literal["none", "starttls", "starttls-required", "implicit"] = "none"
    certificate: OptionalPath = None
    key: OptionalPath = None
    client_ca: OptionalPath = None
    proxy_protocol: Flag = False


class AccessTable(Table):
    networks: tuple[AnyNetwork, ...] = (ipaddress.ip_network("127.0.0.0/8"), ipaddress.ip_network("::1/128"))
    users_file: OptionalPath = None
    certificates: tuple[CertificateName, ...] = ()
    sender_domains: tuple[DomainPattern, ...] = ()
    proxies: tuple[AnyNetwork, ...] = ()
    max_connections: Count = 1000
    max_connections_per_client: Count = 100
    max_messages_per_minute_per_client: CountOrZero = 0


class IngressTable(Table):
    max_message_size: Size = 150 << 20
    max_recipients: Count = 1000
    bare_newlines: Literal["normalize", "reject"] = "normalize"
    idle_timeout: Duration = timedelta(minutes=5)
    max_hops: Count = 100


class StoreTable(Table):
    url: Annotated[str, Strict()] = "sqlite"
    min_free_disk: Size = 512 << 20


class QueueTable(Table):
    retry: Annotated[tuple[Duration, ...], Field(min_length=1)] = (
        timedelta(minutes=5),
        timedelta(minutes=10),
        timedelta(minutes=15),
        timedelta(minutes=30),
        timedelta(hours=1),
    )
    expire_after: Duration = timedelta(days=5)
    expire_refused_after: Duration = timedelta(hours=24)
    delay_notice_after: DurationOrNever = timedelta(hours=4)
    retain_finished: DurationOrZero = timedelta(days=7)
    memory_budget: Size = 256 << 20


class DnsTable(Table):
    nameservers: tuple[NameServer, ...] = ()
    trust_ad: Literal["auto", True, False] = "auto"
    timeout: Duration = timedelta(seconds=5)


class MtaStsTable(Table):
    mode: Literal["enforce", "report-only", "off"] = "enforce"
    unknown_grace: DurationOrForever = timedelta(minutes=30)
    fetch_timeout: Duration = timedelta(seconds=60)
    refresh_interval: Duration = timedelta(hours=24)


class DaneTable(Table):
    mode: Literal["opportunistic", "off"] = "opportunistic"
    precedence: Precedence = Precedence.BOTH


class TlsTable(Table):
    ca_file: OptionalPath = None
    minimum_version: Literal["1.2", "1.3"] = "1.2"
    opportunistic_minimum_version: Literal["1.2", "1.3"] = "1.2"


class TlsRptTable(Table):
    """Where `mode` is "on" all up to the key file are set (`checks`)."""

    mode: Literal["on", "off"] = "off"
    organization_name: Annotated[str, Strict()] = ""
    contact: OptionalMailbox = ""
    dkim_domain: OptionalDomain = ""
    dkim_selector: OptionalSelector = ""
    dkim_key_file: OptionalPath = None
    no_reports_to: tuple[DomainPattern, ...] = ()


class RequireTlsTable(Table):
    mode: Literal["on", "off"] = "on"
    tls_required_no: Literal["ignore", "honour"] = "ignore"


class TimeoutsTable(Table):
    """RFC 5321 §4.5.3.2; `data_block` is each block of content, `data_end` the reply to the final dot."""

    connect: Duration = timedelta(seconds=30)
    greeting: Duration = timedelta(minutes=5)
    ehlo: Duration = timedelta(minutes=5)
    starttls: Duration = timedelta(minutes=2)
    mail: Duration = timedelta(minutes=5)
    rcpt: Duration = timedelta(minutes=5)
    data: Duration = timedelta(minutes=2)
    data_block: Duration = timedelta(minutes=3)
    data_end: Duration = timedelta(minutes=10)


class DeliveryTable(Table):
    smtp_port: Port = 25
    policy_port: Port = 443
    source_addresses: tuple[IPAddress, ...] = ()
    ip_family: Literal["any", "ipv4", "ipv6"] = "any"
    max_connections: Count = 200
    max_connections_per_destination: Count = 20
    max_recipients_per_transaction: Count = 100
    max_messages_per_connection: Count = 100
    connection_idle: Duration = timedelta(seconds=10)
    allow_private_addresses: Flag = False
    timeouts: TimeoutsTable = TimeoutsTable()


class NdrTable(Table):
    route: tuple[SmtpUrl, ...] = ()
    include: Literal["headers", "full"] = "headers"


class RouteTable(Table):
    domains: Annotated[tuple[RoutePattern, ...], Field(min_length=1)] = ()
    next_hop: Annotated[tuple[NextHopUrl, ...], Field(max_length=10)] = ()
    user: Line = ""
    password: OptionalSecret = None
    tls: Literal["opportunistic", "encrypt", "verify", "verify-name"] = "opportunistic"
    tls_name: DomainOrNone = ""
    mta_sts: Literal["enforce", "mandatory", "off"] = "enforce"
    dane: Literal["opportunistic", "mandatory", "off"] = "opportunistic"
    reason: Line = ""
    until: Day = None


class HttpTable(Table):
    address: Listening = HostPort("127.0.0.1", 9465)
    hosts: tuple[Domain, ...] = ()


class LogTable(Table):
    format: Literal["json", "console"] = "json"
    level: Literal["debug", "info", "warning", "error"] = "info"


class Settings(Table):
    """Everything that config.toml says. `model_dump(mode="json")` gives it back in the file's own words."""

    relay: RelayTable = RelayTable()
    listener: Annotated[tuple[ListenerTable, ...], Field(min_length=1)] = (ListenerTable(),)
    access: AccessTable = AccessTable()
    ingress: IngressTable = IngressTable()
    store: StoreTable = StoreTable()
    queue: QueueTable = QueueTable()
    dns: DnsTable = DnsTable()
    mta_sts: MtaStsTable = MtaStsTable()
    dane: DaneTable = DaneTable()
    tls: TlsTable = TlsTable()
    requiretls: RequireTlsTable = RequireTlsTable()
    tlsrpt: TlsRptTable = TlsRptTable()
    delivery: DeliveryTable = DeliveryTable()
    ndr: NdrTable = NdrTable()
    route: tuple[RouteTable, ...] = ()
    http: HttpTable = HttpTable()
    log: LogTable = LogTable()
