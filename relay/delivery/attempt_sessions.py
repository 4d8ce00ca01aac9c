"""The TLS sessions that one attempt is the first to tell of, for its settlement (design: RFC 8460 §4.2). **Pure.**"""

from collections.abc import Sequence
from datetime import date

from policy.findings import Findings
from relay.delivery.hosts import Host
from relay.delivery.negotiation import Countable
from relay.delivery.session_results import refusal_results, session_results
from relay.queue.tls_results import TlsResult


class AttemptSessions:
    """Takes the counts of the sessions that an attempt uses, and gives them back if it is not settled.

    `domain` is the one whose TLSRPT record says who is told of them.
    """

    def __init__(self, domain: str) -> None:
        self._domain = domain
        self._taken: list[tuple[Host, Findings | None, Countable]] = []

    def note(self, host: Host, findings: Findings | None, countable: Countable | None) -> None:
        """Take in that the host was used, or that it could not be; `findings` are those that it was judged by."""
        if countable is not None and countable.take(self._domain):
            self._taken.append((host, findings, countable))

    def results(self, refused: Sequence[Host], findings: Findings | None, day: date) -> tuple[TlsResult, ...]:
        """Return what the settlement counts; `refused` are the hosts that were not contacted on that day."""
        if not self._taken and not refused:
            return ()
        sessions = [
            result
            for host, judged_by, countable in self._taken
            for result in session_results(self._domain, host, judged_by, countable.negotiation)
        ]
        refusals = [result for host in refused for result in refusal_results(self._domain, host, findings, day)]
        return (*sessions, *refusals)

    def settled(self) -> None:
        """The counts are written down: nothing is given back any more."""
        self._taken.clear()

    def give_back(self) -> None:
        for _, _, countable in self._taken:
            countable.give_back(self._domain)
        self._taken.clear()
