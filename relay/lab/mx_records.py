"""What an MX host of the lab writes down about its clients."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Command:
    """One command line, and whether it came under TLS."""

    line: str
    secured: bool


@dataclass(slots=True, kw_only=True)
class SessionRecord:
    """One connection, from the address `client`, of `user` after AUTH. The TLS facts are None in plain text.

    `violations` names each rule that the client broke. `overlapped`: messages that came together with what follows.
    """

    mx: str
    client: str = ""
    hello: str = ""
    sni: str | None = None
    tls_version: str | None = None
    cipher: str | None = None
    tls_resumed: bool = False
    tls_failure: str | None = None
    user: str = ""
    commands: list[Command] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    messages: int = 0
    overlapped: int = 0
    closed: bool = False

    def verbs(self) -> list[str]:
        """Return the verbs of all commands, in order."""
        return [command.line.partition(" ")[0].upper() for command in self.commands]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceivedRecipient:
    """One accepted RCPT."""

    forward_path: str
    parameters: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceivedMessage:
    """One message that the host said 250 to. `size` counts octets even where the content was not kept."""

    mx: str
    reverse_path: str
    mail_parameters: tuple[str, ...]
    recipients: tuple[ReceivedRecipient, ...]
    content: bytes
    size: int
    bare_newlines: bool
    by_bdat: bool
    session: SessionRecord

    @property
    def tls(self) -> bool:
        return self.session.tls_version is not None

    @property
    def forward_paths(self) -> tuple[str, ...]:
        return tuple(recipient.forward_path for recipient in self.recipients)
