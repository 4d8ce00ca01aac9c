"""What `check --connect` says of each fault: the stage, what to do, and whether the mail would be delivered."""

import ipaddress
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from policy.answers import UnknownReason
from policy.requirement import Level, Requirement, ResultType
from relay.app.advice import answer_advice, host_advice, policy_advice, route_advice
from relay.app.clock import SystemClock
from relay.app.looking import Look, look, looking_outward
from relay.app.stages import LookUp, Proof, Stage, Step
from relay.app.stopwatch import Stopwatch
from relay.cli.check_views import print_connections, print_look_ups
from relay.cli.output import plain
from relay.config import parse
from relay.delivery.seam import Target
from relay.lab.ca import CertificateKind, tlsa_record
from relay.lab.dns import DnsFault
from relay.lab.internet import Lab
from relay.lab.mx_behaviour import DROP, HANG, WITH_REQUIRETLS, Handshake, MxBehaviour
from relay.lab.mx_behaviour import Phase as Say
from relay.lab.policy_host import PolicySite
from relay.lab.relay_process import lab_config
from relay.queue.attempt import FailureKind, HostFailure, Phase

QUICK = """
[delivery.timeouts]
greeting = "1s"
ehlo = "1s"
starttls = "1s"
"""
HOST = "mx1.shop.test"
Prepare = Callable[[Lab], Awaitable[None] | None]


@pytest.fixture
async def lab() -> AsyncIterator[Lab]:
    async with Lab() as lab:
        yield lab


async def check(
    lab: Lab, directory: Path, domain: str = "shop.test", extra: str = QUICK, *, require_tls: bool = False
) -> Look:
    settings = parse(lab_config(lab, extra=extra), base=directory)
    watch = Stopwatch(time.monotonic)
    async with looking_outward(settings, watch) as outbound:
        return await look(outbound, watch, domain, SystemClock().now(), connect=True, require_tls=require_tls)


def steps(found: Look) -> list[Step]:
    """All of them: questions, then connections."""
    hosts = [host for way in (found, *found.others) for host in way.hosts]
    tries = [step for host in hosts for one in host.connections for steps in one.tries for step in steps]
    return [*found.look_ups, *tries]


def stages(found: Look) -> list[Stage]:
    return [step.stage for step in steps(found)]


def shop(behaviour: MxBehaviour | None = None, *, policy: bool = True, then: Prepare | None = None) -> Prepare:
    async def prepare(lab: Lab) -> None:
        site = PolicySite(mx=(HOST,)) if policy else None
        await lab.domain("shop.test", mx=[(HOST, 10, behaviour)], policy=site)
        if then is not None and (waiting := then(lab)) is not None:
            await waiting

    return prepare


def tlsa_of_another(lab: Lab) -> None:
    lab.dns.sign("shop.test")
    lab.dns.tlsa(HOST, tlsa_record(3, 1, 1, lab.ca.root.certificate), port=lab.smtp_port)


def bogus_tlsa(lab: Lab) -> None:
    tlsa_of_another(lab)
    lab.dns.override(f"_{lab.smtp_port}._tcp.{HOST}", "TLSA", DnsFault.BOGUS)


async def test_a_good_host_stage_by_stage(lab: Lab, tmp_path: Path) -> None:
    await lab.domain("shop.test", mx=[(HOST, 10, None)], policy=PolicySite(mx=(HOST,), id="7"))
    found = await check(lab, tmp_path)
    assert found.deliverable
    assert set(stages(found)[:4]) == {LookUp.MX, LookUp.TXT, LookUp.ADDRESSES, LookUp.POLICY}
    assert stages(found)[4:] == [
        Phase.CONNECT, Phase.GREETING, Phase.EHLO, Phase.STARTTLS, Phase.HANDSHAKE,
        Proof.CHAIN, Proof.NAMES, Phase.EHLO,
    ]  # fmt: skip
    assert not [step for step in steps(found) if step.failed or step.advice]
    assert all((step.seconds is None) is isinstance(step.stage, Proof) for step in steps(found))
    said = {step.stage: step.result for step in steps(found)}
    assert said[LookUp.MX] == f"10 {HOST}"
    assert said[LookUp.TXT] == '"v=STSv1; id=7;"'
    assert said[Phase.GREETING].startswith(f"220 {HOST}")
    assert said[Phase.HANDSHAKE].startswith("TLSv1.3 ")
    assert said[Proof.CHAIN].startswith("leads to a trusted CA: issuer ")
    assert said[Proof.NAMES] == f"hold {HOST}: {HOST}"
    json.dumps(plain(found.look_ups))


async def test_the_time_of_a_stage_is_that_of_the_stage(lab: Lab, tmp_path: Path) -> None:
    await lab.domain("shop.test", mx=[(HOST, 10, MxBehaviour(replies={Say.BANNER: HANG}))])
    took = {step.stage: step.seconds or 0 for step in steps(await check(lab, tmp_path))}
    assert took[Phase.GREETING] >= 1 > took[Phase.CONNECT]


# fault, the stage that fails, a word of what to do, whether the mail would be delivered all the same
FAULTS: dict[str, tuple[Prepare, Stage | None, str, bool]] = {
    "expired": (shop(MxBehaviour(certificate=CertificateKind.EXPIRED)), Proof.CHAIN, "send them the words", False),
    "other root": (shop(MxBehaviour(certificate=CertificateKind.UNKNOWN_CA)), Proof.CHAIN, "tls.ca_file", False),
    "other name": (shop(MxBehaviour(certificate=CertificateKind.WRONG_NAME)), Proof.NAMES, "the words", False),
    "no STARTTLS": (shop(MxBehaviour(offers_starttls=False)), Phase.STARTTLS, "-starttls smtp", False),
    "STARTTLS 454": (shop(MxBehaviour(replies={Say.STARTTLS: "454 4.7.0 no"})), Phase.STARTTLS, "454", False),
    "alert": (shop(MxBehaviour(handshake=Handshake.ALERT)), Phase.HANDSHAKE, "large packets", False),
    "handshake hangs": (shop(MxBehaviour(handshake=Handshake.HANG)), Phase.HANDSHAKE, "large packets", False),
    "alert, no policy": (
        shop(MxBehaviour(handshake=Handshake.ALERT), policy=False), Phase.HANDSHAKE, "large packets", True,
    ),
    "blocked": (shop(MxBehaviour(replies={Say.BANNER: "554 5.7.1 no"})), Phase.GREETING, "blocklists", False),
    "hangs up": (shop(MxBehaviour(replies={Say.BANNER: DROP})), Phase.GREETING, "blocklists", False),
    "hangs up at EHLO": (shop(MxBehaviour(replies={Say.EHLO: DROP})), Phase.EHLO, "own log", False),
    "silent": (shop(MxBehaviour(replies={Say.EHLO: HANG})), Phase.EHLO, "delivery.timeouts", False),
    "busy within TLS": (
        shop(MxBehaviour(replies={Say.EHLO: lambda moment: "421 4.3.2 Busy" if moment.secured else None})),
        Phase.EHLO, "own words", False,
    ),
    "host is down": (shop(then=lambda lab: lab.down_host(HOST)), Phase.CONNECT, "nc -vz", False),
    "record unknown": (
        shop(then=lambda lab: lab.dns.override("_mta-sts.shop.test", "TXT", DnsFault.SERVFAIL)),
        LookUp.TXT, "dig TXT _mta-sts.shop.test", False,
    ),
    "MX unknown": (
        shop(then=lambda lab: lab.dns.override("shop.test", "MX", DnsFault.REFUSED)),
        LookUp.MX, "dig MX shop.test", False,
    ),
    "address unknown": (
        shop(then=lambda lab: lab.dns.override(HOST, "A", DnsFault.SERVFAIL)), LookUp.ADDRESSES, f"dig A {HOST}", False,
    ),
    "no address": (shop(then=lambda lab: lab.dns.remove(HOST)), None, "without an address", False),
    "null MX": (shop(then=lambda lab: lab.dns.null_mx("shop.test")), None, "another address", False),
    "no domain": (lambda _lab: None, None, "typing mistake", False),
    "not in policy": (
        shop(then=lambda lab: lab.domains["shop.test"].publish(PolicySite(mx=("mx9.shop.test",)))),
        None, "disagree", False,
    ),
    "policy host down": (
        shop(then=lambda lab: lab.domains["shop.test"].policy_host_down()), LookUp.POLICY, "curl -v", True,
    ),
    "policy host's certificate": (
        shop(
            then=lambda lab: lab.domains["shop.test"].publish(
                PolicySite(mx=(HOST,), certificate=CertificateKind.SELF_SIGNED)
            )
        ),
        LookUp.POLICY, "certificate for mta-sts.shop.test", True,
    ),
    "no policy in the file": (
        shop(then=lambda lab: lab.domains["shop.test"].publish(PolicySite(body=b"<html>"))),
        LookUp.POLICY, "no policy (RFC 8461", True,
    ),
    "DANE mismatch": (shop(then=tlsa_of_another), Proof.CHAIN, "dig TLSA", False),
    "DANE bogus": (shop(then=bogus_tlsa), LookUp.TLSA, "delv TLSA", False),
}  # fmt: skip


@pytest.mark.parametrize(("prepare", "stage", "words", "delivered"), FAULTS.values(), ids=FAULTS)
async def test_each_fault_has_its_stage_and_what_to_do(
    lab: Lab,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    prepare: Prepare,
    stage: Stage | None,
    words: str,
    *,
    delivered: bool,
) -> None:
    if (waiting := prepare(lab)) is not None:
        await waiting
    found = await check(lab, tmp_path)
    assert found.deliverable is delivered
    failed = [step for step in steps(found) if step.failed]
    assert {step.stage for step in failed} == ({stage} if stage is not None else set())
    advice = [step.advice for step in failed] + [found.advice] + [host.advice("shop.test") for host in found.hosts]
    assert any(words in one for one in advice)
    assert all(step.advice and step.result for step in failed)
    print_look_ups(found.look_ups)
    for host in found.hosts:
        print_connections(host)
    shown = capsys.readouterr().out
    assert ("FAILED: " in shown) is bool(failed)
    assert all(step.advice in shown for step in failed)


async def test_each_connection_of_a_host_that_is_conceded_something_is_shown(lab: Lab, tmp_path: Path) -> None:
    await lab.domain("shop.test", mx=[(HOST, 10, MxBehaviour(handshake=Handshake.SMALL))])
    ((one,),) = [host.connections for host in (await check(lab, tmp_path)).hosts]
    first, second = one.tries
    assert (first[-1].stage, first[-1].failed) == (Phase.HANDSHAKE, True)
    chain = next(step.result for step in second if step.stage is Proof.CHAIN)
    assert chain.startswith("not verified, nothing demands it")
    assert not any(step.failed for step in second)


async def test_dane_is_what_proves_the_host(lab: Lab, tmp_path: Path) -> None:
    await lab.domain("shop.test", mx=[(HOST, 10, MxBehaviour(certificate=CertificateKind.SELF_SIGNED))])
    lab.dns.sign("shop.test")
    certificate = lab.ca.identity(CertificateKind.SELF_SIGNED, HOST).certificate
    lab.dns.tlsa(HOST, tlsa_record(3, 1, 1, certificate), port=lab.smtp_port)
    found = await check(lab, tmp_path)
    said = {step.stage: step.result for step in steps(found)}
    assert found.deliverable
    assert said[LookUp.TLSA].startswith("3 1 1 ")
    assert said[LookUp.TLSA].endswith(" (DNSSEC)")
    assert said[Proof.CHAIN].startswith("as a TLSA record has it")


async def test_a_policy_that_is_cached_is_not_fetched(lab: Lab, tmp_path: Path) -> None:
    site = PolicySite(mx=(HOST,))
    await lab.domain("shop.test", mx=[(HOST, 10, None)], policy=site)
    settings = parse(lab_config(lab), base=tmp_path)
    watch = Stopwatch(time.monotonic)
    async with looking_outward(settings, watch) as outbound:
        await look(outbound, watch, "shop.test", SystemClock().now(), connect=False)
        again = Stopwatch(time.monotonic)
        found = await look(outbound, again, "shop.test", SystemClock().now(), connect=False)
    (policy,) = [step for step in found.look_ups if step.stage is LookUp.POLICY]
    assert policy.result.startswith("cached, mode enforce, until ")
    assert policy.seconds is None


# REQUIRETLS.


@pytest.mark.parametrize(
    ("behaviour", "policy", "failed", "said"),
    [
        (MxBehaviour(keywords_in_tls=WITH_REQUIRETLS), PolicySite(mx=(HOST,)), None, ""),
        (MxBehaviour(), PolicySite(mx=(HOST,)), Phase.EHLO, "Few hosts know it"),
        (
            MxBehaviour(keywords_in_tls=WITH_REQUIRETLS, certificate=CertificateKind.EXPIRED),
            PolicySite(mode="testing", mx=(HOST,)),
            None,
            "a policy in mode enforce",
        ),
        (MxBehaviour(keywords_in_tls=WITH_REQUIRETLS), None, None, "needs a signed MX record"),
    ],
    ids=["kept", "not offered", "policy in testing", "no policy"],
)
async def test_a_message_that_demands_requiretls_is_asked_for(
    lab: Lab, tmp_path: Path, behaviour: MxBehaviour, policy: PolicySite | None, failed: Phase | None, said: str
) -> None:
    """What ordinary mail passes may stop it."""
    await lab.domain("shop.test", mx=[(HOST, 10, behaviour)], policy=policy)
    assert (await check(lab, tmp_path)).deliverable
    found = await check(lab, tmp_path, require_tls=True)
    assert found.deliverable is (not said)
    assert [step.stage for step in steps(found) if step.failed] == ([failed] if failed else [])
    advice = [host.advice("shop.test") for host in found.hosts] + [step.advice for step in steps(found)]
    assert any(said in one for one in advice)


# Routes.


async def test_a_route_with_tls_from_the_first_octet_and_a_password(lab: Lab, tmp_path: Path) -> None:
    await lab.host("in.shop.test", MxBehaviour(implicit_tls=True, logins={"us": "right"}))
    route = f"""
[[route]]
domains = ["shop.test"]
next_hop = ["smtps://in.shop.test:{lab.smtp_port}"]
user = "us"
password = "file:password"
tls = "verify"
"""
    for password, delivered in (("right", True), ("wrong", False)):
        (tmp_path / "password").write_text(password)
        found = await check(lab, tmp_path, extra=route)
        assert found.deliverable is delivered
        connection = [step.stage for step in steps(found) if isinstance(step.stage, Phase)]
        assert connection == [Phase.CONNECT, Phase.HANDSHAKE, Phase.GREETING, Phase.EHLO]
        assert stages(found).index(Proof.CHAIN) == stages(found).index(Phase.HANDSHAKE) + 1
        failed = [step for step in steps(found) if step.failed]
        assert [step.stage for step in failed] == ([] if delivered else [Phase.EHLO])
        assert all("`user` and `password`" in step.advice for step in failed)
        assert password not in json.dumps(plain(found))


async def test_of_several_next_hops_one_that_works_will_do(lab: Lab, tmp_path: Path) -> None:
    lab.down_host("first.shop.test")
    await lab.host("second.shop.test", MxBehaviour(certificate=CertificateKind.SELF_SIGNED))
    route = f"""
[[route]]
domains = ["shop.test"]
next_hop = ["smtp://first.shop.test:{lab.smtp_port}", "smtp://second.shop.test:{lab.smtp_port}"]
"""
    found = await check(lab, tmp_path, extra=route)
    assert found.deliverable
    assert [step.stage for step in steps(found) if step.failed] == [Phase.CONNECT]
    assert {step.about for step in found.look_ups if step.stage is LookUp.ADDRESSES} == {
        "first.shop.test", "second.shop.test",
    }  # fmt: skip
    assert not any(other.look_ups for other in found.others)
    strict = await check(lab, tmp_path, extra=f'{route}tls = "verify"\n')
    assert not strict.deliverable
    assert Proof.CHAIN in {step.stage for step in steps(strict) if step.failed}
    assert any("`tls_name` of the `[[route]]`" in step.advice for step in steps(strict))


# What to do.

TARGET = Target(
    mx_host=HOST,
    address=ipaddress.ip_address("2001:db8::1"),
    port=25,
    requirement=Requirement(level=Level.VERIFIED, mx_host=HOST),
)


@pytest.mark.parametrize("kind", FailureKind)
def test_there_is_something_to_do_about_everything(kind: FailureKind) -> None:
    failure = HostFailure(kind=kind, detail="as it was")
    said = [route_advice(failure, domain="shop.test", host=HOST)]
    said += [host_advice(failure, phase, TARGET) for phase in Phase]
    assert all(one and "{" not in one and one.isprintable() for one in said)


@pytest.mark.parametrize("reason", UnknownReason)
def test_there_is_something_to_do_about_every_question(reason: UnknownReason) -> None:
    assert " TXT _mta-sts.shop.test`" in answer_advice(reason, "TXT", "_mta-sts.shop.test")


@pytest.mark.parametrize("result_type", ResultType)
def test_there_is_something_to_do_about_every_policy(result_type: ResultType) -> None:
    assert "mta-sts.shop.test" in policy_advice(result_type, "shop.test")
