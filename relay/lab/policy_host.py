"""The lab's policy hosts: one HTTPS server for every mta-sts.<domain> (RFC 8461 §3.3), good and bad ones."""

import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from http import HTTPStatus

from relay.lab.ca import CertificateKind, LabCA
from relay.lab.gate import Gate
from relay.lab.journal import Journal
from relay.lab.loopback import POLICY_HOST
from relay.lab.wire import Connection, Listener, ServerSide, server_context

REQUEST_LIMIT = 64 * 1024
WELL_KNOWN = "/.well-known/mta-sts.txt"


class SiteFault(Enum):
    """What a policy host does instead of answering well."""

    DOWN = "closes the connection when it sees the name in the handshake"
    HANG_IN_TLS = "never answers the ClientHello"
    HANG = "never answers the request"
    DRIP = "sends its answer byte by byte"
    ENDLESS = "sends a body without end"
    CUT = "announces more than it sends, then closes"
    GARBAGE = "answers in something that is not HTTP"


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicySite:
    """What a domain publishes: `id` in its TXT record, the rest at its policy host.

    `body` replaces the policy made of mode, mx and max_age (seconds). `drip_interval` (seconds) is for DRIP alone.
    `gate` holds the answer back until it is opened.
    """

    mode: str = "enforce"
    mx: Sequence[str] = ()
    max_age: int = 86400
    id: str = "1"
    body: bytes | None = None
    status: int = 200
    content_type: str | None = "text/plain"
    location: str | None = None
    headers: tuple[tuple[str, str], ...] = ()
    certificate: CertificateKind = CertificateKind.GOOD
    certificate_names: tuple[str, ...] = ()
    fault: SiteFault | None = None
    drip_interval: float = 0.2
    gate: Gate | None = None

    def policy_text(self) -> bytes:
        """Return the body that is served: a policy file (RFC 8461 §3.2) unless `body` says otherwise."""
        if self.body is not None:
            return self.body
        lines = ["version: STSv1", f"mode: {self.mode}", *(f"mx: {host}" for host in self.mx)]
        return "".join(f"{line}\r\n" for line in [*lines, f"max_age: {self.max_age}"]).encode()

    def response(self) -> bytes:
        """Return the whole HTTP answer. Content-Length lies for a site that cuts its answer short."""
        body = self.policy_text()
        headers = [("Connection", "close"), *self.headers]
        if self.content_type is not None:
            headers.append(("Content-Type", self.content_type))
        if self.location is not None:
            headers.append(("Location", self.location))
        if self.fault is not SiteFault.ENDLESS:
            length = len(body) + (100 if self.fault is SiteFault.CUT else 0)
            headers.append(("Content-Length", str(length)))
        head = [f"HTTP/1.1 {self.status} {_phrase(self.status)}", *(f"{name}: {value}" for name, value in headers)]
        return "".join(f"{line}\r\n" for line in head).encode() + b"\r\n" + body


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyRequest:
    """One request as it came. Header names are in lower case."""

    sni: str | None
    method: str
    path: str
    headers: tuple[tuple[str, str], ...]

    @property
    def host(self) -> str:
        return dict(self.headers).get("host", "")


class LabPolicyHosts:
    """All policy hosts at one address and port; SNI chooses site and certificate.

    `requests` holds what was asked; `handshakes` each name that a handshake was finished for, `refusals` (name,
    reason) of those that failed, for instance because the client did not trust the certificate.
    """

    def __init__(self, ca: LabCA) -> None:
        self.requests: Journal[PolicyRequest] = Journal()
        self.handshakes: Journal[str | None] = Journal()
        self.refusals: Journal[tuple[str | None, str]] = Journal()
        self.port = 0
        self._ca = ca
        self._sites: dict[str, PolicySite] = {}
        self._contexts: dict[tuple[CertificateKind, tuple[str, ...]], ssl.SSLContext] = {}
        self._listener = Listener()
        fallback = ca.identity(CertificateKind.GOOD, "nobody.test")
        self._context = server_context(fallback, choose=self._choose)

    async def start(self, *, address: str = POLICY_HOST, port: int = 0) -> None:
        self.port = await self._listener.start(lambda: _HttpsConnection(self, self._listener), address, port)

    async def close(self) -> None:
        await self._listener.close()

    def publish(self, domain: str, site: PolicySite) -> None:
        """Serve `site` at mta-sts.<domain> from the next connection on."""
        self._sites[f"mta-sts.{domain}"] = site

    def withdraw(self, domain: str) -> None:
        """Serve nothing there any more: another host's certificate, and 404."""
        self._sites.pop(f"mta-sts.{domain}", None)

    def site(self, host: str | None) -> PolicySite | None:
        return self._sites.get((host or "").lower())

    @property
    def context(self) -> ssl.SSLContext:
        return self._context

    def _choose(self, sni: str | None) -> ssl.SSLContext | None:
        site = self.site(sni)
        if site is None or sni is None:
            return None
        key = (site.certificate, site.certificate_names or (sni,))
        if key not in self._contexts:
            self._contexts[key] = server_context(self._ca.identity(key[0], *key[1]))
        return self._contexts[key]


_NOTHING_HERE = PolicySite(status=404, body=b"nothing here\n")


class _HttpsConnection(Connection):
    def __init__(self, hosts: LabPolicyHosts, listener: Listener) -> None:
        super().__init__(listener)
        self._hosts = hosts
        self._sni: str | None = None
        self._request = b""
        self._answered = False

    def on_open(self) -> None:
        self.start_tls(self._hosts.context)

    def on_hello(self, sni: str | None) -> bool:
        site = self._hosts.site(sni)
        match site.fault if site else None:
            case SiteFault.DOWN:
                self._hosts.refusals.record((sni, "the policy host is down"))
                self.reset()
                return False
            case SiteFault.HANG_IN_TLS:
                return False
        return True

    def on_secured(self, tls: ServerSide) -> None:
        self._sni = tls.sni
        self._hosts.handshakes.record(tls.sni)

    def on_handshake_failed(self, reason: str, sni: str | None) -> None:
        self._hosts.refusals.record((sni, reason))

    def on_data(self, data: bytes) -> None:
        self._request += data
        if len(self._request) > REQUEST_LIMIT:
            self.reset()
        elif b"\r\n\r\n" in self._request and not self._answered:
            self._answered = True
            request = _parse(self._request, self._sni)
            self._hosts.requests.record(request)
            site = self._site_for(request)
            if site.gate is not None:
                site.gate.arrive(request.host, lambda: self._answer(site))
            else:
                self._answer(site)

    def _site_for(self, request: PolicyRequest) -> PolicySite:
        site = self._hosts.site(self._sni)
        if site is None or request.method != "GET" or request.path != WELL_KNOWN:
            return _NOTHING_HERE
        return site

    def _answer(self, site: PolicySite) -> None:
        match site.fault:
            case SiteFault.HANG:
                return
            case SiteFault.DRIP:
                self.send_slowly(site.response(), site.drip_interval)
                return
            case SiteFault.ENDLESS:
                self.send(site.response())
                self.send_for_ever(b"x-padding: " + b"x" * 4096 + b"\r\n")
                return
            case SiteFault.GARBAGE:
                self.send(b"\x00\x01 this is no HTTP\r\n\r\n")
            case _:
                self.send(site.response())
        self.close()


def _parse(request: bytes, sni: str | None) -> PolicyRequest:
    head = request.partition(b"\r\n\r\n")[0].decode("latin-1")
    first, *lines = head.split("\r\n")
    method, _, rest = first.partition(" ")
    path = rest.partition(" ")[0]
    pairs = (line.partition(":") for line in lines)
    headers = tuple((name.lower(), value.strip()) for name, _, value in pairs)
    return PolicyRequest(sni=sni, method=method, path=path, headers=headers)


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Unknown"
