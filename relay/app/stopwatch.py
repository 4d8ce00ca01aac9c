"""Notes what is looked up and how far connections come, with the time of each: `check` shows it."""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, TypeVar

from policy.answers import Absent, Answer, MxRecord, Resolver, TlsaRecord, Unknown
from policy.names import IPAddress
from policy.store import FetchFailedError, PolicyFetcher
from policy.tls_facts import TlsSession
from relay.app.advice import answer_advice, host_advice, policy_advice
from relay.app.outbound import Watch
from relay.app.stages import LookUp, Step, disproven, proven
from relay.delivery.seam import HostError, Target
from relay.queue.attempt import Phase
from relay.status import Reply

T = TypeVar("T")
Timer = Callable[[], float]
_SHOWN_RECORDS = 10
_TYPES = {LookUp.ADDRESSES: "A"}


class Stopwatch(Watch):
    """Sees what `check` makes the parts of the relay do. `timer` gives seconds that never go back.

    A question that was asked twice is noted once: the second time the answer came from the cache.
    """

    def __init__(self, timer: Timer) -> None:
        self._timer = timer
        self._look_ups: dict[tuple[LookUp, str], Step] = {}
        self._tries: list[Try] = []

    def resolver(self, resolver: Resolver) -> Resolver:
        return _TimedResolver(resolver, self)

    def fetcher(self, fetcher: PolicyFetcher) -> PolicyFetcher:
        return _TimedFetcher(fetcher, self)

    def connection(self, target: Target) -> "Try":
        one = Try(target, self._timer)
        self._tries.append(one)
        return one

    @property
    def look_ups(self) -> tuple[Step, ...]:
        """All questions, in the order in which they were answered."""
        return tuple(self._look_ups.values())

    def take_tries(self) -> tuple[tuple[Step, ...], ...]:
        """Return the connections since the last call, each as its steps."""
        tries, self._tries = self._tries, []
        return tuple(tuple(one.steps) for one in tries)

    async def answered(self, stage: LookUp, name: str, answer: Awaitable[Answer[T]]) -> Answer[T]:
        began = self._timer()
        found = await answer
        failed = isinstance(found, Unknown)
        advice = answer_advice(found.reason, _TYPES.get(stage, stage.name), name) if isinstance(found, Unknown) else ""
        self._note(stage, name, began, _answer_words(found), failed=failed, advice=advice)
        return found

    async def fetched(self, policy_domain: str, body: Awaitable[bytes]) -> bytes:
        began = self._timer()
        try:
            found = await body
        except FetchFailedError as error:
            advice = policy_advice(error.result_type, policy_domain)
            said = f"{error.result_type.value}: {error.detail}"
            self._note(LookUp.POLICY, policy_domain, began, said, failed=True, advice=advice)
            raise
        self._note(LookUp.POLICY, policy_domain, began, f"fetched, {len(found)} octets")
        return found

    def _note(
        self, stage: LookUp, name: str, began: float, result: str, *, failed: bool = False, advice: str = ""
    ) -> None:
        seconds = self._timer() - began
        step = Step(stage=stage, about=name, result=result, seconds=seconds, failed=failed, advice=advice)
        self._look_ups.setdefault((stage, name), step)


class Try:
    """One connection, phase by phase; a LinkObserver."""

    def __init__(self, target: Target, timer: Timer) -> None:
        self.steps: list[Step] = []
        self._target = target
        self._timer = timer
        self._phase: Phase | None = None
        self._began = 0.0
        self._said = ""

    def entered(self, phase: Phase) -> None:
        self._finish()
        self._phase, self._began, self._said = phase, self._timer(), ""

    def replied(self, reply: Reply) -> None:
        self._said = str(reply)

    def secured(self, session: Callable[[], TlsSession]) -> None:
        tls = session()
        if self._phase is Phase.HANDSHAKE:
            self._finish()
        # With implicit TLS the greeting may be under way already.
        at = next(number for number, step in enumerate(self.steps) if step.stage is Phase.HANDSHAKE)
        handshake = replace(self.steps[at], result=f"{tls.version} {tls.cipher}")
        self.steps[at : at + 1] = [handshake, *proven(self._target, tls)]

    def ended(self, failure: HostError | None) -> None:
        if failure is None:
            self._finish()
        elif shown := disproven(self._target, failure.failure):
            self._finish("broken off by us: the certificate will not do")
            self.steps += shown
        else:
            if failure.failure.tls is not None and self._phase is Phase.EHLO and self._said:
                self.entered(Phase.STARTTLS)  # which was not said, but is what is missing
            advice = host_advice(failure.failure, self._phase or failure.phase, self._target)
            self._finish(failure.failure.detail, failed=True, advice=advice)

    def _finish(self, said: str = "", *, failed: bool = False, advice: str = "") -> None:
        if self._phase is None:
            return
        self.steps.append(
            Step(
                stage=self._phase,
                about=f"{self._target.mx_host} [{self._target.address}]:{self._target.port}",
                result=said or self._said or "done",
                seconds=self._timer() - self._began,
                failed=failed,
                advice=advice,
            )
        )
        self._phase = None


class _TimedResolver:
    def __init__(self, inner: Resolver, watch: Stopwatch) -> None:
        self._inner = inner
        self._watch = watch

    async def mx(self, domain: str) -> Answer[MxRecord]:
        return await self._watch.answered(LookUp.MX, domain, self._inner.mx(domain))

    async def txt(self, name: str, *, fresh: bool = False) -> Answer[bytes]:
        return await self._watch.answered(LookUp.TXT, name, self._inner.txt(name, fresh=fresh))

    async def addresses(self, host: str) -> Answer[IPAddress]:
        return await self._watch.answered(LookUp.ADDRESSES, host, self._inner.addresses(host))

    async def tlsa(self, name: str) -> Answer[TlsaRecord]:
        return await self._watch.answered(LookUp.TLSA, name, self._inner.tlsa(name))

    async def cname(self, name: str) -> Answer[str]:
        return await self._watch.answered(LookUp.CNAME, name, self._inner.cname(name))


class _TimedFetcher:
    def __init__(self, inner: PolicyFetcher, watch: Stopwatch) -> None:
        self._inner = inner
        self._watch = watch

    async def fetch(self, policy_domain: str) -> bytes:
        return await self._watch.fetched(policy_domain, self._inner.fetch(policy_domain))


def _answer_words(answer: Answer[Any]) -> str:
    match answer:
        case Unknown():
            return f"{answer.reason.value}: {answer.detail}"
        case Absent():
            return f"none ({answer.absence.value})"
        case _:
            shown = [_record_words(record) for record in answer.records[:_SHOWN_RECORDS]]
            more = [f"and {len(answer.records) - _SHOWN_RECORDS} more"] if len(answer.records) > _SHOWN_RECORDS else []
            return ", ".join([*shown, *more]) + (" (DNSSEC)" if answer.authentic else "")


def _record_words(record: object) -> str:
    match record:
        case MxRecord():
            return f"{record.preference} {record.invalid or record.host or '.'}"
        case bytes():
            return f'"{record.decode("utf-8", "replace")}"'
        case _:
            return str(record)
