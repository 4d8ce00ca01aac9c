"""All that a notice is written from. **Pure.**"""

from dataclasses import dataclass
from datetime import datetime

from relay.queue.attempt import Attempt, Outcome, Phase
from relay.queue.message import Job
from relay.queue.notice import NoticeKind, NoticeRequest
from relay.status import Status


@dataclass(frozen=True, slots=True, kw_only=True)
class NoticeFacts:
    """What is told, about which message, by whom. `subject` is the original one, decoded and cleaned.

    `attempt` is the last one, None if there was none (dropped before its first).
    """

    request: NoticeRequest
    job: Job
    attempt: Attempt | None
    subject: str
    now: datetime
    hostname: str
    postmaster: str

    @property
    def kind(self) -> NoticeKind:
        return self.request.kind

    def contacted(self, outcome: Outcome) -> bool:
        """Whether a remote server took part, so that Remote-MTA may name it (RFC 3464 §2.3.5).

        A host that never accepted the connection did not.
        """
        if outcome.reply is not None:
            return True
        return self.attempt is not None and any(
            (host.mx_host, host.address) == (outcome.remote_mta, outcome.remote_address)
            and host.phase.value > Phase.CONNECT.value
            for host in self.attempt.hosts
        )


def coded(status: Status, diagnostic: str) -> str:
    """The text of one of our own verdicts as a reply line, the way Exchange prints it."""
    code = {2: 250, 4: 450, 5: 550}[status.class_]
    return f"{code} {status} {diagnostic}".rstrip()
