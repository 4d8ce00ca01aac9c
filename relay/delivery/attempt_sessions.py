"""The TLS sessions that one attempt is the first to tell of, for its settlement (RFC 8460 §4.2). **Pure.**"""

from collections.abc import Iterable
from datetime import date, datetime

from policy.findings import Findings
from relay.delivery.hosts import Host
from relay.delivery.negotiation import Countable
from relay.delivery.session_results import bogus_mx_result, refusal_results, session_results
from relay.queue.tls_results import TlsResult


class AttemptSessions:
    """Takes the counts of the sessions that an attempt uses, and gives them back if it is not settled.

    `day` is the UTC day on which the attempt began.
    """

    def __init__(self, day: date) -> None:
        self._day = day
        self._domain = ""
        self._taken: list[tuple[str, Host, Findings | None, Countable]] = []
        self._refused: list[tuple[str, Host, Findings | None]] = []
        self._bogus: list[str] = []

    def enter(self, domain: str) -> None:
        """What comes is for the domain whose TLSRPT record this is; "" for none, to which nothing is told."""
        self._domain = domain

    def note(self, host: Host, findings: Findings | None, countable: Countable | None) -> None:
        """Take in that the host was used, or that it could not be; `findings` are those that it was judged by."""
        if countable is not None and self._domain and countable.take(self._domain):
            self._taken.append((self._domain, host, findings, countable))

    def note_uncontacted(self, hosts: Iterable[Host], findings: Findings | None, *, mx_bogus: bool = False) -> None:
        """Take in which hosts were left out, for whatever reason; or all, as DNSSEC keeps back who they are."""
        if not self._domain:
            return
        for host in hosts:
            self._refused.append((self._domain, host, findings))
        if mx_bogus:
            self._bogus.append(self._domain)

    def results(self, now: datetime) -> tuple[TlsResult, ...]:
        """Return what the settlement counts that is made now."""
        results: list[TlsResult] = []
        for domain, host, findings, countable in self._taken:
            results += session_results(domain, host, findings, countable.negotiation)
        for domain, host, findings in self._refused:
            results += refusal_results(domain, host, findings, self._day)
        for domain in self._bogus:
            results.append(bogus_mx_result(domain, self._day))
        return tuple([result.written_at(now) for result in results]) if results else ()

    def settled(self) -> None:
        """The counts are written down: nothing is given back any more."""
        self._taken.clear()

    def give_back(self) -> None:
        for domain, _, _, countable in self._taken:
            countable.give_back(domain)
        self._taken.clear()
