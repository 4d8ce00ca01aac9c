"""The mail hosts of a destination: who they are, where they are, what they must keep to. **Pure.**"""

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import urlsplit

from policy.decide import Enforcement, decide
from policy.findings import Findings
from policy.names import IPAddress, to_host
from policy.requirement import Level, MxMatch, Refusal, Requirement
from relay.queue.attempt import FailureKind, HostFailure

SMTP_PORT = 25


@dataclass(frozen=True, slots=True, kw_only=True)
class NextHop:
    """A host that the operator named. `host` is a canonical name or an address."""

    host: str | IPAddress
    port: int = SMTP_PORT

    @classmethod
    def parse(cls, url: str) -> "NextHop":
        """Return the next hop of `smtp://host:port`; raises ValueError, with words for the operator."""
        parts = urlsplit(url)
        if (
            parts.scheme != "smtp"
            or not parts.hostname
            or parts.path
            or parts.query
            or parts.fragment
            or parts.username
        ):
            raise ValueError(f"{url!r} is not of the form smtp://host:port")
        port = SMTP_PORT if parts.port is None else parts.port
        if port == 0:
            raise ValueError(f"{url!r} has port 0")
        try:
            return cls(host=ipaddress.ip_address(parts.hostname), port=port)
        except ValueError:
            return cls(host=to_host(parts.hostname), port=port)


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """One mail host, in the order in which it is to be tried.

    `name` is the name in the MX record, never where a CNAME led (RFC 8461 §4.1). `where` are its addresses in the
    order to be tried, or why it has none that may be contacted. `verdict` is the policy's.
    """

    name: str
    port: int
    where: tuple[IPAddress, ...] | HostFailure
    verdict: Requirement | Refusal

    @property
    def failure(self) -> HostFailure | None:
        """Why the host is not contacted at all, or None. What the policy says comes first."""
        if isinstance(self.verdict, Refusal):
            return HostFailure(kind=FailureKind.MX_NOT_IN_POLICY, detail=self.verdict.detail)
        return self.where if isinstance(self.where, HostFailure) else None

    @property
    def level(self) -> Level:
        return self.verdict.level if isinstance(self.verdict, Requirement) else Level.VERIFIED

    @property
    def mx_match(self) -> MxMatch:
        return self.verdict.mx_match if isinstance(self.verdict, Requirement) else MxMatch.NOT_MATCHED


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """The way to one destination: hosts in order, or why there is none.

    `findings` is what MTA-STS says of the policy domain, None where no policy can apply (address literals, a next
    hop of the operator's, no hosts at all).
    """

    hosts: tuple[Host, ...] = ()
    findings: Findings | None = None
    failure: HostFailure | None = None


def opportunistic(host: str) -> Requirement:
    """The requirement where no policy applies."""
    return Requirement(level=Level.OPPORTUNISTIC, mx_host=host)


def with_policy(hosts: Iterable[Host], findings: Findings, enforcement: Enforcement) -> tuple[Host, ...]:
    """Return the same hosts in the same order, judged by the policy in force (RFC 8461 §4.1, §8.4).

    None is left out: a host that is refused stays in the list, so that loops are seen and records are whole.
    """
    policy = findings.cached.policy if findings.cached else None
    return tuple(
        Host(
            name=host.name,
            port=host.port,
            where=host.where,
            verdict=decide(host.name, policy, enforcement=enforcement),
        )
        for host in hosts
    )
