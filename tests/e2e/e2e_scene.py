"""A relay in a process of its own, the lab around it, and the command line beside it: the fixtures of tests/e2e."""

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator, Sequence
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest

from relay.lab.client import Submission, submit
from relay.lab.internet import Lab
from relay.lab.mx_records import ReceivedMessage
from relay.lab.relay_process import Event, RelayProcess, lab_config
from relay.lab.scenario import SENDER, SENDER_MX, prepare_sender

QUICK_RETRIES = """
[queue]
retry = ["1s"]
"""


def is_event(name: str, **fields: object) -> "Wanted":
    return Wanted(name, fields)


class Wanted:
    """Whether a log event has this name and these fields."""

    def __init__(self, name: str, fields: dict[str, object]) -> None:
        self._name = name
        self._fields = fields

    def __call__(self, event: Event) -> bool:
        return event["event"] == self._name and all(event.get(key) == value for key, value in self._fields.items())


class Scene:
    """`settings` are the text of the config file; a change is seen by the next start, or on SIGHUP."""

    def __init__(self, lab: Lab, directory: Path) -> None:
        self.lab = lab
        self.directory = directory
        self.config = directory / "config.toml"
        self.relay = RelayProcess(self.config)

    @classmethod
    async def make(cls, lab: Lab, directory: Path) -> "Scene":
        scene = cls(lab, directory)
        await prepare_sender(lab)
        scene.configure(QUICK_RETRIES)
        return scene

    def configure(self, extra: str = "", *, ndr_route: bool = True, replace: tuple[str, str] = ("", "")) -> None:
        """Write the config file: the lab's settings, `extra` tables, and one text replaced by another."""
        sender_mx = f"smtp://{self.lab.hosts[SENDER_MX].address}:{self.lab.smtp_port}" if ndr_route else ""
        text = lab_config(self.lab, ndr_route=sender_mx, extra=extra)
        if replace[0]:
            assert replace[0] in text
            text = text.replace(*replace)
        self.config.write_text(text, encoding="utf-8")

    async def end(self) -> None:
        if self.relay.started:
            await self.relay.stop()

    # Mail.

    async def send(self, *recipients: str, subject: str = "hello", sender: str = SENDER) -> str:
        """Submit a message, which must be taken, and return its queue id."""
        done = await self.offer(*recipients, subject=subject, sender=sender)
        assert done.accepted, done
        assert done.data is not None
        return done.data.text.rpartition(" ")[2]

    async def offer(self, *recipients: str, subject: str = "hello", sender: str = SENDER) -> Submission:
        content = (
            f"From: <{SENDER}>\r\nSubject: {subject}\r\nMessage-ID: <{time.time_ns()}@legacy.test>\r\n\r\nHello.\r\n"
        )
        return await submit(self.relay.smtp, sender, recipients, content.encode())

    async def ndrs(self, count: int = 1) -> list[EmailMessage]:
        """Wait for that many messages at the sender's mail host."""
        arrived = await self.lab.hosts[SENDER_MX].wait_for_messages(count, 30)
        return [parsed(one) for one in arrived]

    async def settled(self, queue_id: str, outcome: str, seconds: float = 20) -> Event:
        """Wait until the log tells this outcome of the message."""
        return await self.relay.wait_for(is_event(f"recipient.{outcome}", queue_id=queue_id), seconds)

    # Beside the relay.

    async def cli(self, *arguments: str, config: bool = True) -> tuple[int, str, str]:
        """Run a command and return exit status, standard output and standard error."""
        extra = ["--config", str(self.config)] if config else []
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "relay.cli", *arguments, *extra,
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        async with asyncio.timeout(60):
            out, err = await process.communicate()
        assert process.returncode is not None
        return process.returncode, out.decode(), err.decode()

    async def cli_json(self, *arguments: str) -> Any:
        status, out, err = await self.cli(*arguments, "--json")
        assert status in {0, 1}, err
        return json.loads(out)

    async def http(self, path: str, accept: str = "*/*") -> tuple[int, str]:
        """Return status and body."""
        host, _, port = self.relay.http.rpartition(":")
        async with asyncio.timeout(10):
            reader, writer = await asyncio.open_connection(host, int(port))
            head = f"GET {path} HTTP/1.1\r\nHost: {self.relay.http}\r\nAccept: {accept}\r\nConnection: close\r\n\r\n"
            writer.write(head.encode())
            answer = (await reader.read()).decode()
            writer.close()
            await writer.wait_closed()
        return int(answer.split()[1]), answer.partition("\r\n\r\n")[2]


@pytest.fixture
async def lab() -> AsyncIterator[Lab]:
    async with Lab() as internet:
        yield internet


@pytest.fixture
async def scene(lab: Lab, tmp_path: Path) -> AsyncIterator[Scene]:
    """A relay that is not started yet."""
    made = await Scene.make(lab, tmp_path)
    yield made
    await made.end()
    print(made.relay.log_end(50))  # pytest shows it when the test has failed


def parsed(message: ReceivedMessage) -> EmailMessage:
    return message_from_bytes(message.content, policy=policy.default)


def status_fields(ndr: EmailMessage) -> Sequence[Any]:
    """Return the groups of the delivery-status part: per message, then per recipient."""
    (part,) = [part for part in ndr.walk() if part.get_content_type() == "message/delivery-status"]
    groups = part.get_payload()
    assert isinstance(groups, list)
    return groups
