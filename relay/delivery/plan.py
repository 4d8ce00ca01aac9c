"""Which host is offered which recipients, and what came of it: one outcome for each recipient. **Pure.**

RFC 5321 §5.1 (hosts in order), §4.2.1 (a 5yz is not repeated); design decision 15 (what concerns the host is not the
recipient's failure). The worker asks for targets and tells what happened; it decides nothing.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import replace

from policy.requirement import Level
from relay.delivery.commands import needs_smtputf8
from relay.delivery.hosts import Host
from relay.delivery.seam import HostError, SendResult, SessionFacts, Target
from relay.queue.attempt import Action, FailureKind, HostAttempt, HostFailure, Outcome, Phase
from relay.queue.final_status import host_verdict
from relay.queue.message import Job, Recipient

MAX_TRIES = 5
"""How many addresses one attempt connects to; a policy that changed during the attempt, or another next hop of the
operator's, gives as many again. A host that only lacks what the message needs is not counted: there are MAX_HOSTS."""
MAX_DEFERRALS = 2
"""How many hosts may answer 4yz for a recipient before it waits for the next attempt."""

_ACTIONS = {2: Action.DELIVERED, 4: Action.DEFERRED, 5: Action.FAILED}
"""By the class of the status."""
_LACKS = frozenset({FailureKind.EIGHT_BIT, FailureKind.SMTPUTF8, FailureKind.TOO_LARGE, FailureKind.REQUIRETLS_MISSING})


class _Visit:
    """The host being visited: targets left to try, recipients to offer, and the record of the address in use."""

    target: Target | None = None
    address: str = ""
    offer: tuple[Recipient, ...] = ()
    record: HostAttempt | None = None

    def __init__(self, host: Host) -> None:
        self.host = host
        self.targets = deque(host.targets)


class DeliveryPlan:
    """Walks the hosts of one route for the recipients of one job.

    A recipient that a host answered with 2yz or 5yz is done. 4yz, no answer, or no session at all: the next host. A
    host that did not come to an answer is tried at its next address first. `failure` says why there are no hosts.
    """

    _visit: _Visit | None = None
    _tries = 0

    def __init__(self, job: Job, hosts: Iterable[Host], failure: HostFailure | None = None) -> None:
        self._job = job
        self._waiting = {recipient.id: recipient for recipient in job.recipients}
        self._outcomes: dict[int, Outcome] = {}
        self._deferrals: dict[int, int] = {}
        self._hosts = deque(hosts)
        self._failure = failure
        self._records: list[HostAttempt] = []
        self._refused: dict[str, Host] = {}
        self._uncontacted: list[Host] = []

    @property
    def waiting(self) -> tuple[Recipient, ...]:
        """Who is to be offered to the next host, in the order of the job."""
        return tuple(self._waiting.values())

    @property
    def offer(self) -> tuple[Recipient, ...]:
        """Who is to be offered in the next transaction with the present target; empty when there is to be none."""
        return self._visit.offer if self._visit else ()

    @property
    def answered(self) -> bool:
        """Whether any recipient has an answer, so that the attempt has to be written down."""
        return bool(self._outcomes)

    @property
    def hosts(self) -> tuple[HostAttempt, ...]:
        """The record of all hosts so far, those that were not contacted included."""
        return tuple(self._records)

    @property
    def failure(self) -> HostFailure | None:
        """Why there was no host to try, or to go on with."""
        return self._failure

    @property
    def refused(self) -> tuple[Host, ...]:
        """The hosts that a policy keeps from being used, each once; only these can be mended by another policy."""
        return tuple(self._refused.values())

    @property
    def uncontacted(self) -> Sequence[Host]:
        """The hosts that were left out when their turn came, whoever refused them."""
        return self._uncontacted

    @property
    def host(self) -> Host:
        """The host that is being visited."""
        return self._present.host

    @property
    def unreachable(self) -> bool:
        """Whether not one host came as far as MAIL, and not for what the message needs: it is the same for others.

        A fault of our own says nothing of the hosts, nor does a message that demands more of them than others do.
        """
        if (
            self._job.message.require_tls
            or self.answered
            or (self._failure is not None and self._failure.kind is FailureKind.INTERNAL)
        ):
            return False
        return all(
            one.failure is not None and one.phase.value < Phase.MAIL.value and one.failure.kind not in _LACKS
            for one in self._records
        )

    def next_target(self) -> Target | None:
        """Return where to try next, or None when all have an answer or no host is left."""
        while self._waiting and self._tries < MAX_TRIES:
            if self._visit and self._visit.targets:
                return self._next_address(self._visit)
            if not self._hosts:
                break
            self._enter(self._hosts.popleft())
        self._visit = None
        self._note_uncontacted()
        return None

    def go_on(self, hosts: Iterable[Host], failure: HostFailure | None) -> None:
        """Go on with the hosts of the next way there is, or note why it has none."""
        self._uncontacted = []
        self._failure = failure or self._failure
        self.offer_again(hosts)

    def offer_again(self, hosts: Iterable[Host]) -> None:
        """Go on with these hosts, which another policy has judged anew (RFC 8461 §5)."""
        self._hosts = deque(hosts)
        self._tries = 0
        self._refused = {}
        again = {host.name for host in self._hosts}
        self._uncontacted = [host for host in self._uncontacted if host.name not in again]

    def give_up(self, failure: HostFailure) -> None:
        """End here, for a reason that is not the hosts'; who has no answer is deferred with it."""
        self._hosts.clear()
        self._visit = None
        self._failure = failure

    def host_replied(self, result: SendResult, facts: SessionFacts) -> bool:
        """Take in what the host made of `offer`, and return whether it took the message for anybody.

        Replies for anybody else are not ours to act on.
        """
        visit = self._present
        taken, owed = False, list[Recipient]()
        for recipient in visit.offer:
            if recipient.id not in result.replies:
                owed.append(recipient)
            elif self._answer(visit, recipient, result, facts):
                taken = True
        self._record_session(visit, result, facts, owed)
        if result.phase is Phase.END_OF_DATA and result.failure and result.failure.kind not in _LACKS:
            self._leave_in_doubt(visit, result)
        visit.targets.clear()  # the host has answered: for whoever is left the next host is asked
        again: tuple[Recipient, ...] = ()
        if owed and len(owed) < len(visit.offer):  # who puts off everyone makes no progress, and is not asked for ever
            postponed = frozenset(result.postponed)
            again = tuple([one for one in owed if one.id in postponed])
        visit.offer = again
        return taken

    def host_failed(self, error: HostError) -> None:
        """Take in that the present target could not be used; nobody has an answer from it."""
        visit = self._present
        base = visit.record or self._blank(visit)
        tls = error.tls or base.tls
        testing_failure = error.testing_failure or base.testing_failure
        self._put(
            visit,
            replace(
                base,
                phase=_further(error.phase, base.phase),
                tls=tls,
                testing_failure=testing_failure,
                failure=error.failure,
                reply=error.failure.reply or base.reply,
            ),
        )
        self._note_refusal(visit.host, error.failure)
        if error.failure.kind in _LACKS:
            visit.targets.clear()  # every address of the host would say the same
            # RFC 8689 §4.2.1: each further host is tried. What is final because all lack it must not be said of a few.
            self._tries -= 1
        visit.offer = ()

    def outcomes(self) -> tuple[Outcome, ...]:
        """Return exactly one outcome for each recipient, in the order of the job."""
        return tuple(
            [
                self._outcomes.get(one.id) or _verdict(self._job, one, self._records, self._failure)
                for one in self._job.recipients
            ]
        )

    @property
    def _present(self) -> _Visit:
        if self._visit is None or self._visit.target is None:
            raise RuntimeError("a result came for a host that nobody was sent to")
        return self._visit

    def _enter(self, host: Host) -> None:
        self._visit = None
        if host.failure is None:
            self._visit = _Visit(host)
        else:
            self._record_uncontacted(host)

    def _next_address(self, visit: _Visit) -> Target:
        self._tries += 1
        visit.target = target = visit.targets.popleft()
        visit.address = target.address_text
        visit.offer, visit.record = self.waiting, None
        return target

    def _note_uncontacted(self) -> None:
        """Hosts behind the last try that would not have been contacted anyway belong into the record as well."""
        while self._waiting and self._hosts:
            host = self._hosts.popleft()
            if host.failure is not None:
                self._record_uncontacted(host)

    def _record_uncontacted(self, host: Host) -> None:
        assert host.failure is not None
        self._uncontacted.append(host)
        self._records.append(
            HostAttempt(
                mx_host=host.name,
                address=None,
                port=host.port,
                phase=Phase.ROUTE,
                level=host.level,
                mx_match=host.mx_match,
                dane=host.dane,
                failure=host.failure,
            )
        )
        self._note_refusal(host, host.failure)

    def _note_refusal(self, host: Host, failure: HostFailure) -> None:
        kind = failure.kind
        if kind.refusal and not (kind.dane or kind.route) and host.level is Level.VERIFIED:
            self._refused[host.name] = host

    def _answer(self, visit: _Visit, recipient: Recipient, result: SendResult, facts: SessionFacts) -> bool:
        """Note the reply for one recipient; True if the host took the message for it."""
        reply = result.replies[recipient.id]
        status = reply.status
        action = _ACTIONS[status.class_]
        self._outcomes[recipient.id] = Outcome(
            recipient_id=recipient.id,
            action=action,
            status=status,
            diagnostic=str(reply),
            reply=reply,
            remote_mta=visit.host.name,
            remote_address=visit.address,
            security=facts.security,
            dsn_passed_on=result.dsn and action is Action.DELIVERED,
        )
        if action is Action.DEFERRED:
            self._deferrals[recipient.id] = self._deferrals.get(recipient.id, 0) + 1
            if self._deferrals[recipient.id] < MAX_DEFERRALS:
                return False
        del self._waiting[recipient.id]
        return action is Action.DELIVERED

    def _leave_in_doubt(self, visit: _Visit, result: SendResult) -> None:
        """The host has the whole message, and may keep it: whoever it did not answer for waits, whatever other hosts.

        RFC 5321 §4.5.3.2.6: to offer it to the next host at once would make a duplicate of most such breaks.
        """
        assert visit.record is not None, "the session was recorded"
        for recipient in visit.offer:
            if recipient.id not in result.replies and recipient.id not in result.postponed:
                self._outcomes[recipient.id] = _verdict(self._job, recipient, (visit.record,), None)
                del self._waiting[recipient.id]

    def _record_session(
        self, visit: _Visit, result: SendResult, facts: SessionFacts, owed: Sequence[Recipient]
    ) -> None:
        before = visit.record
        last = list(result.replies.values())[-1:]
        unanswered = self._unanswered(visit, result, owed) if owed else None
        self._put(
            visit,
            HostAttempt(
                mx_host=visit.host.name,
                address=visit.address,
                port=visit.host.port,
                phase=_further(result.phase, before.phase) if before else result.phase,
                level=visit.host.level,
                mx_match=visit.host.mx_match,
                dane=visit.host.dane,
                security=facts.security,
                tls=facts.tls,
                reply=last[0] if last else before.reply if before else None,
                failure=result.failure or unanswered or (before.failure if before else None),
                testing_failure=facts.testing_failure,
            ),
        )

    @staticmethod
    def _unanswered(visit: _Visit, result: SendResult, owed: Sequence[Recipient]) -> HostFailure | None:
        """The failure of a host that left somebody without an answer, or put off everybody it was offered."""
        if len(owed) < len(visit.offer) and {one.id for one in owed} <= set(result.postponed):
            return None
        return HostFailure(kind=FailureKind.PROTOCOL, detail="the host gave no answer for the recipient")

    def _blank(self, visit: _Visit) -> HostAttempt:
        return HostAttempt(
            mx_host=visit.host.name,
            address=visit.address,
            port=visit.host.port,
            phase=Phase.CONNECT,
            level=visit.host.level,
            mx_match=visit.host.mx_match,
            dane=visit.host.dane,
        )

    def _put(self, visit: _Visit, record: HostAttempt) -> None:
        """Keep one record for each session, however many transactions it had."""
        if visit.record is not None:
            self._records.pop()
        self._records.append(record)
        visit.record = record


def _further(one: Phase, other: Phase) -> Phase:
    return one if one.value >= other.value else other


def verdicts(job: Job, hosts: Sequence[HostAttempt], failure: HostFailure | None) -> tuple[Outcome, ...]:
    """Return the outcome of each recipient of a job that no host took, whatever came of other jobs at the hosts."""
    return tuple(_verdict(job, recipient, hosts, failure) for recipient in job.recipients)


def _verdict(job: Job, recipient: Recipient, hosts: Sequence[HostAttempt], failure: HostFailure | None) -> Outcome:
    utf8_path = needs_smtputf8(job.message.envelope.reverse_path) or needs_smtputf8(recipient.forward_path)
    verdict = host_verdict(hosts, failure, domain=job.destination, utf8_path=utf8_path)
    return Outcome(
        recipient_id=recipient.id,
        action=Action.FAILED if verdict.status.permanent else Action.DEFERRED,
        status=verdict.status,
        diagnostic=verdict.diagnostic,
        reply=verdict.reply,
        remote_mta=verdict.remote_mta,
        remote_address=verdict.remote_address,
        refused=verdict.refused,
        refused_by_dane=verdict.refused_by_dane,
    )
