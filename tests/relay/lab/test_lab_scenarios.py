"""The demo's table: complete, preparable, and not to be fooled."""

import ssl

import pytest

from relay.lab.client import submit
from relay.lab.internet import Lab
from relay.lab.mx_behaviour import MxBehaviour
from relay.lab.policy_host import PolicySite
from relay.lab.scenario import (
    SENDER_MX,
    Observed,
    Outcome,
    Scenario,
    Security,
    deferred,
    delivered,
    failed,
    prepare_sender,
)
from relay.lab.scenarios import SCENARIOS


def scenario(name: str) -> Scenario:
    (found,) = (one for one in SCENARIOS if one.domain == f"{name}.test")
    return found


async def hand_over(lab: Lab, row: Scenario, host: str, tls: ssl.SSLContext | None) -> None:
    """Deliver as a relay would that looks neither at policies nor at certificates."""
    mx = lab.hosts[f"{host}.{row.domain}" if host else row.domain]
    result = await submit(f"{mx.address}:{mx.port}", "alice@legacy.test", [row.recipient], b"Hi\r\n", tls=tls)
    assert result.accepted


async def test_all_scenarios_live_on_one_lab(lab: Lab) -> None:
    await prepare_sender(lab)
    for row in SCENARIOS:
        await row.prepare(lab)
        assert row.domain in lab.domains
    for row in SCENARIOS:
        if row.between is not None:
            await row.between(lab)
    assert SENDER_MX in lab.hosts
    assert all(row.domain.endswith(".test") for row in SCENARIOS)


def test_each_domain_stands_once() -> None:
    assert len({row.domain for row in SCENARIOS}) == len(SCENARIOS)


def test_what_has_a_first_step_has_a_second() -> None:
    assert all((row.first is None) == (row.between is None) for row in SCENARIOS)
    assert all(row.first is not None for row in SCENARIOS if row.second_message)


@pytest.mark.parametrize(
    ("seen", "says"),
    [
        (Observed(outcome=Outcome.DEFERRED, status="4.7.5"), ""),
        (Observed(outcome=Outcome.DEFERRED, status="4.7.50"), "status 4.7.50, not 4.7.5"),
        (Observed(outcome=Outcome.DEFERRED, status="4.7.321"), "status 4.7.321, not 4.7.5"),
        (Observed(outcome=Outcome.FAILED, status="4.7.5"), "failed, not deferred"),
        (Observed(outcome=Outcome.DELIVERED, status="2.0.0", security=Security.STS), "delivered, not deferred"),
    ],
)
def test_a_verdict_says_what_disagrees(seen: Observed, says: str) -> None:
    assert deferred("4.7.5").disagreement(seen) == says


@pytest.mark.parametrize(
    ("security", "says"),
    [
        (Security.STS, ""),
        (Security.OPPORTUNISTIC, "security opportunistic, not sts"),
        (None, "security none, not sts"),
    ],
)
def test_a_delivery_has_the_security_that_it_must_have(security: Security | None, says: str) -> None:
    seen = Observed(outcome=Outcome.DELIVERED, status="2.1.5", security=security)
    assert delivered(Security.STS).disagreement(seen) == says


def test_a_shorter_status_stands_for_a_class() -> None:
    assert failed("5.1").disagreement(Observed(outcome=Outcome.FAILED, status="5.1.10")) == ""
    assert failed("5.1").disagreement(Observed(outcome=Outcome.FAILED, status="5.10.1")) != ""


@pytest.mark.parametrize(
    ("name", "host", "tls", "says"),
    [
        ("enforce-ok", "mx1", True, ""),
        ("enforce-ok", "mx1", False, "a message came without TLS"),
        ("enforce-ok", "", True, "the MX hosts took 0 messages, not 1"),
        ("no-mx", "", True, "the MX hosts took 0 messages, not 1"),
        ("no-policy-no-tls", "mx1", False, ""),
        ("second-mx-good", "mx1", True, "a message was not taken by mx2.second-mx-good.test"),
        ("second-mx-good", "mx2", True, ""),
        ("expired", "mx1", True, "the MX hosts took 1 messages, not 0"),
        ("expired", "", True, ""),
        ("null-mx", "", True, ""),
    ],
)
async def test_the_hosts_are_asked_what_they_have_seen(
    lab: Lab, lenient: ssl.SSLContext, name: str, host: str, tls: bool, says: str
) -> None:
    row = scenario(name)
    await row.prepare(lab)
    if host:
        await hand_over(lab, row, host, lenient if tls else None)
    assert row.wire_disagreement(lab) == says


async def test_an_implicit_mx_is_one_of_the_hosts(lab: Lab, lenient: ssl.SSLContext) -> None:
    row = scenario("no-mx")
    await row.prepare(lab)
    await hand_over(lab, row, "", lenient)
    assert row.wire_disagreement(lab) == ""


async def test_an_envelope_alone_is_too_much(lab: Lab, lenient: ssl.SSLContext) -> None:
    row = scenario("no-starttls")
    await row.prepare(lab)
    mx = lab.hosts[f"mx1.{row.domain}"]
    await submit(f"{mx.address}:{mx.port}", "alice@legacy.test", [], b"")
    assert row.wire_disagreement(lab) == "an envelope was sent to a host that may not have it"


async def test_a_rule_broken_on_the_wire_is_told(lab: Lab) -> None:
    row = scenario("no-policy-no-tls")
    await row.prepare(lab)
    mx = lab.hosts[f"mx1.{row.domain}"]
    await submit(f"{mx.address}:{mx.port}", "a@x.test", [row.recipient], b"Hi\r\n", mail_params="REQUIRETLS")
    await submit(f"{mx.address}:{mx.port}", "a@x.test", [row.recipient], b"Hi\r\n")
    assert row.wire_disagreement(lab) == "the relay broke a rule: parameter REQUIRETLS that was not offered"


async def test_requiretls_that_gets_lost_is_told(lab: Lab, lenient: ssl.SSLContext) -> None:
    row = scenario("requiretls")
    await row.prepare(lab)
    await hand_over(lab, row, "mx2", lenient)
    assert row.wire_disagreement(lab) == "a message came without REQUIRETLS"
    refused = scenario("requiretls-refused")
    await refused.prepare(lab)
    mx = lab.hosts[f"mx1.{refused.domain}"]
    await submit(f"{mx.address}:{mx.port}", "a@x.test", [], b"", mail_params="REQUIRETLS")
    assert refused.wire_disagreement(lab) == "an envelope was sent to a host that may not have it"
    assert mx.violations == ["REQUIRETLS without TLS"]


async def test_a_cached_policy_outlives_record_and_host(lab: Lab, lenient: ssl.SSLContext) -> None:
    """The second message must not arrive; if it does, the count tells."""
    for name in ("record-vanishes", "policy-host-dies"):
        row = scenario(name)
        await row.prepare(lab)
        await hand_over(lab, row, "mx1", lenient)
        assert row.between is not None
        await row.between(lab)
        assert row.wire_disagreement(lab) == ""
        await hand_over(lab, row, "mx1", lenient)
        assert row.wire_disagreement(lab) == "the MX hosts took 2 messages, not 1"


async def test_unusable_policies_would_be_usable_but_for_one_thing(lab: Lab) -> None:
    """So that a relay which overlooks that one thing is found out by the bad certificate of the MX host."""
    for name in ("not-found", "html", "bad-policy-host", "two-records", "redirect", "oversized"):
        row = scenario(name)
        await row.prepare(lab)
        site = lab.policy_hosts.site(f"mta-sts.{row.domain}")
        assert site is not None
        good = PolicySite(mx=[f"mx1.{row.domain}", f"mx2.{row.domain}"]).policy_text()
        assert site.policy_text().startswith(good)
        assert (len(site.policy_text()) > 64 * 1024) == (name == "oversized")
        assert lab.hosts[f"mx1.{row.domain}"].behaviour != MxBehaviour()
