"""The replies of a lab MX: ordinary ones, collected and written together, and scripted ones that take their time."""

from collections.abc import Mapping

from relay.lab.mx_behaviour import Answer, Moment, Phase, Script, Then, resolve
from relay.lab.wire import Connection, Listener


class ScriptedConnection(Connection):
    """A connection that says what its scripts say. While one takes its time, `blocked` holds everything else up."""

    def __init__(self, listener: Listener, replies: Mapping[Phase, Script]) -> None:
        super().__init__(listener)
        self._replies = replies
        self._out: list[bytes] = []
        self.blocked = False
        self.deaf = False

    def advance(self) -> None:
        """Go on with what the client has sent in the meantime. Subclasses do."""

    def moment(self, phase: Phase, path: str) -> Moment:
        """Return the circumstances for a script. Subclasses know more."""
        return Moment(phase=phase, path=path, secured=self.secured)

    def say(self, phase: Phase, ordinary: bytes, path: str = "") -> bool:
        """Give the reply of this phase; True where the host takes the command as accepted."""
        answer = resolve(self._replies[phase], self.moment(phase, path)) if phase in self._replies else None
        if answer is None:
            self._out.append(ordinary)
            return _positive(ordinary)
        reply = ordinary if answer.raw is None else answer.raw
        if answer.at_once:
            self._out.append(reply)
        else:
            self.flush()
            self.blocked = True
            if answer.gate is not None:
                answer.gate.arrive(path or phase.value, lambda: self._utter(answer, reply))
            elif answer.delay:
                self.later(answer.delay, self._utter, answer, reply)
            else:
                self._utter(answer, reply)
        return _positive(reply) if answer.accepts is None else answer.accepts

    def put(self, reply: bytes) -> None:
        """Give a reply that no script replaces."""
        self._out.append(reply)

    def flush(self) -> None:
        """Write all replies that have been given."""
        if self._out:
            self.send(b"".join(self._out))
            self._out.clear()

    def _utter(self, answer: Answer, reply: bytes) -> None:
        if answer.drip:
            self.send_slowly(reply, answer.drip, lambda: self._afterwards(answer, reply))
        else:
            self.send(reply)
            self._afterwards(answer, reply)

    def _afterwards(self, answer: Answer, reply: bytes) -> None:
        match answer.then:
            case Then.GO_ON:
                self.blocked = False
                self.later(0, self.advance)
            case Then.CLOSE:
                self.close()
            case Then.RESET:
                self.reset()
            case Then.REPEAT:
                self.send_for_ever(reply)
            case Then.STOP_READING:
                self.stop_reading()
            case Then.HANG:
                self.deaf = True


def _positive(reply: bytes) -> bool:
    return reply[:1] in (b"2", b"3")
