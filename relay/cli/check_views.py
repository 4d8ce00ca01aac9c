"""How `check` shows what it did: the questions, then each connection, stage by stage with its time."""

from collections.abc import Iterable, Sequence

from relay.app.looking import AddressLook, HostLook
from relay.app.stages import Stage, Step
from relay.cli.output import print_table, say
from relay.cli.queue_views import tls_lines


def print_look_ups(steps: Sequence[Step]) -> None:
    if steps:
        print_table(
            ["stage", "of", "took", "result"],
            [(_name(step.stage), step.about, _took(step), _result(step)) for step in steps],
        )
    _print_steps_advice(steps)


def print_connections(one: HostLook) -> None:
    """Print what came of each address, connection by connection."""
    for connection in one.connections:
        for number, steps in enumerate(connection.tries, 1):
            again = "" if number == 1 else f", connection {number}"
            say(f"{one.host.name} [{connection.address}]:{one.host.port}{again}")
            print_table(
                ["stage", "took", "result"], [(_name(step.stage), _took(step), _result(step)) for step in steps]
            )
            _print_steps_advice(steps)
        _print_verdict(connection)


def print_advice(advice: str) -> None:
    if advice:
        say(f"  what to do: {advice}")


def _print_steps_advice(steps: Iterable[Step]) -> None:
    for step in steps:
        print_advice(step.advice)


def _print_verdict(connection: AddressLook) -> None:
    if connection.failure is not None:
        phase = connection.phase.name.lower() if connection.phase else ""
        say(f"  verdict: no mail; failed at {phase}: {connection.failure.detail}")
        certificate = connection.failure.tls.certificate if connection.failure.tls else None
        if certificate is not None:
            say(f"  certificate names {', '.join(certificate.names) or '(none)'}, issuer {certificate.issuer}")
    elif connection.facts is not None:
        say(f"  verdict: would be given mail, security {connection.facts.security.value}")
        for line in tls_lines(connection.facts.tls) if connection.facts.tls else ():
            say(f"  {line}")
        if (testing := connection.facts.testing_failure) is not None:
            say(f"  mode testing, would have failed: {testing.reason}: {testing.detail}")


def _name(stage: Stage) -> str:
    return stage.name.lower()


def _took(step: Step) -> str:
    return "" if step.seconds is None else f"{step.seconds * 1000:.0f} ms"


def _result(step: Step) -> str:
    return f"FAILED: {step.result}" if step.failed else step.result
