"""Policy and MX host to requirement or refusal."""

from datetime import timedelta

import pytest

from policy.answers import TlsaRecord, Unknown, UnknownReason
from policy.decide import DaneMode, Enforcement, MxProof, Precedence, decide, effective_mode
from policy.findings import NoTlsa, SecureTlsa, TlsaFindings, TlsaUnknown
from policy.mta_sts import Mode, Policy
from policy.requirement import DaneDemand, Level, MxMatch, Refusal, RefusalReason, Requirement, ResultType

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


# DANE (RFC 7672).

DAY = timedelta(days=1)
EE = TlsaRecord(usage=3, selector=1, matching_type=1, data=bytes(32))
PKIX = TlsaRecord(usage=1, selector=1, matching_type=1, data=bytes(32))
BASE = "mail.p.test"
NO_TLSA = NoTlsa(detail="DNSSEC shows no TLSA records of mx.x.test", ttl=DAY)
DEMAND = DaneDemand(base_domain=BASE, reference_names=(BASE, "x.test"), records=(EE,))
ENCRYPT = DaneDemand(base_domain=BASE, reference_names=(BASE, "x.test"), records=())


def secure(*records: TlsaRecord, mx_secure: bool = True) -> SecureTlsa:
    return SecureTlsa(base_domain=BASE, reference_names=(BASE, "x.test"), records=records, mx_secure=mx_secure, ttl=DAY)


def tlsa_unknown(reason: UnknownReason) -> TlsaUnknown:
    return TlsaUnknown(name="_25._tcp.mx.x.test", unknown=Unknown(reason=reason, detail="127.0.0.1: SERVFAIL"))


@pytest.mark.rfc("7672-2.2-a", "7672-2.2-b", "7672-2.2-c", "7672-2.2-f", "7672-3.1.3-a", "7672-3.2-a", "7672-2.2.1-f")
@pytest.mark.parametrize(
    ("tlsa", "demand"),
    [
        (None, None),
        (NO_TLSA, None),
        (secure(EE), DEMAND),
        (secure(PKIX, EE), DEMAND),
        (secure(EE, mx_secure=False), DEMAND),
        (secure(PKIX), ENCRYPT),
        (secure(TlsaRecord(usage=3, selector=1, matching_type=1, data=b"short")), ENCRYPT),
    ],
)
def test_what_dane_demands(tlsa: TlsaFindings | None, demand: DaneDemand | None) -> None:
    asked = decide(IN, None, tlsa)
    assert asked == Requirement(level=Level.OPPORTUNISTIC, mx_host=IN, dane=demand)
    assert isinstance(asked, Requirement)
    assert asked.demands_tls is (demand is not None)


@pytest.mark.rfc("7672-9.1-b", "7672-9.1-c")
@pytest.mark.parametrize("tlsa", [None, NO_TLSA, secure(EE), secure(PKIX), tlsa_unknown(UnknownReason.BOGUS)])
def test_dane_that_is_off_demands_nothing(tlsa: TlsaFindings | None) -> None:
    assert decide(IN, None, tlsa, dane=DaneMode.OFF) == Requirement(level=Level.OPPORTUNISTIC, mx_host=IN)


@pytest.mark.rfc("7672-2.1.2-d", "7672-2.1.2-e", "7672-2.2-e", "7672-h-a", "7672-h-0", "8461-2-a", "6698-4.1-a")
@pytest.mark.parametrize("dane", [DaneMode.OPPORTUNISTIC, DaneMode.MANDATORY])
@pytest.mark.parametrize("sts", [None, policy(Mode.NONE), policy(Mode.TESTING), policy(Mode.ENFORCE)])
@pytest.mark.parametrize("reason", list(UnknownReason))
def test_a_host_whose_records_cannot_be_had_is_not_contacted_and_no_policy_rescues_it(
    dane: DaneMode, sts: Policy | None, reason: UnknownReason
) -> None:
    refusal = decide(IN, sts, tlsa_unknown(reason), dane=dane)
    bogus = reason is UnknownReason.BOGUS
    assert refusal == Refusal(
        mx_host=IN,
        reason=RefusalReason.DNSSEC_BOGUS if bogus else RefusalReason.TLSA_UNKNOWN,
        detail=f"_25._tcp.mx.x.test: {reason.value}: 127.0.0.1: SERVFAIL",
    )


@pytest.mark.rfc("7672-2.2-g", "7672-2.2.1-e", "7672-6-a", "7671-14-a")
@pytest.mark.parametrize(
    ("tlsa", "reason", "result_type"),
    [
        (None, RefusalReason.DANE_REQUIRED, ResultType.DANE_REQUIRED),
        (NO_TLSA, RefusalReason.DANE_REQUIRED, ResultType.DANE_REQUIRED),
        (secure(EE, mx_secure=False), RefusalReason.DANE_REQUIRED, ResultType.DANE_REQUIRED),
        (secure(PKIX), RefusalReason.TLSA_UNUSABLE, ResultType.TLSA_INVALID),
        (tlsa_unknown(UnknownReason.BOGUS), RefusalReason.DNSSEC_BOGUS, ResultType.DNSSEC_INVALID),
        (tlsa_unknown(UnknownReason.TIMEOUT), RefusalReason.TLSA_UNKNOWN, ResultType.DNSSEC_INVALID),
    ],
)
def test_mandatory_dane_refuses_what_it_cannot_authenticate(
    tlsa: TlsaFindings | None, reason: RefusalReason, result_type: ResultType
) -> None:
    refusal = decide(IN, policy(Mode.ENFORCE), tlsa, dane=DaneMode.MANDATORY)
    assert isinstance(refusal, Refusal)
    assert (refusal.reason, refusal.reason.result_type) == (reason, result_type)
    assert refusal.detail.isprintable()


def test_mandatory_dane_is_content_with_usable_records() -> None:
    assert decide(IN, None, secure(EE), dane=DaneMode.MANDATORY) == Requirement(
        level=Level.OPPORTUNISTIC, mx_host=IN, dane=DEMAND
    )


def test_all_that_a_policy_refuses_is_a_validation_failure() -> None:
    assert RefusalReason.MX_NOT_IN_POLICY.result_type is ResultType.VALIDATION_FAILURE


@pytest.mark.rfc("8461-2-b", "7672-h-b", "7672-h-0", "7672-3.2-b")
@pytest.mark.parametrize("precedence", list(Precedence))
@pytest.mark.parametrize(
    ("mode", "tlsa", "demand", "level"),
    [
        (Mode.NONE, secure(EE), DEMAND, Level.OPPORTUNISTIC),
        (Mode.TESTING, secure(EE), DEMAND, Level.TESTING),
        (Mode.ENFORCE, secure(EE), DEMAND, Level.VERIFIED),
        (Mode.ENFORCE, secure(PKIX), ENCRYPT, Level.VERIFIED),
        (Mode.TESTING, secure(PKIX), ENCRYPT, Level.TESTING),
        (Mode.ENFORCE, NO_TLSA, None, Level.VERIFIED),
    ],
)
def test_with_both_both_must_pass_unless_the_operator_puts_dane_first(
    precedence: Precedence, mode: Mode, tlsa: TlsaFindings, demand: DaneDemand | None, level: Level
) -> None:
    alone = precedence is Precedence.DANE_FIRST and demand == DEMAND
    asked = decide(IN, policy(mode), tlsa, precedence=precedence)
    assert isinstance(asked, Requirement)
    assert asked.level is (Level.OPPORTUNISTIC if alone else level)
    assert asked.dane == demand


@pytest.mark.rfc("8461-2-b")
def test_a_host_that_is_not_in_the_policy_takes_mail_only_where_dane_comes_first_and_authenticates() -> None:
    sts = policy(Mode.ENFORCE)
    assert isinstance(decide(OUT, sts, secure(EE)), Refusal)
    assert isinstance(decide(OUT, sts, secure(PKIX), precedence=Precedence.DANE_FIRST), Refusal)
    assert isinstance(decide(OUT, sts, NO_TLSA, precedence=Precedence.DANE_FIRST), Refusal)
    assert decide(OUT, sts, secure(EE), precedence=Precedence.DANE_FIRST) == Requirement(
        level=Level.OPPORTUNISTIC, mx_host=OUT, dane=DEMAND
    )


@pytest.mark.rfc("7672-8.1-a", "7671-7-a", "8461-7.1-b")
@pytest.mark.parametrize(
    ("mode", "tlsa", "server_name"),
    [
        (Mode.NONE, NO_TLSA, IN),
        (Mode.ENFORCE, NO_TLSA, IN),
        (Mode.NONE, secure(EE), BASE),
        (Mode.NONE, secure(PKIX), BASE),
        (Mode.ENFORCE, secure(EE), IN),
        (Mode.TESTING, secure(EE), IN),
    ],
)
def test_the_name_that_is_sent(mode: Mode, tlsa: TlsaFindings, server_name: str) -> None:
    asked = decide(IN, policy(mode), tlsa)
    assert isinstance(asked, Requirement)
    assert asked.server_name == server_name


def test_the_requirement_is_the_same_in_whatever_order_the_records_come() -> None:
    other = TlsaRecord(usage=2, selector=0, matching_type=1, data=bytes(32))
    one, two = decide(IN, None, secure(EE, other)), decide(IN, None, secure(other, EE))
    assert one == two
    assert hash(one) == hash(two)


# REQUIRETLS (RFC 8689 §4.2.1).

PROVEN, UNPROVEN, UNKNOWN = MxProof.PROVEN, MxProof.NONE, MxProof.UNKNOWN
NAMED, NAMED_TESTING, OTHERS = policy(Mode.ENFORCE), policy(Mode.TESTING), policy(Mode.TESTING, "mx.other.test")


@pytest.mark.rfc("8689-2-h", "8689-4.2.1-b", "8689-4.2.1-c", "8689-g-a", "8461-x-b", "8689-8.2-a")
@pytest.mark.parametrize(
    ("given", "enforcement", "proof", "expected"),
    [
        (None, ENFORCE, PROVEN, NO_POLICY),
        (None, ENFORCE, UNPROVEN, RefusalReason.MX_NOT_VALIDATED),
        (None, ENFORCE, UNKNOWN, RefusalReason.MX_VALIDATION_UNKNOWN),
        (NAMED, ENFORCE, UNPROVEN, VERIFIED),
        (NAMED, ENFORCE, PROVEN, VERIFIED),
        (NAMED, REPORT_ONLY, UNPROVEN, TESTING),
        (NAMED, OFF, UNPROVEN, NO_POLICY),
        (NAMED_TESTING, ENFORCE, UNPROVEN, RefusalReason.MX_NOT_VALIDATED),
        (NAMED_TESTING, ENFORCE, PROVEN, TESTING),
        (OTHERS, ENFORCE, PROVEN, TESTING_OUT),
        (policy(Mode.NONE), ENFORCE, UNPROVEN, RefusalReason.MX_NOT_VALIDATED),
        (policy(Mode.NONE), ENFORCE, PROVEN, NO_POLICY),
        (policy(Mode.ENFORCE, "mx.other.test"), ENFORCE, PROVEN, RefusalReason.MX_NOT_IN_POLICY),
        (policy(Mode.ENFORCE, "mx.other.test"), REPORT_ONLY, UNPROVEN, RefusalReason.MX_NOT_VALIDATED),
    ],
)
def test_requiretls_needs_a_host_that_is_proven_to_be_the_right_one(
    given: Policy | None, enforcement: Enforcement, proof: MxProof, expected: tuple[Level, MxMatch] | RefusalReason
) -> None:
    verdict = decide(IN, given, enforcement=enforcement, requiretls=proof)
    if isinstance(expected, RefusalReason):
        assert isinstance(verdict, Refusal)
        assert (verdict.mx_host, verdict.reason) == (IN, expected)
    else:
        level, mx_match = expected
        assert verdict == Requirement(level=level, mx_host=IN, mx_match=mx_match, requiretls=True)
        assert verdict.demands_tls
        assert verdict.verifies


@pytest.mark.rfc("8689-2-i")
@pytest.mark.parametrize(
    ("tlsa", "verifies", "server_name"), [(None, True, IN), (secure(EE), False, BASE), (secure(PKIX), True, IN)]
)
def test_requiretls_needs_a_certificate_by_web_pki_or_dane(
    tlsa: TlsaFindings | None, *, verifies: bool, server_name: str
) -> None:
    verdict = decide(IN, None, tlsa, requiretls=PROVEN)
    assert isinstance(verdict, Requirement)
    assert (verdict.requiretls, verdict.demands_tls, verdict.verifies) == (True, True, verifies)
    assert verdict.server_name == server_name


@pytest.mark.rfc("8689-4.2.1-f")
def test_dane_and_an_enforced_policy_hold_under_requiretls_as_they_do_without() -> None:
    verdict = decide(IN, NAMED, secure(EE), requiretls=UNPROVEN)
    assert isinstance(verdict, Requirement)
    assert (verdict.level, verdict.by_dane, verdict.verifies) == (Level.VERIFIED, True, True)
    assert isinstance(decide(IN, NAMED, tlsa_unknown(UnknownReason.BOGUS), requiretls=PROVEN), Refusal)
    first = decide(IN, NAMED, secure(EE), precedence=Precedence.DANE_FIRST, requiretls=UNPROVEN)
    assert isinstance(first, Requirement)
    assert (first.level, first.by_dane, first.requiretls) == (Level.OPPORTUNISTIC, True, True)


@pytest.mark.rfc("8689-4.2.1-p")
def test_a_host_is_held_to_requiretls_only_for_a_message_that_demands_it() -> None:
    lax = decide(IN, NAMED, secure(EE))
    assert isinstance(lax, Requirement)
    assert not lax.requiretls
    assert lax != decide(IN, NAMED, secure(EE), requiretls=PROVEN)
