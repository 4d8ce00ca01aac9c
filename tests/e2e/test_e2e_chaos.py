"""The relay as it ships, in this process, on an internet whose faults change all the time.

What must hold whatever happens: a message that got 250 arrives or is answered; mail to a domain whose `enforce` policy
is known leaves verified or not at all; when all is over, nothing is left in hand.
"""

import asyncio
import logging
import random
import re
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from relay.app.relay import Relay, running
from relay.app.state_dir import StateDirLock
from relay.config import parse
from relay.lab.ca import CertificateKind
from relay.lab.client import SmtpClient
from relay.lab.dns import DnsFault
from relay.lab.internet import Lab
from relay.lab.mx_behaviour import (
    DROP,
    HANG,
    RESET,
    Handshake,
    MxBehaviour,
    Phase,
    Script,
    closing,
    greylist,
    limit_recipients,
    only_first,
    raw,
    slow,
)
from relay.lab.policy_host import PolicySite, SiteFault
from relay.lab.scenario import SENDER, SENDER_MX, prepare_sender
from relay.queue.message import State
from relay.store.protocols import QueueFilter

SEED = 8461
ENFORCED, TESTING, OPEN = ("enforced", 5), ("testing", 2), ("open", 4)
MESSAGES = 300
CHAOS_SECONDS = 4.0
STRANGER = "mx.stranger.test"
WAITING = QueueFilter(all=True, states=frozenset({State.QUEUED, State.LEASED, State.HELD}))

SETTINGS = """
[relay]
hostname = "relay.legacy.test"

[[listener]]
address = "127.0.0.1:0"

[http]
address = "127.0.0.1:0"

[tls]
ca_file = "{lab.ca_file}"

[ndr]
route = ["smtp://{sender_mx}:{lab.smtp_port}"]

[queue]
retry = ["1s"]
expire_after = "7s"
expire_refused_after = "6s"
delay_notice_after = "3s"

[dns]
nameservers = ["{lab.nameserver}"]
timeout = "1s"

[mta_sts]
fetch_timeout = "1s"
unknown_grace = "2s"

[delivery]
smtp_port = {lab.smtp_port}
policy_port = {lab.policy_port}
allow_private_addresses = true
connection_idle = "1s"
max_messages_per_connection = 7
max_recipients_per_transaction = 3

[delivery.timeouts]
connect = "1s"
greeting = "1s"
ehlo = "1s"
starttls = "1s"
mail = "1s"
rcpt = "1s"
data = "1s"
data_block = "1s"
data_end = "1s"
"""

REPLIES: dict[Phase, tuple[Script, ...]] = {
    Phase.BANNER: ("554 5.3.2 No", "421 4.3.2 Later", DROP, HANG, slow(0.3)),
    Phase.EHLO: ("550 5.5.1 No", closing("421 4.3.2 Later"), RESET, HANG),
    Phase.STARTTLS: ("454 4.7.0 Later", "554 5.7.0 No", raw(b"220 go\r\n250 injected\r\n"), DROP),
    Phase.MAIL: ("451 4.3.0 Later", only_first(1, "452 4.5.3 Enough"), only_first(1, DROP), HANG),
    Phase.RCPT: (greylist(), "550 5.1.1 Nobody", limit_recipients(1), raw(b"2 50\r\n"), closing("421 4.3.2 Bye")),
    Phase.DATA: ("451 4.3.0 Later", RESET, raw(b"354 go\r\n250 early\r\n")),
    Phase.END_OF_DATA: (
        "451 4.3.0 Later",
        "552 5.3.4 Too big",
        DROP,
        RESET,
        HANG,
        slow(0.3),
        raw(b"550-a\r\n250 b\r\n"),
    ),
}


FAILED = re.compile(rb"\r\nFinal-Recipient: rfc822; ([^\r]+)\r\nAction: failed\r\n")


@dataclass(slots=True)
class World:
    """What the monkey plays with, and what was sent: forward-paths that got 250."""

    lab: Lab
    relay: Relay
    chance: random.Random
    sent: set[str] = field(default_factory=set)

    def domains(self, *kinds: tuple[str, int]) -> Iterator[str]:
        return (f"{kind}{number}.test" for kind, count in kinds for number in range(count))

    def hosts_of(self, domain: str) -> tuple[str, ...]:
        return f"mx1.{domain}", f"mx2.{domain}", f"bad.{domain}"

    # The monkey.

    def break_host(self) -> None:
        host = self.lab.hosts[self.chance.choice(self.hosts_of(self._any()))]
        host.behaviour = self._behaviour(host.behaviour.certificate)

    def _behaviour(self, certificate: CertificateKind) -> MxBehaviour:
        if self.chance.random() < 0.3:
            return MxBehaviour(certificate=certificate)
        phases = self.chance.sample(list(REPLIES), self.chance.randint(0, 2))
        return MxBehaviour(
            certificate=certificate,
            offers_starttls=self.chance.random() < 0.8,
            handshake=Handshake.COMPLETE if self.chance.random() < 0.7 else self.chance.choice(list(Handshake)),
            keywords=self.chance.choice([("PIPELINING", "DSN", "8BITMIME"), ("8BITMIME",), ()]),
            replies={phase: self.chance.choice(REPLIES[phase]) for phase in phases},
        )

    def hang_up(self) -> None:
        self.lab.hosts[self.chance.choice(self.hosts_of(self._any()))].hang_up()

    def break_dns(self) -> None:
        domain = self._any()
        name, rdtype = self.chance.choice(
            [(domain, "MX"), (f"mx1.{domain}", "A"), (f"_mta-sts.{domain}", "TXT"), (f"mta-sts.{domain}", "A")]
        )
        faults: list[DnsFault | None] = [None, None, DnsFault.SERVFAIL, DnsFault.REFUSED, DnsFault.TRUNCATED]
        if rdtype == "TXT":
            faults += [DnsFault.NXDOMAIN, DnsFault.NODATA, DnsFault.GARBAGE, DnsFault.TIMEOUT]
        self.lab.dns.override(name, rdtype, self.chance.choice(faults))

    def turn_mx(self) -> None:
        """Somebody on the path names hosts of his own."""
        domain = self._any()
        hosts = [(self.chance.randint(1, 3), host) for host in (*self.hosts_of(domain), STRANGER)]
        self.lab.dns.mx(domain, *self.chance.sample(hosts, self.chance.randint(1, 4)))

    def turn_policy(self) -> None:
        """New ids with a policy host that fails, or with somebody else in its place; TXT that vanishes or doubles."""
        name = self.chance.choice(list(self.domains(ENFORCED, TESTING)))
        domain, number = self.lab.domains[name], self.chance.randint(1, 9)
        mode = "enforce" if name.startswith("enforced") else "testing"
        site = PolicySite(mode=mode, mx=(f"*.{name}",), id=str(number))
        forged = PolicySite(mode="none", id=str(number), certificate=CertificateKind.SELF_SIGNED)
        turns: list[Callable[[], None]] = [
            lambda: domain.publish(site),
            lambda: domain.publish(forged),
            lambda: domain.publish(PolicySite(mode="none", id=str(number), status=404)),
            lambda: domain.publish(PolicySite(mode="none", id=str(number), fault=SiteFault.CUT)),
            lambda: domain.publish(PolicySite(mode="none", id=str(number), content_type="text/html")),
            domain.announce,
            lambda: domain.announce("v=STSv1; id=1;", "v=STSv1; id=2;"),
            domain.policy_host_down,
        ]
        self.chance.choice(turns)()

    def heal(self) -> None:
        for domain in self.domains(ENFORCED, TESTING, OPEN):
            for name, rdtype in ((domain, "MX"), (f"mx1.{domain}", "A"), (f"_mta-sts.{domain}", "TXT")):
                self.lab.dns.override(name, rdtype, None)
            self.lab.dns.override(f"mta-sts.{domain}", "A", None)
            mx1, mx2, bad = self.hosts_of(domain)
            self.lab.dns.mx(domain, (10, mx1), (10, mx2), (20, bad))
            for host in (mx1, mx2):
                self.lab.hosts[host].behaviour = MxBehaviour()

    async def rage(self) -> None:
        pranks = [self.break_host] * 6 + [self.break_dns] * 3 + [self.turn_mx, self.turn_policy, self.hang_up] * 2
        until = asyncio.get_running_loop().time() + CHAOS_SECONDS
        while asyncio.get_running_loop().time() < until:
            self.chance.choice(pranks)()
            await asyncio.sleep(0.02)

    def _any(self) -> str:
        return self.chance.choice(list(self.domains(ENFORCED, TESTING, OPEN)))

    # The sender.

    async def send_all(self) -> None:
        """Send over the whole time of the chaos, on connections that carry many messages."""
        batch = MESSAGES // 12
        for start in range(0, MESSAGES, batch):
            await self.send(*(self._message(number) for number in range(start, start + batch)))
            await asyncio.sleep(CHAOS_SECONDS / 15)

    def _message(self, number: int) -> tuple[str, ...]:
        domains = self.chance.sample(list(self.domains(ENFORCED, TESTING, OPEN)), self.chance.choice([1, 1, 2]))
        return tuple(f"m{number}.{n}@{domain}" for domain in domains for n in range(self.chance.choice([1, 1, 2, 5])))

    async def send(self, *messages: tuple[str, ...]) -> None:
        host, port = self.relay.listeners[0]
        async with SmtpClient(f"{host}:{port}") as client:
            await client.connect()
            await client.command("EHLO client.legacy.test")
            for paths in messages:
                await client.command(f"MAIL FROM:<{SENDER}>")
                for path in paths:
                    assert (await client.command(f"RCPT TO:<{path}>")).code == 250
                content = f"From: <{SENDER}>\r\nSubject: x\r\n\r\n" + "x" * 70 + "\r\n"
                content += ("x" * 70 + "\r\n") * self.chance.choice([0, 0, 0, 5000])
                if (await client.data(content.encode())).code == 250:
                    self.sent.update(paths)

    # What came of it.

    def delivered(self) -> Counter[str]:
        return Counter(
            path for host in self.lab.hosts.values() if host.name != SENDER_MX
            for message in host.messages for path in message.forward_paths
        )  # fmt: skip

    def answered(self) -> set[str]:
        """The recipients whom an NDR says to have failed."""
        notices = self.lab.hosts[SENDER_MX].messages
        return {path.decode() for notice in notices for path in FAILED.findall(notice.content)}

    async def empty(self, seconds: float) -> None:
        """Wait until the queue is empty."""
        async with asyncio.timeout(seconds):
            while left := await self.relay._store.list(WAITING, 10):
                print(f"{len(left)} left: {left[0].destination} {left[0].recipients[0].diagnostic}")
                await asyncio.sleep(0.5)


@asynccontextmanager
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with Lab() as lab:
        await prepare_sender(lab)
        settings = parse(SETTINGS.format(lab=lab, sender_mx=lab.hosts[SENDER_MX].address), base=tmp_path)
        with StateDirLock(settings.relay.state_dir):
            async with running(settings) as relay:
                at = World(lab, relay, random.Random(SEED))
                await lab.host(STRANGER)
                for name in at.domains(ENFORCED, TESTING, OPEN):
                    mx1, mx2, bad = at.hosts_of(name)
                    untrusted = MxBehaviour(certificate=CertificateKind.SELF_SIGNED)
                    mode = {"e": "enforce", "t": "testing"}.get(name[0])
                    site = PolicySite(mode=mode, mx=(f"*.{name}",)) if mode else None
                    await lab.domain(name, mx=[(mx1, 10, None), (mx2, 10, None), (bad, 20, untrusted)], policy=site)
                yield at


async def test_whatever_happens_no_mail_is_lost_and_none_leaves_unprotected(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    unhandled: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: unhandled.append(context))
    with caplog.at_level(logging.WARNING):
        async with world(tmp_path) as at:
            await at.send(*((f"first@{domain}",) for domain in at.domains(ENFORCED, TESTING, OPEN)))
            await at.empty(30)
            await asyncio.gather(at.rage(), at.send_all(), _reload_now_and_then(at))
            at.heal()
            await at.empty(60)
            await _until_idle(at.relay)
            counts = at.delivered()
            lost = at.sent - counts.keys() - at.answered()
            twice = sum(count - 1 for count in counts.values())
            print(f"{len(at.sent)} sent, {len(counts)} delivered, {twice} copies, {len(at.answered())} answered")
            assert not lost
            _check_protection(at)
            violations = {one for host in at.lab.hosts.values() for one in host.violations}
            assert not violations
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR] == []
    assert unhandled == []


async def _reload_now_and_then(at: World) -> None:
    for _ in range(3):
        await asyncio.sleep(CHAOS_SECONDS / 4)
        assert await at.relay.reload(at.relay.settings) == ()


def _check_protection(at: World) -> None:
    """No mail for an enforced domain in plain text, at a host with a bad certificate, or at a stranger's."""
    for host in at.lab.hosts.values():
        for message in host.messages:
            enforced = [path for path in message.forward_paths if "@enforced" in path]
            if enforced:
                assert message.tls, (host.name, enforced)
                assert host.name.startswith(("mx1.enforced", "mx2.enforced")), (host.name, enforced)
                assert message.session.sni == host.name


async def _until_idle(relay: Relay) -> None:
    """Wait until no slot, lane, place or connection is taken any more."""
    dispatcher, connectors = relay._dispatcher, [relay._outbound.pool._connector]
    connectors += [retired.pool._connector for retired in relay._retired]

    def taken() -> list[object]:
        return [
            relay._slots._table.in_use, len(relay._slots._proven), len(relay._slots._unproven), len(dispatcher._lanes),
            len(dispatcher._runners), dispatcher._unproven_runners, dispatcher._bytes, len(relay._worker._runs),
            *(len(connector._links) for connector in connectors),
        ]  # fmt: skip

    async with asyncio.timeout(15):
        while any(taken()):  # noqa: ASYNC110  the relay announces no such thing
            await asyncio.sleep(0.05)
