"""A host of the lab, and the words that the tests of it say to it."""

from relay.lab.client import SmtpClient
from relay.lab.internet import Lab
from relay.lab.mx import LabMx
from relay.lab.mx_behaviour import MxBehaviour, Phase, Script

NAME = "mx.shop.test"
CONTENT = b"Subject: x\r\n\r\n.one dot\r\n..two\r\n.\r\nend\r\n"
ENVELOPE = ("MAIL FROM:<a@legacy.test>", "RCPT TO:<b@shop.test>")


async def an_mx(lab: Lab, behaviour: MxBehaviour | None = None, **replies: Script) -> LabMx:
    """Start the host, with replies by the name of their phase."""
    behaviour = behaviour or MxBehaviour(replies={Phase[phase.upper()]: script for phase, script in replies.items()})
    return await lab.host(NAME, behaviour)


def at(mx: LabMx) -> str:
    return f"{mx.address}:{mx.port}"


async def hello(client: SmtpClient) -> tuple[str, ...]:
    """Connect, say EHLO, and return the lines of its reply."""
    await client.connect()
    return (await client.command("EHLO client.test")).lines


async def codes(client: SmtpClient, *commands: str) -> list[int]:
    """Send the commands one by one; return the codes of their replies."""
    return [(await client.command(command)).code for command in commands]
