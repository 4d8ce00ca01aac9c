"""What a row of the demo's table is: a domain, what is wrong with it, and what must happen to its mail.

A runner prepares all scenarios on one lab, sends a message to `recipient` of each and waits for `first` (where there
is one) or `expected`. Where there is `between` it then calls that, and waits for `expected` of the same message, which
the relay tries again, or of a second one, as `second_message` says. In the end it asks `wire_disagreement` what the
hosts of the lab themselves have seen: the relay's word alone is not enough.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import Enum

from relay.lab.internet import Lab
from relay.lab.mx_behaviour import MxBehaviour

SENDER = "alice@legacy.test"
SENDER_MX = "mail.legacy.test"

Step = Callable[[Lab], Awaitable[None]]


class Outcome(Enum):
    """What has become of a recipient. DEFERRED: tried at least once, and still queued."""

    DELIVERED = "delivered"
    DEFERRED = "deferred"
    FAILED = "failed"


class Security(Enum):
    """How the session was protected that delivered the message.

    STS: by a policy in enforce mode, DANE: by TLSA, REQUIRETLS: as the message itself demands.
    """

    PLAINTEXT = "plaintext"
    OPPORTUNISTIC = "opportunistic"
    STS = "sts"
    DANE = "dane"
    DANE_STS = "dane+sts"
    ROUTE = "route"
    REQUIRETLS = "requiretls"


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """What the relay says has become of a recipient. `status` is RFC 3463's, for instance "4.7.5"."""

    outcome: Outcome
    status: str
    security: Security | None = None
    text: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What must have become of a recipient. `status` "4.7" stands for all of 4.7.x."""

    outcome: Outcome
    status: str
    security: Security | None = None

    def disagreement(self, seen: Observed) -> str:
        """Return what is not as it must be, "" where all is."""
        if seen.outcome is not self.outcome:
            return f"{seen.outcome.value}, not {self.outcome.value}"
        if not f"{seen.status}.".startswith(f"{self.status}."):
            return f"status {seen.status}, not {self.status}"
        if self.security is not None and seen.security is not self.security:
            return f"security {seen.security.value if seen.security else 'none'}, not {self.security.value}"
        return ""


def delivered(security: Security) -> Verdict:
    return Verdict(outcome=Outcome.DELIVERED, status="2", security=security)


def deferred(status: str) -> Verdict:
    return Verdict(outcome=Outcome.DEFERRED, status=status)


def failed(status: str) -> Verdict:
    return Verdict(outcome=Outcome.FAILED, status=status)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """One row of the table. `taken_by` names the only host that may have taken a message, where it matters.

    `report_only`: the relay is to run with `mta_sts.mode = "report-only"`. `requiretls`: the message says REQUIRETLS.
    `route`: what a [[route]] for the domain says.
    """

    domain: str
    title: str
    must: str
    expected: Verdict
    prepare: Step
    first: Verdict | None = None
    between: Step | None = None
    second_message: bool = False
    taken_by: str = ""
    report_only: bool = False
    requiretls: bool = False
    route: tuple[str, ...] = ()

    @property
    def settings(self) -> str:
        """What the relay's settings need for this row."""
        return "\n".join(["[[route]]", f'domains = ["{self.domain}"]', *self.route, ""]) if self.route else ""

    @property
    def recipient(self) -> str:
        return f"bob@{self.domain}"

    @property
    def messages(self) -> int:
        """How many messages the domain's hosts must have taken in the end."""
        verdicts = [self.expected, self.first] if self.second_message else [self.expected]
        return sum(verdict is not None and verdict.outcome is Outcome.DELIVERED for verdict in verdicts)

    def wire_disagreement(self, lab: Lab) -> str:
        """Return what the lab's hosts have seen that they must not, or have not seen that they must; "" for neither."""
        taken = lab.domains[self.domain].messages()
        if len(taken) != self.messages:
            return f"the MX hosts took {len(taken)} messages, not {self.messages}"
        if self.expected.security is not None:
            must_be_tls = self.expected.security is not Security.PLAINTEXT
            if any(message.tls is not must_be_tls for message in taken):
                return f"a message came {'without' if must_be_tls else 'with'} TLS"
        if self.taken_by and any(message.mx != self.taken_by for message in taken):
            return f"a message was not taken by {self.taken_by}"
        hosts = [lab.hosts[name] for name in lab.hosts if f".{name}".endswith(f".{self.domain}")]
        if self.requiretls and any("REQUIRETLS" not in message.mail_parameters for message in taken):
            return "a message came without REQUIRETLS"
        envelopes = sum(session.verbs().count("MAIL") for host in hosts for session in host.sessions)
        nothing_is_sent = self.expected.outcome is Outcome.DEFERRED or self.requiretls
        if nothing_is_sent and envelopes != len(taken):
            return "an envelope was sent to a host that may not have it"
        broken = [violation for host in hosts for violation in host.violations]
        return f"the relay broke a rule: {broken[0]}" if broken else ""


async def prepare_sender(lab: Lab) -> None:
    """Make the sender's own domain, where NDRs go."""
    await lab.domain("legacy.test", mx=[(SENDER_MX, 10, MxBehaviour())])
