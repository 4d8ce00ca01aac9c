"""The pocket internet: name server, policy hosts and MX hosts on loopback, to be had in a second and gone at once.

    async with Lab() as lab:
        shop = await lab.domain(
            "shop.test",
            mx=[("mx1.shop.test", 10, MxBehaviour(certificate=CertificateKind.EXPIRED)),
                ("mx2.shop.test", 20, MxBehaviour(replies={Phase.RCPT: greylist()}))],
            policy=PolicySite(mode="enforce", mx=["*.shop.test"], max_age=86400, id="1"),
        )
        # The relay's config: dns.nameservers = [lab.nameserver], delivery.smtp_port = lab.smtp_port,
        # delivery.policy_port = lab.policy_port, tls.ca_file = lab.ca_file, delivery.allow_private_addresses = true.
        ...
        (message, *_) = await lab.hosts["mx2.shop.test"].wait_for_messages(1)
        assert message.tls and lab.policy_hosts.requests[0].sni == "mta-sts.shop.test"
        shop.publish(PolicySite(mode="none", id="2"))                # a new policy, a new id in DNS
        lab.hosts["mx1.shop.test"].behaviour = MxBehaviour()         # the host is repaired
        lab.dns.override("_mta-sts.shop.test", "TXT", DnsFault.SERVFAIL)

It stands on the other side of the wire: nothing here imports the relay's delivery, ingress or store.
"""

import asyncio
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from relay.lab.ca import LabCA
from relay.lab.dns import LabDns
from relay.lab.loopback import DEAD, FIRST_MX, POLICY_HOST, PortReservation
from relay.lab.mx import LabMx
from relay.lab.mx_behaviour import MxBehaviour
from relay.lab.mx_records import ReceivedMessage
from relay.lab.policy_host import LabPolicyHosts, PolicySite

MOST_HOSTS = 60_000

MxHost = tuple[str, int, MxBehaviour | None]
"""Name, preference, behaviour. None: a host that is there already, or a good one."""


class LabDomain:
    """A recipient domain of the lab, to change what it publishes while the relay runs."""

    def __init__(self, name: str, lab: "Lab") -> None:
        self.name = name
        self._lab = lab

    def publish(self, site: PolicySite) -> None:
        """Serve this policy and announce its id (RFC 8461 §3.1)."""
        host = f"mta-sts.{self.name}"
        self._lab.policy_hosts.publish(self.name, site)
        self._lab.dns.a(host, POLICY_HOST)
        self.announce(f"v=STSv1; id={site.id};")

    def announce(self, *records: str) -> None:
        """Put these texts at _mta-sts; none removes the record."""
        if records:
            self._lab.dns.txt(f"_mta-sts.{self.name}", *records)
        else:
            self._lab.dns.remove(f"_mta-sts.{self.name}", "TXT")

    def policy_host_down(self) -> None:
        """Let connections to the policy host be refused from now on."""
        self._lab.dns.a(f"mta-sts.{self.name}", DEAD)

    def messages(self) -> list[ReceivedMessage]:
        """Return what any host of the lab has accepted for recipients at this domain, host by host."""
        at_domain = f"@{self.name}"
        return [
            message
            for host in self._lab.hosts.values()
            for message in host.messages
            if any(path.lower().endswith(at_domain) for path in message.forward_paths)
        ]


class Lab:
    """The whole internet, as an async context manager. Certificates and keys lie in a temporary directory.

    `ttl` (seconds) is that of all records unless given otherwise: with 0 each change is seen at the next attempt.
    """

    def __init__(self, *, ttl: int = 0, keep_content: bool = True) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="mta-sts-lab-")
        self._keep_content = keep_content
        self._smtp = PortReservation()
        self._policy = PortReservation()
        self._addresses = (FIRST_MX + number for number in range(MOST_HOSTS))
        self.ca = LabCA(Path(self._directory.name))
        self.dns = LabDns(ttl=ttl)
        self.policy_hosts = LabPolicyHosts(self.ca)
        self.hosts: dict[str, LabMx] = {}
        self.domains: dict[str, LabDomain] = {}

    async def __aenter__(self) -> Self:
        try:
            await self.dns.start()
            await self.policy_hosts.start(port=self._policy.port)
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Stop everything. Sessions still open are broken off."""
        await asyncio.gather(
            self.dns.close(), self.policy_hosts.close(), *(host.close() for host in self.hosts.values())
        )
        self._smtp.close()
        self._policy.close()
        self._directory.cleanup()

    # For the relay's config.

    @property
    def nameserver(self) -> str:
        return self.dns.address

    @property
    def smtp_port(self) -> int:
        return self._smtp.port

    @property
    def policy_port(self) -> int:
        return self._policy.port

    @property
    def ca_file(self) -> Path:
        return self.ca.ca_file

    # The world.

    async def host(self, name: str, behaviour: MxBehaviour | None = None) -> LabMx:
        """Return the MX host of that name, made with its A record where it is not there yet."""
        if name in self.hosts:
            if behaviour is not None:
                self.hosts[name].behaviour = behaviour
            return self.hosts[name]
        address = str(next(self._addresses))
        host = LabMx(name, behaviour or MxBehaviour(), self.ca, keep_content=self._keep_content)
        await host.start(address, self.smtp_port)
        self.hosts[name] = host
        self.dns.a(name, address)
        return host

    async def domain(self, name: str, *, mx: Sequence[MxHost] = (), policy: PolicySite | None = None) -> LabDomain:
        """Make a recipient domain; without `mx` it has no MX record, without `policy` no MTA-STS."""
        for host, _preference, behaviour in mx:
            await self.host(host, behaviour)
        if mx:
            self.dns.mx(name, *((preference, host) for host, preference, _behaviour in mx))
        domain = self.domains[name] = LabDomain(name, self)
        if policy is not None:
            domain.publish(policy)
        return domain

    def down_host(self, name: str) -> None:
        """Give a name an address at which connections are refused."""
        self.dns.a(name, DEAD)
