"""How one MX host of the lab behaves: what it offers, what it shows, and what it says at each phase."""

import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum

from relay.lab.ca import CertificateKind
from relay.lab.gate import Gate

STANDARD_KEYWORDS = ("PIPELINING", "8BITMIME", "SMTPUTF8", "DSN", "CHUNKING", "ENHANCEDSTATUSCODES")
WITH_REQUIRETLS = (*STANDARD_KEYWORDS, "REQUIRETLS")


class Phase(Enum):
    """Where in a session something can be said. END_OF_DATA is the reply to the final dot or to BDAT ... LAST."""

    BANNER = "banner"
    EHLO = "ehlo"
    HELO = "helo"
    STARTTLS = "starttls"
    MAIL = "mail"
    RCPT = "rcpt"
    DATA = "data"
    CHUNK = "chunk"
    END_OF_DATA = "end of data"
    RSET = "rset"
    NOOP = "noop"
    QUIT = "quit"


class Then(Enum):
    """What follows a reply."""

    GO_ON = "the session goes on"
    CLOSE = "the connection is closed"
    RESET = "the connection is reset"
    HANG = "nothing is ever said again; what comes is read and forgotten"
    STOP_READING = "nothing is ever said nor read again"
    REPEAT = "the same bytes again and again, without end"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The bytes of a reply, as they are, and how they come.

    `delay` and `drip` are seconds: before the first byte, and between any two bytes; `gate` holds the reply back until
    it is opened. `raw=None` means the ordinary reply. `accepts` says what the host itself takes the command for, where
    that is not what the first digit says.
    """

    raw: bytes | None = None
    delay: float = 0
    drip: float = 0
    gate: Gate | None = None
    then: Then = Then.GO_ON
    accepts: bool | None = None

    @property
    def at_once(self) -> bool:
        """Whether it is a reply like others, to be written together with them."""
        return not self.delay and not self.drip and self.gate is None and self.then is Then.GO_ON


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """The circumstances under which a reply is asked for.

    `path` is the reverse-path at MAIL, the forward-path at RCPT. `recipients` were accepted in this transaction so
    far. `tries` counts how often this host was asked before for this pair of reverse- and forward-path.
    """

    phase: Phase
    reverse_path: str = ""
    path: str = ""
    recipients: int = 0
    tries: int = 0
    transactions: int = 0
    secured: bool = False


Script = str | Answer | Callable[[Moment], "str | Answer | None"] | None
"""A reply's text without CRLF, or an `Answer`, or a function that gives one; None is the ordinary reply."""

DROP = Answer(raw=b"", then=Then.CLOSE)
RESET = Answer(raw=b"", then=Then.RESET)
HANG = Answer(raw=b"", then=Then.HANG)


def slow(seconds: float, text: str | None = None) -> Answer:
    """Return a reply (the ordinary one without `text`) that comes late: a tarpit."""
    return Answer(raw=None if text is None else _line(text), delay=seconds)


def closing(text: str) -> Answer:
    """Return a reply after which the connection is closed, as after 421."""
    return Answer(raw=_line(text), then=Then.CLOSE)


def raw(data: bytes, *, accepts: bool | None = None) -> Answer:
    """Return a reply of exactly these bytes, malformed or not."""
    return Answer(raw=data, accepts=accepts)


def endless(data: bytes = b"250-and more\r\n") -> Answer:
    """Return a reply that does not end."""
    return Answer(raw=data, then=Then.REPEAT)


def greylist(tries: int = 1, text: str = "451 4.7.1 Greylisted, try again later") -> Script:
    """Refuse each pair of reverse-path and forward-path for the first `tries` times (at RCPT)."""
    return lambda moment: text if moment.tries < tries else None


def limit_recipients(accepted: int, text: str = "452 4.5.3 Too many recipients") -> Script:
    """Refuse what comes after so many accepted recipients of a transaction (at RCPT)."""
    return lambda moment: text if moment.recipients >= accepted else None


def by_path(replies: Mapping[str, "str | Answer"]) -> Script:
    """Answer by path: the full one or its local part; all others get the ordinary reply."""
    return lambda moment: replies.get(moment.path, replies.get(moment.path.rpartition("@")[0]))


def only_first(transactions: int, otherwise: "str | Answer") -> Script:
    """Behave for the first transactions of a connection, then answer `otherwise`."""
    return lambda moment: None if moment.transactions < transactions else otherwise


def resolve(script: Script, moment: Moment) -> Answer | None:
    """Return the answer that a script gives at this moment, None for the ordinary one."""
    if callable(script):
        script = script(moment)
    return Answer(raw=_line(script)) if isinstance(script, str) else script


def _line(text: str) -> bytes:
    return text.encode() + b"\r\n"


class Handshake(Enum):
    """What happens after 220 to STARTTLS."""

    COMPLETE = "a handshake"
    CLOSE = "the connection is closed"
    RESET = "the connection is reset when the ClientHello is there"
    ALERT = "a fatal alert"
    GARBAGE = "bytes that are not TLS"
    HANG = "nothing"
    PLAINTEXT = "the session goes on in plain text"
    SMALL = "a handshake, but a ClientHello of 256 octets or more gets a reset"


@dataclass(frozen=True, slots=True, kw_only=True)
class MxBehaviour:
    """One MX host. As it stands: a good one, with STARTTLS and a certificate for its name.

    `keywords` are the EHLO lines besides STARTTLS, SIZE and LIMITS; `keywords_in_tls`, if given, those after TLS.
    `size` and `recipients_max` are announced (SIZE, LIMITS RCPTMAX) and kept. `replies` stand in place of the ordinary
    ones, phase by phase. With `implicit_tls` the session begins with a handshake. With `logins` (passwords by user)
    MAIL needs AUTH, which is offered under TLS.
    """

    certificate: CertificateKind = CertificateKind.GOOD
    certificate_names: tuple[str, ...] = ()
    oldest_tls: ssl.TLSVersion = ssl.TLSVersion.TLSv1_2
    newest_tls: ssl.TLSVersion = ssl.TLSVersion.MAXIMUM_SUPPORTED
    handshake: Handshake = Handshake.COMPLETE
    offers_starttls: bool = True
    implicit_tls: bool = False
    logins: Mapping[str, str] = field(default_factory=dict)
    mechanisms: str = "PLAIN LOGIN"
    keywords: tuple[str, ...] = STANDARD_KEYWORDS
    keywords_in_tls: tuple[str, ...] | None = None
    size: int | None = 50 * 1024 * 1024
    recipients_max: int | None = None
    replies: Mapping[Phase, Script] = field(default_factory=dict)

    def keywords_now(self, *, secured: bool) -> tuple[str, ...]:
        """Return the EHLO lines that this host sends, before or after TLS."""
        keywords = self.keywords_in_tls if secured and self.keywords_in_tls is not None else self.keywords
        if self.size is not None:
            keywords += (f"SIZE {self.size}",)
        if self.recipients_max is not None:
            keywords += (f"LIMITS RCPTMAX={self.recipients_max}",)
        if self.offers_starttls and not secured:
            keywords += ("STARTTLS",)
        if self.logins and secured:
            keywords += (f"AUTH {self.mechanisms}",)
        return keywords
