"""kill -9 in the middle of the work: what was answered with 250 is never lost."""

import asyncio
import socket
from collections import Counter
from pathlib import Path

import pytest
from e2e_scene import QUICK_RETRIES, Scene, parsed

from relay.lab.client import SmtpClient
from relay.lab.internet import Lab
from relay.lab.journal import Journal
from relay.lab.mx_behaviour import Moment, MxBehaviour, Phase
from relay.lab.mx_records import ReceivedMessage
from relay.lab.policy_host import PolicySite
from relay.lab.scenario import SENDER, SENDER_MX

MESSAGES = 2_000
KILLS = 3
CLIENTS = 10
UNKNOWN_EVERY = 20
"""One message in so many goes to a user that does not exist, and is to be answered by an NDR."""


@pytest.mark.timeout(300)
async def test_kill_9_loses_nothing_that_was_answered_with_250(lab: Lab, tmp_path: Path) -> None:
    await lab.domain(
        "shop.test",
        mx=[("mx1.shop.test", 10, MxBehaviour(replies={Phase.RCPT: _no_nobody}))],
        policy=PolicySite(mode="enforce", mx=("mx1.shop.test",)),
    )
    scene = await Scene.make(lab, tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    listener = '[[listener]]\naddress = "127.0.0.1:'
    scene.configure(QUICK_RETRIES, replace=(f'{listener}0"', f'{listener}{port}"'))
    flood = Flood(f"127.0.0.1:{port}")
    await scene.relay.start()
    senders = asyncio.gather(*(flood.send() for _ in range(CLIENTS)))
    for number in range(1, KILLS + 1):
        await flood.reached(MESSAGES * number // (KILLS + 1))
        await scene.relay.kill()
        await scene.relay.start()
    await senders
    assert len(flood.accepted) == MESSAGES
    delivered, answered = await _everything(lab, flood)
    await scene.end()
    duplicates = sum(count - 1 for count in delivered.values())
    repeated = sum(count - 1 for count in answered.values())
    print(f"{len(delivered)} delivered ({duplicates} duplicates), {len(answered)} NDRs ({repeated} duplicates)")
    assert set(delivered) | set(answered) == flood.accepted
    assert set(answered) == {one for one in flood.accepted if _is_unknown(one)}
    # A duplicate is a message whose 250 had not been written down when the process died: those in flight, no more.
    assert duplicates <= KILLS * 100


def _no_nobody(moment: Moment) -> str | None:
    return "550 5.1.1 No such user" if moment.path.startswith("nobody@") else None


def _is_unknown(subject: str) -> bool:
    return int(subject.removeprefix("n")) % UNKNOWN_EVERY == 0


async def _everything(lab: Lab, flood: "Flood") -> tuple[Counter[str], Counter[str]]:
    """Wait until each accepted message has arrived or is answered; return how often each one did."""
    unknown = {subject for subject in flood.accepted if _is_unknown(subject)}
    async with asyncio.timeout(120):
        delivered = await _subjects(lab.hosts["mx1.shop.test"].messages, flood.accepted - unknown)
        answered = await _subjects(lab.hosts[SENDER_MX].messages, unknown)
    return delivered, answered


async def _subjects(arrived: Journal[ReceivedMessage], wanted: set[str]) -> Counter[str]:
    """Wait until every subject wanted has arrived; count all that have."""
    counts: Counter[str] = Counter()
    while True:
        counts.update(_about(str(parsed(one)["subject"])) for one in arrived[counts.total() :])
        if wanted <= counts.keys():
            return counts
        await arrived.wait_for(counts.total() + 1, 120)


def _about(subject: str) -> str:
    return subject.removeprefix("Undeliverable: ")


class Flood:
    """Clients that send numbered messages, each as often as it takes to get a 250."""

    def __init__(self, address: str) -> None:
        self.accepted: set[str] = set()
        self._address = address
        self._next = iter(range(MESSAGES))
        self._progress = asyncio.Condition()

    async def reached(self, count: int) -> None:
        async with self._progress:
            await self._progress.wait_for(lambda: len(self.accepted) >= count)

    async def send(self) -> None:
        """Send what nobody else sends, over one connection as long as it lasts."""
        client = SmtpClient(self._address)
        await self._connect(client)
        for number in self._next:
            while not await self._offer(client, number):
                await client.close()
                client = SmtpClient(self._address)
                await self._connect(client)
        await client.close()

    async def _connect(self, client: SmtpClient) -> None:
        """Try until the relay is there again; each refusal comes at once, so wait a moment between them."""
        for _ in range(600):
            try:
                await client.connect()
                await client.command("EHLO client.legacy.test")
            except (OSError, EOFError):
                await asyncio.sleep(0.05)
            else:
                return
        raise TimeoutError("the relay did not come back")

    async def _offer(self, client: SmtpClient, number: int) -> bool:
        subject = f"n{number}"
        user = "nobody" if _is_unknown(subject) else "bob"
        try:
            if (await client.command(f"MAIL FROM:<{SENDER}>")).code != 250:
                return False
            if (await client.command(f"RCPT TO:<{user}@shop.test>")).code != 250:
                return False
            content = f"From: <{SENDER}>\r\nSubject: {subject}\r\n\r\n{'x' * 70}\r\n"
            if (await client.data(content.encode())).code != 250:
                return False
        except (OSError, EOFError, AssertionError):
            return False
        self.accepted.add(subject)
        async with self._progress:
            self._progress.notify_all()
        return True
