"""Policy and MX host to requirement or refusal."""

from datetime import timedelta

import pytest

from policy.decide import Enforcement, decide, effective_mode
from policy.mta_sts import Mode, Policy
from policy.requirement import Level, MxMatch, Refusal, RefusalReason, Requirement

IN = "mx.x.test"
OUT = "mx.evil.test"


def policy(mode: Mode, *mx: str) -> Policy:
    return Policy(mode=mode, mx=mx or ("mx.x.test", "*.y.test"), max_age=timedelta(days=1), text="")


def requirement(level: Level, mx_host: str, mx_match: MxMatch) -> Requirement:
    return Requirement(level=level, mx_host=mx_host, mx_match=mx_match)


NO_POLICY = (Level.OPPORTUNISTIC, MxMatch.NO_POLICY)
TESTING = (Level.TESTING, MxMatch.MATCHED)
TESTING_OUT = (Level.TESTING, MxMatch.NOT_MATCHED)
VERIFIED = (Level.VERIFIED, MxMatch.MATCHED)
ENFORCE, REPORT_ONLY, OFF = Enforcement.ENFORCE, Enforcement.REPORT_ONLY, Enforcement.OFF


@pytest.mark.rfc("8461-4-a", "8461-5-c", "8461-5-d", "8461-5-e", "8461-4.1-a")
@pytest.mark.parametrize(
    ("mode", "mx_host", "enforcement", "expected"),
    [
        (None, IN, ENFORCE, NO_POLICY),
        (None, IN, REPORT_ONLY, NO_POLICY),
        (None, IN, OFF, NO_POLICY),
        (Mode.NONE, IN, ENFORCE, NO_POLICY),
        (Mode.NONE, OUT, ENFORCE, NO_POLICY),
        (Mode.NONE, OUT, REPORT_ONLY, NO_POLICY),
        (Mode.TESTING, IN, ENFORCE, TESTING),
        (Mode.TESTING, OUT, ENFORCE, TESTING_OUT),
        (Mode.TESTING, OUT, REPORT_ONLY, TESTING_OUT),
        (Mode.TESTING, OUT, OFF, NO_POLICY),
        (Mode.ENFORCE, IN, ENFORCE, VERIFIED),
        (Mode.ENFORCE, "a.y.test", ENFORCE, VERIFIED),
        (Mode.ENFORCE, IN, REPORT_ONLY, TESTING),
        (Mode.ENFORCE, OUT, REPORT_ONLY, TESTING_OUT),
        (Mode.ENFORCE, IN, OFF, NO_POLICY),
        (Mode.ENFORCE, OUT, OFF, NO_POLICY),
    ],
)
def test_the_requirement(
    mode: Mode | None, mx_host: str, enforcement: Enforcement, expected: tuple[Level, MxMatch]
) -> None:
    given = policy(mode) if mode else None
    assert decide(mx_host, given, enforcement=enforcement) == requirement(expected[0], mx_host, expected[1])


@pytest.mark.rfc("8461-4-b", "8461-8.4-a")
@pytest.mark.parametrize("mx_host", [OUT, "x.test", "a.b.y.test", "y.test"])
def test_a_host_that_an_enforced_policy_does_not_name_is_refused_before_any_contact(mx_host: str) -> None:
    assert decide(mx_host, policy(Mode.ENFORCE)) == Refusal(
        mx_host=mx_host,
        reason=RefusalReason.MX_NOT_IN_POLICY,
        detail=f"{mx_host} is not among the hosts that the policy names: mx.x.test, *.y.test",
    )


@pytest.mark.rfc("8461-3.4-e")
def test_the_implicit_mx_is_the_domain_itself_and_has_to_be_named() -> None:
    assert isinstance(decide("x.test", policy(Mode.ENFORCE, "mx.x.test")), Refusal)
    assert decide("x.test", policy(Mode.ENFORCE, "x.test")) == requirement(Level.VERIFIED, "x.test", MxMatch.MATCHED)


def test_a_long_list_of_hosts_is_cut_short() -> None:
    refusal = decide(OUT, policy(Mode.ENFORCE, *(f"mx{number}.x.test" for number in range(1000))))
    assert isinstance(refusal, Refusal)
    assert refusal.detail.endswith("mx9.x.test and 990 more")


@pytest.mark.parametrize("enforcement", list(Enforcement))
def test_no_policy_is_mode_none(enforcement: Enforcement) -> None:
    assert effective_mode(None, enforcement) is Mode.NONE
